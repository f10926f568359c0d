"""The OpenAI Chat Completions codecs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from extproc.core import conversation as c
from extproc.core.errors import Problem, RequestError, UpstreamError
from extproc.core.usage import Tokens
from extproc.schemas.base import Target
from extproc.schemas.openai_chat import OpenAIChat
from extproc.wire.sse import ServerSentEvent, SseDecoder

DATA = Path(__file__).parent.parent / "data"
SCHEMA = OpenAIChat()
USER: dict[str, Any] = {"role": "user", "content": "hi"}


def parse(**fields: Any) -> c.Conversation:
    """Parse a request with these fields over a minimal one."""
    return SCHEMA.parse_request(json.dumps({"model": "m", "messages": [USER], **fields}).encode())


def render(conversation: c.Conversation, model: str = "m", **target: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Render for a backend; the body decoded."""
    rendered = SCHEMA.render_request(conversation, Target(model, **target))
    return json.loads(rendered.body), rendered.dropped


def talk(*messages: c.Message, **fields: Any) -> c.Conversation:
    """A neutral conversation."""
    return c.Conversation("claude", messages, **fields)


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


class TestParseRequest:
    """A client's request."""

    def test_roles_become_neutral(self) -> None:
        """System and developer are system; consecutive tool messages merge into one user message."""
        use = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
        got = parse(
            messages=[
                {"role": "system", "content": "s"},
                USER,
                {"role": "assistant", "content": None, "tool_calls": [use], "reasoning_content": "hm"},
                {"role": "tool", "tool_call_id": "c1", "content": "r1"},
                {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "r2"}]},
                {"role": "developer", "content": "d"},
            ]
        )
        assert (
            c.Message("system", (c.Text("s"),)),
            c.Message("user", (c.Text("hi"),)),
            c.Message("assistant", (c.Thinking("hm"), c.ToolUse("c1", "f", '{"a": 1}'))),
            c.Message("user", (c.ToolResult("c1", (c.Text("r1"),)), c.ToolResult("c2", (c.Text("r2"),)))),
            c.Message("system", (c.Text("d"),)),
        ) == got.messages

    def test_settings(self) -> None:
        """max_completion_tokens wins; stop may be a string; n, seed, effort and stream_options are kept."""
        got = parse(
            max_tokens=1,
            max_completion_tokens=2,
            stop="x",
            n=2,
            seed=3,
            reasoning_effort="low",
            stream=True,
            stream_options={"include_usage": True},
            parallel_tool_calls=False,
        )
        assert (got.max_tokens, got.stop, got.n, got.seed, got.effort) == (2, ("x",), 2, 3, "low")
        assert (got.stream, got.stream_usage, got.parallel_tools) == (True, True, False)

    def test_unmapped_fields_are_named(self) -> None:
        """Set fields without a neutral form are named, nulls are not, and names that no header can hold are not."""
        got = parse(**{"logit_bias": {}, "functions": [], "metadata": None, "bad\r\nname": 1})
        assert got.unmapped == ("logit_bias", "functions")

    def test_parts(self) -> None:
        """Data URIs are split; files become documents; unknown parts stay foreign."""
        content = [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUI=", "detail": "low"}},
            {"type": "image_url", "image_url": "https://x/y.png"},
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,QUI=", "filename": "a.pdf"}},
            {"type": "input_audio", "input_audio": {"data": ""}},
        ]
        assert (
            c.Image("image/png", "QUI=", detail="low"),
            c.Image(url="https://x/y.png"),
            c.Document("application/pdf", "QUI=", name="a.pdf"),
            c.Foreign("input_audio", content[3]),
        ) == parse(messages=[{"role": "user", "content": content}]).messages[0].parts

    @pytest.mark.parametrize(
        ("choice", "expected"),
        [
            ("auto", c.ToolChoice("auto")),
            ("required", c.ToolChoice("any")),
            ("none", c.ToolChoice("none")),
            ({"type": "function", "function": {"name": "f"}}, c.ToolChoice("tool", "f")),
        ],
    )
    def test_tool_choice(self, choice: Any, expected: c.ToolChoice) -> None:
        """Each form of tool_choice has its neutral one."""
        assert expected == parse(tool_choice=choice).tool_choice

    @pytest.mark.parametrize(
        ("body", "param"),
        [
            (b"{", None),
            (b"[]", None),
            (b"\xff", None),
            (b'{"messages":[]}', "model"),
            (b'{"model":"m"}', "messages"),
            (b'{"model":"m","messages":[]}', "messages"),
            (b'{"model":"","messages":[1]}', "messages[0]"),
            (b'{"model":"m","messages":[{"role":"user","content":5}]}', "messages[0].content"),
            (b'{"model":"m","messages":[{"role":"user","content":[{}]}]}', "messages[0].content[0].type"),
            (
                b'{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":1}]}]}',
                "messages[0].content[0].text",
            ),
            (b'{"model":"m","messages":[{"role":"tool","content":"x"}]}', "messages[0].tool_call_id"),
            (b'{"model":"m","messages":[{"role":"user","content":"x"}],"n":0}', "n"),
            (b'{"model":"m","messages":[{"role":"user","content":"x"}],"temperature":"hot"}', "temperature"),
            (
                b'{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[{"type":"function"}]}',
                "tools[0].function",
            ),
            (b'{"model":"m","messages":[{"role":"user","content":"x"}],"seed":' + b"9" * 5000 + b"}", "seed"),
        ],
    )
    def test_wrong_field_is_named(self, body: bytes, param: str | None) -> None:
        """A wrong request is refused with the path of the field."""
        with pytest.raises(RequestError) as caught:
            SCHEMA.parse_request(body)
        assert param == caught.value.problem.param
        assert (param or "") in caught.value.problem.message


class TestRenderRequest:
    """A request for an OpenAI-compatible backend."""

    def test_system_is_one_message_without_attribution(self) -> None:
        """System blocks are joined, less Claude Code's billing line; a later one is a reminder for local models."""
        parts = (c.Text("x-anthropic-billing-header: v"), c.Text("a", {"type": "ephemeral"}), c.Text("b"))
        body, dropped = render(
            talk(c.Message("system", parts), c.Message("user", (c.Text("hi"),)), c.Message("system", (c.Text("late"),)))
        )
        assert body["messages"] == [
            {"role": "system", "content": "a\n\nb"},
            {"role": "user", "content": "hi"},
            {"role": "user", "content": "<system-reminder>\nlate\n</system-reminder>"},
        ]
        assert dropped == ("cache_control",)

    def test_tool_results_come_before_the_user_text(self) -> None:
        """Results become tool messages, errors are marked, images move to the user message that follows."""
        image = c.Image("image/png", "QUI=")
        parts = (c.ToolResult("a", (c.Text("no"),), True), c.ToolResult("b", (image,)), c.Text("go on"))
        body, _ = render(talk(c.Message("user", parts)))
        assert body["messages"] == [
            {"role": "tool", "tool_call_id": "a", "content": "Error: no"},
            {"role": "tool", "tool_call_id": "b", "content": "[image]"},
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUI="}},
                    {"type": "text", "text": "go on"},
                ],
            },
        ]

    @pytest.mark.parametrize(("model", "sent"), [("qwen3", True), ("gpt-5", False), ("codestral", False)])
    def test_thinking_goes_only_where_it_is_known(self, model: str, sent: bool) -> None:
        """Thinking is reasoning_content for local models; signatures and redacted blocks never leave."""
        parts = (c.Thinking("hm", "sig"), c.Thinking(redacted="zz"), c.Text("ok"))
        body, dropped = render(talk(c.Message("assistant", parts)), model)
        assert sent == ("reasoning_content" in body["messages"][0])
        assert "sig" not in json.dumps(body)
        assert "thinking" in dropped

    def test_limits(self) -> None:
        """max_tokens is capped, more than four stop strings are cut and named, streams report usage."""
        body, dropped = render(talk(max_tokens=99, stop=tuple("abcde"), stream=True, top_k=4), max_output=50)
        assert (50, list("abcd"), {"include_usage": True}) == (body["max_tokens"], body["stop"], body["stream_options"])
        assert {"stop_sequences", "top_k"} == set(dropped)
        assert "max_completion_tokens" in render(talk(max_tokens=9), "gpt-5-mini")[0]

    def test_foreign_tools_are_dropped_by_name(self) -> None:
        """A server tool is dropped, and a demand to call it too; all tools foreign is refused."""
        search = c.Tool("web_search", foreign={"type": "web_search_20260318", "name": "web_search"})
        only = talk(tools=(search,), tool_choice=c.ToolChoice("tool", "web_search"))
        body, dropped = render(only)
        assert "tools" not in body
        assert "tool_choice" not in body
        assert ("tool:web_search",) == dropped == SCHEMA.refuses(only)
        assert SCHEMA.refuses(talk(tools=(search, c.Tool("f")))) == ()

    def test_round_trip(self) -> None:
        """What OpenAI's schema can say survives rendering and parsing."""
        tool = c.Tool("f", "d", {"type": "object"}, True)
        given = talk(
            c.Message("system", (c.Text("s"),)),
            c.Message("user", (c.Text("q"), c.Image(url="http://x/i.png"))),
            c.Message("assistant", (c.Text("a"), c.ToolUse("t", "f", '{"x":1.0}'))),
            c.Message("user", (c.ToolResult("t", (c.Text("r"),)),)),
            tools=(tool,),
            tool_choice=c.ToolChoice("any"),
            parallel_tools=False,
            max_tokens=5,
            stream=True,
            stream_usage=True,
            temperature=0.5,
            seed=1,
            effort="high",
            json_schema={"name": "n", "schema": {}},
        )
        assert given == SCHEMA.parse_request(SCHEMA.render_request(given, Target("claude")).body)


class TestPatch:
    """Same-schema pass-through."""

    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            (b'{ "model":"a", "x": 1.0}', b'{ "model":"t", "x": 1.0}'),
            (b'{"model":"a","stream":true}', b'{"model":"t","stream":true,"stream_options":{"include_usage":true}}'),
            (
                b'{"stream":true,"stream_options":{"k":1.50,"include_usage":false},"model":"a"}',
                b'{"stream":true,"stream_options":{"k":1.50,"include_usage":true},"model":"t"}',
            ),
            (
                b'{"stream":true,"stream_options":{ "include_usage" : true },"model":"a"}',
                b'{"stream":true,"stream_options":{ "include_usage" : true },"model":"t"}',
            ),
            (
                b'{"model":"a","stream":true,"stream_options":null}',
                b'{"model":"t","stream":true,"stream_options":{"include_usage":true}}',
            ),
        ],
    )
    def test_only_what_must_change_changes(self, body: bytes, expected: bytes) -> None:
        """The model is replaced and a stream made to report usage; no other byte moves."""
        assert expected == SCHEMA.patch_request(body, Target("t"))


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


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 200_000,
        b'{"model":"m","messages":' + b"[" * 200_000,
        b'{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[{"type":"function","function":'
        b'{"name":"f","parameters":{"a":' + b"[" * 990 + b"]" * 990 + b"}}}]}",
        b'{"model":"m","messages":[{"role":"user","content":[{"type":"x","v":'
        + b'{"a":' * 5000
        + b"}" * 5000
        + b"}]}]}",
        b'{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}',
    ],
)
def test_deep_or_broken_json_is_a_request_error(body: bytes) -> None:
    """Nesting and broken escapes raise RequestError and nothing else, while parsing or while rendering."""
    try:
        SCHEMA.render_request(SCHEMA.parse_request(body), Target("m"))
    except RequestError as exc:
        assert exc.problem.http_status == 400
