"""Answers that a provider broke off after their headers, as Envoy's access log tells of them."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from extproc import names
from extproc.pb import access_log_pb2 as pb

_BROKE = "upstream_reset_after_response_started"
"""What Envoy says of a response that its upstream ended; a worker that dies has another word."""


def broken_by(message: bytes) -> list[tuple[str, str]]:
    """The backends and models whose answers broke off, of one message of the log; empty for what is none."""
    try:
        entries = pb.StreamAccessLogsMessage.FromString(message).http_logs.log_entry
    except DecodeError:
        return []
    responses = [entry.response for entry in entries if entry.response.response_code_details.startswith(_BROKE)]
    return [(told[names.BACKEND], told.get(names.MODEL, "")) for response in responses
            if names.BACKEND in (told := response.response_headers)]
