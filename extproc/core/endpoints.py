"""The paths clients call: which endpoint, which schema, which of the three prefixes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal
from urllib.parse import unquote

import msgspec

from extproc.core.routing.signals import PathRoute
from extproc.runtime import Runtime
from extproc.schemas import CLIENTS

Kind = Literal["ask", "feedback", "models", "model", "options", "health", "unknown"]


class Endpoint(msgspec.Struct, frozen=True):
    """What a path means. `said` is the method and path for an error text; `model` that of a model's own path."""

    kind: Kind
    schema: str
    route: PathRoute
    said: str
    model: str = ""


_ASK = {schema.path: name for name, schema in CLIENTS.items()}
_MODELS = "/v1/models"
_FEEDBACK = "/v1/feedback"
"""What the client thinks of an answer (core/feedback.py)."""
_SHORT = ("/chat/completions", "/completions", "/fim/completions", "/responses", "/embeddings", "/messages", "/models",
          "/feedback")
"""Paths of clients whose base URL was given without /v1."""
ALLOW = "GET, HEAD, OPTIONS, POST"


def find(headers: Mapping[str, str]) -> Endpoint:
    """Look up the endpoint of a request by :method and :path."""
    method, path = headers.get(":method", ""), headers.get(":path", "").partition("?")[0]
    said = f"{method[:10]} {path[:200]}"
    plain, route = _plain(path)
    anthropic = "anthropic-version" in headers
    schema = _ASK.get(plain) or ("anthropic" if anthropic else "openai")
    kind, model = _kind(method, plain)
    return Endpoint(kind, schema, route, said, model)


def _plain(path: str) -> tuple[str, PathRoute]:
    """The path without the route's prefix, and with the version if a client left it out."""
    if path.startswith("/v1/v1/"):  # a base URL that already had the version
        path = path[3:]
    if path.startswith(_SHORT):
        path = "/v1" + path
    if path.startswith("/v1/local/"):
        return "/v1" + path[len("/v1/local") :], "local"
    if path.startswith("/v1/smart/"):
        return "/v1" + path[len("/v1/smart") :], "smart"
    return path, "plain"


def _kind(method: str, path: str) -> tuple[Kind, str]:
    known = path in _ASK or path in (_MODELS, _FEEDBACK) or path.startswith(_MODELS + "/")
    if method == "OPTIONS" and (known or path in ("/", "*")):
        return "options", ""
    if method == "POST" and path in _ASK:
        return "ask", ""
    if method == "POST" and path == _FEEDBACK:
        return "feedback", ""
    if method in ("GET", "HEAD"):
        if path in ("/health", "/"):
            return "health", ""
        if path == _MODELS:
            return "models", ""
        if path.startswith(_MODELS + "/") and (model := unquote(path[len(_MODELS) + 1 :])):
            return "model", model
    return "unknown", ""


def models_list(runtime: Runtime, anthropic: bool) -> bytes:
    """The models a client may name, in the shape of its API."""
    names = _names(runtime)
    data = [_described(name, anthropic) for name in names]
    if anthropic:
        return msgspec.json.encode({"data": data, "has_more": False, "first_id": names[0], "last_id": names[-1]})
    return msgspec.json.encode({"object": "list", "data": data})


def one_model(runtime: Runtime, anthropic: bool, model: str) -> bytes | None:
    """One model that a client may name, slashes in it included; None when there is none of that name."""
    known = model in _names(runtime) or runtime.named(model) is not None
    return msgspec.json.encode(_described(model, anthropic)) if known else None


def _names(runtime: Runtime) -> list[str]:
    """`models:` without patterns, chains, and every BACKEND/MODEL of the chains."""
    names = [name for name in runtime.config.models if "*" not in name]
    names += runtime.chains
    names += [backend.id for chain in runtime.chains.values() for backend in chain.backends]
    return list(dict.fromkeys(names))


def _described(name: str, anthropic: bool) -> dict[str, object]:
    if anthropic:
        return {"type": "model", "id": name, "display_name": name, "created_at": "2026-01-01T00:00:00Z"}
    return {"id": name, "object": "model", "created": 0, "owned_by": "extproc"}
