"""Recorded provider traffic, replayed byte for byte behind a real Envoy, for clients of both schemas."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from extproc.core.conversation import Done, Failure, TextDelta, ToolDelta, ToolStart, UsageReport
from extproc.core.usage import Tokens
from extproc.schemas import SCHEMAS
from extproc.wire.sse import SseDecoder
from tests.data_plane import upstream as up
from tests.recordings import exceptions

RECORDED = sorted((Path(__file__).parents[1] / "data" / "recorded").glob("*.json"))
CANNOT = exceptions("data_plane")
"""Recordings that cannot pass, and why."""


def load(path: Path) -> dict:
    """One recording."""
    return json.loads(path.read_text())


def events_of(schema: str, body: bytes, stream: bool) -> list:
    """What an answer says, in neutral form."""
    if not stream:
        return list(SCHEMAS[schema].parse_response(body))
    parser, out = SCHEMAS[schema].stream_parser(), []
    for event in SseDecoder().feed(body):
        if event.data:
            out += parser.feed(event)
    return out


def said(events: list) -> tuple[str, list[str], str]:
    """The text, the tools and their arguments of an answer."""
    text = "".join(e.text for e in events if isinstance(e, TextDelta))
    tools = [e.name for e in events if isinstance(e, ToolStart)]
    arguments = "".join("".join(e.arguments.split()) for e in events if isinstance(e, ToolDelta))
    return text, tools, arguments


def used(events: list) -> Tokens:
    """The usage of an answer."""
    tokens = Tokens()
    for event in events:
        if isinstance(event, UsageReport):
            tokens = tokens.merged(event.tokens)
    return tokens


@pytest.mark.parametrize("path", [p for p in RECORDED if p.stem not in CANNOT], ids=lambda p: p.stem)
def test_same_schema(plane, path):
    """A client of the provider's schema gets the recorded answer byte for byte; the ledger holds its usage."""
    recorded = load(path)
    schema, stream = recorded["schema"], recorded["content_type"] == "text/event-stream"
    body = recorded["body"].encode()
    # The recorder stripped the last newline of some streams; on the wire every event ends with a blank line.
    body = body.rstrip(b"\n") + b"\n\n" if stream else body
    script = up.Script(recorded["status"], {"content-type": recorded["content_type"]}, [body])
    chain, backends = ("oa", ("oa0", "oa1")) if schema == "openai" else ("an", ("an0", "an1"))
    for backend in backends:
        plane.upstream.always[backend] = script
    request = {**recorded["request"], "model": chain}
    if stream and schema == "openai":
        request["stream_options"] = {"include_usage": True}
    answer = plane.call("POST", SCHEMAS[schema].path, request, {"anthropic-version": "2023-06-01"})
    expected = 502 if recorded["status"] in (401, 403) else recorded["status"]
    assert answer.status == expected, answer.text
    if expected != 502:
        assert answer.body == body
    if expected == 200:
        tokens = used(events_of(schema, body, stream))
        if tokens.complete:
            got = plane.record(answer).attempts[0].tokens
            assert (got.input, got.output) == (tokens.input, tokens.output)


@pytest.mark.parametrize("path", [p for p in RECORDED if p.stem not in CANNOT], ids=lambda p: p.stem)
def test_other_schema(plane, path):
    """A client of the other schema gets the same text, tools and arguments, or the error in its own shape."""
    recorded = load(path)
    schema, stream = recorded["schema"], recorded["content_type"] == "text/event-stream"
    other = "anthropic" if schema == "openai" else "openai"
    body = recorded["body"].encode()
    body = body.rstrip(b"\n") + b"\n\n" if stream else body
    script = up.Script(recorded["status"], {"content-type": recorded["content_type"]}, [body])
    for backend in ("oa0", "oa1") if schema == "openai" else ("an0", "an1"):
        plane.upstream.always[backend] = script
    request = {"model": "oa" if schema == "openai" else "an", "max_tokens": 100, "stream": stream,
               "messages": [{"role": "user", "content": "hi"}]}
    answer = plane.call("POST", SCHEMAS[other].path, request)
    if recorded["status"] != 200:
        assert answer.status >= 400
        assert answer.json["error"]["message"]
        return
    source = events_of(schema, body, stream)
    if any(isinstance(e, Failure) for e in source):
        assert answer.status >= 400
        return
    assert answer.status == 200, answer.text
    got = events_of(other, answer.body, stream)
    assert said(got) == said(source)
    assert isinstance(got[-1], Done)
