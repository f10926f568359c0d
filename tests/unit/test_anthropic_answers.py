"""The Anthropic Messages codecs: answers, streams and errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from extproc.core import conversation as c
from extproc.core.errors import Problem, UpstreamError
from extproc.core.usage import Tokens
from extproc.schemas.anthropic_messages import AnthropicMessages
from extproc.wire.sse import ServerSentEvent, SseDecoder

DATA = Path(__file__).parent.parent / "data"
SCHEMA = AnthropicMessages()


def feed(*values: dict[str, Any]) -> list[c.Event]:
    """Run wire events through one stream parser."""
    parser = SCHEMA.stream_parser()
    return [
        event
        for value in values
        for event in parser.feed(ServerSentEvent(value["type"].encode(), json.dumps(value).encode(), b""))
    ]


class TestStreamParser:
    """A provider's stream."""

    def test_recording(self) -> None:
        """A recorded stream with server tools gives its text, disjoint usage, and Done last."""
        parser = SCHEMA.stream_parser()
        stream = (DATA / "anthropic_stream.sse").read_bytes()
        events = [event for raw in SseDecoder().feed(stream) for event in parser.feed(raw)]
        reports = [event.tokens for event in events if isinstance(event, c.UsageReport)]
        assert reports[0].output is None
        assert (reports[-1].input, reports[-1].output, reports[-1].reasoning) == (2411, 145 - 47, 47)
        assert c.Stop("end") in events
        assert c.Done() == events[-1]
        assert not [event for event in events if isinstance(event, c.ToolStart)]

    def test_usage_is_last_non_null_value_per_field(self) -> None:
        """An absent or null field of a later event erases nothing; cache writes split by lifetime."""
        start = {
            "input_tokens": 5,
            "cache_creation_input_tokens": 9,
            "output_tokens": 1,
            "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 7},
        }
        events = feed(
            {"type": "message_start", "message": {"id": "msg_1", "model": "m", "usage": start}},
            {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 3}},
            {
                "type": "message_delta",
                "delta": {"stop_reason": "stop_sequence", "stop_sequence": "x"},
                "usage": {"output_tokens": 8, "input_tokens": None, "output_tokens_details": {"thinking_tokens": 99}},
            },
        )
        assert [
            c.Start("msg_1", "m"),
            c.UsageReport(Tokens(5, None, 2, 7)),
            c.UsageReport(Tokens(5, None, 2, 7, 3)),
            c.UsageReport(Tokens(5, None, 2, 7, 0, 8)),
            c.Stop("stop_sequence", "x"),
        ] == events

    def test_tool_with_no_delta_has_an_empty_object(self) -> None:
        """A call whose input never streams still gets arguments; server tool deltas are not ours."""
        events = feed(
            {"type": "content_block_start", "index": 0, "content_block": {"type": "server_tool_use", "id": "s"}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
            {"type": "content_block_stop", "index": 0},
            {
                "type": "content_block_start",
                "index": 1,
                "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}},
            },
            {"type": "content_block_stop", "index": 1},
            {"type": "ping"},
        )
        assert [c.ToolStart(0, "t", "f"), c.ToolDelta(0, "{}")] == events

    def test_error_event_is_a_failure(self) -> None:
        """An error after 200 keeps the status it would have had."""
        (failure,) = feed({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
        assert isinstance(failure, c.Failure)
        assert (failure.kind, failure.status, failure.message) == ("overloaded", 529, "Overloaded")

    def test_nonsense_is_an_upstream_error(self) -> None:
        """What is no event raises UpstreamError."""
        for data in (b"{", b"[]", b'{"type":5}'):
            with pytest.raises(UpstreamError):
                SCHEMA.stream_parser().feed(ServerSentEvent(b"", data, data))


def stream(*events: c.Event) -> list[dict[str, Any]]:
    """Render events for a client; the data of each SSE event, decoded, checked against its name."""
    renderer = SCHEMA.stream_renderer(model="mine", created=7, fallback_id="msg_f", include_usage=False)
    out = SseDecoder().feed(b"".join(renderer.feed(event) for event in events))
    values = [json.loads(event.data) for event in out]
    assert [event.event.decode() for event in out] == [value["type"] for value in values]
    return values


def blocks(values: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The (type, joined deltas) of each block; asserts contiguous, never overlapping indices."""
    found: list[tuple[str, str]] = []
    is_open = False
    for value in values:
        if value["type"] == "content_block_start":
            assert not is_open
            assert len(found) == value["index"]
            found.append((value["content_block"]["type"], ""))
            is_open = True
        elif value["type"] == "content_block_delta":
            assert is_open
            assert len(found) - 1 == value["index"]
            delta = value["delta"]
            text = next(delta[key] for key in ("text", "thinking", "signature", "partial_json") if key in delta)
            found[-1] = (found[-1][0], found[-1][1] + text)
        elif value["type"] == "content_block_stop":
            assert is_open
            is_open = False
    assert not is_open
    return found


class TestStreamRenderer:
    """The client's stream."""

    def test_order(self) -> None:
        """message_start, blocks, message_delta with stop and usage, message_stop; nothing after Done."""
        out = stream(
            c.Start("chatcmpl-1"),
            c.TextDelta(""),
            c.TextDelta("a"),
            c.ToolStart(0, "i:1", "f"),
            c.ToolDelta(0, '{"x":1}'),
            c.Stop("tool_use"),
            c.UsageReport(Tokens(5, 2, None, None, 3, 1)),
            c.Done(),
            c.TextDelta("late"),
        )
        assert blocks(out) == [("text", "a"), ("tool_use", '{"x":1}')]
        assert (out[0]["message"]["id"], out[0]["message"]["model"], out[0]["message"]["usage"]["input_tokens"]) == (
            "msg_f",
            "mine",
            0,
        )
        assert out[4]["content_block"]["id"] == "i_1"
        assert out[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
        assert tuple(out[-2]["usage"][key] for key in ("input_tokens", "cache_read_input_tokens", "output_tokens")) == (
            5,
            2,
            4,
        )
        assert out[-1]["type"] == "message_stop"

    def test_interleaved_calls_are_buffered(self) -> None:
        """Deltas of two calls that interleave come out as two blocks, and text between waits its turn."""
        out = stream(
            c.Start(),
            c.ToolStart(0, "a", "f"),
            c.ToolDelta(0, '{"a'),
            c.ToolStart(1, "b", "g"),
            c.ToolDelta(1, '{"b'),
            c.TextDelta("t"),
            c.ToolDelta(0, '":1}'),
            c.ToolDelta(1, '":2}'),
            c.Done(),
        )
        assert blocks(out) == [("tool_use", '{"a":1}'), ("tool_use", '{"b":2}'), ("text", "t")]
        assert out[-2]["delta"]["stop_reason"] == "tool_use"

    def test_sequential_calls_stream_live(self) -> None:
        """A call that is complete when the next begins does not hold the next one back."""
        renderer = SCHEMA.stream_renderer(model="m", created=0, fallback_id="msg_f", include_usage=True)
        for event in (c.Start(), c.ToolStart(0, "a", "f"), c.ToolDelta(0, "{}"), c.ToolStart(1, "b", "g")):
            renderer.feed(event)
        assert b'"index":1' in renderer.feed(c.ToolDelta(1, '{"x'))

    def test_thinking(self) -> None:
        """Signatures are forwarded and never invented; thinking after one is a new block."""
        out = stream(
            c.ThinkingDelta("a"),
            c.ThinkingDelta(signature="s"),
            c.ThinkingDelta("b"),
            c.ThinkingDelta(redacted="r"),
            c.TextDelta("t"),
            c.Done(),
        )
        assert blocks(out) == [("thinking", "as"), ("thinking", "b"), ("redacted_thinking", ""), ("text", "t")]

    def test_empty_answer(self) -> None:
        """An answer without content has no blocks but all else."""
        assert [value["type"] for value in stream(c.Done())] == ["message_start", "message_delta", "message_stop"]

    def test_failure_ends_silently(self) -> None:
        """The stage writes the error; after it the renderer is mute."""
        assert stream(c.Failure("upstream", "x"), c.Done()) == []


class TestAnswersAndErrors:
    """Whole answers and errors."""

    def test_recording_round_trip(self) -> None:
        """A recorded answer with thinking and a tool call survives parsing and rendering."""
        events = SCHEMA.parse_response((DATA / "anthropic_thinking_tool.json").read_bytes())
        again = SCHEMA.render_response(events, model="claude-sonnet-4-20250514", created=1, fallback_id="x")
        assert list(events) == list(SCHEMA.parse_response(again))
        assert {c.Start, c.ThinkingDelta, c.ToolStart, c.Done} <= {type(event) for event in events}

    def test_thinking_blocks_stay_apart(self) -> None:
        """Each signature closes its own block; what another provider encrypted closes one too, and never leaves."""
        events = [c.ThinkingDelta("a", "s"), c.ThinkingDelta("b", "t"), c.ThinkingDelta("c"),
                  c.ThinkingDelta(encrypted="e", id="rs_1"), c.ThinkingDelta("d"), c.Done()]
        body = json.loads(SCHEMA.render_response(events, model="m", created=1, fallback_id="msg_f"))
        assert [(block["thinking"], block["signature"]) for block in body["content"]] == [
            ("a", "s"), ("b", "t"), ("c", ""), ("d", "")]

    def test_broken_tool_arguments_stay_visible(self) -> None:
        """Arguments that are no JSON object reach the client as text inside one."""
        events = [c.ToolStart(0, "a", "f"), c.ToolDelta(0, "{oops"), c.Done()]
        body = json.loads(SCHEMA.render_response(events, model="m", created=1, fallback_id="msg_f"))
        assert (body["content"][0]["input"], body["stop_reason"], body["id"]) == (
            {"text": "{oops"},
            "tool_use",
            "msg_f",
        )

    @pytest.mark.parametrize("body", [b"{}", b"<html>", b"[]"])
    def test_nonsense_is_an_upstream_error(self, body: bytes) -> None:
        """What is no answer raises UpstreamError."""
        with pytest.raises(UpstreamError):
            SCHEMA.parse_response(body)

    @pytest.mark.parametrize(
        ("kind", "expected"),
        [
            ("authentication", "authentication_error"),
            ("quota", "billing_error"),
            ("overloaded", "overloaded_error"),
            ("upstream", "api_error"),
            ("timeout", "timeout_error"),
            ("too_large", "request_too_large"),
        ],
    )
    def test_error_shape(self, kind: Any, expected: str) -> None:
        """Errors have Anthropic's shape and types, also in a stream."""
        problem = Problem(kind, "m")
        body = {"type": "error", "error": {"type": expected, "message": "m"}, "request_id": "r"}
        assert body == json.loads(SCHEMA.render_error(problem, "r"))
        (event,) = SseDecoder().feed(SCHEMA.render_stream_error(problem, "r"))
        assert (b"error", body) == (event.event, json.loads(event.data))

    def test_overlong_prompt_has_the_wording_clients_know(self) -> None:
        """Claude Code recovers from an overlong prompt by its words."""
        assert b"prompt is too long: ctx" in SCHEMA.render_error(Problem("context_length", "ctx"), "r")

    @pytest.mark.parametrize(
        ("name", "data", "telling"),
        [
            (b"message_delta", b"{}", True),
            (b"content_block_delta", b'"error"', False),
            (b"ping", b"", False),
            (b"", b'{"type":"message_stop"}', True),
            (b"error", b"{}", True),
        ],
    )
    def test_scan(self, name: bytes, data: bytes, telling: bool) -> None:
        """Only the events that carry usage, stop, error or end are looked at, and none is hidden."""
        event = ServerSentEvent(name, data, b"")
        assert telling == SCHEMA.usage_in_event(event)
        assert not SCHEMA.hides_from_client(event, False)
