"""Every codec against mutated recordings, and every pair of client and provider against a provider that lies."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import msgspec
import pytest

from extproc import names
from extproc.core.errors import UpstreamError
from extproc.core.events import Closed, Proceed, Reply, ResponseBody
from extproc.core.usage import MAX_TOKENS, Tokens
from extproc.dialects import DIALECTS
from extproc.dialects.base import Dialect
from extproc.schemas import CLIENTS, PROVIDERS
from extproc.wire import content_encoding, sse
from tests import stage_kit
from tests.fuzz import codecs, grammar, seeds, streams
from tests.fuzz.streams import Said
from tests.fuzz.targets import Subject, subjects
from tests.stage_kit import Attempt, runtime

SUBJECTS = subjects()
EXAMPLES = 15
"""Mutations of each subject in a test run; `make fuzz` makes many more."""
STEP = 299
"""Of the inputs of a sweep a test run takes each so many-th; `python -m tests.fuzz.codecs --sweep` takes all."""
# ------------------------------------------------------------------------------------------------ any bytes


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_mutated_recordings_are_understood_or_refused(subject: Subject) -> None:
    """Each codec makes events, a request or its typed error of whatever comes, in bounded time."""
    _none(codecs.hunt([subject], 7, examples=EXAMPLES, longest=20_000))


def _none(findings: list[codecs.Finding]) -> None:
    assert not findings, "\n".join(
        f"{one.subject} {one.place} {one.error}\n    {one.input[:500]!r}" for one in findings)


@pytest.mark.parametrize("subject", [one for one in SUBJECTS if one.models], ids=lambda subject: subject.name)
def test_each_value_may_be_odd(subject: Subject) -> None:
    """Any single value of a written seed replaced by an odd one: null, another type, huge, deep, no JSON at all."""
    _none(codecs.sweep([subject], STEP))


@pytest.mark.parametrize("thinking", [True, 5, 0.1])
def test_thinking_parts_of_another_type_are_refused(thinking: object) -> None:
    """Mistral's thinking part with a number in place of its parts."""
    body = {"choices": [{"message": {"content": [{"type": "thinking", "thinking": thinking}]}}]}
    try:
        PROVIDERS["openai"].parse_response(json.dumps(body).encode())
    except UpstreamError:
        return


@pytest.mark.parametrize(("head", "opening", "closing"), [("", '{"error":', "}"), ("", "[", "]"), ('{"detail":', "[", "]")])
def test_errors_of_any_depth_are_read(head: str, opening: str, closing: str) -> None:
    """An error nested just less deep than the JSON library takes is read like one that is nested less or more."""
    for depth in range(800, 1000):
        body = head + opening * depth + "1" + closing * depth + "}" * bool(head)
        PROVIDERS["openai"].parse_error(500, body.encode())


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_seeds_are_taken(subject: Subject) -> None:
    """The recordings themselves keep the properties, so that a finding is due to its mutation."""
    for body in subject.seeds[:: max(1, len(subject.seeds) // 4)]:
        subject.run(body)


def test_a_finding_is_told_with_a_small_input() -> None:
    """The driver notices a foreign exception and leaves out of its input what it does not need."""
    def run(data: bytes) -> None:
        if b"bad" in data:
            raise ValueError("foreign")

    subject = Subject("made/up", run, [b"x"])
    finding = codecs.attempt(subject, b"much that is bad and more")
    assert finding is not None
    assert codecs.smaller(subject, b"much that is bad and more", finding.key) == b"bad"


# ------------------------------------------------------------------------------------------------ a lying provider

_BAD_USAGE: dict[str, dict[str, Any]] = {
    "openai": {"prompt_tokens": -3, "completion_tokens": 1 << 70},
    "completions": {"prompt_tokens": -3, "completion_tokens": "many"},
    "anthropic": {"input_tokens": -3, "output_tokens": 1 << 70, "cache_read_input_tokens": None},
    "responses": {"input_tokens": True, "output_tokens": -1},
    "ollama": {"prompt_eval_count": -5, "eval_count": 1.5},
}
ERROR = {"error": {"type": "api_error", "message": "it broke", "code": "server_error"}}
SAID = Said("Hello there.", "", (("call_abcDEF012", "f", '{"a":1}'),))


def _event(schema: str, value: object, name: str = "") -> bytes:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    if schema == "ollama":
        return data + b"\n"
    return (b"event: " + name.encode() + b"\n" if name else b"") + b"data: " + data + b"\n\n"


def _family(schema: str) -> str:
    return {"fim": "openai", "embeddings": "openai", "count_tokens": "anthropic"}.get(schema, schema)


def _good(schema: str) -> list[bytes]:
    """The events of an honest stream."""
    said = Said(SAID.text) if schema in ("completions", "fim") else SAID
    stream = streams.write(_family(schema), said)
    mark = b"\n" if schema == "ollama" else b"\n\n"
    return [part + mark for part in stream.split(mark)[:-1]]


def _edited(events: list[bytes], change: Any) -> list[bytes]:
    """The events with their JSON changed in place."""
    out: list[bytes] = []
    for event in events:
        head, brace, body = event.partition(b"{")
        if not brace:
            out.append(event)
            continue
        value = json.loads(brace + body)
        change(value)
        out.append(head + json.dumps(value).encode() + event[len(event.rstrip(b"\n")):])
    return out


def _usage_of(schema: str, usage: dict[str, Any] | None) -> Any:
    """A change of an event that puts this usage where the schema has it, or takes it out."""
    def change(value: dict[str, Any]) -> None:
        if schema == "ollama":
            for key in ("prompt_eval_count", "eval_count"):
                value.pop(key, None)
            value.update(usage or {})
            return
        for holder in (value, value.get("message"), value.get("response")):
            if isinstance(holder, dict) and holder.get("usage") is not None:
                holder["usage"] = usage

    return change


def _each_usage(schema: str) -> Any:
    """A change that puts usage into every event, growing with each."""
    counter = iter(range(1, 10_000))

    def change(value: dict[str, Any]) -> None:
        number = next(counter)
        known = {"openai": {"prompt_tokens": 31, "completion_tokens": number},
                 "completions": {"prompt_tokens": 31, "completion_tokens": number},
                 "anthropic": {"input_tokens": 24, "output_tokens": number},  # and 7 cached
                 "responses": {"input_tokens": 31, "output_tokens": number},
                 "ollama": {"prompt_eval_count": 31, "eval_count": number}}[schema]
        value.update(known if schema == "ollama" else {"usage": known})

    return change


def _nameless(value: dict[str, Any]) -> None:
    """Take the names of tool calls away."""
    for holder in (value.get("content_block"), value.get("item")):
        if isinstance(holder, dict):
            holder.pop("name", None)
    for choice in value.get("choices") or ():
        for call in choice.get("delta", {}).get("tool_calls") or ():
            call.get("function", {}).pop("name", None)
    for call in (value.get("message") or {}).get("tool_calls") or ():
        call["function"].pop("name", None)


def _same_index(value: dict[str, Any]) -> None:
    """All blocks, items and calls have the index 0."""
    for key in ("index", "output_index"):
        if key in value:
            value[key] = 0


class Lie(msgspec.Struct, frozen=True):
    """What a provider sends, and what must come of it: `refused` before any byte of an answer, `broken` after some,
    `taken` as an answer; `garbage` breaks a translation and passes where bytes pass; `any` leaves it open."""

    name: str
    chunks: list[bytes]
    end: str
    status: int = 200
    content_type: str = "text/event-stream"
    encoding: str = ""


def stream_lies(schema: str) -> Iterator[Lie]:
    """Lies in streams of a provider schema."""
    family, good = _family(schema), _good(schema)
    half = good[: len(good) // 2]
    bad: dict[str, object] = {
        "openai": {"choices": "x"}, "completions": {"choices": {"text": 5}}, "anthropic": {"type": 5},
        "responses": {"type": ["x"]}, "ollama": {"message": 7}}
    for name, event in {
        "not JSON": _event(family, b'{"choices": [}'), "not UTF-8": _event(family, b'{"id":"\xff","type":"\xff","model":"\xff"}'),
        "wrong types": _event(family, bad[family]), "a list": _event(family, []), "NaN": _event(family, b"NaN"),
        "deep": _event(family, b'{"usage":' + b"[" * 100_000),
    }.items():
        yield Lie(f"{name} first", [event, *good], "refused")
        yield Lie(f"{name} underway", [*half, event, *good], "garbage")
    event = _event(family, {"type": "error", **ERROR}, "error")
    yield Lie("an error object first", [event, *good], "refused")
    yield Lie("an error object underway", [*half, event, *good], "broken")
    yield Lie("no terminal event", good[:-1], "broken")
    yield Lie("cut within an event", [b"".join(good)[: len(b"".join(half)) + 9]], "broken")
    yield Lie("an HTML page", [b"<!doctype html>\n\n<html><h1>502 Bad Gateway</h1>\n\n</html>\n"], "refused", 200, "text/html")
    yield Lie("an HTML error page", [b"<html><h1>502 Bad Gateway</h1></html>"], "refused", 502, "text/html")
    yield Lie("an error object instead of a stream", [json.dumps(ERROR, indent=1).encode()], "refused", 200, "application/json")
    yield Lie("nothing", [b""], "refused")
    yield Lie("only comments", [b": ping\n\n" * 9] if family != "ollama" else [b"\n" * 9], "refused")
    yield Lie("a redirect", [b"moved"], "refused", 302, "text/plain")
    yield Lie("no content", [b""], "refused", 204)
    yield Lie("not its coding", good, "refused", encoding="gzip")
    yield Lie("an unknown coding", good, "refused", encoding="rot13")
    yield Lie("a broken coding", [gzip.compress(b"".join(good))[:40], b"junk" * 20], "any", encoding="gzip")
    yield Lie("a huge event first", [_event(family, {"x": "y" * 300_000})[:-1], *good], "refused")
    yield Lie("a huge event underway", [*half, b"data: " + b"x" * 300_000], "broken")
    yield Lie("bad usage", _edited(good, _usage_of(family, _BAD_USAGE[family])), "taken")
    yield Lie("no usage", _edited(good, _usage_of(family, None)), "taken")
    yield Lie("usage in every event", _edited(good, _each_usage(family)), "taken")
    yield Lie("calls without names", _edited(good, _nameless), "any")
    yield Lie("one index for all", _edited(good, _same_index), "any")
    yield Lie("all events twice", [event for event in good for _ in range(2)], "any")
    yield Lie("backwards", good[::-1], "any")
    yield Lie("the end alone", good[-1:], "any")
    yield Lie("after the end", [*good, _event(family, ERROR, "error"), b"junk"], "taken")


_WHOLE: dict[str, dict[str, Any]] = {name: json.loads(bodies[0]) for name, bodies in seeds.whole_answers().items() if bodies}


def whole_lies(schema: str) -> Iterator[Lie]:
    """Lies in answers that are not streamed."""
    good = _WHOLE[schema]
    body = json.dumps(good).encode()
    kind = "application/json"
    for name, nonsense in {
        "nothing": b"", "HTML": b"<html>502</html>", "not JSON": body[:-2], "null": b"null", "a list": b"[]", "empty": b"{}",
        "a number": b"1e999", "deep": b"[" * 100_000, "an error object": json.dumps({"type": "error", **ERROR}).encode(),
    }.items():
        yield Lie(name, [nonsense], "refused", 200, kind)
    yield Lie("wrong types", [json.dumps({**good, "choices": 5, "content": 5, "output": 5, "message": 5, "data": 5,
                                          "input_tokens": "x"}).encode()], "refused", 200, kind)
    usage = _BAD_USAGE[_family(schema)]
    yield Lie("bad usage", [json.dumps({**good, **(usage if schema == "ollama" else {"usage": usage})}).encode()], "any", 200, kind)
    missing = {key: value for key, value in good.items() if key not in ("usage", "prompt_eval_count", "eval_count")}
    yield Lie("no usage", [json.dumps(missing).encode()], "taken", 200, kind)
    yield Lie("not its coding", [body], "refused", 200, kind, "br")
    yield Lie("an HTML error page", [b"<html>502</html>"], "refused", 502, "text/html")
    yield Lie("in many pieces", [body[at : at + 3] for at in range(0, len(body), 3)], "taken", 200, kind)


def _speaker(of: str) -> Dialect:
    """A provider of one schema, which every client's request is translated to."""

    class Speaks(Dialect):
        name = f"speaks-{of}"
        schema = of

        def wire(self, client: str) -> str | None:
            return of

    return Speaks()


RUNTIME = runtime()
for _name in PROVIDERS:
    RUNTIME.backends[f"{_name}/x"] = msgspec.structs.replace(RUNTIME.backends["gpt/g"], dialect=f"speaks-{_name}")
REQUESTS: dict[str, dict[str, Any]] = {
    "openai": stage_kit.ASK, "anthropic": stage_kit.ASK, "responses": {"model": "auto", "input": "hello"},
    "completions": {"model": "auto", "prompt": "a"}, "fim": {"model": "auto", "prompt": "a", "suffix": "b"},
    "embeddings": {"model": "auto", "input": "a"},
    "count_tokens": {key: value for key, value in stage_kit.ASK.items() if key != "max_tokens"},
}
CHATS = ("openai", "anthropic", "responses", "ollama")
PAIRS = [
    *product(("openai", "anthropic", "responses"), CHATS),
    *product(("completions", "fim"), (*CHATS, "completions", "fim")),
]
"""Client and provider: a chat can be said in every chat schema, a prompt in all."""
WHOLE_PAIRS = [*PAIRS, ("embeddings", "embeddings"), ("count_tokens", "count_tokens")]


@pytest.fixture()
def liars(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROVIDERS:
        monkeypatch.setitem(DIALECTS, f"speaks-{name}", _speaker(name))
    for name, schema in CLIENTS.items():
        monkeypatch.setitem(stage_kit.PATHS, name, schema.path)
    monkeypatch.setattr(sse, "MAX_EVENT", 200_000)


def attempt(client: str, provider: str, *, stream: bool) -> Attempt:
    """An attempt whose request has left."""
    body = {**REQUESTS[client], **({"stream": True} if stream else {})}
    made = Attempt(client, f"{provider}/x", stream=stream, rt=RUNTIME, include_usage=True)
    return made.dispatched(request=json.dumps(body).encode())


def _lied(client: str, provider: str, lie: Lie, *, stream: bool) -> Attempt:
    made = attempt(client, provider, stream=stream)
    coded = {"content_encoding": lie.encoding} if lie.encoding else {}
    made.answered(lie.status, lie.content_type, **coded)
    return made.fed([*lie.chunks, b""])


def honest(made: Attempt) -> None:
    """What holds of every end: one settlement, tokens that were told or are estimated, never made up."""
    end, tokens = made.end, made.end.tokens
    assert all(count is None or 0 <= count <= MAX_TOKENS for count in msgspec.structs.astuple(tokens))
    assert end.cost is None or (end.cost >= 0 and math.isfinite(end.cost))
    match end.outcome:
        case "exact":
            assert tokens.complete
            assert end.problem is None
            assert end.final
        case "estimated":
            assert not end.final
            assert tokens.input is not None
        case "failed":
            assert end.problem is not None


def error_of(client: str, body: bytes) -> None:
    """An error answer is in the client's own shape."""
    told = json.loads(body)
    error = told["error"]
    assert isinstance(error["message"], str)
    assert error["message"]
    if CLIENTS[client].family == "anthropic":
        assert told["type"] == "error"
        assert error["type"] in {"invalid_request_error", "api_error", "timeout_error", "overloaded_error", "not_found_error",
                                 "rate_limit_error", "permission_error", "authentication_error", "request_too_large", "billing_error"}
    else:
        assert {"message", "type", "param", "code"} <= error.keys()


def error_event_of(client: str, told: bytes) -> None:
    """A broken stream ends with the event that the client's SDK raises on, and with no sign of a clean end."""
    parts = grammar.events(told)
    name, data = parts[-1]
    value = json.loads(data)
    assert value["error"]["message"]
    match client:
        case "anthropic":
            assert (name, value["type"]) == ("error", "error")
        case "responses":
            assert (name, value["type"]) == ("response.failed", "response.failed")
            assert value["response"]["status"] == "failed"
        case _:
            assert name == ""
    for sign in ("[DONE]", "message_stop", "response.completed", "response.incomplete"):
        assert not any(sign in (name, data) for name, data in parts), sign


def ended(client: str, provider: str, made: Attempt, *, stream: bool) -> str:
    """How it ended for the client, checked: refused, broken or taken."""
    assert made.over
    honest(made)
    if made.status != 200:
        assert 400 <= made.status < 600
        assert made.end.outcome == "failed"
        assert made.end.tokens == Tokens() or made.end.tokens.input is not None
        error_of(client, made.told)
        assert made.released.set["content-length"] == str(len(made.told))
        return "refused"
    if not stream:
        json.loads(made.told)
        return "taken"
    if made.end.problem is not None:
        assert made.end.outcome == "estimated"
        error_event_of(client, made.told)
        return "broken"
    if client != provider:
        grammar.read(client, made.told)
    return "taken"


def expected(lie: Lie, how: str, made: Attempt, *, passes: bool = False) -> None:
    """The end that this lie must have; a refusal moves the request on."""
    wanted = ("broken", "taken")[passes] if lie.end == "garbage" else lie.end
    assert wanted in ("any", how), f"{how}, not {wanted}"
    if how == "refused" and lie.status in (200, 204, 302, 502):
        assert made.released.set.get(names.RETRY) == "1", "no failover"


@pytest.mark.usefixtures("liars")
@pytest.mark.parametrize(("client", "provider"), PAIRS)
def test_a_stream_that_lies_ends_in_a_typed_error(client: str, provider: str) -> None:
    """Each lie ends before the first byte in an error that moves on, or after it in the client's own error event."""
    wrong: list[str] = []
    for lie in stream_lies(provider):
        made = _lied(client, provider, lie, stream=True)
        try:
            how = ended(client, provider, made, stream=True)
            expected(lie, how, made, passes=client == provider)
        except (AssertionError, ValueError, KeyError) as error:
            wrong.append(f"{lie.name}: {error!r:.300}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.usefixtures("liars")
@pytest.mark.parametrize(("client", "provider"), WHOLE_PAIRS)
def test_an_answer_that_lies_ends_in_a_typed_error(client: str, provider: str) -> None:
    """An answer that is none is an error that moves on; one with bad usage is an answer with unknown usage."""
    wrong: list[str] = []
    for lie in whole_lies(provider):
        made = _lied(client, provider, lie, stream=False)
        try:
            expected(lie, ended(client, provider, made, stream=False), made)
        except (AssertionError, ValueError, KeyError) as error:
            wrong.append(f"{lie.name}: {error!r:.300}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.usefixtures("liars")
@pytest.mark.parametrize(("client", "provider"), PAIRS)
def test_usage_that_lies_is_unknown(client: str, provider: str) -> None:
    """Negative, huge or absent counts are never settled: the input is the estimate, the output what passed."""
    for lie in stream_lies(provider):
        if lie.name in ("bad usage", "no usage"):
            end = _lied(client, provider, lie, stream=True).end
            assert end.outcome == "estimated", lie.name
            assert end.tokens.input in range(10, 20), lie.name  # the request was estimated at 10
            assert end.tokens.output in range(1, 200), lie.name
        if lie.name == "usage in every event":
            end = _lied(client, provider, lie, stream=True).end
            assert end.outcome == "exact"
            assert end.tokens.total_input == 31
            assert end.tokens.total_output in range(1, max(19, len(lie.chunks)) + 1)


@pytest.mark.usefixtures("liars")
@pytest.mark.parametrize(("client", "provider"), PAIRS)
def test_an_endless_stream_is_settled_when_it_is_left(client: str, provider: str) -> None:
    """Text without end goes on to the client as it comes; when the client leaves, what passed is settled."""
    made = attempt(client, provider, stream=True).answered()
    good = [part for part in _good(provider) if b"[DONE]" not in part]
    spoken = [part for part in good if b"there" in part or b"Hello" in part][:1]
    made.fed([*good[:3], *spoken * 400], end=False)
    size = len(made.told)
    assert size > 400 * 5
    made.hear(Closed())
    assert made.end.outcome == "estimated"
    assert made.end.tokens.output is not None
    assert made.end.tokens.output >= 400
    made.hear(ResponseBody(good[-1], True))
    assert len(made.told) == size
    assert not [action for action in made.actions if isinstance(action, Reply)]


@pytest.mark.usefixtures("liars")
@pytest.mark.parametrize("status", [
    0, 99, 101, 199, 201, 300, 304, 600, 799, 999])
def test_a_strange_status_is_the_provider_s_fault(status: int) -> None:
    """A status that is neither 200 nor an HTTP error (RFC 9110, 15) becomes one that is."""
    made = attempt("openai", "openai", stream=True).answered(status, "text/plain").fed([b"x", b""])
    assert 500 <= made.status < 600
    error_of("openai", made.told)


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_a_bomb_stays_small(coding: str) -> None:
    """A few bytes that decode to very many come out in bounded pieces, or are refused."""
    import brotli
    import zstandard

    plain = b"\0" * (80 << 20)
    coded = {"gzip": lambda: gzip.compress(plain, 1), "br": lambda: brotli.compress(plain, quality=1),
             "zstd": lambda: zstandard.ZstdCompressor().compress(plain)}[coding]()
    try:
        out = content_encoding.decoder(coding).decode(coded)
    except content_encoding.Undecodable:
        return
    assert len(out) <= 32 << 20


@pytest.mark.usefixtures("liars")
def test_the_kit_reaches_the_provider() -> None:
    """Every pair above really dispatches a request in the provider's schema."""
    for client, provider in WHOLE_PAIRS:
        made = attempt(client, provider, stream=False)
        assert isinstance(made.sent, Proceed)
        assert made.sent.set[":path"].endswith(PROVIDERS[provider].path), (client, provider)
