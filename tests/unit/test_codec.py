"""Protobuf to events and actions to protobuf."""

from __future__ import annotations

import pytest
from google.protobuf import struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from extproc import names
from extproc.core.events import (
    Action,
    Begin,
    Emit,
    Finish,
    Leave,
    Phase,
    Proceed,
    Reply,
    RequestBody,
    RequestHeaders,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
    Warn,
)
from extproc.pb import ext_proc_pb2 as pb
from extproc.server.codec import ATTEMPT_ATTRIBUTE, TARGET_ATTRIBUTE, answers_of, event_of
from extproc.server.seam import MAX_ANSWER


def header_map(*pairs: tuple[str, bytes]) -> pb.HttpHeaders:
    return pb.HttpHeaders(headers=pb.HeaderMap(headers=[pb.HeaderValue(key=k, raw_value=v) for k, v in pairs]))


def answer(action: Action) -> pb.ProcessingResponse:
    [message] = answers_of(action)
    return pb.ProcessingResponse.FromString(message)


def test_bodies() -> None:
    """Body messages become events with their bytes and their end."""
    request = pb.ProcessingRequest(request_body=pb.HttpBody(body=b"\x00x", end_of_stream=True))
    assert event_of(request.SerializeToString()) == RequestBody(b"\x00x")
    response = pb.ProcessingRequest(response_body=pb.HttpBody(body=b"", end_of_stream=True))
    assert event_of(response.SerializeToString()) == ResponseBody(b"", True)


def test_trailers() -> None:
    """Response trailers are an event; request trailers and unknown messages are none."""
    trailers = pb.HttpTrailers(trailers=pb.HeaderMap())
    assert event_of(pb.ProcessingRequest(response_trailers=trailers).SerializeToString()) == ResponseTrailers()
    assert event_of(pb.ProcessingRequest(request_trailers=trailers).SerializeToString()) is None
    assert event_of(b"") is None


def test_headers_joined() -> None:
    """Repeated headers are joined, both value fields are read, and bytes that are no UTF-8 do not raise."""
    message = header_map((":status", b"200"), ("vary", b"a"), ("vary", b"b"), ("odd", b"\xff"), ("empty", b""))
    message.headers.headers.add(key="plain", value="text")
    message.end_of_stream = True
    event = event_of(pb.ProcessingRequest(response_headers=message).SerializeToString())
    assert event == ResponseHeaders(
        {":status": "200", "vary": "a, b", "odd": "\ufffd", "empty": "", "plain": "text"}, True)


def test_request_headers_with_the_decision() -> None:
    """The attempt stage is told the decision, the target and the number of the attempt."""
    message = pb.ProcessingRequest(request_headers=header_map((":path", b"/x")))
    message.metadata_context.filter_metadata[names.METADATA].update({names.METADATA_FIELD: "the decision"})
    attributes = struct_pb2.Struct()
    attributes.update({TARGET_ATTRIBUTE: "gpt/g", ATTEMPT_ATTRIBUTE: 3})
    message.attributes["envoy.filters.http.ext_proc"].CopyFrom(attributes)
    assert event_of(message.SerializeToString()) == RequestHeaders({":path": "/x"}, False, "the decision", "gpt/g", 3)


def test_request_headers_without_a_decision() -> None:
    """Without metadata there is no decision and no target."""
    message = pb.ProcessingRequest(request_headers=header_map((":path", b"/x")))
    assert event_of(message.SerializeToString()) == RequestHeaders({":path": "/x"}, False, "", "", 1)


@given(st.integers(0, 4 * MAX_ANSWER), st.booleans())
def test_chunks(size: int, end: bool) -> None:
    """A chunk is split into answers of at most 62,000 bytes; only the last one carries the end."""
    chunk = (bytes(range(251)) * (size // 251 + 1))[:size]
    parts = [pb.ProcessingResponse.FromString(m).response_body.response.body_mutation.streamed_response
             for m in answers_of(Emit(chunk, end))]
    assert b"".join(part.body for part in parts) == chunk
    assert all(len(part.body) <= 62_000 for part in parts)
    assert [part.end_of_stream for part in parts] == [False] * (len(parts) - 1) + [end]


@pytest.mark.parametrize(("size", "parts"), [(0, 1), (1, 1), (62_000, 1), (62_001, 2), (124_000, 2), (124_001, 3)])
def test_split(size: int, parts: int) -> None:
    """The split happens exactly above 62,000 bytes, and an empty chunk is one answer."""
    assert len(answers_of(Emit(bytes(size), True))) == parts


@pytest.mark.parametrize("phase", ["request_headers", "request_body", "response_headers", "response_trailers"])
def test_plain_proceed(phase: Phase) -> None:
    """A phase that goes on unchanged is answered by an empty answer of its own kind."""
    message = answer(Proceed(phase))
    assert message.WhichOneof("response") == phase
    assert not message.HasField("dynamic_metadata")


@pytest.mark.parametrize("phase", ["request_headers", "request_body", "response_headers"])
def test_proceed_with_everything(phase: Phase) -> None:
    """Headers are overwritten and removed, the body replaced, the route cleared, the decision handed on."""
    message = answer(Proceed(phase, set={"a": "\u00e9"}, remove=("b",), body=b"new", clear_route=True, decision="d"))
    assert message.WhichOneof("response") == phase
    common = getattr(message, phase).response
    [header] = common.header_mutation.set_headers
    assert (header.header.key, header.header.raw_value) == ("a", "\u00e9".encode())
    assert header.append_action == pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    assert list(common.header_mutation.remove_headers) == ["b"]
    assert common.body_mutation.body == b"new"
    assert common.clear_route_cache
    decision = message.dynamic_metadata.fields[names.METADATA].struct_value.fields[names.METADATA_FIELD]
    assert decision.string_value == "d"


@pytest.mark.parametrize("changed", [
    Proceed("request_body", set={"a": "b"}), Proceed("request_body", remove=("a",)), Proceed("request_body", body=b""),
    Proceed("request_body", clear_route=True), Proceed("request_body", decision="d"),
])
def test_no_change_is_lost(changed: Proceed) -> None:
    """Any single change, an empty body included, makes an answer that is not the plain one."""
    assert answer(changed) != answer(Proceed("request_body"))


def test_an_empty_body_is_a_body() -> None:
    """Replacing a body by nothing is said, not left out."""
    mutation = answer(Proceed("request_body", body=b"")).request_body.response.body_mutation
    assert mutation.WhichOneof("mutation") == "body"


def test_the_decision_comes_back() -> None:
    """What the request stage hands on is what the attempt stage reads."""
    sent = answer(Proceed("request_body", decision='{"rid":"\u00e9"}'))
    message = pb.ProcessingRequest(request_headers=header_map())
    message.metadata_context.filter_metadata[names.METADATA].CopyFrom(
        sent.dynamic_metadata.fields[names.METADATA].struct_value)
    event = event_of(message.SerializeToString())
    assert isinstance(event, RequestHeaders)
    assert event.decision == '{"rid":"\u00e9"}'


def test_reply() -> None:
    """A reply is an immediate response with status, headers and body."""
    message = answer(Reply(429, {"retry-after": "7"}, b"{}")).immediate_response
    assert (message.status.code, message.body) == (429, b"{}")
    assert message.headers.set_headers[0].header.raw_value == b"7"


@pytest.mark.parametrize("action", [Leave(), Warn("w"), Finish(False, 0), Begin(1, "b", "m")])
def test_actions_that_are_not_envoys_business(action: Action) -> None:
    """Ledger calls, warnings and the end of the stream send nothing."""
    assert answers_of(action) == []
