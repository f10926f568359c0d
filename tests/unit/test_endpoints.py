"""The paths clients call."""

from __future__ import annotations

import json

import pytest

from extproc.core.endpoints import find, models_list, one_model
from tests.stage_kit import runtime


@pytest.mark.parametrize(("method", "path", "kind", "schema", "route"), [
    ("POST", "/v1/chat/completions", "ask", "openai", "plain"),
    ("POST", "/v1/chat/completions?x=1", "ask", "openai", "plain"),
    ("POST", "/v1/local/chat/completions", "ask", "openai", "local"),
    ("POST", "/v1/smart/chat/completions", "ask", "openai", "smart"),
    ("POST", "/v1/messages", "ask", "anthropic", "plain"),
    ("POST", "/v1/messages?beta=true", "ask", "anthropic", "plain"),
    ("POST", "/v1/local/messages", "ask", "anthropic", "local"),
    ("POST", "/v1/smart/messages", "ask", "anthropic", "smart"),
    ("GET", "/v1/models", "models", "openai", "plain"),
    ("GET", "/v1/smart/models", "models", "openai", "smart"),
    ("GET", "/health", "health", "openai", "plain"),
    ("HEAD", "/", "health", "openai", "plain"),
    ("GET", "/v1/messages", "unknown", "anthropic", "plain"),
    ("POST", "/v1/models", "unknown", "openai", "plain"),
    ("POST", "/v1/local/local/messages", "unknown", "openai", "local"),
    ("POST", "/v1/messages/", "unknown", "openai", "plain"),
    ("POST", "/v1/messages/count_tokens?beta=true", "ask", "count_tokens", "plain"),
    ("POST", "/v1/smart/responses", "ask", "responses", "smart"),
    ("POST", "/v1/responses", "ask", "responses", "plain"),
    ("POST", "/v1/completions", "ask", "completions", "plain"),
    ("POST", "/v1/fim/completions", "ask", "fim", "plain"),
    ("POST", "/v1/embeddings", "ask", "embeddings", "plain"),
    ("POST", "/chat/completions", "ask", "openai", "plain"),
    ("POST", "/messages", "ask", "anthropic", "plain"),
    ("HEAD", "/v1/models", "models", "openai", "plain"),
    ("GET", "/v1/models/qwen/qwen3-coder", "model", "openai", "plain"),
    ("GET", "/v1/models/", "unknown", "openai", "plain"),
    ("OPTIONS", "/v1/messages", "options", "anthropic", "plain"),
    ("OPTIONS", "/nope", "unknown", "openai", "plain"),
    ("DELETE", "/v1/models/x", "unknown", "openai", "plain"),
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
    for anthropic in (False, True):
        names = [entry["id"] for entry in json.loads(models_list(runtime(), anthropic))["data"]]
        assert "claude-*" not in names
        assert len(names) == len(set(names))


@pytest.mark.parametrize("model", ["auto", "claude/c", "claude-sonnet-5", "cloud"])
def test_one_model(model: str) -> None:
    """A model that may be named has a page of its own in both shapes, with slashes, also by a pattern."""
    assert find({":method": "GET", ":path": f"/v1/models/{model.replace('/', '%2F')}"}).model == model
    for anthropic in (False, True):
        body = one_model(runtime(), anthropic, model)
        assert body is not None
        assert json.loads(body)["id"] == model


def test_no_such_model() -> None:
    """A model that nobody may name has no page."""
    assert one_model(runtime(), False, "nope") is None
