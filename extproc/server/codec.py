"""Protobuf to events and actions to protobuf: the only importer of the ext_proc messages."""

from __future__ import annotations

from collections.abc import Mapping

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
        value = header.raw_value.decode("utf-8", "replace") if header.raw_value else header.value
        found[header.key] = f"{found[header.key]}, {value}" if header.key in found else value
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


def _target(attributes: Mapping[str, object]) -> str:
    value = attributes.get(TARGET_ATTRIBUTE)
    return value.string_value if value is not None else ""  # pyright: ignore


def _attempt(attributes: Mapping[str, object]) -> int:
    value = attributes.get(ATTEMPT_ATTRIBUTE)
    return int(value.number_value) if value is not None else 1  # pyright: ignore


def _mutation(values: Mapping[str, str], remove: tuple[str, ...]) -> pb.HeaderMutation:
    return pb.HeaderMutation(
        set_headers=[
            pb.HeaderValueOption(header=pb.HeaderValue(key=k, raw_value=v.encode()), append_action=_OVERWRITE)
            for k, v in values.items()
        ],
        remove_headers=remove,
    )


def answers_of(action: ev.Action) -> list[bytes]:
    """The ProcessingResponses of an action; none for actions that are not Envoy's business."""
    match action:
        case ev.Emit():
            return _chunks(action.chunk, action.end_of_stream)
        case ev.Proceed():
            return [_proceed(action)]
        case ev.Reply():
            reply = pb.ImmediateResponse(
                status=pb.HttpStatus(code=action.status), headers=_mutation(action.headers, ()), body=action.body)
            return [pb.ProcessingResponse(immediate_response=reply).SerializeToString()]
        case _:
            return []


def _proceed(action: ev.Proceed) -> bytes:
    if not (action.set or action.remove or action.clear_route or action.decision) and action.body is None:
        return _PLAIN[action.phase]
    common = pb.CommonResponse(
        header_mutation=_mutation(action.set, action.remove), clear_route_cache=action.clear_route)
    if action.body is not None:
        common.body_mutation.body = action.body
    response = pb.ProcessingResponse()
    if action.phase == "request_body":
        response.request_body.response.CopyFrom(common)
    elif action.phase == "request_headers":
        response.request_headers.response.CopyFrom(common)
    else:
        response.response_headers.response.CopyFrom(common)
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
