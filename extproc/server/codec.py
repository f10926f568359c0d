"""Protobuf to events and actions to protobuf: the only importer of the ext_proc messages."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.struct_pb2 import Value

from extproc import names
from extproc.core import events as ev
from extproc.pb import ext_proc_pb2 as pb
from extproc.server.seam import MAX_ANSWER

_OVERWRITE = pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_PLAIN: dict[str, bytes] = {
    "request_headers": pb.ProcessingResponse(request_headers=pb.HeadersResponse()).SerializeToString(),
    "response_headers": pb.ProcessingResponse(response_headers=pb.HeadersResponse()).SerializeToString(),
    "request_body": pb.ProcessingResponse(request_body=pb.BodyResponse()).SerializeToString(),
    "response_trailers": pb.ProcessingResponse(response_trailers=pb.TrailersResponse()).SerializeToString(),
}


def headers_of(message: pb.HttpHeaders) -> dict[str, str]:
    """Lower-case names to values; repeated headers are joined by a comma (RFC 9110, section 5.2)."""
    found: dict[str, str] = {}
    for header in message.headers.headers:
        key, raw = header.key, header.raw_value
        value = raw.decode("utf-8", "replace") if raw else header.value
        found[key] = f"{found[key]}, {value}" if key in found else value
    return found


def event_of(message: bytes) -> ev.Event | None:
    """Read one ProcessingRequest; None for a message that needs no event (request trailers)."""
    request = pb.ProcessingRequest.FromString(message)
    which = request.WhichOneof("request")
    if which == "response_body":
        return ev.ResponseBody(request.response_body.body, request.response_body.end_of_stream)
    if which == "request_body":
        return ev.RequestBody(request.request_body.body)
    if which == "response_headers":
        return ev.ResponseHeaders(headers_of(request.response_headers), request.response_headers.end_of_stream)
    if which == "request_headers":
        fields = request.metadata_context.filter_metadata[names.METADATA].fields
        attributes = request.attributes["envoy.filters.http.ext_proc"].fields
        return ev.RequestHeaders(
            headers_of(request.request_headers), request.request_headers.end_of_stream,
            decision=fields[names.METADATA_FIELD].string_value if names.METADATA_FIELD in fields else "",
            target=_target(attributes), attempt=_attempt(attributes),
        )
    return ev.ResponseTrailers() if which == "response_trailers" else None


TARGET_ATTRIBUTE = f"xds.upstream_host_metadata.filter_metadata['{names.METADATA}']['{names.TARGET_FIELD}']"
ATTEMPT_ATTRIBUTE = "upstream.request_attempt_count"


def _target(attributes: Mapping[str, Value]) -> str:
    value = attributes.get(TARGET_ATTRIBUTE)
    return value.string_value if value is not None else ""


def _attempt(attributes: Mapping[str, Value]) -> int:
    value = attributes.get(ATTEMPT_ATTRIBUTE)
    return int(value.number_value) if value is not None else 1


def _mutate(mutation: pb.HeaderMutation, values: Mapping[str, str], remove: tuple[str, ...]) -> None:
    """Fill in place: half the cost of building nested messages and copying them."""
    add = mutation.set_headers.add
    for name, value in values.items():
        option = add(append_action=_OVERWRITE)
        header = option.header
        header.key, header.raw_value = name, value.encode()
    mutation.remove_headers.extend(remove)


def answers_of(action: ev.Action) -> list[bytes]:
    """The ProcessingResponses of an action; none for actions that are not Envoy's business."""
    match action:
        case ev.Emit():
            return _chunks(action.chunk, action.end_of_stream)
        case ev.Proceed():
            return [_proceed(action)]
        case ev.Reply():
            response = pb.ProcessingResponse()
            reply = response.immediate_response
            reply.status.code, reply.body = action.status, action.body
            _mutate(reply.headers, action.headers, ())
            return [response.SerializeToString()]
        case _:
            return []


def _proceed(action: ev.Proceed) -> bytes:
    if not (action.set or action.remove or action.clear_route or action.decision) and action.body is None:
        return _PLAIN[action.phase]
    response = pb.ProcessingResponse()
    if action.phase == "request_body":
        common = response.request_body.response
    elif action.phase == "request_headers":
        common = response.request_headers.response
    else:
        common = response.response_headers.response
    common.SetInParent()  # chooses the phase even when nothing below is set
    if action.clear_route:
        common.clear_route_cache = True
    if action.set or action.remove:
        _mutate(common.header_mutation, action.set, action.remove)
    if action.body is not None:
        common.body_mutation.body = action.body
    if action.decision is not None:
        inner = response.dynamic_metadata.fields[names.METADATA].struct_value
        inner.fields[names.METADATA_FIELD].string_value = action.decision
    return response.SerializeToString()


def _chunks(chunk: bytes, end: bool) -> list[bytes]:
    """Streamed body answers of at most MAX_ANSWER bytes; the last one carries the end."""
    parts = [chunk[i : i + MAX_ANSWER] for i in range(0, len(chunk), MAX_ANSWER)] or [b""]
    out: list[bytes] = []
    for index, part in enumerate(parts):
        response = pb.ProcessingResponse()
        streamed = response.response_body.response.body_mutation.streamed_response
        streamed.body = part
        streamed.end_of_stream = end and index == len(parts) - 1
        out.append(response.SerializeToString())
    return out
