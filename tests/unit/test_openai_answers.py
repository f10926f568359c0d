"""The OpenAI Chat Completions codecs: answers, streams and errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from extproc.core import conversation as c
from extproc.core.errors import Problem, UpstreamError
from extproc.core.usage import Tokens
from extproc.schemas.openai_chat import OpenAIChat
from extproc.wire.sse import ServerSentEvent, SseDecoder

DATA = Path(__file__).parent.parent / "data"
SCHEMA = OpenAIChat()


def feed(*chunks: dict[str, Any] | str) -> list[c.Event]:
    """Run chunks through one stream parser."""
    parser = SCHEMA.stream_parser()
    events: list[c.Event] = []
    for chunk in chunks:
        data = (chunk if isinstance(chunk, str) else json.dumps(chunk)).encode()
        events += parser.feed(ServerSentEvent(b"", data, b"data: " + data + b"\n\n"))
    return events


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    """One wire chunk."""
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **fields}


def call(index: int | None, arguments: Any, identifier: str | None = None, name: str | None = None) -> dict[str, Any]:
    """A tool call delta."""
    return {"index": index, "id": identifier, "function": {"name": name, "arguments": arguments}}


class TestStreamParser:
    """A provider's stream."""

    def test_recording(self) -> None:
        """A recorded stream ends in Stop, usage from the chunk with empty choices, and Done."""
        parser = SCHEMA.stream_parser()
        events = [e for raw in SseDecoder().feed((DATA / "openai_stream.sse").read_bytes()) for e in parser.feed(raw)]
        assert [c.Stop("length"), c.UsageReport(Tokens(12, 0, None, None, 0, 100)), c.Done()] == events[1:]

    def test_interleaved_calls_accumulate_by_index(self) -> None:
        """Two calls interleave; a late id holds the start back without losing the first argument fragment."""
        events = feed(
            chunk({"content": "x", "tool_calls": []}),
            chunk({"tool_calls": [call(0, '{"a', "i0", "f")]}),
            chunk({"tool_calls": [call(1, '{"', None, "g")]}),
            chunk({"tool_calls": [call(0, '":1}')]}),
            chunk({"tool_calls": [call(1, 'b":2}', "i1", "")]}),
            chunk(finish="stop"),
            "[DONE]",
        )
        assert [
            c.Start("chatcmpl-1", "m"),
            c.TextDelta("x"),
            c.ToolStart(0, "i0", "f"),
            c.ToolDelta(0, '{"a'),
            c.ToolDelta(0, '":1}'),
            c.ToolStart(1, "i1", "g"),
            c.ToolDelta(1, '{"b":2}'),
            c.Stop("tool_use"),
            c.Done(),
        ] == events

    def test_call_without_id_or_with_object_arguments(self) -> None:
        """A call that never gets an id gets ours at the end; arguments as an object are serialised."""
        events = feed(chunk({"tool_calls": [call(None, {"a": 1}, None, "f")]}), chunk(finish="tool_calls"))
        assert [c.ToolStart(0, "call_chatcmpl-1_0", "f"), c.ToolDelta(0, '{"a":1}'), c.Stop("tool_use")] == events[1:]

    def test_finish_chunk_with_content(self) -> None:
        """Content in the finish chunk is kept; both spellings of reasoning are read."""
        events = feed(chunk({"reasoning": "r"}), chunk({"reasoning_content": "s", "content": "t"}, "stop"))
        assert [c.ThinkingDelta("r"), c.ThinkingDelta("s"), c.TextDelta("t"), c.Stop("end")] == events[1:]

    @pytest.mark.parametrize(
        ("error", "kind", "status"),
        [
            ({"message": "m", "type": "rate_limit_error"}, "rate_limit", 429),
            ("boom", "upstream", 502),
            ({"message": "m", "code": 503}, "upstream", 503),
            ({"code": "invalid_api_key"}, "upstream", 502),
        ],
    )
    def test_error_chunk_is_a_failure(self, error: Any, kind: str, status: int) -> None:
        """An error object in the stream is a Failure with the status it would have had."""
        (failure,) = feed({"error": error})
        assert isinstance(failure, c.Failure)
        assert (kind, status) == (failure.kind, failure.status)

    @pytest.mark.parametrize("data", ["{", "[]", "nonsense", '{"choices":5}', '{"choices":[{"delta":[]}]}'])
    def test_nonsense_is_an_upstream_error(self, data: str) -> None:
        """What is no chunk raises UpstreamError."""
        with pytest.raises(UpstreamError):
            feed(data)

    @pytest.mark.parametrize(
        ("usage", "expected"),
        [
            (
                {
                    "prompt_tokens": 10,
                    "completion_tokens": 5,
                    "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3},
                    "completion_tokens_details": {"reasoning_tokens": 2},
                },
                Tokens(3, 4, 3, None, 3, 2),
            ),
            (
                {
                    "prompt_tokens": 10,
                    "completion_tokens": 5,
                    "prompt_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 3},
                    "completion_tokens_details": {"reasoning_tokens": 9},
                },
                Tokens(0, 10, 0, None, 0, 5),
            ),
            (
                {"prompt_cache_hit_tokens": 7, "prompt_cache_miss_tokens": 3, "completion_tokens": 1},
                Tokens(3, 7, None, None, 1),
            ),
            ({"prompt_tokens": -1, "completion_tokens": True, "prompt_tokens_details": 5}, None),
        ],
    )
    def test_usage_is_disjoint_and_never_negative(self, usage: Any, expected: Tokens | None) -> None:
        """Sub-counts are clamped to the reported totals; nonsense is unknown."""
        reports = [event for event in feed({"choices": [], "usage": usage}) if isinstance(event, c.UsageReport)]
        assert ([] if expected is None else [c.UsageReport(expected)]) == reports


class TestStreamRenderer:
    """The client's stream."""

    def run(self, *events: c.Event, include_usage: bool = True) -> list[Any]:
        """Render events; the data of each SSE event, decoded."""
        renderer = SCHEMA.stream_renderer(
            model="mine", created=7, fallback_id="chatcmpl-f", include_usage=include_usage
        )
        stream = b"".join(renderer.feed(event) for event in events)
        return [e.data if e.data == b"[DONE]" else json.loads(e.data) for e in SseDecoder().feed(stream)]

    def test_order(self) -> None:
        """Role, deltas, finish, usage, [DONE]; nothing after Done."""
        out = self.run(
            c.Start("msg_1"),
            c.ThinkingDelta("h", "sig"),
            c.TextDelta("t"),
            c.ToolStart(0, "i", "f"),
            c.ToolDelta(0, "{}"),
            c.UsageReport(Tokens(3, 1, None, None, 4, 2)),
            c.Stop("tool_use"),
            c.Done(),
            c.TextDelta("late"),
        )
        assert [part["choices"][0]["delta"] for part in out[:-2]] == [
            {"role": "assistant", "content": ""},
            {"reasoning_content": "h"},
            {"content": "t"},
            {"tool_calls": [{"index": 0, "id": "i", "type": "function", "function": {"name": "f", "arguments": ""}}]},
            {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
            {},
        ]
        assert (out[-3]["choices"][0]["finish_reason"], out[0]["id"], out[0]["model"], out[0]["usage"]) == (
            "tool_calls",
            "chatcmpl-f",
            "mine",
            None,
        )
        assert (out[-2]["choices"], out[-2]["usage"]["prompt_tokens"], out[-2]["usage"]["completion_tokens"]) == (
            [],
            4,
            6,
        )
        assert out[-1] == b"[DONE]"

    def test_usage_only_when_asked_and_known(self) -> None:
        """No usage chunk without include_usage, and none invented when usage is unknown."""
        asked = self.run(c.TextDelta("t"), c.Done())
        plain = self.run(c.TextDelta("t"), c.UsageReport(Tokens(1, output=1)), c.Done(), include_usage=False)
        assert 4 == len(asked) == len(plain)
        assert "usage" not in plain[0]

    def test_failure_ends_silently(self) -> None:
        """The stage writes the error; after it the renderer is mute."""
        assert self.run(c.Failure("upstream", "x"), c.TextDelta("t"), c.Done()) == []


class TestAnswers:
    """Whole answers."""

    def test_recording_round_trip(self) -> None:
        """A recorded answer with tool calls survives parsing and rendering."""
        events = SCHEMA.parse_response((DATA / "openai_parallel_tools.json").read_bytes())
        again = SCHEMA.render_response(events, model="gpt-5-nano-2025-08-07", created=1, fallback_id="x")
        assert list(events) == list(SCHEMA.parse_response(again))
        assert isinstance(events[-1], c.Done)

    def test_error_body_is_a_failure(self) -> None:
        """A 200 with an error object is a Failure, other nonsense an UpstreamError."""
        (failure,) = SCHEMA.parse_response(b'{"error":{"message":"x","code":"context_length_exceeded"}}')
        assert isinstance(failure, c.Failure)
        assert (failure.kind, failure.status) == ("context_length", 400)
        for body in (b"{}", b"<html>", b'{"choices":[]}'):
            with pytest.raises(UpstreamError):
                SCHEMA.parse_response(body)


class TestErrors:
    """Errors, read and written."""

    @pytest.mark.parametrize(
        ("status", "body", "kind", "shown"),
        [
            (429, b'{"error":{"message":"slow","type":"requests"}}', "rate_limit", 429),
            (429, b'{"error":{"message":"pay","code":"insufficient_quota"}}', "quota", 429),
            (529, b"", "overloaded", 529),
            (500, b'{"error":"boom"}', "upstream", 500),
            (400, b'{"error":{"message":"maximum context length is 5"}}', "context_length", 400),
            (404, b'{"detail":"Not Found"}', "not_found", 404),
            (408, b"", "timeout", 504),
            (422, b'{"detail":[{"msg":"bad"}]}', "invalid_request", 422),
            (503, b"<html><script>x</script><b>busy</b></html>", "upstream", 503),
            (401, b'{"error":{"message":"Incorrect API key provided: sk-secret123"}}', "upstream", 502),
        ],
    )
    def test_reading(self, status: int, body: bytes, kind: str, shown: int) -> None:
        """Any error body gives its kind and status, and never the gateway's key."""
        problem = SCHEMA.parse_error(status, body)
        assert (kind, shown) == (problem.kind, problem.http_status)
        assert "secret" not in problem.message
        assert "<" not in problem.message

    def test_long_and_key_like_text_is_cut(self) -> None:
        """At most 500 characters, and what looks like a key is masked."""
        problem = SCHEMA.parse_error(400, b"bad key sk-abcdef123456 " + b"\xff" * 9000)
        assert len(problem.message) <= 500
        assert "abcdef" not in problem.message

    @pytest.mark.parametrize(("param", "code"), [
        ("model", "model_not_found"), (None, "model_not_found"), ("path", None), ("request_id", None)])
    def test_what_is_not_found(self, param: str | None, code: str | None) -> None:
        """A model that is not there is called so; a path or a request that is not there is no missing model."""
        body = json.loads(SCHEMA.render_error(Problem("not_found", "no", param), "r1"))
        assert (body["error"]["param"], body["error"]["code"]) == (param, code)

    def test_writing(self) -> None:
        """Type and code as OpenAI's clients know them; in a stream as a data event."""
        problem = Problem("authentication", 'no "key"')
        body = json.loads(SCHEMA.render_error(problem, "r1"))
        assert body == {
            "error": {"message": 'no "key"', "type": "authentication_error", "param": None, "code": "invalid_api_key"},
            "request_id": "r1",
        }
        (event,) = SseDecoder().feed(SCHEMA.render_stream_error(problem, "r1"))
        assert body == json.loads(event.data)


class TestScans:
    """The cheap looks at pass-through events."""

    @pytest.mark.parametrize(
        ("data", "telling", "hidden"),
        [
            (b"[DONE]", True, False),
            (b'{"choices":[],"usage": {"prompt_tokens":1}}', True, True),
            (b'{"choices":[{"index":0,"delta":{}}],"usage":{"prompt_tokens":1}}', True, False),
            (b'{"choices":[{"finish_reason":null}],"usage":null}', False, False),
            (b'{"choices":[{"finish_reason": "stop"}]}', True, False),
            (b'{"error":{}}', True, False),
            (b'{"choices":[{"delta":{"content":"\\"usage\\":{"}}]}', False, False),
        ],
    )
    def test_scan(self, data: bytes, telling: bool, hidden: bool) -> None:
        """Usage, finish, error and end are seen; only an unasked usage chunk is hidden."""
        event = ServerSentEvent(b"", data, b"data: " + data + b"\n\n")
        assert telling == SCHEMA.usage_in_event(event)
        assert hidden == SCHEMA.hides_from_client(event, False)
        assert not SCHEMA.hides_from_client(event, True)
