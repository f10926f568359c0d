"""The attempt stage: what leaves for a provider, and what the client gets back whatever the provider does."""

from __future__ import annotations

import gzip
import json
from itertools import product

import brotli
import pytest
import zstandard

from extproc import names
from extproc.core.answer import Reading, StreamAnswer
from extproc.core.events import (
    Begin,
    Begun,
    Closed,
    Emit,
    End,
    Event,
    Idle,
    Leave,
    Proceed,
    Reply,
    RequestBody,
    RequestHeaders,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
    Silence,
    pack,
)
from extproc.core.usage import Tokens
from extproc.schemas import SCHEMAS
from extproc.tokens import counter
from tests.stage_kit import (
    CLIENT_KEY,
    HEADERS,
    NOW,
    STREAMS,
    Attempt,
    anthropic_stream,
    body,
    carried,
    openai_stream,
    runtime,
)

PAIRS = list(product(("openai", "anthropic"), repeat=2))
WHOLE = {
    "openai": json.dumps({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "g-1", "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 4}}).encode(),
    "anthropic": json.dumps({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "c-1", "stop_reason": "end_turn",
        "content": [{"type": "text", "text": "Hi"}], "usage": {"input_tokens": 9, "output_tokens": 4}}).encode(),
}
OVERLOADED = {
    "openai": b'data: {"error":{"message":"busy","type":"server_error"}}\n\n',
    "anthropic": b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}\n\n',
}
JSON = "application/json"


# ------------------------------------------------------------------------------------ security: what leaves


@pytest.mark.parametrize("decision", [
    "", "{}", "null", "[]", "not json", '{"rid":"x"}', "[" * 3000, pack(carried())[:-1],
    pack(carried()).replace('"schema":"openai"', '"schema":"nonsense"', 1),
    pack(carried(estimate=1)).replace("1,", '"1",'),
])
def test_a_forged_decision_dispatches_nothing(decision: str) -> None:
    """Without a decision of ours the client gets a 503, and nothing is begun or dispatched."""
    attempt = Attempt()
    attempt.hear(RequestHeaders(HEADERS, False, decision, "gpt/g", 1), RequestBody(body()), Begun("OK"))
    assert attempt.reply.status == 503
    assert attempt.actions == [attempt.reply]


@pytest.mark.parametrize("target", ["", "gpt", "gpt/other", "nowhere/g", "GPT/G"])
def test_a_host_without_our_mark_gets_nothing(target: str) -> None:
    """A target that the configuration does not list gets no request."""
    attempt = Attempt(backend=target).dispatched()
    assert attempt.reply.status == 503
    assert attempt.actions == [attempt.reply]


STRANGE = {
    "authorization": f"Bearer {CLIENT_KEY}", "x-api-key": CLIENT_KEY, "cookie": f"session={CLIENT_KEY}",
    "proxy-authorization": CLIENT_KEY, "x-forwarded-for": "10.0.0.7", "x-request-id": "mine", "user-agent": "curl/8",
    "x-extproc-route": "cloud", "x-extproc-project": "secret",
    "x-envoy-original-path": "/secret",
    "traceparent": "00-x",
    "openai-organization": "org-client", "openai-project": "proj", "x-goog-api-key": CLIENT_KEY,
    "accept-encoding": "br",
    "anthropic-version": "2023-06-01", "anthropic-beta": "b", "openai-beta": "o", "x-stainless-os": "Linux",
}


@pytest.mark.parametrize(("client", "backend"), PAIRS)
def test_header_allow_list(client: str, backend: str) -> None:
    """Of a client's headers only the schema's own leave, and only to a backend of the same schema."""
    sent = Attempt(client, backend).dispatched(STRANGE).sent
    passed = {"openai": {"openai-beta"}, "anthropic": {"anthropic-version", "anthropic-beta"}}[backend]
    key = {"openai": "authorization", "anthropic": "x-api-key"}[backend]
    ours = {":path", ":authority", "content-type", "content-length", "accept", "user-agent", key}
    ours |= {"anthropic-version"} if backend == "anthropic" else set()
    assert set(sent.set) == ours | (passed if client == backend else set())
    assert set(sent.remove) == set(STRANGE) - set(sent.set)
    assert CLIENT_KEY not in repr(sent)
    assert sent.set["user-agent"] == "extproc"


@pytest.mark.parametrize(("client", "backend"), PAIRS)
def test_destination(client: str, backend: str) -> None:
    """Path, authority, credentials and length are the backend's own."""
    sent = Attempt(client, backend).dispatched().sent
    assert sent.set[":path"] == {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}[backend]
    assert sent.set[":authority"] == {"openai": "api.openai.com", "anthropic": "api.anthropic.com"}[backend]
    assert sent.set.get("authorization") == ("Bearer sk-openai" if backend == "openai" else None)
    assert sent.set.get("x-api-key") == ("sk-ant" if backend == "anthropic" else None)
    assert sent.body is not None
    assert sent.set["content-length"] == str(len(sent.body))
    assert json.loads(sent.body)["model"] == {"openai": "g", "anthropic": "c"}[backend]


@pytest.mark.parametrize(("first", "second", "left"), [
    ("anthropic", "openai", {"x-api-key", "anthropic-version"}), ("openai", "anthropic", {"authorization"}),
    ("openai", "qwen/q", {"authorization"}), ("anthropic", "qwen/q", {"x-api-key", "anthropic-version"}),
])
@pytest.mark.parametrize("client", ["openai", "anthropic"])
def test_second_attempt_removes_what_the_first_set(client: str, first: str, second: str, left: set[str]) -> None:
    """The next provider never sees the credentials of the one before."""
    earlier = Attempt(client, first).dispatched().sent
    headers = {k: v for k, v in {**HEADERS, **earlier.set}.items() if k not in earlier.remove}
    later = Attempt(client, second).dispatched(dict(headers), number=2).sent
    assert left <= set(later.remove)
    secret = {"openai": "sk-openai", "anthropic": "sk-ant"}[first]
    assert secret not in repr(later)


def test_a_detour_loses_nothing() -> None:
    """An attempt at another schema takes beta headers and the query away; the next one at the client's own has them."""
    path, beta = "/v1/messages?beta=true", {"anthropic-version": "2026-10-21", "anthropic-beta": "a,b"}
    first = Attempt("anthropic", "openai").dispatched({":path": path, **beta})
    left = {k: v for k, v in {**HEADERS, **beta, **first.sent.set}.items() if k not in first.sent.remove}
    second = Attempt("anthropic", "anthropic", query=first.carried.query, passed=first.carried.passed)
    second.dispatched(left, number=2)
    assert not beta.keys() & left.keys()
    assert second.sent.set[":path"] == path
    assert {k: second.sent.set[k] for k in beta} == beta


def test_the_query_goes_only_to_the_same_schema() -> None:
    """Claude Code's ?beta=true survives for Anthropic and is dropped for others."""
    path = {":path": "/v1/messages?beta=true"}
    assert Attempt("anthropic", "anthropic").dispatched(path).sent.set[":path"] == "/v1/messages?beta=true"
    assert Attempt("anthropic", "openai").dispatched(path).sent.set[":path"] == "/v1/chat/completions"


@pytest.mark.parametrize("early", [True, False])
def test_nothing_is_dispatched_before_it_is_begun(early: bool) -> None:
    """The body waits for the ledger, and the ledger's answer for the body, in either order."""
    attempt = Attempt()
    attempt.hear(RequestHeaders(HEADERS, False, pack(attempt.carried), "gpt/g", 1))
    assert attempt.actions == [Begin(1, "gpt", "g"), Proceed("request_headers")]
    events: list[Event] = [RequestBody(body()), Begun("OK")]
    one, two = events if early else reversed(events)
    assert attempt.hear(one) == []
    assert attempt.hear(two) == [attempt.sent]


def test_a_request_that_the_ledger_does_not_know() -> None:
    """A reservation that is gone ends the request before its dispatch, and nothing is settled."""
    attempt = Attempt()
    attempt.hear(RequestHeaders(HEADERS, False, pack(attempt.carried), "gpt/g", 1), Begun("GONE"), RequestBody(body()))
    assert attempt.reply.status == 503
    assert not any(isinstance(a, End) for a in attempt.actions)
    assert not any(isinstance(a, Proceed) and a.phase == "request_body" for a in attempt.actions)


def test_a_ledger_that_does_not_answer() -> None:
    """An attempt goes on when the ledger cannot be asked."""
    attempt = Attempt()
    attempt.hear(RequestHeaders(HEADERS, False, pack(attempt.carried), "gpt/g", 1), Begun("unavailable"),
                 RequestBody(body()))
    assert attempt.sent.body is not None


def test_a_request_that_cannot_be_said() -> None:
    """A body that the second look cannot parse is the client's error, settled as failed and never dispatched."""
    attempt = Attempt("openai", "anthropic").dispatched(request=b"{")
    assert attempt.reply.status == 400
    assert (attempt.end.outcome, attempt.end.cost) == ("failed", 0)
    assert not any(isinstance(a, Proceed) and a.phase == "request_body" for a in attempt.actions)


# ------------------------------------------------------------------------------------ good answers


@pytest.mark.parametrize(("client", "backend"), PAIRS)
def test_stream(client: str, backend: str) -> None:
    """A stream ends cleanly in the client's schema, with exact usage and one settlement."""
    attempt = Attempt(client, backend).dispatched().answered().fed([STREAMS[backend]("Hel", "lo")])
    assert attempt.status == 200
    assert attempt.over
    assert (b"[DONE]" if client == "openai" else b"message_stop") in attempt.told
    assert attempt.end.outcome == "exact"
    assert attempt.end.final
    assert attempt.end.tokens.complete
    assert (attempt.end.tokens.input, attempt.end.tokens.output) == (9, 4)
    assert attempt.end.finish_reason == "end"


@pytest.mark.parametrize(("client", "backend"), PAIRS)
def test_whole(client: str, backend: str) -> None:
    """A whole answer has its length, its usage, and the client's schema."""
    attempt = Attempt(client, backend, stream=False).dispatched().answered(content_type=JSON).fed([WHOLE[backend]])
    assert attempt.status == 200
    assert attempt.over
    assert attempt.released.set["content-length"] == str(len(attempt.told))
    told = json.loads(attempt.told)
    said = told["choices"][0]["message"]["content"] if client == "openai" else told["content"][0]["text"]
    assert said == "Hi"
    assert (attempt.end.outcome, attempt.end.tokens.input, attempt.end.tokens.output) == ("exact", 9, 4)


@pytest.mark.parametrize("schema", ["openai", "anthropic"])
def test_same_schema_passes_untouched(schema: str) -> None:
    """Between equal schemas a whole answer keeps its bytes."""
    attempt = Attempt(schema, schema, stream=False).dispatched().answered(content_type=JSON).fed([WHOLE[schema]])
    assert attempt.told == WHOLE[schema]


def test_cost_header() -> None:
    """A whole answer tells its cost when the price is known."""
    attempt = Attempt(backend="qwen/q", stream=False).dispatched().answered(content_type=JSON).fed([WHOLE["openai"]])
    assert attempt.released.set[names.COST_USD] == "0.000000000"
    unknown = Attempt(stream=False).dispatched().answered(content_type=JSON).fed([WHOLE["openai"]])
    assert names.COST_USD not in unknown.released.set
    assert unknown.end.cost is None


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("coding", "compress"), [
    ("gzip", gzip.compress), ("br", brotli.compress), ("zstd", zstandard.compress), ("identity", bytes),
])
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_compressed_upstream(coding: str, compress: type[bytes], stream: bool, size: int) -> None:
    """A provider that compresses although we ask for identity is decoded, however its bytes are cut."""
    plain = openai_stream("Hi") if stream else WHOLE["openai"]
    data = compress(plain)
    attempt = Attempt(stream=stream, include_usage=True).dispatched().answered(
        content_encoding=coding, content_length=str(len(data)))
    attempt.fed(data[i:i + size] for i in range(0, len(data), size))
    assert attempt.told == plain
    assert attempt.over
    assert "content-encoding" in attempt.released.remove
    assert attempt.end.outcome == "exact"


@pytest.mark.parametrize(("header", "value"), [
    ("set-cookie", "a=b"), ("x-ratelimit-remaining-tokens", "1"), ("anthropic-organization-id", "org"),
    ("openai-organization", "org"), ("cf-ray", "1"), ("server", "nginx"), ("x-extproc-retry", "1"),
    ("x-extproc-cost-usd", "0"), ("x-extproc-backend", "other"), ("x-extproc-cluster", "other"),
])
def test_provider_headers_that_do_not_reach_the_client(header: str, value: str) -> None:
    """A provider's account, limits and cookies, and our own names in its mouth, are stripped or overwritten."""
    attempt = Attempt().dispatched().answered(**{header.replace("-", "_"): value}).fed([openai_stream("Hi")])
    assert header in attempt.released.remove or attempt.released.set[header] != value


def test_the_client_named_the_model_of_a_pinned_backend() -> None:
    """A model name with control characters cannot break the response headers."""
    attempt = Attempt(backend="gpt/*", stream=True, model="a\r\nb\u00e9").dispatched()
    attempt.answered().fed([openai_stream("Hi")])
    assert attempt.released.set[names.MODEL] == "a??b?"


# ------------------------------------------------------------------------------------ failures before the first event


@pytest.mark.parametrize(("client", "backend"), PAIRS)
def test_error_as_first_event(client: str, backend: str) -> None:
    """A 200 that turns out an error becomes an error status with the retry mark, and no byte of a stream."""
    attempt = Attempt(client, backend).dispatched().answered().fed([OVERLOADED[backend]], end=False)
    assert attempt.released.set[names.RETRY] == "1"
    assert attempt.status >= 500
    assert attempt.over
    assert json.loads(attempt.told)["error"]
    assert (attempt.end.outcome, attempt.end.cost) == ("failed", 0)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("client", "backend"), PAIRS)
@pytest.mark.parametrize("data", [
    b"", b"<html>gateway</html>", b"data: {nonsense\n\n", b"\x00\xff" * 50, b": ping\n\n",
])
def test_no_answer_at_all(client: str, backend: str, stream: bool, data: bytes) -> None:
    """An empty or senseless 200 is a failure that the next backend may repair."""
    attempt = Attempt(client, backend, stream=stream).dispatched().answered().fed([data])
    assert (attempt.status, attempt.released.set[names.RETRY]) == (502, "1")
    assert attempt.over
    assert attempt.end.outcome == "failed"
    assert attempt.end.problem is not None


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "deflate", "rot13", "gzip, br"])
def test_undecodable(coding: str, stream: bool) -> None:
    """A body that is not what its content-encoding says, or an unknown coding, is a retriable failure."""
    attempt = Attempt(stream=stream).dispatched().answered(content_encoding=coding)
    attempt.fed([b"this is not compressed at all, whatever the header says"])
    assert (attempt.status, attempt.released.set[names.RETRY]) == (502, "1")
    assert attempt.over
    assert attempt.end.outcome == "failed"


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(("client", "backend"), PAIRS)
def test_the_gateways_credentials_are_not_the_clients_problem(client: str, backend: str, status: int) -> None:
    """A refused provider key is a retriable 502 without a word of the provider."""
    attempt = Attempt(client, backend).dispatched().answered(status, JSON)
    attempt.fed([b'{"error":{"type":"authentication_error","message":"Incorrect API key sk-openai at Acme"}}'])
    assert (attempt.status, attempt.released.set[names.RETRY]) == (502, "1")
    assert b"sk-openai" not in attempt.told
    assert b"Acme" not in attempt.told


@pytest.mark.parametrize("schema", ["openai", "anthropic"])
def test_a_bad_request_passes_unmodified(schema: str) -> None:
    """Between equal schemas a 400 keeps its bytes, is not retried and costs nothing."""
    text = b'{"type":"error","error":{"type":"invalid_request_error","message":"max_tokens: too large"},"new":1}'
    attempt = Attempt(schema, schema).dispatched().answered(400, JSON).fed([text[:20], text[20:]])
    assert (attempt.status, attempt.told) == (400, text)
    assert names.RETRY not in attempt.released.set
    assert attempt.over
    assert (attempt.end.outcome, attempt.end.cost, attempt.end.status) == ("failed", 0, 400)


@pytest.mark.parametrize(("client", "backend"), [p for p in PAIRS if p[0] != p[1]])
def test_a_bad_request_is_told_in_the_clients_schema(client: str, backend: str) -> None:
    """Between different schemas a 400 keeps its message."""
    attempt = Attempt(client, backend).dispatched().answered(400, JSON)
    attempt.fed([b'{"error":{"type":"invalid_request_error","message":"max_tokens: too large"}}'])
    assert attempt.status == 400
    assert json.loads(attempt.told)["error"]["message"] == "max_tokens: too large"
    assert ("type" in json.loads(attempt.told)) == (client == "anthropic")


@pytest.mark.parametrize(("status", "text", "shown"), [
    (400, "prompt is too long: 200000 tokens", 400), (429, "slow down", 429), (529, "overloaded", 529),
    (500, "oops", 500), (503, "", 503), (404, "no such model", 404), (408, "late", 504), (302, "moved", 502),
    (204, "", 502),
])
def test_failures_that_another_backend_may_repair(status: int, text: str, shown: int) -> None:
    """Too long, too busy, broken or unknown here: marked for the next backend."""
    attempt = Attempt().dispatched().answered(status, JSON).fed([json.dumps({"error": {"message": text}}).encode()])
    assert (attempt.status, attempt.released.set.get(names.RETRY)) == (shown, "1")
    assert attempt.over


def test_failover_causes_are_configured() -> None:
    """A cause that failover.on does not list is not marked."""
    rt = runtime("failover: {on: [connect]}\n")
    attempt = Attempt(rt=rt).dispatched().answered(503, JSON).fed([b"{}"])
    assert names.RETRY not in attempt.released.set


@pytest.mark.parametrize(("value", "shown"), [("7", "7"), ("9" * 5000, None), ("\u00b2", None), ("soon", None)])
def test_retry_after(value: str, shown: str | None) -> None:
    """A provider's plain retry-after is told; a senseless one is dropped."""
    attempt = Attempt().dispatched().answered(429, JSON, retry_after=value).fed([b"{}"])
    assert attempt.released.set.get("retry-after") == shown


def test_an_answer_without_a_body() -> None:
    """Response headers that end the stream end the attempt."""
    attempt = Attempt().dispatched().answered(204, end=True)
    assert attempt.status == 502
    assert attempt.over
    assert attempt.end.outcome == "failed"


def test_an_empty_stream_that_only_ends() -> None:
    """A stream of nothing but its end is released before its bytes, in every pair of schemas."""
    for client, backend in PAIRS:
        end = b"data: [DONE]\n\n" if backend == "openai" else b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
        attempt = Attempt(client, backend).dispatched().answered().fed([end])
        assert attempt.over
        phases = [type(a) for a in attempt.actions if isinstance(a, Emit) or a == attempt.released]
        assert phases[0] is Proceed
        assert attempt.end.outcome == "estimated"


# ------------------------------------------------------------------------------------ failures after the first event


def broken(client: str, attempt: Attempt) -> None:
    """The client sees its schema's error event as the last thing, and no clean end."""
    assert attempt.status == 200
    assert attempt.over
    last = attempt.told.rstrip(b"\n").split(b"\n\n")[-1]
    assert last.startswith(b"event: error\ndata: " if client == "anthropic" else b'data: {"error"')
    assert b"[DONE]" not in attempt.told
    assert b"message_stop" not in attempt.told
    assert attempt.end.outcome == "estimated"
    assert attempt.end.problem is not None
    assert (attempt.end.tokens.input or 0) > 0
    assert (attempt.end.tokens.output or 0) > 0


@pytest.mark.parametrize("how", ["error", "silence", "early", "nonsense", "trailers"])
@pytest.mark.parametrize(("client", "backend"), PAIRS)
def test_a_stream_that_breaks(client: str, backend: str, how: str) -> None:
    """Error, silence, early end and nonsense in mid-stream end in the client's error event, never in a clean end."""
    begun = openai_stream("Hi", usage=False, done=False) if backend == "openai" else anthropic_stream("Hi", done=False)
    attempt = Attempt(client, backend).dispatched().answered().fed([begun], end=False)
    assert attempt.stage.streaming
    ends: dict[str, Event] = {
        "error": ResponseBody(OVERLOADED[backend], False), "silence": Silence(), "early": ResponseBody(b"", True),
        "nonsense": ResponseBody(b'data: {"choices": "error" usage finish_reason message_stop "message_\n\n', False),
        "trailers": ResponseTrailers(),
    }
    attempt.hear(ends[how])
    broken(client, attempt)
    before = list(attempt.actions)
    attempt.hear(ResponseBody(b"data: more\n\n", True), Silence(), Closed())
    assert attempt.actions == before
    assert names.RETRY not in attempt.released.set


def test_silence_before_the_first_event_is_envoys_to_judge() -> None:
    """Until something went to the client, only the deadline of the attempt counts."""
    attempt = Attempt().dispatched().answered()
    assert attempt.hear(Silence()) == []
    assert not attempt.stage.streaming


def test_silence_after_the_end_closes_cleanly() -> None:
    """A provider that says it is done but keeps the connection open: the client's stream ends without an error."""
    attempt = Attempt().dispatched().answered().fed([openai_stream("Hi")], end=False)
    assert attempt.end.outcome == "exact"
    attempt.hear(Silence())
    assert attempt.over
    assert b"error" not in attempt.told


# ------------------------------------------------------------------------------------ settlement


GUESSED = counter("g").estimate_bytes(40)
"""What this model makes of the ten tokens that the request stage estimated for any."""


def test_closed_without_an_end() -> None:
    """A client that leaves in mid-stream is charged for what passed, once, with the slack."""
    attempt = Attempt().dispatched().answered().fed([openai_stream("Hi", usage=False, done=False)], end=False)
    attempt.hear(Closed())
    end = attempt.end
    assert (end.outcome, end.final, end.problem) == ("estimated", False, None)
    assert end.tokens.input == GUESSED
    assert (end.tokens.output or 0) >= 64


def test_closed_before_the_dispatch_costs_nothing() -> None:
    """A client that leaves before anything was sent is charged nothing."""
    attempt = Attempt()
    attempt.hear(RequestHeaders(HEADERS, False, pack(attempt.carried), "qwen/q", 1), RequestBody(body()), Closed())
    assert (attempt.end.outcome, attempt.end.tokens, attempt.end.cost) == ("estimated", Tokens(input=0, output=0), 0)


def test_closed_before_the_answer() -> None:
    """A client that leaves while the provider works is charged its input."""
    attempt = Attempt().dispatched()
    attempt.hear(Closed())
    assert (attempt.end.outcome, attempt.end.tokens.input, attempt.end.tokens.output) == (
        "estimated", GUESSED, 0)


@pytest.mark.parametrize("after", [
    [Closed()], [Silence(), Closed()], [ResponseBody(b"", True), Closed()], [ResponseTrailers(), Closed()],
    [ResponseBody(b"garbage \xff\n\n", False), ResponseBody(OVERLOADED["openai"], True), Closed()],
])
def test_done_then_anything(after: list[Event]) -> None:
    """Once the provider said it is done, nothing changes the exact settlement or adds a byte."""
    attempt = Attempt().dispatched().answered().fed([openai_stream("Hi")], end=False)
    told = attempt.told
    attempt.hear(*after)
    assert attempt.end.outcome == "exact"
    assert attempt.told == told
    assert sum(isinstance(a, End) for a in attempt.actions) == 1


def test_no_usage_is_an_estimate() -> None:
    """A provider that reports no usage is settled by estimate, never as zero."""
    attempt = Attempt().dispatched().answered().fed([openai_stream("Hi", usage=False)])
    assert attempt.end.outcome == "estimated"
    assert (attempt.end.tokens.input or 0) > 0
    assert (attempt.end.tokens.output or 0) > 0


def test_times() -> None:
    """Duration and time to first event are counted from the attempt's start."""
    attempt = Attempt().dispatched().answered()
    attempt.hear(ResponseBody(openai_stream("Hi"), False), now=NOW + 30)
    attempt.hear(ResponseBody(b"", True), now=NOW + 50)
    assert (attempt.end.first_event_ms, attempt.end.duration_ms) == (30, 30)


def test_events_out_of_order_do_nothing() -> None:
    """Answers that nobody waits for, and messages of a finished stream, are harmless."""
    attempt = Attempt().dispatched().answered().fed([openai_stream("Hi")])
    before = list(attempt.actions)
    attempt.hear(Begun("OK"), RequestBody(b"x"), RequestHeaders({}, False), ResponseBody(b"x", False), Silence(),
                 Closed())
    assert attempt.actions == before
    assert attempt.hear(ResponseHeaders({}, False)) == [Proceed("response_headers")]
    assert not any(isinstance(a, Reply | Leave) for a in attempt.actions)


def test_terminal_event_without_its_blank_line() -> None:
    """A stream that ends right after `data: [DONE]` is complete; one cut inside an event is not."""
    for tail, clean in ((b"data: [DONE]", True), (b"data: [DONE]\n", True), (b'data: {"cho', False)):
        answer = StreamAnswer(Reading(SCHEMAS["openai"], SCHEMAS["openai"], "m", 1, "r"))
        chunk = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'
        assert answer.feed(chunk + tail) == chunk
        out = answer.close()
        assert answer.learnt.done == clean
        assert (b"[DONE]" in out, b"cho" in out) == (clean, False)


# ------------------------------------------------------------------------------------ waiting


def test_the_last_backend_keeps_the_client_alive() -> None:
    """With nothing left to fail over to, a slow stream is released, and pinged once the provider has sent a byte."""
    attempt = Attempt("anthropic", "openai").dispatched().answered()
    assert attempt.stage.waits
    attempt.hear(Idle(), Idle())
    assert attempt.status == 200
    assert attempt.told == b""
    attempt.fed([b": working\n\n"], end=False)
    attempt.hear(Idle(), Idle())
    assert attempt.told == 2 * b'event: ping\ndata: {"type": "ping"}\n\n'
    attempt.fed([openai_stream("Hi")], end=True)
    assert b"message_stop" in attempt.told
    assert attempt.end.outcome == "exact"


def test_an_earlier_backend_sends_no_ping() -> None:
    """While another backend may still answer, nothing goes to the client that would commit to this one."""
    attempt = Attempt(backends=2).dispatched().answered()
    assert not attempt.stage.waits
    assert attempt.hear(Idle()) == []


def test_failure_after_a_ping_is_an_error_event() -> None:
    """A stream that was only kept alive ends with the schema's error event when its provider fails."""
    attempt = Attempt().dispatched().answered().fed([b": working\n\n"], end=False)
    attempt.hear(Idle())
    assert attempt.told == b": keep-alive\n\n"
    attempt.fed([b'data: {"error": {"message": "no memory", "type": "server_error"}}\n\n'], end=True)
    assert b"no memory" in attempt.told
    assert attempt.over


def test_patience_is_longer_before_the_first_event() -> None:
    """A stream that waits for its first event has the deadline of a whole answer, then that of silence."""
    attempt = Attempt().dispatched().answered()
    attempt.hear(Idle())
    assert attempt.stage.patience == 600
    attempt.fed([openai_stream("Hi", done=False)], end=False)
    assert attempt.stage.patience == 60


@pytest.mark.parametrize(("code", "status", "retry"), [("BUDGET", 429, "false"), ("DENIED", 503, "true")])
def test_an_attempt_that_money_refuses(code: str, status: int, retry: str) -> None:
    """Nothing leaves when an attempt is not funded, or cannot be announced; the client hears whether to try again."""
    attempt = Attempt()
    attempt.hear(RequestHeaders(HEADERS, False, pack(attempt.carried), "gpt/g", 1), RequestBody(body()),
                 Begun(code))  # pyright: ignore[reportArgumentType]
    assert (attempt.reply.status, attempt.reply.headers["x-should-retry"]) == (status, retry)
    assert not [a for a in attempt.actions if isinstance(a, End | Proceed) and getattr(a, "phase", "") == "request_body"]
