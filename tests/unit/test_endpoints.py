"""The paths clients call."""

from __future__ import annotations

import json

import pytest

from extproc.core.endpoints import find, models_list
from tests.stage_kit import runtime


@pytest.mark.parametrize(("method", "path", "kind", "schema", "route"), [
    ("POST", "/v1/chat/completions", "chat", "openai", "plain"),
    ("POST", "/v1/chat/completions?x=1", "chat", "openai", "plain"),
    ("POST", "/v1/local/chat/completions", "chat", "openai", "local"),
    ("POST", "/v1/smart/chat/completions", "chat", "openai", "smart"),
    ("POST", "/v1/messages", "chat", "anthropic", "plain"),
    ("POST", "/v1/messages?beta=true", "chat", "anthropic", "plain"),
    ("POST", "/v1/local/messages", "chat", "anthropic", "local"),
    ("POST", "/v1/smart/messages", "chat", "anthropic", "smart"),
    ("GET", "/v1/models", "models", "openai", "plain"),
    ("GET", "/v1/smart/models", "models", "openai", "smart"),
    ("GET", "/health", "health", "openai", "plain"),
    ("HEAD", "/", "health", "openai", "plain"),
    ("GET", "/v1/messages", "unknown", "anthropic", "plain"),
    ("POST", "/v1/models", "unknown", "openai", "plain"),
    ("POST", "/v1/local/local/messages", "unknown", "openai", "local"),
    ("POST", "/v1/messages/", "unknown", "openai", "plain"),
    ("POST", "/v1/messages/count_tokens", "unknown", "openai", "plain"),
    ("POST", "/V1/MESSAGES", "unknown", "openai", "plain"),
    ("POST", "/v1//messages", "unknown", "openai", "plain"),
    ("POST", "/v1/local/../messages", "unknown", "openai", "local"),
    ("", "", "unknown", "openai", "plain"),
])
def test_find(method: str, path: str, kind: str, schema: str, route: str) -> None:
    """Method and exact path decide the endpoint, its schema and its prefix."""
    found = find({":method": method, ":path": path})
    assert (found.kind, found.schema, found.route) == (kind, schema, route)


def test_schema_of_other_paths() -> None:
    """Where the path does not tell the schema, an Anthropic client is known by its version header."""
    assert find({":method": "GET", ":path": "/v1/models", "anthropic-version": "2023-06-01"}).schema == "anthropic"
    assert find({}).kind == "unknown"


def test_said_is_bounded() -> None:
    """What an error text repeats of a request is bounded and without the query."""
    said = find({":method": "X" * 999, ":path": "/" + "y" * 9999 + "?key=secret"}).said
    assert len(said) <= 211
    assert "secret" not in find({":method": "GET", ":path": "/x?key=secret"}).said


def test_models_without_patterns() -> None:
    """Patterns are no models; every name stands once."""
    for schema in ("openai", "anthropic"):
        names = [entry["id"] for entry in json.loads(models_list(runtime(), schema))["data"]]
        assert "claude-*" not in names
        assert len(names) == len(set(names))
