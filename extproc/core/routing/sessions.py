"""Conversations stay with their backend: which one a request belongs to, what is remembered of it, when it may move.

Sources for the names of sessions: recorded requests of the agents (tests/data/captures). A client may say what it likes
here: an id is mixed with its organisation, team, user and key, so that it can only ever meet its own sessions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from hashlib import blake2b
from typing import Any, NamedTuple, cast

import msgspec

from extproc.core.conversation import Conversation, Text
from extproc.core.pricing import Price
from extproc.core.routing.human import said
from extproc.core.routing.objective import money, saving
from extproc.core.routing.signals import Signals
from extproc.core.usage import Tokens

HEADER = "x-extproc-session"
"""For programs of one's own."""
HEADERS = (HEADER, "x-claude-code-session-id", "thread-id", "session-id", "x-session-id", "x-session-affinity",
           "conversation-id", "x-conversation-id", "conversation_id", "session_id")
"""Headers in which agents name a session: Claude Code, Codex (a thread is a session of its own), OpenCode, others."""
METADATA = ("session_id", "conversation_id", "thread_id")
ALONE = frozenset({"title", "topic", "probe", "helper", "commit", "complete", "apply"})
"""Phases that are one request, beside the conversation: they belong to no session."""
APART = frozenset({"subagent", "review"})
"""Phases that are a conversation of their own under the same id: told apart by their first ask."""
MINUTES_5, HOUR_1 = 300_000, 3_600_000
AUTOMATIC = {
    "openai": (1024, MINUTES_5), "deepseek": (64, HOUR_1), "vllm": (16, MINUTES_5), "llamacpp": (1, MINUTES_5),
    "ollama": (1, MINUTES_5),
}
"""Dialects that cache every prompt from so many tokens on, and how long (ms) we count on it. What `input` held is warm
there as well; elsewhere only what the provider says it read from its cache or wrote to it."""
LONGEST = 1024
"""Bytes of a packed memory."""
_PLAIN = frozenset({"sdk", "curl", "other", ""})
_NAME = 256
_EDGE = 4096
_TEXT = 200
_MOST = 2**53 - 1
_MASK = 2**64 - 1


class Session(NamedTuple):
    """What a request belongs to."""

    id: str
    """16 hex digits; empty: nothing is known, and nothing is to be remembered."""
    resumes: bool
    """Whether what is remembered under the id is of this conversation: not where it only begins like another."""


class Memory(msgspec.Struct, frozen=True, rename={
    "backend": "b", "model": "m", "chain": "c", "at": "a", "warm_tokens": "w", "escalated": "e", "turns": "t",
    "signature": "s", "cell": "k", "life_ms": "l", "asked": "q", "prior": "p", "settled": "f",
}):
    """What is remembered of a session. Fields may be added: an older or newer record can be read."""

    backend: str = ""
    """BACKEND/MODEL of the last answer."""
    model: str = ""
    chain: str = ""
    at: int = 0
    """When that answer ended, ms since the epoch."""
    warm_tokens: int = 0
    """What the backend's prompt cache held then."""
    escalated: bool = False
    """Whether it was ever answered by the complex chain because it was worth it, or no other could."""
    turns: int = 0
    """Answers so far."""
    signature: int = 0
    """Of the last ask, to see that it is asked again."""
    cell: str = ""
    """Task x length x tools of that request."""
    life_ms: int = MINUTES_5
    """How long the cache lives after its last use."""
    asked: int = 0
    """Messages of people and tool results that request had."""
    prior: int = 0
    """The chance of success that was promised for it, in thousandths."""
    settled: bool = False
    """Whether a failure was counted for its answer."""

    def warm(self, now: int) -> int:
        """Prompt-cache tokens that the backend still holds."""
        return self.warm_tokens if now - self.at <= self.life_ms else 0


class Stay(msgspec.Struct, frozen=True):
    """Whether a session may move. `chain` empty: it is free to; `backend`: to be tried first if its chain is taken."""

    chain: str = ""
    backend: str = ""
    why: str = ""


# ---------------------------------------------------------------- whose conversation it is

def session_of(signals: Signals, conversation: Conversation) -> Session:
    """Name the session of a request: by an id that the client sends, else by how an agent's conversation begins."""
    if signals.phase in ALONE or signals.task in ("count", "embeddings"):
        return Session("", resumes=False)
    kind, name = _told(signals.headers, conversation)
    # A cache key may be one for all of a program's conversations.
    shared = not name or (kind == "prompt_cache_key" and signals.agent in _PLAIN)
    if name and not shared and signals.phase not in APART:
        return Session(_id(signals, kind, name, ""), resumes=True)
    if not name and signals.agent in _PLAIN and not conversation.tools:
        return Session("", resumes=False)
    begins, continues = _beginning(signals, conversation)
    if not begins and not name:
        return Session("", resumes=False)
    return Session(_id(signals, kind, name, begins), continues or not shared)


def _told(headers: Mapping[str, str], conversation: Conversation) -> tuple[str, str]:
    """Return where the client names its session, and the name."""
    for header in HEADERS:
        if name := headers.get(header, ""):
            return "id", name[:_NAME]
    if name := _of_user(conversation.user or ""):
        return "id", name[:_NAME]
    extras: Mapping[str, Any] = conversation.extras
    metadata = extras.get("metadata")
    if isinstance(metadata, dict):
        fields = cast("dict[str, Any]", metadata)
        for field in METADATA:
            if isinstance(name := fields.get(field), str) and name:
                return "id", name[:_NAME]
    key = extras.get("prompt_cache_key")
    return ("prompt_cache_key", key[:_NAME]) if isinstance(key, str) and key else ("", "")


def _of_user(user: str) -> str:
    """Return the session in Claude Code's metadata.user_id: at its end, or a field of JSON."""
    if len(user) > _EDGE:
        return ""
    if user.startswith("{"):
        try:
            fields = msgspec.json.decode(user)
        except (msgspec.DecodeError, UnicodeEncodeError):
            return ""
        name = cast("dict[str, Any]", fields).get("session_id") if isinstance(fields, dict) else None
        return name if isinstance(name, str) else ""
    return user.rpartition("_session_")[2] if "_session_" in user else ""


def _beginning(signals: Signals, conversation: Conversation) -> tuple[str, bool]:
    """Return the head of the system prompt with the first thing a human said, empty where nobody said anything, and
    whether it was answered: what some programs put before it has answers of its own."""
    system = ""
    for place, message in enumerate(conversation.messages):
        texts = [part.text for part in message.parts if isinstance(part, Text)]
        if message.role == "system":
            system = system or (texts[0][:_TEXT] if texts else "")
        elif message.role == "user":
            for text in texts:
                if ask := said(text, signals.agent):
                    answered = any(later.role == "assistant" for later in conversation.messages[place + 1:])
                    return f"{system}\0{len(ask)}\0{ask[:_EDGE]}\0{ask[-_EDGE:]}", answered
    return "", False


def _id(signals: Signals, *parts: str) -> str:
    whole = "\0".join((signals.org, signals.team, signals.user, signals.key, *parts))
    return blake2b(whole.encode("utf-8", "surrogatepass"), digest_size=8, person=b"session").hexdigest()


# ---------------------------------------------------------------- what is remembered of it

def settle(memory: Memory | None, *, backend: str, chain: str, model: str, dialect: str, tokens: Tokens, now: int,
           complex_chain: str, signature: int = 0, cell: str = "") -> Memory:
    """What is to be remembered after an answer. `memory`: what was, when the request came; `complex_chain` empty: a
    class of request or an outage sent it to its chain, which is no escalation."""
    before = memory if memory is not None and memory.backend == backend else None
    warm, life = _warmth(before, dialect, tokens)
    return Memory(
        backend=_clip(backend), model=_clip(model), chain=_clip(chain), at=now, warm_tokens=min(warm, _MOST),
        escalated=chain == (complex_chain or None) or (memory is not None and memory.escalated),
        turns=min((memory.turns if memory is not None else 0) + 1, _MOST), signature=signature & _MASK,
        cell=_clip(cell), life_ms=life)


def _warmth(before: Memory | None, dialect: str, tokens: Tokens) -> tuple[int, int]:
    """Return the tokens that are warm after an answer, and for how long (ms)."""
    told = (tokens.cache_read or 0) + tokens.cache_write
    least, life = AUTOMATIC.get(dialect.partition("-")[0], (0, MINUTES_5))
    if tokens.cache_write_1h or (tokens.cache_read and before is not None and before.life_ms == HOUR_1):
        life = HOUR_1
    total = tokens.total_input
    return (total, life) if least and total is not None and total >= least else (told, life)


def _clip(text: str) -> str:
    """Return what can be stored of a name."""
    return text.encode("utf-8", "replace")[:_TEXT].decode("utf-8", "ignore")


def pack(memory: Memory) -> bytes:
    """A memory as at most `LONGEST` bytes."""
    return msgspec.msgpack.encode(memory)


def unpack(raw: bytes) -> Memory | None:
    """What was packed, by this version or another; None for anything else."""
    if len(raw) > LONGEST:
        return None
    try:
        return _DECODER.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


_DECODER = msgspec.msgpack.Decoder(Memory)


# ---------------------------------------------------------------- when it may move

def lead(memory: Memory, now: int, *, in_tool_loop: bool, price: Price | None) -> tuple[str, str]:
    """The backend of a session where it is to be tried before the others of its chain, and why in words; else nothing.
    `price`: its own."""
    warm = _warm(memory, now, price)
    if in_tool_loop:
        return memory.backend, _looping(memory, warm)
    return (memory.backend, f"session stays with {memory.backend}{warm}") if warm else ("", "")


def _looping(memory: Memory, warm: str) -> str:
    return f"session is in a tool loop: it stays with {memory.backend}{warm}"


def _warm(memory: Memory, now: int, price: Price | None) -> str:
    """What the prompt cache of its backend saves, in words; nothing where it saves nothing."""
    saves = saving(price, memory.warm(now))
    return f", whose cache of {memory.warm(now)} tokens saves {money(saves)}" if saves > 0 else ""


def stay(memory: Memory | None, now: int, *, in_tool_loop: bool, chains: Collection[str], complex_chain: str,
         price: Price | None = None, gone: str = "", barred: str = "") -> Stay:
    """Whether a session stays where it is.

    `price` is that of its backend. `gone`: why its backend cannot take this request (down, too small a context);
    `barred`: why the complex chain may not be paid any more. Both empty where all is well.
    """
    if memory is None:
        return Stay()
    if barred and (memory.escalated or memory.chain == complex_chain):
        return Stay(why=f"session leaves {complex_chain}: {barred}")
    if gone:
        why = f"session leaves {memory.backend}: {gone}"
        return Stay(complex_chain, why=f"{why}; it stays with {complex_chain}") if memory.escalated else Stay(why=why)
    warm = _warm(memory, now, price)
    first = memory.backend if warm or in_tool_loop else ""
    if in_tool_loop and memory.chain in chains:
        return Stay(memory.chain, first, _looping(memory, warm))
    if memory.escalated:
        first = first if memory.chain == complex_chain else ""
        return Stay(complex_chain, first, f"session stays with {complex_chain}{warm if first else ''}")
    return Stay("", first, f"session was with {memory.backend}{warm}")
