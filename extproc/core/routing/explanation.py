"""Why a request went where it went: kept for a while under its id, shown as JSON or as aligned lines. Pure.

It holds measures, names and words of the text model's own vocabulary; never a prompt, never a header.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from extproc.core.errors import RequestError
from extproc.core.routing import signals
from extproc.core.routing.objective import money
from extproc.core.routing.rules import Tried
from extproc.runtime import Runtime
from extproc.schemas import CLIENTS

Fact = str | int | float | bool | None
LIMIT = 2048
"""Bytes of a stored explanation at most."""
_CLASSES = ("latency critical: ", "cost sensitive: ", "simple: ")
"""How the reason of a request begins that its class decided."""
_STEPS = ((24, 240), (16, 120), (8, 80), (4, 40), (0, 24))
"""Entries of a list and characters of a text, from generous to what fits in any case."""
_LARGEST = 1 << 53
_T = TypeVar("_T")


class Candidate(msgspec.Struct, frozen=True, omit_defaults=True):
    """A backend that was considered. `chance`: of success, 0 to 1; `price`: expected n$; `dropped`: why it was not."""

    backend: str
    chain: str
    state: str = "up"
    chance: float | None = None
    price: int | None = None
    first_event_ms: int | None = None
    dropped: str = ""
    used: bool = False


class Session(msgspec.Struct, frozen=True, omit_defaults=True):
    """The conversation a request belongs to: the first characters of its id, and whether it changed its backend."""

    id: str = ""
    moved: bool = False
    why: str = ""


class Whose(msgspec.Struct, frozen=True, omit_defaults=True):
    """The names of whoever asked, for checks of who may read it."""

    org: str = ""
    team: str = ""
    key: str = ""


class Explanation(msgspec.Struct, frozen=True, omit_defaults=True):
    """One decision. `at`: ms since the epoch; amounts in `parts`: n$. What did not take part is left out."""

    request_id: str = ""
    at: int = 0
    route: str = ""
    reason: str = ""
    model: str = ""
    facts: dict[str, Fact] = {}
    tried: tuple[Tried, ...] = ()
    task: str = ""
    score: float | None = None
    words: tuple[str, ...] = ()
    p_local: float | None = None
    p_cloud: float | None = None
    aim: str = ""
    threshold: float | None = None
    parts: dict[str, int] = {}
    session: Session | None = None
    candidates: tuple[Candidate, ...] = ()
    counterfactual: tuple[str, ...] = ()
    shadow: str = ""
    cell: str = ""
    identity: Whose | None = None


# ---------------------------------------------------------------------------------------- of a request


def would_have(found: Explanation, low: str, high: str, shadows: Collection[int] = ()) -> tuple[str, ...]:
    """What would have had to differ for another outcome; `low` and `high`: the chains below and above the threshold;
    `shadows`: the rules that decide nothing."""
    lines: list[str] = []
    if found.score is not None and found.threshold is not None:
        if found.score < found.threshold:
            lines.append(f"complexity {found.score:.2f} would have had to be {found.threshold:.2f} or more for {high}")
        else:
            lines.append(f"complexity {found.score:.2f} would have had to be below {found.threshold:.2f} for {low}")
    elif found.reason.startswith("pinned"):
        lines.append(f"it was {found.reason}: model auto without a pin would have been judged")
    elif found.reason.startswith(_CLASSES):
        lines.append("without its class it would have been weighed by what a stronger model may add")
    held = next((one for one in found.tried if one.matched and not one.failed), None)
    decided = None if held is None else held.rule
    if held is not None:
        lines.append(f"without rules[{held.rule}] ({held.reason}) what comes after it would have been asked")
    lines += [f"rules[{one.rule}] ({one.reason}) would have come first, but {one.failed}" for one in found.tried
              if not one.matched and one.rule not in shadows and (decided is None or one.rule < decided)]
    lines += [_without(one) for one in found.candidates if one.dropped]
    return tuple(lines)


def _without(candidate: Candidate) -> str:
    why = candidate.dropped
    if why.startswith("lacks "):
        return f"without {why.removeprefix('lacks ')} {candidate.backend} would have been a candidate"
    if why.startswith("cannot do "):
        return f"without {why.removeprefix('cannot do ')} {candidate.backend} would have been a candidate"
    return f"{candidate.backend} would have been a candidate, but {why}"


def explain_request(runtime: Runtime, path: str, headers: Mapping[str, str], body: bytes, now: int = 0) -> Explanation:
    """Decide a request as the gateway would, asking nobody else. `now`: ms since the epoch.

    Raises:
        RequestError: like the gateway.
    """
    # A decision is made with its explanation, so the flow imports this module, and the endpoints import the flow.
    from extproc.core.endpoints import find
    from extproc.core.routing.flow import decide
    from extproc.core.routing.view import View

    headers = {":method": "POST", ":path": path, **headers}
    endpoint = find(headers)
    if endpoint.kind != "ask":
        raise RequestError(f"{path} is no path of a request; known: {', '.join(s.path for s in CLIENTS.values())}")
    conversation = CLIENTS[endpoint.schema].parse_request(body)
    facts = signals.extract(conversation, len(body), endpoint.route, headers, "", "default",
                            endpoint=endpoint.schema)
    view = View(runtime.config.routing)
    return decide(runtime, facts, conversation, view, now=now, client=endpoint.schema).explanation


def explain(runtime: Runtime, path: str, headers: Mapping[str, str], body: bytes) -> str:
    """The decision for a request in words. Raises RequestError like the gateway."""
    return text(explain_request(runtime, path, headers, body))


# ---------------------------------------------------------------------------------------- in words


LABEL = 12
"""Columns of the text form before what a line says."""


def text(found: Explanation) -> str:
    """The explanation as aligned lines; what did not take part is left out."""
    head: list[tuple[str, str]] = [
        ("request", found.request_id), ("time", _time(found.at)),
        ("for", _whose(found.identity)),
        ("route", found.route), ("reason", found.reason), ("model", found.model),
        ("chain", " > ".join(one.backend for one in found.candidates if not one.dropped and one.chain == found.route)),
    ]
    judged: list[tuple[str, str]] = [
        ("task", found.task), ("cell", found.cell),
        ("complexity", "" if found.score is None else f"{found.score:.2f}{_behind(found)}"),
        ("chances", _pairs({"local": found.p_local, "cloud": found.p_cloud})),
        ("aim", found.aim),
        ("value", ", ".join(f"{name} {money(nano, sign=True)}" for name, nano in found.parts.items() if nano)),
        ("session", _session(found.session)), ("shadow", found.shadow),
    ]
    rows = [*head, *[("rule", _rule(one)) for one in found.tried], *judged]
    rows += [("candidate", _candidate(one)) for one in found.candidates if not one.dropped and _telling(one)]
    rows += [("dropped", f"{one.backend}: {one.dropped}") for one in found.candidates if one.dropped]
    rows += [("otherwise", line) for line in found.counterfactual]
    rows.append(("facts", _pairs(found.facts)))
    return "\n".join(f"{name:<{LABEL - 1}} {_printable(said)}" for name, said in rows if said)


def _time(at: int) -> str:
    return datetime.fromtimestamp(at // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if at else ""


def _behind(found: Explanation) -> str:
    words = f" ({', '.join(found.words)})" if found.words else ""
    return words if found.threshold is None else f"{words}; threshold {found.threshold:.2f}"


def _pairs(values: Mapping[str, Fact]) -> str:
    return " ".join(f"{name}={_fact(value)}" for name, value in values.items() if value is not None)


def _fact(value: Fact) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _whose(identity: Whose | None) -> str:
    return "" if identity is None else " / ".join(name for name in msgspec.structs.astuple(identity) if name)


def _session(session: Session | None) -> str:
    if session is None:
        return ""
    outcome = "moved" if session.moved else "stayed"
    return " ".join(part for part in (session.id, outcome + (f": {session.why}" if session.why else "")) if part)


def _rule(one: Tried) -> str:
    outcome = f"matched{', but ' if one.failed else ''}{one.failed}" if one.matched else one.failed
    return f"rules[{one.rule}] {one.reason}: {outcome}"


def _telling(one: Candidate) -> bool:
    """Whether a candidate says more than its name, which the chain has."""
    return one.state != "up" or (one.chance, one.price, one.first_event_ms) != (None, None, None)


def _candidate(one: Candidate) -> str:
    parts = [one.backend, one.state]
    if one.chance is not None:
        parts.append(f"chance {one.chance:.2f}")
    if one.price is not None:
        parts.append(f"about {money(one.price)}")
    if one.first_event_ms is not None:
        parts.append(f"first event after {one.first_event_ms} ms")
    return ", ".join([*parts, *(["used"] if one.used else [])])


def _printable(said: str) -> str:
    """Without what a terminal would obey: names may come from a client."""
    return "".join([sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in said])


# ---------------------------------------------------------------------------------------- stored


def pack(found: Explanation, limit: int = LIMIT) -> bytes:
    """The explanation for the store, in at most `limit` bytes (1,536 or more): lists and texts are cut to fit."""
    try:
        blob = _encode(found)
    except (UnicodeEncodeError, OverflowError):  # half a character, or a number of a hundred digits, from a client
        blob = _encode(_cut(found, *_STEPS[0]))
    for step in _STEPS:
        if len(blob) <= limit:
            break
        blob = _encode(_cut(found, *step))
    return blob


def unpack(blob: bytes) -> Explanation | None:
    """Read a stored explanation; None: it is none of this version."""
    try:
        return _decode(blob)
    except msgspec.DecodeError:
        return None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Explanation).decode


def _cut(found: Explanation, most: int, length: int) -> Explanation:
    def few(items: Iterable[_T]) -> tuple[_T, ...]:
        return tuple(_values(item, length) for item in list(items)[:most])

    facts = {name[:40]: _value(value, length) for name, value in list(found.facts.items())[: 2 * most]}
    parts = {name[:40]: _value(value, length) for name, value in list(found.parts.items())[:most]}
    cut = _values(found, length)
    return msgspec.structs.replace(
        cut, facts=facts, parts=parts, tried=few(found.tried), words=few(found.words),
        candidates=few(found.candidates), counterfactual=few(found.counterfactual),
        session=_values(found.session, length), identity=_values(found.identity, length))


def _values(item: Any, length: int) -> Any:
    """A text, or a struct with its own texts and numbers, as they can be stored."""
    if not isinstance(item, msgspec.Struct):
        return _value(item, length)
    plain = {name: _value(value, length) for name in item.__struct_fields__
             if isinstance(value := getattr(item, name), str | int | float)}
    return msgspec.structs.replace(item, **plain)


def _value(value: Any, length: int) -> Any:
    if isinstance(value, str):
        return value[:length].encode("utf-8", "replace").decode()
    if isinstance(value, int) and not isinstance(value, bool):
        return max(-_LARGEST, min(value, _LARGEST))
    return value
