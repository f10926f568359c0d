"""The embeddings codecs."""

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
from extproc.schemas.embeddings import Embeddings
from extproc.wire.sse import ServerSentEvent

SCHEMA = Embeddings()
VECTORS = {"object": "list", "model": "e", "data": [{"object": "embedding", "index": 0, "embedding": [0.1, -2e-5]}],
           "usage": {"prompt_tokens": 4, "total_tokens": 4}}


def parse(**fields: Any) -> c.Conversation:
    """Parse a request with these fields over a minimal one."""
    return SCHEMA.parse_request(json.dumps({"model": "e", "input": "hi", **fields}).encode())


@pytest.mark.parametrize(
    ("given", "texts"),
    [("hi", ["hi"]), (["a", "b"], ["a", "b"]), ([1, 2, 3], ["1 2 3"]), ([[1, 2], [3]], ["1 2", "3"])],
)
def test_inputs(given: Any, texts: list[str]) -> None:
    """Strings and token ids weigh as text, and are said again exactly as they were."""
    got = parse(input=given, dimensions=256, encoding_format="base64", user="me")
    assert got.task == "embeddings"
    assert got.messages == (c.Message("user", tuple(map(c.Text, texts))),)
    assert SCHEMA.render_request(got, Target("x")).fields == {
        "model": "x", "input": given, "dimensions": 256, "encoding_format": "base64", "user": "me"}


def test_fields_of_others_are_named() -> None:
    """What is not of this API is named when it is said again."""
    got = parse(input_type="query", stream=False)
    assert SCHEMA.render_request(got, Target("x")).dropped == ("input_type",)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None), (b"[]", None), (b"\xff", None), (b'{"input":"x"}', "model"), (b'{"model":"e"}', "input"),
        (b'{"model":"","input":"x"}', "model"), (b'{"model":"e","input":[]}', "input"),
        (b'{"model":"e","input":null}', "input"), (b'{"model":"e","input":["a",1]}', "input"),
        (b'{"model":"e","input":[1.5]}', "input"), (b'{"model":"e","input":[[]]}', "input"),
        (b'{"model":"e","input":"x","dimensions":-1}', "dimensions"),
        (b'{"model":"e","input":"x","stream":true}', "stream"),
    ],
)
def test_wrong_requests(body: bytes, param: str | None) -> None:
    """A wrong request names its field."""
    with pytest.raises(RequestError) as error:
        SCHEMA.parse_request(body)
    assert error.value.problem.param == param


def test_only_embeddings() -> None:
    """A conversation is refused, and embeddings are refused by the chat schemas' prompt renderers."""
    chat = c.Conversation("m", (c.Message("user", (c.Text("hi"),)),))
    assert SCHEMA.refuses(chat) == ("chat",)
    assert SCHEMA.refuses(parse()) == ()
    with pytest.raises(RequestError):
        SCHEMA.render_request(chat, Target("x"))


def test_bytes_pass() -> None:
    """Request and answer keep their bytes, but for the model; the tokens are read."""
    assert SCHEMA.patch_request(b'{"model":"a", "input":[1 ,2]}', Target("b")) == b'{"model":"b", "input":[1 ,2]}'
    body = json.dumps(VECTORS, indent=1).encode()
    answer = WholeAnswer(Reading(CLIENTS["embeddings"], PROVIDERS["embeddings"], "e", 1, "f"))
    answer.feed(body)
    assert answer.finish() == body
    assert answer.learnt.done
    assert answer.learnt.tokens == Tokens(input=4, output=0)
    assert answer.learnt.model == "e"


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": -1}, {"prompt_tokens": "4"}])
def test_unknown_usage(usage: Any) -> None:
    """Absent or impossible counts are unknown, not zero."""
    events = SCHEMA.parse_response(json.dumps({**VECTORS, "usage": usage}).encode())
    assert c.UsageReport(Tokens(output=0)) in events


def test_an_error_in_place_of_an_answer() -> None:
    """A 200 with an error object is a failure."""
    (failure,) = SCHEMA.parse_response(b'{"error":{"message":"no","type":"server_error"}}')
    assert isinstance(failure, c.Failure)


@pytest.mark.parametrize("body", [b"", b"null", b"{}", b'{"data":{}}', b"<html>", b'{"data":[}'])
def test_nonsense(body: bytes) -> None:
    """What is no answer is the provider's fault."""
    with pytest.raises(UpstreamError):
        SCHEMA.parse_response(body)


def test_nothing_is_made_from_events() -> None:
    """The vectors are not in the events, and there are no streams."""
    with pytest.raises(UpstreamError, match="passed through"):
        SCHEMA.render_response((c.Done(),), model="e", created=1, fallback_id="f")
    event = ServerSentEvent(b"", b"{}", b"")
    assert SCHEMA.usage_in_event(event)
    with pytest.raises(UpstreamError):
        SCHEMA.stream_parser().feed(event)
    with pytest.raises(UpstreamError):
        SCHEMA.stream_renderer(model="e", created=1, fallback_id="f", include_usage=False).feed(c.Done())


def test_errors() -> None:
    """Errors have OpenAI's form both ways."""
    assert SCHEMA.parse_error(429, b'{"error":{"message":"slow"}}').kind == "rate_limit"
    assert b'"error"' in SCHEMA.render_error(Problem("upstream", "x"), "r")
    assert SCHEMA.render_stream_error(Problem("upstream", "x"), "r").startswith(b"data: ")
