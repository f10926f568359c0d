"""Both stages against any order of events, and streams against any cut of their bytes."""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc import names
from extproc.core.errors import Problem
from extproc.core.events import (
    Action,
    Begun,
    Closed,
    Emit,
    End,
    Event,
    Finish,
    Finished,
    Leave,
    Proceed,
    Reply,
    RequestBody,
    RequestHeaders,
    Reserve,
    Reserved,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
    Silence,
    pack,
)
from extproc.core.usage import Tokens
from tests.stage_kit import (
    HEADERS,
    NOW,
    Attempt,
    anthropic_stream,
    body,
    carried,
    openai_stream,
    request_stage,
    runtime,
)

DATA = Path(__file__).parent.parent / "data"
RUNTIME = runtime()
PAIRS = list(product(("openai", "anthropic"), repeat=2))
RECORDED = {schema: (DATA / f"{schema}_stream.sse").read_bytes() for schema in ("openai", "anthropic")}
STREAMS = {
    "openai": [RECORDED["openai"], openai_stream("Hé", "llo 🙂"), b": ping\r\n\r\n" + openai_stream("x").replace(b"\n", b"\r\n")],
    "anthropic": [RECORDED["anthropic"], anthropic_stream("Hé", "llo 🙂"), anthropic_stream("x").replace(b"\n", b"\r\n")],
}

# ------------------------------------------------------------------------------------ any order of events

_pieces = [
    *(openai_stream("Hi").split(b"\n\n")), *(anthropic_stream("Hi").split(b"\n\n")),
    b'data: {"error":{"message":"busy"}}', b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error"}}',
    b"data: {}", b"data: []", b"data: null", b"data: [DONE]", b": ping", b"data:", b'data: {"choices":[{}]}',
    b'data: {"type":"message_start"}', b'data: {"type":"content_block_delta","index":5,"delta":{"type":"text_delta"}}',
    b'data: {"choices":[],"usage":{"prompt_tokens":-1,"completion_tokens":"x"}}',
    b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":-3,"function":{"arguments":"{"}}]}}]}',
    b'data: {"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"t","name":"f"}}',
    b'data: {"type":"content_block_stop","index":99}', b'data: {"type":"message_delta","usage":[]}',
]
_bytes = st.one_of(
    st.binary(max_size=40), st.sampled_from(_pieces).map(lambda piece: piece + b"\n\n"),
    st.lists(st.sampled_from(_pieces), max_size=6).map(lambda parts: b"\n\n".join([*parts, b""])),
    st.sampled_from([body(), body(stream=True), b"", b"{", b'{"error":{"type":"authentication_error"}}']),
)
_text = st.one_of(st.text(max_size=12), st.sampled_from(["200", "429", "500", "204", "0", "gzip", "br", "²", "9" * 5000]))
_name = st.sampled_from([
    ":status", "content-type", "content-encoding", "content-length", "retry-after", names.BACKEND, names.RETRY,
    "authorization", ":path", ":method", names.ROUTE, "anthropic-version",
])
_loose = st.dictionaries(_name, _text, max_size=5)
_headers = st.one_of(
    _loose, _loose.map(lambda more: {**HEADERS, **more}), st.just({**HEADERS, ":path": "/v1/messages"}),
    st.sampled_from(["200", "200", "400", "401", "529"]).map(lambda status: {":status": status}),
)
_decision = st.one_of(
    st.text(max_size=10),
    st.builds(lambda schema, stream: pack(carried(schema, stream=stream)),
              st.sampled_from(["openai", "anthropic", "anthropic", "nonsense"]), st.booleans()),
)
_target = st.sampled_from(["gpt/g", "claude/c", "qwen/q", "gpt/*", "", "x/y"])
_code = st.sampled_from(["OK", "OK", "GONE", "unavailable"])
_event: st.SearchStrategy[Event] = st.one_of(
    st.builds(RequestHeaders, _headers, st.booleans(), _decision, _target, st.integers(0, 9)),
    st.builds(RequestBody, _bytes), st.builds(ResponseHeaders, _headers, st.booleans()),
    st.builds(ResponseBody, _bytes, st.booleans()), st.builds(ResponseTrailers), st.builds(Reserved, _code),
    st.builds(Begun, _code), st.builds(Silence), st.builds(Closed),
    st.builds(Finished, st.none() | st.just(Problem("overloaded", "busy", status=529)), st.integers(0, 9)),
)
_good = st.builds(
    lambda client, stream, target: [
        RequestHeaders(HEADERS, False, pack(carried(client, stream=stream)), target, 1),
        RequestBody(body(stream=stream)), Begun("OK"), ResponseHeaders({":status": "200"}, False)],
    st.sampled_from(["openai", "anthropic"]), st.booleans(), st.sampled_from(["gpt/g", "claude/c"]),
)


def _prefixed(good: list[Event]) -> st.SearchStrategy[list[Event]]:
    """Events that walk some way along a good exchange and then stray."""
    return st.builds(lambda cut, rest: [*good[:cut], *rest], st.integers(0, len(good)), st.lists(_event, max_size=12))


def check(actions: list[Action]) -> None:
    """What must hold of everything a stage ever did."""
    assert sum(isinstance(a, Reply) for a in actions) <= 1
    assert sum(isinstance(a, End) for a in actions) <= 1
    assert sum(isinstance(a, Finish) for a in actions) <= 1
    assert sum(isinstance(a, Reserve) for a in actions) <= 1
    body_answers = [a for a in actions if isinstance(a, Emit)]
    assert not any(a.end_of_stream for a in body_answers[:-1]), "bytes after the end"
    released = [i for i, a in enumerate(actions) if isinstance(a, Proceed) and ":status" in a.set]
    assert len(released) <= 1
    if body_answers:
        assert released, "bytes without headers"
        assert released[0] < actions.index(body_answers[0]), "bytes before headers"
        assert not any(isinstance(a, Reply) for a in actions[released[0]:]), "a reply after headers"
    for end in (a for a in actions if isinstance(a, End)):
        assert end.outcome != "exact" or (end.tokens.complete and end.problem is None)
        assert end.cost is None or end.cost >= 0


@settings(max_examples=1500, deadline=None)
@given(_good.flatmap(_prefixed) | st.lists(_event, max_size=16))
def test_attempt_stage_takes_any_events(events: list[Event]) -> None:
    """Any events in any order: nothing is raised, one reply, one settlement, no byte after the end."""
    attempt = Attempt(rt=RUNTIME)
    attempt.hear(*events)
    check(attempt.actions)
    begun = any(type(a).__name__ == "Begin" for a in attempt.actions)
    attempt.hear(Closed())
    check(attempt.actions)
    gone = any(isinstance(e, Begun) and e.code == "GONE" for e in events)
    assert sum(isinstance(a, End) for a in attempt.actions) == 1 or not begun or gone
    before = list(attempt.actions)
    attempt.hear(Closed(), ResponseBody(b"data: x\n\n", True), Silence())
    assert attempt.actions == before


_asked = st.just([RequestHeaders(HEADERS, False), RequestBody(body()), Reserved("OK"),
                  ResponseHeaders({":status": "200", names.BACKEND: "gpt"}, False)])


@settings(max_examples=1500, deadline=None)
@given(_asked.flatmap(_prefixed) | st.lists(_event, max_size=16))
def test_request_stage_takes_any_events(events: list[Event]) -> None:
    """Any events in any order: nothing is raised, one reply, one reservation, one finish."""
    stage = request_stage(RUNTIME)
    actions: list[Action] = []
    for event in [*events, Closed(), Closed()]:
        actions += stage.receive(event, NOW)
        check(actions)
    assert stage.receive(RequestBody(b""), NOW) == [Leave()]


# ------------------------------------------------------------------------------------ any cut of the bytes


def told(client: str, backend: str, chunks: list[bytes]) -> tuple[bytes, Tokens, str, dict[str, str]]:
    attempt = Attempt(client, backend, rt=RUNTIME, include_usage=True).dispatched().answered().fed(chunks)
    assert attempt.over
    check(attempt.actions)
    return attempt.told, attempt.end.tokens, attempt.end.outcome, dict(attempt.released.set)


WHOLE = {(client, backend, index): told(client, backend, [stream])
         for client, backend in PAIRS for index, stream in enumerate(STREAMS[backend])}


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize(("client", "backend"), PAIRS)
def test_whole_streams_are_good(client: str, backend: str, index: int) -> None:
    """The streams that are cut below end cleanly and exactly when whole."""
    text, tokens, outcome, headers = WHOLE[client, backend, index]
    assert (outcome, headers[":status"]) == ("exact", "200")
    assert tokens.complete
    assert text.endswith((b"data: [DONE]\n\n", b"data: [DONE]\r\n\r\n")) if client == "openai" else b"message_stop" in text
    if client == backend and index != 2:
        assert text == STREAMS[backend][index]


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize(("client", "backend"), PAIRS)
def test_byte_by_byte(client: str, backend: str, index: int) -> None:
    """A stream in single bytes gives the same bytes, tokens and outcome as whole."""
    stream = STREAMS[backend][index]
    assert told(client, backend, [stream[i:i + 1] for i in range(len(stream))]) == WHOLE[client, backend, index]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize(("client", "backend"), PAIRS)
def test_any_cut(client: str, backend: str, index: int, data: st.DataObject) -> None:
    """A stream cut at any places, empty chunks included, gives the same bytes, tokens and outcome as whole."""
    stream = STREAMS[backend][index]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    chunks = [stream[a:b] for a, b in pairwise([0, *cuts, len(stream)])]
    assert told(client, backend, chunks) == WHOLE[client, backend, index]


@pytest.mark.parametrize(("client", "backend"), PAIRS)
def test_any_early_end(client: str, backend: str) -> None:
    """A recording that stops at any byte never ends cleanly for the client and never counts as exact by mistake."""
    stream = RECORDED[backend]
    clean = b"[DONE]" if client == "openai" else b"event: message_stop"
    for cut in range(0, len(stream) - 3, 3):
        attempt = Attempt(client, backend, rt=RUNTIME).dispatched().answered().fed([stream[:cut]])
        check(attempt.actions)
        assert attempt.over
        assert clean not in attempt.told
        assert attempt.end.outcome != "exact"
        assert attempt.end.problem is not None
