"""The token counting codecs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from extproc.core import conversation as c
from extproc.core.answer import Reading, WholeAnswer
from extproc.core.errors import Problem, RequestError, UpstreamError
from extproc.core.usage import Tokens
from extproc.schemas import CLIENTS, PROVIDERS
from extproc.schemas.base import Target
from extproc.schemas.count_tokens import CountTokens

SCHEMA = CountTokens()
USER: dict[str, Any] = {"role": "user", "content": "hi"}
TOOL = {"name": "f", "description": "d", "input_schema": {"type": "object"}}


def parse(**fields: Any) -> c.Conversation:
    """Parse a request with these fields over a minimal one."""
    return SCHEMA.parse_request(json.dumps({"model": "claude", "messages": [USER], **fields}).encode())


def test_parse() -> None:
    """A Messages request without a limit; system and tools count too."""
    got = parse(system="s", tools=[TOOL])
    assert (got.task, got.max_tokens, got.stream) == ("count", None, False)
    assert got.messages == (c.Message("system", (c.Text("s"),)), c.Message("user", (c.Text("hi"),)))
    assert [tool.name for tool in got.tools] == ["f"]
    assert parse(max_tokens=5).max_tokens is None


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None), (b"[]", None), (b'{"messages":[]}', "model"), (b'{"model":"m"}', "messages"),
        (b'{"model":"m","messages":[]}', "messages"), (b'{"model":"m","messages":[{"role":"user"}]}', "messages[0].content"),
        (b'{"model":"m","messages":[{"role":"user","content":"x"}],"stream":true}', "stream"),
        (b'{"model":"m","model":"n"}', "model"),
    ],
)
def test_wrong_requests(body: bytes, param: str | None) -> None:
    """A wrong request names its field; a limit is never missing."""
    with pytest.raises(RequestError) as error:
        SCHEMA.parse_request(body)
    assert error.value.problem.param == param


def test_render() -> None:
    """Said again it holds what is counted, and nothing that only an answer needs."""
    got = SCHEMA.render_request(parse(system="s", tools=[TOOL], stop_sequences=["x"]), Target("claude-x"))
    assert set(got.fields) == {"model", "system", "messages", "tools"}
    assert got.fields["model"] == "claude-x"


def test_only_counts() -> None:
    """A conversation is refused."""
    assert SCHEMA.refuses(c.Conversation("m", (c.Message("user", (c.Text("hi"),)),))) == ("chat",)
    assert SCHEMA.refuses(parse()) == ()


def test_bytes_pass() -> None:
    """Request and answer keep their bytes, but for the model; counting used nothing."""
    assert SCHEMA.patch_request(b'{"model":"a", "messages":[]}', Target("b")) == b'{"model":"b", "messages":[]}'
    answer = WholeAnswer(Reading(CLIENTS["count_tokens"], PROVIDERS["count_tokens"], "m", 1, "f"))
    answer.feed(b'{ "input_tokens": 2095 }')
    assert answer.finish() == b'{ "input_tokens": 2095 }'
    assert answer.learnt.done
    assert answer.learnt.tokens == Tokens(input=0, output=0)


@pytest.mark.parametrize("body", [b"", b"null", b"{}", b'{"input_tokens":-1}', b'{"input_tokens":"7"}', b"<html>"])
def test_nonsense(body: bytes) -> None:
    """What is no count is the provider's fault."""
    with pytest.raises(UpstreamError):
        SCHEMA.parse_response(body)


def test_an_error_in_place_of_an_answer() -> None:
    """A 200 with an error object is a failure."""
    (failure,) = SCHEMA.parse_response(b'{"type":"error","error":{"type":"api_error","message":"no"}}')
    assert isinstance(failure, c.Failure)


def test_nothing_is_made_from_events() -> None:
    """The count is not in the events."""
    with pytest.raises(UpstreamError, match="passed through"):
        SCHEMA.render_response((c.Done(),), model="m", created=1, fallback_id="f")


def test_errors() -> None:
    """Errors have Anthropic's form."""
    assert (SCHEMA.family, SCHEMA.path) == ("anthropic", "/v1/messages/count_tokens")
    assert json.loads(SCHEMA.render_error(Problem("rate_limit", "slow"), "r"))["type"] == "error"
