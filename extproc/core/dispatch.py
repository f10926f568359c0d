"""What leaves for a provider: the body in its schema, its path, its authority, its credentials, and nothing else.

Header mutations of an earlier attempt are still there in the next one, so every attempt removes all that it does not
set: an allow list, never a deny list.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from extproc.core.events import Carried, Proceed
from extproc.runtime import ANY, Backend
from extproc.schemas import SCHEMAS
from extproc.schemas.base import Target

_KEEP = frozenset({":method", ":scheme", ":path", ":authority", "host"})
_PASS_SAME_SCHEMA = {
    "anthropic": frozenset({"anthropic-version", "anthropic-beta"}),
    "openai": frozenset({"openai-beta"}),
}


class Dispatch(msgspec.Struct, frozen=True):
    """The mutations of one attempt, and what could not be carried over."""

    proceed: Proceed
    dropped: tuple[str, ...]
    model: str


def prepare(carried: Carried, backend: Backend, headers: Mapping[str, str], body: bytes) -> Dispatch:
    """Translate the client's original body for a backend. Raises RequestError for what it cannot say."""
    model = carried.model if backend.model == ANY else backend.model
    target = Target(model, backend.max_output, backend.default_max_tokens)
    schema = SCHEMAS[backend.schema]
    dropped: tuple[str, ...] = ()
    if backend.schema == carried.schema:
        out = schema.patch_request(body, target)
    else:
        rendered = schema.render_request(SCHEMAS[carried.schema].parse_request(body), target)
        out, dropped = rendered.body, rendered.dropped
    query = carried.query if backend.schema == carried.schema else ""
    sent = {
        ":path": backend.base_path + schema.chat_path + (f"?{query}" if query else ""),
        ":authority": backend.authority,
        "content-type": "application/json",
        "content-length": str(len(out)),
        "accept": "text/event-stream" if carried.stream else "application/json",
        "user-agent": "extproc",
        **_credentials(backend),
    }
    if backend.schema == carried.schema:
        sent |= passed(backend.schema, carried.passed)
    if backend.schema == "anthropic":
        sent.setdefault("anthropic-version", "2023-06-01")
    remove = tuple(name for name in headers if name not in sent and name not in _KEEP)
    return Dispatch(Proceed("request_body", set=sent, remove=remove, body=out), dropped, model)


def passed(schema: str, headers: Mapping[str, str]) -> dict[str, str]:
    """Of a client's headers, those that a backend of the client's own schema gets."""
    return {name: headers[name] for name in _PASS_SAME_SCHEMA[schema] if name in headers}


def _credentials(backend: Backend) -> dict[str, str]:
    if not backend.api_key:
        return {}
    if backend.schema == "anthropic":
        return {"x-api-key": backend.api_key}
    return {"authorization": f"Bearer {backend.api_key}"}
