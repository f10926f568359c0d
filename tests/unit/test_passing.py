"""The output limit that was paid for is the one a backend gets, wherever the client could have said another."""

from __future__ import annotations

import json
from typing import Any

import pytest

from extproc.core.dispatch import say
from extproc.core.errors import RequestError
from extproc.dialects import DIALECTS
from extproc.schemas import CLIENTS, PROVIDERS
from extproc.schemas._passing import LIMITS
from extproc.schemas.base import Target
from extproc.wire.json_splice import TopLevel
from tests.stage_kit import Attempt, body, runtime

GRANTED = 300
TEXTS: dict[str, dict[str, Any]] = {
    "openai": {"messages": [{"role": "user", "content": "hi"}]}, "anthropic": {"messages": [{"role": "user", "content": "hi"}]},
    "responses": {"input": "hi"}, "completions": {"prompt": "hi"}, "fim": {"prompt": "hi"},
}


def target(*, granted: int | None = GRANTED, only: bool = False) -> Target:
    """A backend's model with a grant."""
    return Target("new", granted=granted, max_tokens_only=only)


def patched(schema: str, to: Target, **fields: Any) -> bytes:
    """A request as it passes to a backend of the same schema."""
    raw = json.dumps({"model": "old", **TEXTS.get(schema, {}), **fields}).encode()
    return PROVIDERS[schema].patch_request(raw, to)


@pytest.mark.parametrize(("schema", "used"), [
    ("openai", ("max_tokens",)), ("openai", ("max_completion_tokens",)),
    ("openai", ("max_tokens", "max_completion_tokens")), ("anthropic", ("max_tokens",)),
    ("responses", ("max_output_tokens",)), ("completions", ("max_tokens",)), ("fim", ("max_tokens",)),
])
@pytest.mark.parametrize("only", [False, True])
def test_a_limit_is_said_where_the_client_said_it(schema: str, used: tuple[str, ...], only: bool) -> None:
    """Every limit field of the client gets the grant, and no other byte changes."""
    before = {"a": 1.0, **dict.fromkeys(used, 9_999), "z": [1]}
    plain, out = patched(schema, target(granted=None, only=only), **before), patched(schema, target(only=only), **before)
    assert out == plain.replace(b"9999", b"300")
    assert [json.loads(out)[name] for name in used] == [GRANTED] * len(used)


@pytest.mark.parametrize(("schema", "only", "name"), [
    ("openai", False, "max_completion_tokens"), ("openai", True, "max_tokens"), ("anthropic", False, "max_tokens"),
    ("responses", True, "max_output_tokens"), ("completions", False, "max_tokens"), ("fim", False, "max_tokens"),
])
@pytest.mark.parametrize("null", [False, True])
def test_a_limit_where_the_client_said_none(schema: str, only: bool, name: str, null: bool) -> None:
    """The schema's own field is added, or the older one for backends that know no other; null is none."""
    out = json.loads(patched(schema, target(only=only), **({"max_tokens": None} if null and name == "max_tokens" else {})))
    assert {key: out[key] for key in LIMITS if key in out} == {name: GRANTED}


@pytest.mark.parametrize("schema", ["embeddings", "count_tokens"])
def test_no_limit_where_there_is_no_output(schema: str) -> None:
    """What has no output gets no limit."""
    assert json.loads(patched(schema, target(), input="hi")) == {"model": "new", "input": "hi"}


@pytest.mark.parametrize(("options", "after"), [
    ({}, {"options": {"num_predict": GRANTED}}), ({"options": None}, {"options": {"num_predict": GRANTED}}),
    ({"options": {"num_ctx": 9, "num_predict": -1}}, {"options": {"num_ctx": 9, "num_predict": GRANTED}}),
])
def test_ollamas_limit_stands_among_its_options(options: dict[str, Any], after: dict[str, Any]) -> None:
    """num_predict gets the grant, the other options stay."""
    assert json.loads(patched("ollama", target(), **options)) == {"model": "new", **after}
    assert json.loads(patched("ollama", target(granted=None), **options)) == {"model": "new", **options}


def test_options_that_are_no_object() -> None:
    """They are the client's error."""
    with pytest.raises(RequestError, match="options"):
        patched("ollama", target(), options=[1])


@pytest.mark.parametrize("schema", sorted(TEXTS))
def test_a_body_is_read_once(schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Model, limit and usage reporting are spliced in together."""
    read: list[bytes] = []
    begin = TopLevel.__init__

    def counted(self: TopLevel, given: bytes) -> None:
        read.append(given)
        begin(self, given)

    monkeypatch.setattr(TopLevel, "__init__", counted)
    out = patched(schema, target(), stream=True)
    assert b"300" in out
    assert len(read) == 1


ADAPTED = sorted(name for name, dialect in DIALECTS.items() if dialect.schema == "openai" and not dialect.verbatim)


@pytest.mark.parametrize("dialect", ADAPTED)
@pytest.mark.parametrize("used", [
    ("max_tokens",), ("max_completion_tokens",), ("max_tokens", "max_completion_tokens"), (),
    ("max_tokens", "n_predict", "max_output_tokens"), ("n_predict",),
])
def test_an_adapted_request_has_no_other_limit(dialect: str, used: tuple[str, ...]) -> None:
    """Where fields are adapted, no limit of the client's own is left, under whatever name a server could read it."""
    raw = body(**{"max_tokens": None, "options": {"num_predict": 9_999}, **dict.fromkeys(used, 9_999)})
    said = say(DIALECTS[dialect], "openai", target(only=DIALECTS[dialect].max_tokens_only), raw)
    assert b"9999" not in said.body
    fields = json.loads(said.body)
    assert GRANTED in (fields.get("max_tokens"), fields.get("max_completion_tokens"))


def test_an_adapted_request_without_a_grant_keeps_its_limits() -> None:
    """Where no money is at stake the client's limits are its own."""
    said = say(DIALECTS["llamacpp"], "openai", target(granted=None), body(max_tokens=9_999))
    assert json.loads(said.body)["max_tokens"] == 9_999


@pytest.mark.parametrize(("client", "backend", "name"), [
    ("openai", "gpt/g", "max_completion_tokens"), ("openai", "qwen/q", "max_tokens"), ("anthropic", "claude/c", "max_tokens"),
    ("anthropic", "gpt/g", "max_completion_tokens"), ("openai", "claude/c", "max_tokens"),
])
def test_the_grant_reaches_the_backend(client: str, backend: str, name: str) -> None:
    """An attempt sends what was granted, verbatim or translated, in the field that its backend knows."""
    rt = runtime()
    raw = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
    raw |= {"max_tokens": 9_999} if client == "anthropic" else {}
    attempt = Attempt(client, backend, rt=rt, granted=GRANTED).dispatched(request=json.dumps(raw).encode())
    sent = json.loads(attempt.sent.body or b"")
    assert {key: sent[key] for key in LIMITS if key in sent} == {name: GRANTED}
    assert CLIENTS[client].name == client
