"""The Ollama chat codecs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from extproc.core import conversation as c
from extproc.core.answer import Reading, StreamAnswer
from extproc.core.errors import RequestError, UpstreamError
from extproc.core.usage import Tokens
from extproc.schemas import CLIENTS, PROVIDERS
from extproc.schemas.base import Rendered, Target
from extproc.schemas.ollama_chat import OllamaChat

SCHEMA = OllamaChat()
HI = c.Message("user", (c.Text("hi"),))
TOOL = c.Tool("f", "does f", {"type": "object", "properties": {"a": {"type": "integer"}}})
AT = "2026-11-23T10:00:00.123456Z"


def render(*messages: c.Message, model: str = "qwen3", context: int | None = None, max_output: int | None = None,
           **settings: Any) -> Rendered:
    """Render a conversation for a backend."""
    given = c.Conversation("m", messages or (HI,), **settings)
    return SCHEMA.render_request(given, Target(model, max_output, context=context))


def sent(*messages: c.Message, **settings: Any) -> dict[str, Any]:
    """The rendered body, decoded."""
    return json.loads(render(*messages, **settings).body)


def line(content: str = "", **fields: Any) -> dict[str, Any]:
    """One line of a stream."""
    message = {"role": "assistant", "content": content, **fields.pop("message", {})}
    return {"model": "qwen3", "created_at": AT, "message": message, "done": False, **fields}


def end(reason: str = "stop", **fields: Any) -> dict[str, Any]:
    """The last line."""
    return line(done=True, done_reason=reason, prompt_eval_count=7, eval_count=3, total_duration=1, **fields)


def feed(*lines: dict[str, Any]) -> list[c.Event]:
    """Run lines through the decoder and one stream parser."""
    decoder, parser = SCHEMA.stream_decoder(), SCHEMA.stream_parser()
    data = b"".join(json.dumps(one).encode() + b"\n" for one in lines)
    return [event for one in decoder.feed(data) for event in parser.feed(one)]


def call(arguments: Any, name: str = "f", **fields: Any) -> dict[str, Any]:
    """A message field with one tool call."""
    return {"tool_calls": [{"function": {"name": name, "arguments": arguments}, **fields}]}


class TestRequest:
    """A neutral conversation as Ollama takes it."""

    def test_a_plain_one(self) -> None:
        """Stream is said, output is unlimited, and an overlong prompt is to be an error."""
        assert sent() == {
            "model": "qwen3", "messages": [{"role": "user", "content": "hi"}], "stream": False,
            "options": {"num_predict": -1}, "truncate": False, "shift": False,
        }
        assert render().dropped == render().emulated == ()

    def test_options(self) -> None:
        """Limits and sampling are options under Ollama's names; the context is the backend's."""
        got = render(
            context=65536, max_output=100, max_tokens=200, temperature=0.5, top_p=0.9, top_k=40, seed=7, stop=("a", "b"),
            extras={"min_p": 0.1, "repetition_penalty": 1.1, "presence_penalty": 0.2, "frequency_penalty": 0.3,
                    "logit_bias": {"1": 2}, "store": None}, user="me", stream=True)
        assert got.fields["options"] == {
            "num_predict": 100, "num_ctx": 65536, "temperature": 0.5, "top_p": 0.9, "top_k": 40, "seed": 7,
            "stop": ("a", "b"), "min_p": 0.1, "repeat_penalty": 1.1, "presence_penalty": 0.2, "frequency_penalty": 0.3,
        }
        assert got.fields["stream"] is True
        assert got.dropped == ("logit_bias", "user")

    @pytest.mark.parametrize(
        ("model", "settings", "think", "dropped", "emulated"),
        [
            ("qwen3", {}, None, (), ()),
            ("qwen3", {"effort": "none"}, False, (), ()),
            ("qwen3", {"effort": "low"}, True, (), ()),
            ("qwen3", {"thinking": "disabled"}, False, (), ()),
            ("qwen3", {"thinking": "adaptive"}, True, (), ()),
            ("qwen3", {"thinking_budget": 1000}, True, ("thinking_budget",), ()),
            ("gpt-oss:20b", {"effort": "minimal"}, "low", (), ()),
            ("gpt-oss:20b", {"effort": "medium"}, "medium", (), ()),
            ("gpt-oss:20b", {"effort": "max"}, "high", (), ()),
            ("gpt-oss:20b", {"effort": "none"}, "low", (), ("effort",)),
            ("gpt-oss:20b", {"effort": "wild"}, None, ("effort",), ()),
        ],
    )
    def test_effort(self, model: str, settings: dict[str, Any], think: Any, dropped: Any, emulated: Any) -> None:
        """Thinking is on or off, but for gpt-oss, which has levels and cannot be silenced."""
        got = render(model=model, **settings)
        assert (got.fields.get("think"), got.dropped, got.emulated) == (think, dropped, emulated)

    def test_format(self) -> None:
        """A schema is the format itself; a JSON object is the word."""
        schema = {"type": "object"}
        assert sent(json_schema={"name": "x", "schema": schema})["format"] == schema
        assert sent(json_schema={"name": "x"})["format"] == "json"
        assert sent(json_object=True)["format"] == "json"
        assert render(json_schema={"schema": schema, "description": "d"}).dropped == ("response_format.description",)

    def test_tools(self) -> None:
        """Functions go as they are, with parameters in any case; a server tool is named as lost."""
        got = render(tools=(TOOL, c.Tool("g", strict=True, extra={"defer_loading": True}),
                            c.Tool("web_search", foreign={"type": "web_search"}, schema="anthropic")))
        assert [tool["function"]["name"] for tool in got.fields["tools"]] == ["f", "g"]
        assert got.fields["tools"][0]["function"] == {
            "name": "f", "description": "does f", "parameters": TOOL.parameters}
        assert got.fields["tools"][1]["function"]["parameters"] == {"type": "object", "properties": {}}
        assert got.dropped == ("tools.strict", "tools.defer_loading", "tool:web_search")

    @pytest.mark.parametrize(
        ("choice", "names", "dropped", "emulated"),
        [
            (c.ToolChoice("auto"), ["f", "g"], (), ()),
            (c.ToolChoice("none"), [], (), ("tool_choice",)),
            (c.ToolChoice("any"), ["f", "g"], ("tool_choice",), ()),
            (c.ToolChoice("tool", "g"), ["g"], ("tool_choice",), ()),
            (c.ToolChoice("tool", "unknown"), ["f", "g"], ("tool_choice",), ()),
            (c.ToolChoice("auto", allowed=("f",)), ["f"], (), ("tool_choice.allowed_tools",)),
        ],
    )
    def test_tool_choice(self, choice: c.ToolChoice, names: list[str], dropped: Any, emulated: Any) -> None:
        """There is no tool choice: tools are shown or not, and what cannot be forced is named as lost."""
        got = render(tools=(TOOL, c.Tool("g")), tool_choice=choice)
        assert [tool["function"]["name"] for tool in got.fields.get("tools", [])] == names
        assert (got.dropped, got.emulated) == (dropped, emulated)

    def test_a_tool_loop(self) -> None:
        """Arguments are objects with their exact values; results name their tool; thinking goes back."""
        got = render(
            HI,
            c.Message("assistant", (
                c.Thinking("hm", signature="s"), c.Text("let me"), c.ToolUse("c1", "f", '{"a": 12345678901234567890}'),
                c.ToolUse("c2", "g", ""), c.ToolUse("c3", "g", "raw"))),
            c.Message("user", (
                c.ToolResult("c1", (c.Text("r1"), c.Text("r2"))), c.ToolResult("c2", (c.Text("no"),), is_error=True),
                c.ToolResult("c9", ()), c.Text("go on"))),
        )
        assert json.loads(got.body)["messages"][1:] == [
            {"role": "assistant", "content": "let me", "thinking": "hm", "tool_calls": [
                {"id": "c1", "function": {"name": "f", "arguments": {"a": 12345678901234567890}}},
                {"id": "c2", "function": {"name": "g", "arguments": {}}},
                {"id": "c3", "function": {"name": "g", "arguments": {"text": "raw"}}}]},
            {"role": "tool", "content": "r1\nr2", "tool_call_id": "c1", "tool_name": "f"},
            {"role": "tool", "content": "Error: no", "tool_call_id": "c2", "tool_name": "g"},
            {"role": "tool", "content": "", "tool_call_id": "c9"},
            {"role": "user", "content": "go on"},
        ]
        assert got.dropped == ("thinking.signature",)
        assert got.emulated == ("tool_calls.arguments", "tool_result.is_error")

    def test_images_and_documents(self) -> None:
        """Images stand beside the text, also those of tool results; a document is its text or a placeholder."""
        got = render(c.Message("user", (
            c.ToolResult("c1", (c.Text("see"), c.Image("image/png", "AAA="))),
            c.Text("look"), c.Image("image/png", "BBB=", detail="low"),
            c.Document(text="plain"), c.Document("application/pdf", "CCC="))))
        assert got.fields["messages"] == [
            {"role": "tool", "content": "see\n[image]", "tool_call_id": "c1"},
            {"role": "user", "content": "look\n\nplain\n\n[document]", "images": ["AAA=", "BBB="]},
        ]
        assert got.dropped == ("image.detail", "document")
        assert got.emulated == ("tool_result.images", "document.text")

    def test_system_anywhere(self) -> None:
        """System messages stay where they are; the attribution line of an agent is no prompt."""
        billing = c.Text("x-anthropic-billing-header: cc_version=1", {"type": "ephemeral"})
        got = render(c.Message("system", (billing, c.Text("a"), c.Text("b"))), HI, c.Message("system", (c.Text("c"),)))
        assert [(m["role"], m["content"]) for m in got.fields["messages"]] == [
            ("system", "a\n\nb"), ("user", "hi"), ("system", "c")]
        assert got.dropped == ("cache_control",)

    def test_empty_turns(self) -> None:
        """An empty user turn stays, an assistant turn of nothing does not; what is lost is named."""
        got = render(
            c.Message("user", (c.Text(""),)), c.Message("user", (c.Foreign("input_audio", {}, "openai"),)),
            c.Message("assistant", (c.Thinking(redacted="x"),)))
        assert got.fields["messages"] == [{"role": "user", "content": ""}]
        assert got.dropped == ("foreign:input_audio", "thinking")

    def test_refusals(self) -> None:
        """What Ollama cannot say at all, also within tool results."""
        url = c.Image(url="https://example.com/x.png")
        for parts in ((url,), (c.ToolResult("c1", (url,)),)):
            given = c.Conversation("m", (c.Message("user", parts),), n=2, max_tokens=0)
            assert SCHEMA.refuses(given) == ("n", "max_tokens:0", "image:url")
        server = c.Conversation("m", (HI,), tools=(c.Tool("web", foreign={}, schema="anthropic"),))
        assert SCHEMA.refuses(server) == ("tool:web",)
        assert SCHEMA.refuses(c.Conversation("m", (HI,), tools=(TOOL,))) == ()

    def test_patch(self) -> None:
        """The model is replaced, all else keeps its bytes."""
        assert SCHEMA.patch_request(b'{"model": "a",  "x":1}', Target("b")) == b'{"model": "b",  "x":1}'
        with pytest.raises(RequestError):
            SCHEMA.patch_request(b"[]", Target("b"))


class TestAnswer:
    """Answers, whole and streamed."""

    def test_a_stream(self) -> None:
        """Thinking, text, then the counts and the reason."""
        assert feed(line(message={"thinking": "hm"}), line("He"), line("llo"), end()) == [
            c.Start("", "qwen3"), c.ThinkingDelta("hm"), c.TextDelta("He"), c.TextDelta("llo"),
            c.UsageReport(Tokens(input=7, output=3)), c.Stop("end"), c.Done()]

    def test_a_whole_answer(self) -> None:
        """One object that is all of it."""
        body = json.dumps(end("length", message={"content": "Hello", "thinking": "hm"})).encode()
        assert SCHEMA.parse_response(body) == [
            c.Start("", "qwen3"), c.ThinkingDelta("hm"), c.TextDelta("Hello"),
            c.UsageReport(Tokens(input=7, output=3)), c.Stop("length"), c.Done()]

    def test_calls(self) -> None:
        """Arguments become JSON text byte for byte; calls without an id get one that no other turn has."""
        data = (b'{"created_at":"2026-11-23T10:00:00.5Z","message":{"tool_calls":[{"function":{"name":"f","arguments":'
                b'{"a": 1.0, "b":12345678901234567890}}},{"id":"own","function":{"index":1,"name":"g","arguments":{}}}]}}')
        stream = SCHEMA.stream_decoder().feed(data + b"\n")
        parser = SCHEMA.stream_parser()
        events = list(parser.feed(stream[0]))
        assert events[1:] == [
            c.ToolStart(0, "call_202611231000005_0", "f"), c.ToolDelta(0, '{"a": 1.0, "b":12345678901234567890}'),
            c.ToolStart(1, "own", "g"), c.ToolDelta(1, "{}")]
        assert c.Stop("tool_use") in parser.feed(SCHEMA.stream_decoder().feed(json.dumps(end()).encode() + b"\n")[0])

    @pytest.mark.parametrize(("given", "expected"), [('{"a":1}', '{"a":1}'), (None, "{}"), ({}, "{}")])
    def test_arguments_of_other_forms(self, given: Any, expected: str) -> None:
        """Text that holds the object is opened; none at all is an empty one."""
        events = feed(line(message=call(given)))
        assert events[2] == c.ToolDelta(0, expected)

    def test_calls_in_the_last_line(self) -> None:
        """What stands in the last line counts, and the reason is the call."""
        events = feed(end(message=call({})))
        assert [type(event).__name__ for event in events] == [
            "Start", "ToolStart", "ToolDelta", "UsageReport", "Stop", "Done"]
        assert events[4] == c.Stop("tool_use")

    @pytest.mark.parametrize(
        ("counts", "tokens"),
        [
            ({}, Tokens()),
            ({"prompt_eval_count": 0, "eval_count": 5}, Tokens(output=5)),
            ({"prompt_eval_count": -1, "eval_count": "many"}, Tokens()),
            ({"prompt_eval_count": True, "eval_count": 0}, Tokens(output=0)),
        ],
    )
    def test_counts(self, counts: dict[str, Any], tokens: Tokens) -> None:
        """A prompt of no tokens is an unknown one; nonsense is unknown."""
        last = {**line(), "done": True, **counts}
        assert c.UsageReport(tokens) in feed(last)

    @pytest.mark.parametrize("reason", ["load", "unload"])
    def test_loading_is_no_answer(self, reason: str) -> None:
        """A model that was only loaded has not answered: another backend may."""
        (failure,) = feed(end(reason))
        assert isinstance(failure, c.Failure)
        assert (failure.kind, failure.status) == ("unavailable", 503)

    def test_an_error_in_the_middle(self) -> None:
        """An error line ends the stream as a failure; so does one in place of a whole answer."""
        events = feed(line("He"), {"error": "model runner has unexpectedly stopped"})
        assert isinstance(events[-1], c.Failure)
        assert events[-1].message == "model runner has unexpectedly stopped"
        (whole,) = SCHEMA.parse_response(b'{"error":"unexpected"}')
        assert isinstance(whole, c.Failure)

    @pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b"\xff", b'{"message":3}', b'{"message":{},"done":1}',
                                      b'{"message":{"tool_calls":[{}]}}', b"<html>", b'{"error":'])
    def test_nonsense(self, body: bytes) -> None:
        """What is no answer is the provider's fault, whole or streamed."""
        with pytest.raises(UpstreamError):
            SCHEMA.parse_response(body)
        if body:
            with pytest.raises(UpstreamError):
                SCHEMA.stream_parser().feed(SCHEMA.stream_decoder().feed(body + b"\n")[0])

    def test_an_unfinished_whole_answer(self) -> None:
        """An answer that is not done is none."""
        with pytest.raises(UpstreamError, match="not complete"):
            SCHEMA.parse_response(json.dumps(line("He")).encode())

    @pytest.mark.parametrize(
        ("status", "body", "kind", "shown"),
        [
            (404, {"error": "model 'x' not found"}, "not_found", 404),
            (400, {"error": '"llama3" does not support thinking'}, "invalid_request", 400),
            (503, {"error": "server busy, please try again.  maximum pending requests exceeded"}, "upstream", 503),
            (400, {"error": json.dumps({"error": {"code": 400, "type": "exceed_context_size_error",
                                                  "message": "too large", "n_ctx": 4096}})}, "context_length", 400),
        ],
    )
    def test_errors(self, status: int, body: dict[str, Any], kind: str, shown: int) -> None:
        """The error is a string; llama.cpp's own may stand within it."""
        problem = SCHEMA.parse_error(status, json.dumps(body).encode())
        assert (problem.kind, problem.http_status) == (kind, shown)

    def test_every_line_is_read(self) -> None:
        """No line passes unread."""
        assert SCHEMA.usage_in_event(SCHEMA.stream_decoder().feed(b"{}\n")[0])


@pytest.mark.parametrize("client", ["openai", "anthropic"])
@pytest.mark.parametrize("cut", [1, 17, 10**6])
def test_for_a_client_of_another_schema(client: str, cut: int) -> None:
    """A stream of lines, cut anywhere and without its last line break, becomes the client's own, whole."""
    how = Reading(CLIENTS[client], PROVIDERS["ollama"], "m", 1, "id", include_usage=True)
    answer = StreamAnswer(how)
    lines = [line("He"), line("llo"), line(message=call({"a": 1})), end()]
    data = "\n".join(map(json.dumps, lines)).encode()
    out = b"".join(answer.feed(data[i : i + cut]) for i in range(0, len(data), cut)) + answer.close()
    assert answer.learnt.done
    assert answer.learnt.tokens == Tokens(input=7, output=3)
    assert b"He" in out
    assert (b'"finish_reason":"tool_calls"' if client == "openai" else b'"stop_reason":"tool_use"') in out
    assert out.endswith(b"data: [DONE]\n\n" if client == "openai" else b'data: {"type":"message_stop"}\n\n')
