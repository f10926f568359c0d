"""The paths clients call: which endpoint, which schema, which of the three prefixes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from extproc.core.signals import PathRoute
from extproc.runtime import Runtime
from extproc.schemas import SCHEMAS

Kind = Literal["chat", "models", "health", "unknown"]


class Endpoint(msgspec.Struct, frozen=True):
    """What a path means. `said` is the method and path for an error text."""

    kind: Kind
    schema: str
    route: PathRoute
    said: str


_CHAT = {schema.chat_path: name for name, schema in SCHEMAS.items()}


def find(headers: Mapping[str, str]) -> Endpoint:
    """Look up the endpoint of a request by :method and :path."""
    method, path = headers.get(":method", ""), headers.get(":path", "").partition("?")[0]
    said = f"{method[:10]} {path[:200]}"
    plain, route = path, "plain"
    for prefix in ("local", "smart"):
        if path.startswith(f"/v1/{prefix}/"):
            plain, route = "/v1" + path[len(prefix) + 4 :], prefix
    schema = _CHAT.get(plain) or ("anthropic" if "anthropic-version" in headers else "openai")
    kind: Kind = "unknown"
    if method == "POST" and plain in _CHAT:
        kind = "chat"
    elif method == "GET" and plain == "/v1/models":
        kind = "models"
    elif method in ("GET", "HEAD") and path in ("/health", "/"):
        kind = "health"
    return Endpoint(kind, schema, "local" if route == "local" else "smart" if route == "smart" else "plain", said)


def models_list(runtime: Runtime, schema: str) -> bytes:
    """The models a client may name: `models:` without patterns, chains, and every BACKEND/MODEL of the chains."""
    names = [name for name in runtime.config.models if "*" not in name]
    names += [name for name in runtime.chains if name not in names]
    names += [b.id for chain in runtime.chains.values() for b in chain.backends if b.id not in names]
    names = list(dict.fromkeys(names))
    if schema == "anthropic":
        data = [{"type": "model", "id": n, "display_name": n, "created_at": "2026-01-01T00:00:00Z"} for n in names]
        page = {"data": data, "has_more": False, "first_id": names[0], "last_id": names[-1]}
        return msgspec.json.encode(page)
    return msgspec.json.encode(
        {"object": "list", "data": [{"id": n, "object": "model", "created": 0, "owned_by": "extproc"} for n in names]})
