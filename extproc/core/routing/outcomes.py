"""What an answer tells of the backend that gave it: a success, a failure, or nothing to learn from. Pure.

A gateway does not see whether an answer was right. It sees answers that cannot be (errors, tool calls that do not
parse, nothing at all, texts that were cut) and people who ask again. Only part of all failures shows that way, so one
that does counts for more than an answer without a visible flaw. What says something of availability alone (rate limits,
overload, credentials) is left to the health of backends, and what the client did itself is nobody's failure.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from extproc.core.conversation import (
    Event,
    Failure,
    TextDelta,
    ToolDelta,
    ToolKind,
    ToolStart,
)
from extproc.core.events import End

Flaw = Literal["tool_call", "unknown_tool", "leaked_call", "empty"]
Kind = Literal["success", "error", "tool_call", "truncated", "empty", "repeated", "complaint", "feedback"]
WEIGHTS: dict[Kind, int] = {
    "success": 1, "error": 2, "tool_call": 3, "truncated": 2, "empty": 3, "repeated": 2, "complaint": 3, "feedback": 5,
}
"""What one outcome counts."""
SMALL_LIMIT = 2_048
"""Up to so many output tokens a client's own limit is meant to cut; an answer that fills a larger one ran away."""
_OWN_FAULT = ("upstream", "timeout")
"""Problems that tell of the answer: nonsense, a stream that broke or fell silent. Others tell of keys and capacity."""
_OUTAGE = frozenset({401, 402, 403, 408, 502, 503, 504})
"""Statuses of a provider that is out of reach, or does not know us: `upstream` among other problems."""
_COMPLETE = ("end", "tool_use", "stop_sequence", "pause")


class Learnable(NamedTuple):
    """One outcome to count."""

    success: bool
    weight: int
    kind: Kind


class Facts(msgspec.Struct, frozen=True):
    """What an attempt's end must be judged with. `limit`: output tokens that the client itself allowed; None: it named
    no limit. `clamped`: the gateway lowered it. `flaws`: those of `Watch`. `cuts`: the request is one whose answer is
    meant to be cut (a completion, a probe)."""

    limit: int | None = None
    clamped: bool = False
    flaws: Sequence[str] = ()
    cuts: bool = False


def outcome_of(end: End, facts: Facts) -> Learnable | None:
    """Say what the end of an attempt teaches of its backend; None: nothing."""
    if end.problem is not None:
        learns = end.problem.kind in _OWN_FAULT and end.status not in _OUTAGE
        return _failure("error") if learns else None
    if end.outcome == "failed" or not end.finish_reason or end.finish_reason == "filtered":
        return None  # the client left, nobody said how the answer ended, or a filter cut it
    if any(flaw in facts.flaws for flaw in ("tool_call", "unknown_tool", "leaked_call")) and not _cut(end, facts):
        return _failure("tool_call")
    if end.finish_reason in ("length", "context"):
        return _failure("truncated") if _ran_out(end, facts) else None
    if "empty" in facts.flaws and end.finish_reason != "pause":  # a pause may come before the first word
        return None if facts.cuts else _failure("empty")
    return Learnable(True, WEIGHTS["success"], "success") if end.finish_reason in _COMPLETE else None


def _failure(kind: Kind) -> Learnable:
    return Learnable(False, WEIGHTS[kind], kind)


def _cut(end: End, facts: Facts) -> bool:
    """Whether the arguments of a call may lack their end because the answer was cut on purpose."""
    return end.finish_reason in ("length", "context") and not _ran_out(end, facts)


def _ran_out(end: End, facts: Facts) -> bool:
    """Whether an answer that was cut by length should not have been: its context was full, or it ran away."""
    if facts.clamped or facts.cuts:
        return False
    return end.finish_reason == "context" or facts.limit is None or facts.limit > SMALL_LIMIT


# ---------------------------------------------------------------------------------------- flaws of an answer

MOST_ARGUMENTS = 1 << 20
"""Characters of arguments that are kept to be checked; longer calls are taken as good."""
MOST_CALLS = 1_000
"""Calls that are looked at."""
_PIECES = 4_096
"""Pieces of one call that are kept apart: one that comes by the letter must not become millions of objects."""
_MARKS = ("<tool_call>", "<function=", "<|tool_call|>", "[TOOL_CALLS]")
_TAIL = max(map(len, _MARKS)) - 1


class Watch:
    """Finds the flaws of one answer in its neutral events, as the client gets them. Never raises, bounded memory."""

    __slots__ = ("_calls", "_fed", "_kinds", "_leaked", "_said", "_size", "_tail", "_tools", "_unknown")

    def __init__(self, tools: Iterable[str] | None) -> None:
        """`tools`: the names of the tools that the client offered.

        None: not all are known, because a provider has tools of its own. Then any name may be right, and an answer
        without text or call may hold what events do not tell.
        """
        self._tools = None if tools is None else frozenset(tools)
        self._fed = False
        self._calls: dict[int, list[str]] = {}
        self._kinds: dict[int, ToolKind] = {}
        self._size = 0
        self._said = self._unknown = self._leaked = False
        self._tail = ""

    def feed(self, events: Iterable[Event]) -> None:
        """Take events in order."""
        for event in events:
            self._fed = True
            match event:
                case TextDelta():
                    self._text(event.text)
                case ToolStart():
                    self._said = True
                    self._unknown = self._unknown or (self._tools is not None and event.name not in self._tools)
                    if len(self._kinds) < MOST_CALLS:
                        self._kinds[event.index] = event.kind
                case ToolDelta() if self._kinds.get(event.index) == "function" and self._size <= MOST_ARGUMENTS:
                    self._size += len(event.arguments)
                    pieces = self._calls.setdefault(event.index, [])
                    pieces.append(event.arguments)
                    if len(pieces) >= _PIECES:
                        pieces[:] = ["".join(pieces)]
                case Failure():
                    return
                case _:
                    pass

    def _text(self, text: str) -> None:
        if not self._said:
            self._said = bool(text.strip())
        if self._tools and not self._leaked and (self._tail or "<" in text or "[" in text):
            joined = self._tail + text
            self._leaked = any(mark in joined for mark in _MARKS)
            opened = max(joined.rfind("<"), joined.rfind("["))  # no mark has a second one
            self._tail = joined[opened:] if 0 <= opened >= len(joined) - _TAIL else ""

    def flaws(self) -> tuple[Flaw, ...]:
        """Return the flaws of the answer, once it is over; none of one whose events nobody read."""
        found: list[Flaw] = []
        if not self._fed:
            return ()
        if self._size <= MOST_ARGUMENTS and not all(map(_is_object, self._calls.values())):
            found.append("tool_call")
        if self._unknown:
            found.append("unknown_tool")
        if self._leaked and not self._kinds:
            found.append("leaked_call")
        if not self._said and self._tools is not None:
            found.append("empty")
        return tuple(found)


_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _is_object(pieces: Sequence[str]) -> bool:
    """Whether arguments are a JSON object; a call without any has no arguments, which is fine."""
    text = "".join(pieces)
    if not text.strip():
        return True
    try:
        _OBJECT.decode(text)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        return False
    return True


# ---------------------------------------------------------------------------------------- asking again

LONGEST_ASK = 1_000
"""Characters: people type shorter asks. Longer ones are made by programs, whose constant parts would look repeated."""
FEWEST_WORDS = 4
"""`continue` twice is no complaint."""
SAME_BITS = 11
"""Bits of 64 in which the signatures of two wordings of one ask may differ; those of unrelated asks differ in 32."""
_LETTERS = re.compile(r"\w+")
_CJK = ("\u2e80", "\u9fff")
_OPENING = 100


class Asked(msgspec.Struct, frozen=True, array_like=True):
    """What a session remembers of its last request to learn from the next: no text, only a signature of its ask.

    `prior`: what the text model had promised of this backend, in thousandths. `turns`: messages of people and tool
    results so far. `settled`: a failure was counted for the answer, so it counts for no second one.
    """

    cell: str
    backend: str
    prior: int
    signature: int
    turns: int
    settled: bool = False


def reask(previous: Asked, ask: str, turns: int, *, in_tool_loop: bool = False) -> Learnable | None:
    """Say whether a session's next request tells that the answer before it was no good; None: it does not.

    Only a person's word counts: no tool results, and no request without a new message (a client that sends the same
    again after a lost connection).
    """
    if in_tool_loop or turns <= previous.turns or previous.settled:
        return None
    if complains(ask):
        return _failure("complaint")
    return _failure("repeated") if repeats(previous.signature, ask) else None


def repeats(signature: int, ask: str) -> bool:
    """Whether an ask says nearly the same as the one of that signature."""
    if not signature:
        return False
    own = signature_of(ask)
    return own != 0 and (own ^ signature).bit_count() <= SAME_BITS


def signature_of(ask: str) -> int:
    """Return 63 bits in which asks of the same words agree; 0: the ask is too short or too long to compare.

    Each word and each pair of words votes on each bit (SimHash), so that a changed word turns few of them.
    """
    if len(ask) > LONGEST_ASK:
        return 0
    words = _words(ask)
    if len(words) < FEWEST_WORDS:
        return 0
    plain = np.array([zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in words], dtype="<u8")
    votes = np.concatenate((_mixed(plain), _mixed(plain[:-1] * np.uint64(0x9E3779B97F4A7C15) + plain[1:])))
    bits = np.unpackbits(votes.astype("<u8").view(np.uint8)).reshape(-1, 64)
    value = int.from_bytes(np.packbits(bits.sum(axis=0) * 2 > len(bits)).tobytes(), "big")
    return value >> 1 or 1


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Spread each value over all 64 bits (splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _words(text: str) -> list[str]:
    """Words of a text; each sign of a script without spaces is one."""
    found: list[str] = []
    for word in _LETTERS.findall(text.lower()):
        found += list(word) if _CJK[0] <= word[0] <= _CJK[1] else [word]
    return found


_COMPLAINTS: tuple[str, ...] = (
    # English
    "that s wrong", "that is wrong", "that s not", "that is not", "that s incorrect", "that is incorrect",
    "that didn t work", "that did not work", "that doesn t work", "that does not work", "that s still",
    "this is wrong", "this is not what", "this is still", "this doesn t work", "this does not work",
    "this didn t work", "this did not work", "this still", "it doesn t work", "it does not work", "it didn t work",
    "it did not work", "it still", "it s still", "it s not working", "it s wrong", "not working", "doesn t work",
    "does not work", "didn t work", "did not work", "still wrong", "still fails", "still failing", "still broken",
    "still not", "still doesn t", "still does not", "still the same", "still getting", "still an error",
    "same error", "same problem", "same issue", "the same error", "try again", "please try again", "wrong",
    "incorrect", "you re wrong", "you are wrong", "you broke", "you didn t", "you did not", "you forgot", "you missed",
    "you misunderstood", "not what i", "nope",
    # German
    "das ist falsch", "das stimmt nicht", "das war falsch", "das funktioniert nicht", "das geht nicht",
    "das klappt nicht", "das ist nicht", "falsch", "immer noch", "noch immer", "geht nicht", "geht immer noch",
    "funktioniert nicht", "funktioniert immer noch", "klappt nicht", "gleicher fehler", "derselbe fehler",
    "selber fehler", "der gleiche fehler", "der fehler ist immer noch", "der fehler kommt immer noch",
    "versuch es nochmal", "versuche es nochmal", "versuch s nochmal", "versuch es noch einmal",
    "versuche es noch einmal", "probier es nochmal", "du hast vergessen", "stimmt nicht", "es geht nicht",
    "es geht immer noch", "es funktioniert nicht", "es funktioniert immer noch",
    # French
    "c est faux", "ce n est pas", "c est pas", "ça ne marche", "ça marche pas", "ça marche toujours pas",
    "ça ne fonctionne", "ça fonctionne pas", "cela ne fonctionne pas", "cela ne marche pas", "ne marche pas",
    "ne fonctionne pas", "toujours pas", "toujours la même erreur", "toujours faux", "même erreur", "la même erreur",
    "même problème", "faux", "incorrect", "essaie encore", "essaye encore", "essayez encore", "réessaie", "réessaye",
    "réessayez", "tu as oublié", "vous avez oublié", "tu t es trompé",
    # Spanish
    "no es correcto", "no es eso", "no es lo que", "no funciona", "no funcionó", "eso está mal", "eso no es",
    "eso no funciona", "está mal", "sigue sin", "sigue fallando", "sigue igual", "sigue dando", "todavía no",
    "todavía falla", "aún no", "aún falla", "mismo error", "el mismo error", "mismo problema", "incorrecto",
    "inténtalo de nuevo", "inténtalo otra vez", "intenta de nuevo", "intenta otra vez", "prueba otra vez",
    "te equivocaste", "te olvidaste",
    # Chinese
    "不对", "不是这样", "错了", "这是错", "还是不行", "还是不对", "还是错", "还是报错", "还是一样", "仍然不",
    "仍然报错", "不行", "没用", "没有用", "再试一次", "重试", "不正确", "你错了", "同样的错误",
)
_HARMLESS: tuple[str, ...] = (
    "that s not a problem", "that is not a problem", "that s not bad", "that is not bad", "that s not necessary",
    "that is not necessary", "that s still fine", "it s still fine", "it still works", "try again with",
    "still not sure", "you didn t need", "you did not need", "das ist nicht schlimm", "das ist nicht nötig",
    "das ist nicht schlecht",
    "ce n est pas grave", "c est pas grave", "ce n est pas nécessaire", "todavía no lo he", "不行的话", "不对称",
)
_FILLERS = ("no", "nein", "non", "but", "aber", "mais", "pero", "hmm", "hm", "ok", "sorry", "well", "nope", "doch")
"""Words that people begin with whatever comes. A bare `no` is none: it may answer a question of the model's."""
_GAPS = re.compile(r"[\W_]+")


def complains(ask: str) -> bool:
    """Whether an ask opens as people do who got a wrong answer, in English, German, French, Spanish or Chinese."""
    opening = _GAPS.sub(" ", ask[:_OPENING].lower()).strip()
    for _ in range(3):
        if opening.startswith(_COMPLAINTS):  # quick: most asks open with none of them
            if any(_opens(opening, words) for words in _HARMLESS):
                return False
            if any(_opens(opening, words) for words in _COMPLAINTS):
                return True
        first, _, opening = opening.partition(" ")
        if first not in _FILLERS:
            return False
    return False


def _opens(opening: str, words: str) -> bool:
    """Whether a text begins with these whole words; a script without spaces shows no end of a word."""
    return opening.startswith(words) and (
        opening[len(words) : len(words) + 1] in ("", " ") or words[-1] >= _CJK[0])
