"""Sessions: which conversation a request belongs to, what is remembered of it, and when it may move."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.core.conversation import Conversation
from extproc.core.pricing import Price, Rate, per_million
from extproc.core.routing.sessions import (
    HEADERS,
    HOUR_1,
    LONGEST,
    MINUTES_5,
    Memory,
    Session,
    Stay,
    pack,
    session_of,
    settle,
    stay,
    unpack,
)
from extproc.core.routing.signals import Signals, extract
from extproc.core.usage import Tokens
from extproc.schemas import CLIENTS

CAPTURES = Path(__file__).parent.parent / "data" / "captures"
PRICE = Price(Rate(per_million(3)), Rate(per_million(15)), Rate(per_million("0.3")))
AGENT = {"user-agent": "QwenCode/0.24.4 (linux; x64)"}
NOW = 1_800_000_000_000
CHAINS = ("local", "cloud")
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def ask(*messages: tuple[str, str], headers: dict[str, str] | None = None, schema: str = "openai",
        who: dict[str, str] | None = None, **fields: Any) -> Session:
    """The session of a request with these messages."""
    said = [{"role": role, "content": text} for role, text in messages] or [{"role": "user", "content": "fix it now"}]
    body = {"model": "auto", "messages": said, **fields}
    return session(msgspec.json.encode(body), headers or {}, schema, who)


def session(raw: bytes, headers: dict[str, str], schema: str, who: dict[str, str] | None = None) -> Session:
    conversation = CLIENTS[schema].parse_request(raw)
    return session_of(signals(conversation, headers, schema, who), conversation)


def signals(conversation: Conversation, headers: dict[str, str], schema: str = "openai",
            who: dict[str, str] | None = None) -> Signals:
    given = {"key": "ci", "team": "web", "org": "acme", "user": "", **(who or {})}
    return extract(conversation, 1000, "plain", headers, endpoint=schema, **given)


def capture(name: str, **fields: Any) -> Session:
    """The session of a recorded request; `fields` replace those of its body."""
    recorded = json.loads((CAPTURES / f"{name}.json").read_text("utf-8"))
    headers = recorded["headers"].items() if isinstance(recorded["headers"], dict) else recorded["headers"]
    path = recorded["path"].partition("?")[0]
    schema = "anthropic" if path.endswith("/messages") else "responses" if path.endswith("responses") else "openai"
    return session(msgspec.json.encode({**recorded["body"], **fields}), {k.lower(): v for k, v in headers}, schema)


class TestIdentity:
    """Whose conversation a request is."""

    @pytest.mark.parametrize("header", HEADERS)
    def test_headers(self, header: str) -> None:
        """An id in a header names the session, whatever is said; another id is another session."""
        first = ask(headers={header: "abc"})
        assert first == ask(("user", "something else"), headers={header: "abc"})
        assert first.resumes
        assert len(bytes.fromhex(first.id)) == 8
        assert ask(headers={header: "abd"}).id != first.id

    @pytest.mark.parametrize("user", [
        "user_4f_account_77_session_abc", '{"device_id":"d","account_uuid":"a","session_id":"abc"}'])
    def test_claude_code_user(self, user: str) -> None:
        """Claude Code's metadata.user_id names the session at its end, or as a field, in the id of its header."""
        found = ask(schema="anthropic", metadata={"user_id": user}, max_tokens=5)
        assert found == ask(headers={"x-claude-code-session-id": "abc"})

    @pytest.mark.parametrize("user", ["ann", "{", "{}", "[]", '{"session_id":7}', '{"session_id":""}', "_session_", "x" * 9999,
                                      '{"session_id":"a"}' + " " * 9999])
    def test_a_user_is_no_session(self, user: str) -> None:
        """An id of a user says nothing of the session."""
        assert ask(schema="anthropic", metadata={"user_id": user}, max_tokens=5) == ("", False)

    @pytest.mark.parametrize("field", ["session_id", "conversation_id", "thread_id"])
    def test_metadata(self, field: str) -> None:
        """OpenAI's metadata can name it."""
        assert ask(metadata={field: "abc"}) == ask(headers={"session-id": "abc"})
        assert ask(metadata={"other": "abc"}) == ("", False)

    def test_cache_key(self) -> None:
        """An agent's prompt_cache_key is its session; anybody else's may be one for many, told apart by their begin."""
        agent = {"user-agent": "opencode/1.2.3"}
        assert ask(("user", "one"), headers=agent, prompt_cache_key="k") == ask(
            ("user", "two"), headers=agent, prompt_cache_key="k")
        one, two = ask(("user", "one"), prompt_cache_key="k"), ask(("user", "two"), prompt_cache_key="k")
        assert one.id and two.id and one.id != two.id
        assert not one.resumes

    def test_begin(self) -> None:
        """Without an id an agent's conversation is known by how it begins; the first request resumes nothing."""
        system, first = ("system", "you are an agent"), ("user", "rename the class")
        begun = ask(system, first, headers=AGENT)
        later = ask(system, first, ("assistant", "done"), ("user", "thanks, now test it"), headers=AGENT)
        assert begun.id == later.id != ""
        assert (begun.resumes, later.resumes) == (False, True)
        assert ask(system, ("user", "rename the clasp"), headers=AGENT).id != begun.id
        assert ask(("system", "you are a critic"), first, headers=AGENT).id != begun.id

    def test_long_begins(self) -> None:
        """First asks that differ in the middle of a long text are told apart by length, head and tail."""
        long = "word " * 5000
        assert ask(("user", long), headers=AGENT).id != ask(("user", long + "x"), headers=AGENT).id

    def test_plain_clients(self) -> None:
        """A plain client has no sessions, unless it names them or offers tools: then it is an agent of somebody."""
        turns = (("user", "hello there"), ("assistant", "hi"), ("user", "again"))
        assert ask(*turns) == ("", False)
        assert ask(*turns, headers={"user-agent": "curl/8"}) == ("", False)
        assert ask(*turns, tools=[TOOL]).resumes

    @pytest.mark.parametrize("who", [{"org": "other"}, {"team": "other"}, {"key": "other"}, {"user": "other"}])
    @pytest.mark.parametrize("headers", [{"session-id": "abc"}, AGENT])
    def test_apart(self, who: dict[str, str], headers: dict[str, str]) -> None:
        """The same id from another organisation, team, key or user is another session."""
        assert ask(headers=headers).id != ask(headers=headers, who=who).id

    @given(st.tuples(*[st.text("ab\0", max_size=3)] * 4), st.tuples(*[st.text("ab\0", max_size=3)] * 4))
    def test_no_collisions_by_joining(self, one: tuple[str, ...], two: tuple[str, ...]) -> None:
        """Names cannot be shifted into each other: those with a NUL are refused long before."""
        if any("\0" in text for text in (*one, *two)):
            return
        names = ("org", "team", "user", "key")
        ids = [ask(headers={"session-id": "x"}, who=dict(zip(names, own, strict=True))).id for own in (one, two)]
        assert (ids[0] == ids[1]) == (one == two)

    @pytest.mark.parametrize("name", ["claude-code-shape.interactive.004.messages-turn2-tool_result",
                                      "opencode.anthropic.003.messages-turn2-tool_result",
                                      "opencode.openai-compatible.003.chat-turn2-tool",
                                      "qwen-code.prompt-tool.002.chat-turn2-tool", "continue.prompt-tool.002.chat-turn2-tool"])
    def test_agents(self, name: str) -> None:
        """In the middle of a real agent's conversation its session is known, and its first request has the same id."""
        found = capture(name)
        assert found.id and found.resumes
        body = json.loads((CAPTURES / f"{name}.json").read_text("utf-8"))["body"]
        last = max(i for i, message in enumerate(body["messages"]) if message["role"] == "assistant")
        begun = capture(name, messages=body["messages"][:last])
        assert begun.id == found.id
        assert begun.resumes is name.startswith(("claude", "opencode"))  # they send an id: it may be an older one's

    def test_one_request_beside(self) -> None:
        """A title that an agent asks for is no part of the conversation, though it has its id."""
        assert capture("claude-code-shape.interactive.002.title-json_schema") == ("", False)

    def test_subagents(self) -> None:
        """A sub-agent has a session of its own under its parent's id, one for each task."""
        def sub(task: str) -> Session:
            return ask(("user", task), headers={"x-claude-code-session-id": "s"}, schema="anthropic", max_tokens=9,
                       system="You are an agent for Claude Code, Anthropic's CLI.")

        assert sub("look for uses").id not in ("", ask(headers={"x-claude-code-session-id": "s"}).id)
        assert sub("look for uses").id != sub("look for tests").id

    @pytest.mark.parametrize("text", ["", "\0", "\udcff", "💥" * 3000, "a\r\nb"])
    def test_odd_names(self, text: str) -> None:
        """Whatever is sent as a name gives an id or none."""
        found = ask(headers={"session-id": text, **AGENT})
        assert len(found.id) == 16


def memory(**parts: Any) -> Memory:
    return msgspec.structs.replace(
        Memory("qwen/q", "q", "local", NOW, 1000, turns=3, signature=7, cell="debug.m.t"), **parts)


class TestMemory:
    """What is remembered."""

    @pytest.mark.parametrize(("after", "warm"), [(0, 1000), (MINUTES_5, 1000), (MINUTES_5 + 1, 0), (-50, 1000)])
    def test_decay(self, after: int, warm: int) -> None:
        """A prompt cache is warm for as long as the provider keeps it; a clock that is behind does no harm."""
        assert memory().warm(NOW + after) == warm

    def test_packed(self) -> None:
        """What is packed comes back, in few bytes."""
        assert unpack(pack(memory())) == memory()
        assert len(pack(memory())) < 80

    def test_other_versions(self) -> None:
        """A record with fields that this version does not know, or without some, can be read."""
        fields = msgspec.msgpack.decode(pack(memory()))
        assert unpack(msgspec.msgpack.encode({**fields, "new": [1, 2]})) == memory()
        del fields["k"], fields["l"]
        assert unpack(msgspec.msgpack.encode(fields)) == memory(cell="", life_ms=MINUTES_5)

    @given(st.binary(max_size=200) | st.recursive(
        st.none() | st.integers(-2**63, 2**64 - 1) | st.text(max_size=5) | st.floats(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from("bmcawetskl"), inner)).map(msgspec.msgpack.encode))
    def test_anything(self, raw: bytes) -> None:
        """Whatever lies in the store, it is a memory or None."""
        found = unpack(raw)
        assert found is None or unpack(pack(found)) == found

    def test_too_long(self) -> None:
        """A record longer than any of ours is not read."""
        assert unpack(msgspec.msgpack.encode({"b": "x" * LONGEST})) is None

    @given(st.text(), st.text(), st.integers(-2**70, 2**70))
    def test_bounded(self, model: str, chain: str, signature: int) -> None:
        """Names of any length and any characters can be stored."""
        made = settle(None, backend="b/" + model * 50, chain=chain * 99, model=model * 50, dialect="openai",
                      tokens=Tokens(input=1 << 40), now=NOW, complex_chain="cloud", signature=signature, cell=chain * 99)
        assert len(pack(made)) <= LONGEST
        assert unpack(pack(made)) == made


class TestSettle:
    """What an answer leaves behind."""

    @staticmethod
    def after(before: Memory | None = None, **parts: Any) -> Memory:
        fields: dict[str, Any] = {"backend": "claude/c", "chain": "cloud", "model": "c", "dialect": "anthropic",
                                  "tokens": Tokens(), "now": NOW, "complex_chain": "cloud"}
        return settle(before, **(fields | parts))

    def test_fields(self) -> None:
        """Backend, chain, time, and what tells a repeated ask; the turns are counted."""
        made = self.after(memory(), signature=9, cell="edit.s.n")
        assert made == Memory("claude/c", "c", "cloud", NOW, 0, True, 4, 9, "edit.s.n")

    @pytest.mark.parametrize(("dialect", "tokens", "warm", "life"), [
        ("anthropic", Tokens(input=500, cache_read=2000, cache_write_5m=300), 2300, MINUTES_5),
        ("anthropic", Tokens(input=500, cache_write_1h=300), 300, HOUR_1),
        ("anthropic", Tokens(input=500), 0, MINUTES_5),
        ("openai", Tokens(input=500, cache_read=2000), 2500, MINUTES_5),
        ("openai", Tokens(input=1023), 0, MINUTES_5),
        ("deepseek", Tokens(input=64), 64, HOUR_1),
        ("ollama-openai", Tokens(input=10), 10, MINUTES_5),
        ("compatible", Tokens(input=5000, cache_read=100), 100, MINUTES_5),
        ("openai", Tokens(), 0, MINUTES_5),
    ])
    def test_warm(self, dialect: str, tokens: Tokens, warm: int, life: int) -> None:
        """Warm is what the provider says it read or wrote, and all input where it caches by itself."""
        made = self.after(dialect=dialect, tokens=tokens)
        assert (made.warm_tokens, made.life_ms) == (warm, life)

    def test_life_goes_on(self) -> None:
        """What was written for an hour and is read again lives for another, at the same backend."""
        before = self.after(tokens=Tokens(input=1, cache_write_1h=50))
        assert self.after(before, tokens=Tokens(input=1, cache_read=50)).life_ms == HOUR_1
        assert self.after(before, backend="other/c", tokens=Tokens(input=1, cache_read=50)).life_ms == MINUTES_5

    @pytest.mark.parametrize(("before", "chain", "escalated"), [
        (None, "local", False), (None, "cloud", True), (memory(escalated=True), "local", True), (memory(), "local", False)])
    def test_escalated(self, before: Memory | None, chain: str, escalated: bool) -> None:
        """Once the complex chain has answered the session is escalated for good."""
        assert self.after(before, chain=chain).escalated is escalated

    def test_pinned(self) -> None:
        """A request that was pinned to the complex chain escalates nothing."""
        assert not self.after(complex_chain="").escalated
        assert not self.after(chain="", complex_chain="").escalated


class TestStay:
    """When a session may move."""

    @staticmethod
    def held(known: Memory | None, **parts: Any) -> Stay:
        fields: dict[str, Any] = {"in_tool_loop": False, "chains": CHAINS, "complex_chain": "cloud", "price": PRICE}
        return stay(known, NOW, **(fields | parts))

    def test_unknown(self) -> None:
        """A new session is free."""
        assert self.held(None, in_tool_loop=True) == Stay()

    def test_simple_is_free(self) -> None:
        """A session at the simple chain may escalate; its warm backend is tried first where it stays."""
        assert self.held(memory()) == Stay(
            "", "qwen/q", "session was with qwen/q, whose cache of 1000 tokens saves $0.0027")
        assert self.held(memory(warm_tokens=0)) == Stay("", "", "session was with qwen/q")

    def test_complex_stays(self) -> None:
        """A session at the complex chain never goes back by itself."""
        known = memory(chain="cloud", backend="claude/c", escalated=True)
        assert self.held(known) == Stay(
            "cloud", "claude/c", "session stays with cloud, whose cache of 1000 tokens saves $0.0027")
        assert self.held(memory(escalated=True)).chain == "cloud"

    def test_cold(self) -> None:
        """Without a warm cache the chain keeps its own order, so that a backend that is back is used again."""
        known = memory(chain="cloud", escalated=True)
        assert self.held(known, price=None) == Stay("cloud", "", "session stays with cloud")
        assert stay(known, NOW + HOUR_1, in_tool_loop=False, chains=CHAINS, complex_chain="cloud", price=PRICE).backend == ""

    @pytest.mark.parametrize("chain", CHAINS)
    def test_tool_loop(self, chain: str) -> None:
        """In a tool loop it stays with its very backend, warm or not."""
        found = self.held(memory(chain=chain), in_tool_loop=True, price=None)
        assert found == Stay(chain, "qwen/q", "session is in a tool loop: it stays with qwen/q")

    def test_chain_is_gone(self) -> None:
        """A chain that a new configuration does not have holds nobody."""
        assert self.held(memory(chain="old"), in_tool_loop=True).chain == ""

    @pytest.mark.parametrize("loop", [True, False])
    def test_backend_is_gone(self, loop: bool) -> None:
        """Where its backend cannot serve, a session moves and says so; an escalated one within the complex chain."""
        gone = "open: 5 of 5 failed"
        assert self.held(memory(), in_tool_loop=loop, gone=gone) == Stay("", "", "session leaves qwen/q: open: 5 of 5 failed")
        assert self.held(memory(escalated=True), in_tool_loop=loop, gone=gone) == Stay(
            "cloud", "", "session leaves qwen/q: open: 5 of 5 failed; it stays with cloud")

    @pytest.mark.parametrize("loop", [True, False])
    def test_money_is_gone(self, loop: bool) -> None:
        """An amount that is spent ends a stay at the complex chain, and nothing else does; one at the simple chain
        goes on."""
        barred = "$10 of $10 for today are spent"
        found = self.held(memory(chain="cloud", escalated=True), in_tool_loop=loop, barred=barred)
        assert found == Stay("", "", f"session leaves cloud: {barred}")
        assert self.held(memory(), in_tool_loop=True, barred=barred).chain == "local"

    @given(st.lists(st.tuples(
        st.booleans(), st.booleans(), st.booleans(), st.sampled_from(["", "", "", "down"]),
        st.integers(0, 2 * HOUR_1)), max_size=30))
    def test_life(self, steps: list[tuple[bool, bool, bool, str, int]]) -> None:
        """Through any life: no switch in a tool loop but for need, no way back from complex, one escalation at most."""
        known: Memory | None = None
        now, moves = NOW, 0
        for loop, wants, fails_over, gone, later in steps:
            now += later
            found = stay(known, now, in_tool_loop=loop, chains=CHAINS, complex_chain="cloud", price=PRICE, gone=gone)
            chain = found.chain or ("cloud" if wants else "local")
            if known is not None:
                assert not (known.escalated and chain != "cloud")
                assert not (loop and not gone and chain != known.chain)
                assert not (loop and not gone and found.backend != known.backend)
                moves += chain != known.chain
            backend = f"{chain}/{'b' if fails_over else 'a'}"
            known = settle(known, backend=backend, chain=chain, model="m", dialect="openai",
                           tokens=Tokens(input=2000), now=now, complex_chain="cloud")
        assert moves <= 1
