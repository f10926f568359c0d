"""The OpenAI Responses codecs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import httpx2
import msgspec
import openai
import pytest

from extproc.core import conversation as c
from extproc.core.errors import Problem, RequestError, UpstreamError
from extproc.core.usage import Tokens
from extproc.schemas import SCHEMAS
from extproc.schemas._responses_thoughts import SEAL, seal
from extproc.schemas.base import Target
from extproc.schemas.openai_responses import OpenAIResponses
from extproc.wire.sse import ServerSentEvent, SseDecoder
from tests import recordings

DATA = Path(__file__).parent.parent / "data" / "responses"
RECORDED = sorted((DATA / "recorded").glob("*.json"))
CAPTURES = sorted((DATA / "captures").glob("*.json"))
SCHEMA = OpenAIResponses()
USER: dict[str, Any] = {"role": "user", "content": "hi"}
CALL: dict[str, Any] = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'}


def parse(*items: Any, **fields: Any) -> c.Conversation:
    """Parse a request with these items (a greeting when there are none) and fields."""
    return SCHEMA.parse_request(json.dumps({"model": "m", "input": list(items) or [USER], **fields}).encode())


def render(conversation: c.Conversation, **target: Any) -> tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]:
    """Render for a backend: the body decoded, what was dropped and what was emulated."""
    rendered = SCHEMA.render_request(conversation, Target("gpt", **target))
    return json.loads(rendered.body), rendered.dropped, rendered.emulated


def talk(*messages: c.Message, **fields: Any) -> c.Conversation:
    """A neutral conversation."""
    return c.Conversation("claude", messages or (c.Message("user", (c.Text("hi"),)),), **fields)


def read(stream: bytes) -> list[dict[str, Any]]:
    """The data of a stream's events; each event's name is its type, and the numbers rise by one."""
    events = SseDecoder().feed(stream)
    data = [json.loads(event.data) for event in events]
    assert [event.event.decode() for event in events] == [one["type"] for one in data]
    assert [one["sequence_number"] for one in data] == list(range(len(data)))
    return data


def stream(*events: c.Event) -> bytes:
    """Stream an answer; it begins and ends by itself."""
    renderer = SCHEMA.stream_renderer(model="m", created=7, fallback_id="rid", include_usage=False)
    return b"".join(renderer.feed(event) for event in (c.Start("resp_1", "x"), *events, c.Done()))


def feed(*wire: dict[str, Any] | str) -> list[c.Event]:
    """Run events through one stream parser."""
    parser, events = SCHEMA.stream_parser(), []
    for one in wire:
        data = (one if isinstance(one, str) else json.dumps(one)).encode()
        events += parser.feed(ServerSentEvent(b"", data, b"data: " + data + b"\n\n"))
    return events


def parsed(body: bytes) -> list[c.Event]:
    """Run a stream's bytes through one stream parser."""
    parser = SCHEMA.stream_parser()
    return [event for raw in SseDecoder().feed(body) for event in parser.feed(raw)]


def merged(events: list[c.Event]) -> list[c.Event]:
    """The events with neighbouring deltas joined, without the start, and with unknown token details as zero."""
    out: list[c.Event] = []
    for event in events:
        last = out[-1] if out else None
        match event, last:
            case c.TextDelta(), c.TextDelta():
                out[-1] = c.TextDelta(last.text + event.text)
            case c.ThinkingDelta(text=text), c.ThinkingDelta(signature=None, encrypted=None, redacted=None) if text:
                out[-1] = c.ThinkingDelta(last.text + text)
            case c.ToolDelta(), c.ToolDelta() if event.index == last.index:
                out[-1] = c.ToolDelta(event.index, last.arguments + event.arguments)
            case c.UsageReport(), _:
                out.append(c.UsageReport(Tokens(*[count or 0 for count in msgspec.structs.astuple(event.tokens)])))
            case c.Start(), _:
                pass
            case _:
                out.append(event)
    return out


class TestParseRequest:
    """A client's request."""

    def test_text_input_and_instructions(self) -> None:
        """A text is one user message, instructions are a leading system message."""
        got = SCHEMA.parse_request(b'{"model": "m", "input": "hi", "instructions": "be brief", "stream": true}')
        assert (c.Message("system", (c.Text("be brief"),)), c.Message("user", (c.Text("hi"),))) == got.messages
        assert got.stream
        assert got.demands + got.unmapped == ()

    def test_developer_stays_at_its_place(self) -> None:
        """Developer and system messages are system wherever they stand."""
        got = parse({"role": "developer", "content": "a"}, USER, {"type": "message", "role": "system", "content": "b"})
        assert [message.role for message in got.messages] == ["system", "user", "system"]

    def test_assistant_items_merge(self) -> None:
        """Reasoning, text and parallel calls in a row are one assistant message; their outputs one user message."""
        got = parse(
            USER,
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "a"},
                                                            {"type": "summary_text", "text": "b"}],
             "encrypted_content": "gAAA"},
            {"type": "message", "role": "assistant", "content": [
                {"type": "output_text", "text": "x", "annotations": []}, {"type": "refusal", "refusal": "no"}]},
            CALL,
            {"type": "custom_tool_call", "call_id": "c2", "name": "apply_patch", "input": "*** raw", "namespace": "ns"},
            {"type": "function_call_output", "call_id": "c1", "output": "r1"},
            {"type": "custom_tool_call_output", "call_id": "c2", "output": [
                {"type": "input_text", "text": "r2"},
                {"type": "input_image", "image_url": "data:image/png;base64,QUJD", "detail": "high"}]},
            USER,
        )
        assert got.messages[1:3] == (
            c.Message("assistant", (
                c.Thinking("a\n\nb", encrypted="gAAA", id="rs_1"), c.Text("x"), c.Text("no"),
                c.ToolUse("c1", "f", '{"a": 1}'),
                c.ToolUse("c2", "apply_patch", "*** raw", kind="custom", namespace="ns"))),
            c.Message("user", (
                c.ToolResult("c1", (c.Text("r1"),)),
                c.ToolResult("c2", (c.Text("r2"), c.Image("image/png", "QUJD", detail="high"))))),
        )
        assert len(got.messages) == 4

    def test_raw_reasoning_text(self) -> None:
        """Without a summary the reasoning text is the thought."""
        got = parse(USER, {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "raw"}]})
        assert (c.Thinking("raw"),) == got.messages[1].parts

    def test_files(self) -> None:
        """Files come as data, as an address, or stay OpenAI's when they only have an id there."""
        got = parse({"role": "user", "content": [
            {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,QUJD"},
            {"type": "input_file", "file_url": "http://x/a.pdf"},
            {"type": "input_image", "image_url": "http://x/a.png", "detail": "auto"},
            {"type": "input_image", "file_id": "file-1", "detail": "auto"}]})
        assert (
            c.Document("application/pdf", "QUJD", name="a.pdf"), c.Document(url="http://x/a.pdf"),
            c.Image(url="http://x/a.png"),
        ) == got.messages[0].parts[:3]
        assert isinstance(got.messages[0].parts[3], c.Foreign)
        assert got.demands == ("input_image.file_id",)

    def test_unknown_items_are_foreign(self) -> None:
        """An item that only OpenAI knows stays as it is, on the side it came from."""
        call = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}}
        output = {"type": "tool_search_output", "call_id": "t", "tools": [{"type": "function", "name": "late"}]}
        got = parse(USER, call, output)
        assert c.Message("assistant", (c.Foreign("web_search_call", call, "responses"),)) == got.messages[1]
        assert c.Message("user", (c.Foreign("tool_search_output", output, "responses"),)) == got.messages[2]
        assert [c.Tool("late")] == list(got.tools)
        assert got.demands == ()

    @pytest.mark.parametrize(
        ("fields", "demand"),
        [
            ({"previous_response_id": "resp_1"}, "previous_response_id"),
            ({"conversation": "conv_1"}, "conversation"),
            ({"background": True}, "background"),
            ({"prompt": {"id": "pmpt_1"}}, "prompt"),
            ({"truncation": "auto"}, "truncation"),
            ({"moderation": {"model": "omni"}}, "moderation"),
            ({"tools": [{"type": "mcp", "server_label": "s"}]}, "tool:mcp"),
            ({"tools": [{"type": "shell", "environment": {"type": "container_auto"}}]}, "tool:shell"),
            ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "item_reference"),
            ({"input": [{"type": "compaction", "encrypted_content": "x"}]}, "compaction"),
        ],
    )
    def test_demands(self, fields: dict[str, Any], demand: str) -> None:
        """What needs OpenAI's state or servers is demanded, so that no other backend gets the request."""
        assert (demand,) == parse(**fields).demands

    def test_harmless_values_demand_nothing(self) -> None:
        """The defaults of those fields, spelt out, ask for nothing."""
        got = parse(truncation="disabled", background=False, previous_response_id=None, store=False,
                    include=["reasoning.encrypted_content"])
        assert (got.demands, got.unmapped) == ((), ())

    def test_input_may_be_absent_with_state_only(self) -> None:
        """No input at all is an error unless OpenAI has the conversation."""
        assert SCHEMA.parse_request(b'{"model": "m", "previous_response_id": "r"}').messages == ()
        with pytest.raises(RequestError, match=r"input: expected"):
            SCHEMA.parse_request(b'{"model": "m"}')

    def test_tools(self) -> None:
        """Functions, custom tools, namespaces, served tools and tools that items bring are all in one list."""
        grammar = {"type": "grammar", "syntax": "lark", "definition": "start: /a/"}
        got = parse(
            {"type": "additional_tools", "role": "developer", "tools": [{"type": "function", "name": "more"},
                                                                        {"type": "function", "name": "f"}]},
            USER,
            tools=[
                {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": False,
                 "defer_loading": True},
                {"type": "custom", "name": "patch", "format": grammar},
                {"type": "namespace", "name": "agents", "description": "about", "tools": [
                    {"type": "function", "name": "spawn", "parameters": None}, {"type": "custom", "name": "say"}]},
                {"type": "web_search", "external_web_access": True},
            ],
        )
        assert (
            c.Tool("f", "d", {"type": "object"}, False, extra={"defer_loading": True}, schema="responses"),
            c.Tool("patch", kind="custom", format=grammar),
            c.Tool("spawn", namespace="agents", extra={"namespace_description": "about"}, schema="responses"),
            c.Tool("say", kind="custom", namespace="agents"),
            c.Tool("web_search", foreign={"type": "web_search", "external_web_access": True}, schema="responses"),
            c.Tool("more"),
        ) == got.tools
        assert got.demands == ()

    @pytest.mark.parametrize(
        ("choice", "expected"),
        [
            ("auto", c.ToolChoice("auto")),
            ("none", c.ToolChoice("none")),
            ("required", c.ToolChoice("any")),
            ({"type": "function", "name": "f"}, c.ToolChoice("tool", "f")),
            ({"type": "custom", "name": "p"}, c.ToolChoice("tool", "p")),
            ({"type": "shell"}, c.ToolChoice("tool", "shell")),
            ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"},
                                                                     {"type": "web_search"}]},
             c.ToolChoice("any", allowed=("f", "web_search"))),
        ],
    )
    def test_tool_choice(self, choice: Any, expected: c.ToolChoice) -> None:
        """Every form of tool choice has its neutral form, and finds its way back."""
        tools = [{"type": "function", "name": "f", "parameters": None, "strict": False}, {"type": "custom", "name": "p"},
                 {"type": "shell"}, {"type": "web_search"}]
        got = parse(tool_choice=choice, tools=tools)
        assert expected == got.tool_choice
        assert choice == render(got)[0]["tool_choice"]

    def test_settings(self) -> None:
        """Every setting that the model knows is carried, and comes back."""
        fields = {
            "max_output_tokens": 900, "temperature": 0.5, "top_p": 0.9, "parallel_tool_calls": False,
            "tools": [{"type": "function", "name": "f", "parameters": {}, "strict": True}],
            "reasoning": {"effort": "high", "summary": "auto"}, "user": "u", "metadata": {"k": "v"},
            "service_tier": "flex", "prompt_cache_key": "key", "prompt_cache_retention": "24h", "safety_identifier": "s",
            "store": True, "top_logprobs": 3, "stream": True,
            "include": ["message.output_text.logprobs", "reasoning.encrypted_content"],
            "text": {"verbosity": "low", "format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True}},
        }
        got = parse(**fields)
        assert got.extras == {
            "metadata": {"k": "v"}, "service_tier": "flex", "prompt_cache_key": "key", "prompt_cache_retention": "24h",
            "safety_identifier": "s", "top_logprobs": 3, "verbosity": "low", "logprobs": True, "store": True,
        }
        assert set(got.extras) <= c.EXTRAS
        assert (
            got.effort, got.thinking_display, got.max_tokens, got.parallel_tools) == ("high", "summarized", 900, False)
        body, dropped, _ = render(got)
        assert fields == {name: body[name] for name in fields}
        assert dropped == ()

    def test_what_is_not_carried_is_named(self) -> None:
        """Unknown fields and values, phases and annotations are named, so that the client can be told."""
        got = parse(
            {"role": "assistant", "phase": "commentary", "content": [
                {"type": "output_text", "text": "x", "annotations": [{"type": "url_citation"}]}]},
            client_metadata={"a": "b"}, max_tool_calls=3, include=["file_search_call.results"],
            reasoning={"context": "all_turns"})
        assert {"client_metadata", "max_tool_calls", "include.file_search_call.results", "reasoning.context", "phase",
                "annotations"} == set(got.unmapped)

    @pytest.mark.parametrize(
        ("fields", "path"),
        [
            ({"model": ""}, "model"),
            ({"input": 5}, "input"),
            ({"input": []}, "input"),
            ({"input": [{"content": "x"}]}, "input[0].type"),
            ({"input": [{"role": "critic", "content": "x"}]}, "input[0].role"),
            ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
            ({"input": [{"role": "user", "content": {"a": 1}}]}, "input[0].content"),
            ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
            ({"input": [{"type": "function_call", "name": "f", "call_id": "c"}]}, "input[0].arguments"),
            ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
            ({"input": [{"type": "shell_call", "call_id": "c"}]}, "input[0]"),
            ({"tools": [{"name": "f"}]}, "tools[0].type"),
            ({"tools": [{"type": "function"}]}, "tools[0].name"),
            ({"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "function"}]}]},
             "tools[0].tools[0].name"),
            ({"tool_choice": "maybe"}, "tool_choice"),
            ({"max_output_tokens": -1}, "max_output_tokens"),
            ({"text": {"format": 3}}, "text.format"),
        ],
    )
    def test_wrong_fields_are_named(self, fields: dict[str, Any], path: str) -> None:
        """A wrong field is a RequestError that names it."""
        with pytest.raises(RequestError) as caught:
            parse(**fields)
        assert path == caught.value.problem.param


class TestBuiltinTools:
    """Tools of OpenAI that the client runs itself."""

    ITEMS = (
        ("local_shell", {"type": "local_shell_call", "call_id": "c1", "status": "completed",
                         "action": {"type": "exec", "env": {}, "command": ["ls"], "timeout_ms": 5}},
         {"type": "local_shell_call_output", "id": "c1", "output": "ok"}),
        ("shell", {"type": "shell_call", "call_id": "c1", "status": "completed", "action": {"commands": ["ls", "pwd"]}},
         {"type": "shell_call_output", "call_id": "c1", "output": [
             {"stdout": "a", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}]}),
        ("apply_patch", {"type": "apply_patch_call", "call_id": "c1", "status": "completed",
                         "operation": {"type": "update_file", "path": "a.py", "diff": "@@\n-a\n+b"}},
         {"type": "apply_patch_call_output", "call_id": "c1", "status": "failed", "output": "no such file"}),
    )

    @pytest.mark.parametrize(("name", "call", "output"), ITEMS, ids=[name for name, _, _ in ITEMS])
    def test_history_there_and_back(self, name: str, call: dict[str, Any], output: dict[str, Any]) -> None:
        """The tool is a function any model can call; call and output are a plain call and result, and come back."""
        got = parse(USER, call, output, tools=[{"type": name}])
        (tool,) = got.tools
        assert (name, "function", "builtin", "object") == (tool.name, tool.kind, tool.namespace, tool.parameters["type"])
        (use,), (result,) = got.messages[1].parts, got.messages[2].parts
        assert isinstance(use, c.ToolUse)
        assert isinstance(result, c.ToolResult)
        assert ("c1", name, "builtin") == (use.id, use.name, use.namespace)
        assert (name == "apply_patch") == result.is_error
        body = render(got)[0]
        assert [call, output] == body["input"][1:]
        assert [{"type": name}] == body["tools"]

    @pytest.mark.parametrize(("name", "call", "output"), ITEMS, ids=[name for name, _, _ in ITEMS])
    def test_call_becomes_the_clients_item(self, name: str, call: dict[str, Any], output: dict[str, Any]) -> None:
        """A model's call of the function reaches the client as the item of the tool it offered."""
        arguments = {k: v for k, v in (call.get("action") or call["operation"]).items() if name != "local_shell" or k != "type"}
        text = json.dumps(arguments)
        events = read(stream(c.ToolStart(0, "c1", name, namespace="builtin"), c.ToolDelta(0, text[:5]),
                             c.ToolDelta(0, text[5:])))
        done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
        prefix = {"local_shell": "lsh", "shell": "sh", "apply_patch": "apc"}[name]
        assert [{"id": f"{prefix}_1_0", **call}] == done
        assert done == events[-1]["response"]["output"]
        assert [e["type"] for e in events[2:-1]] == ["response.output_item.added", "response.output_item.done"]
        again = SCHEMA.parse_response(json.dumps(events[-1]["response"]).encode())
        assert c.ToolStart(0, "c1", name, namespace="builtin") == again[1]
        assert arguments == json.loads(again[2].arguments)  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        ("name", "arguments", "expected"),
        [
            ("local_shell", {"command": "ls -l"}, {"action": {"type": "exec", "command": ["bash", "-lc", "ls -l"], "env": {}}}),
            ("shell", {"commands": "ls -l"}, {"action": {"commands": ["ls -l"]}}),
            ("apply_patch", {"nonsense": 1}, {"type": "function_call", "arguments": '{"nonsense": 1}'}),
        ],
    )
    def test_sloppy_arguments(self, name: str, arguments: dict[str, Any], expected: dict[str, Any]) -> None:
        """A command given as one text is mended; what cannot be understood stays a function call."""
        events = read(stream(c.ToolStart(0, "c1", name, namespace="builtin"), c.ToolDelta(0, json.dumps(arguments))))
        (item,) = events[-1]["response"]["output"]
        assert expected == {key: item[key] for key in expected}


class TestRenderRequest:
    """A request for a backend."""

    def test_turns(self) -> None:
        """System, turns, calls and results become instructions and items."""
        body, dropped, _ = render(talk(
            c.Message("system", (c.Text("be brief"),)),
            c.Message("user", (c.Text("hi"), c.Image("image/png", "QUJD"))),
            c.Message("assistant", (c.Thinking("t", encrypted="gA", id="rs_1"), c.Text("a"),
                                    c.ToolUse("c1", "f", ""), c.ToolUse("c2", "p", "raw", kind="custom"))),
            c.Message("user", (c.ToolResult("c1", (c.Text("r"),), is_error=True),
                               c.ToolResult("c2", (c.Text("r"), c.Image(url="http://x"))), c.Text("go on"))),
            c.Message("system", (c.Text("late"),)),
        ))
        assert body["instructions"] == "be brief"
        assert body["input"] == [
            {"role": "user", "content": [
                {"type": "input_text", "text": "hi"},
                {"type": "input_image", "image_url": "data:image/png;base64,QUJD", "detail": "auto"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "t"}],
             "encrypted_content": "gA"},
            {"role": "assistant", "content": "a"},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "custom_tool_call", "call_id": "c2", "name": "p", "input": "raw"},
            {"type": "function_call_output", "call_id": "c1", "output": "Error: r"},
            {"type": "custom_tool_call_output", "call_id": "c2", "output": [
                {"type": "input_text", "text": "r"}, {"type": "input_image", "image_url": "http://x", "detail": "auto"}]},
            {"role": "user", "content": "go on"},
            {"role": "developer", "content": "late"},
        ]
        assert dropped == ()
        assert body["store"] is False

    def test_system_alone_is_input(self) -> None:
        """A request of system text only still has an input."""
        body, _, _ = render(talk(c.Message("system", (c.Text("s"),))))
        assert body["input"] == [{"role": "developer", "content": "s"}]
        assert "instructions" not in body

    def test_attribution_is_left_out(self) -> None:
        """The line that is meant for Anthropic does not become prompt."""
        system = c.Message("system", (c.Text("x-anthropic-billing-header: a"), c.Text("s")))
        assert render(talk(system, c.Message("user", (c.Text("hi"),))))[0]["instructions"] == "s"

    def test_documents(self) -> None:
        """Files go as data or by their address; plain text as text."""
        body, _, emulated = render(talk(c.Message("user", (
            c.Document("application/pdf", "QUJD"), c.Document(url="http://x/a.pdf", name="a.pdf"),
            c.Document(text="plain")))))
        assert body["input"][0]["content"] == [
            {"type": "input_file", "filename": "document.pdf", "file_data": "data:application/pdf;base64,QUJD"},
            {"type": "input_file", "file_url": "http://x/a.pdf", "filename": "a.pdf"},
            {"type": "input_text", "text": "plain"},
        ]
        assert emulated == ("document.text",)

    def test_what_is_lost_is_named(self) -> None:
        """Settings and parts that the schema has no word for are named."""
        _, dropped, _ = render(talk(
            c.Message("user", (c.Text("hi", cache={"type": "ephemeral"}), c.Foreign("search_result", {}, "anthropic"))),
            c.Message("assistant", (c.Thinking("t", "sig"), c.Text("a"))),
            stop=("x",), seed=1, top_k=3, thinking_budget=9, effort="odd", user="u" * 65,
            extras={"logit_bias": {}, "min_p": 0.1},
            tools=(c.Tool("f"), c.Tool("web_search", foreign={"type": "web_search_20250305"}, schema="anthropic")),
        ))
        assert {"cache_control", "foreign:search_result", "thinking", "stop", "seed", "top_k",
                "thinking_budget", "effort", "user", "logit_bias", "min_p", "tool:web_search"} == set(dropped)

    def test_reasoning_settings(self) -> None:
        """Thinking of other schemas asks for a summary and for reasoning to bring back; disabled is effort none."""
        assert render(talk(thinking="adaptive"))[0]["reasoning"] == {"summary": "auto"}
        body, _, _ = render(talk(effort="low", thinking="adaptive", thinking_display="omitted"))
        assert (body["reasoning"], body["include"]) == ({"effort": "low"}, ["reasoning.encrypted_content"])
        body, _, _ = render(talk(thinking="disabled"))
        assert body["reasoning"] == {"effort": "none"}
        assert "include" not in body
        assert "reasoning" not in render(talk())[0]

    def test_output_limit(self) -> None:
        """The limit fits the backend; OpenAI takes none below 16."""
        assert render(talk(max_tokens=900), max_output=100)[0]["max_output_tokens"] == 100
        body, _, emulated = render(talk(max_tokens=1))
        assert (body["max_output_tokens"], emulated) == (16, ("max_tokens",))

    def test_namespaces(self) -> None:
        """Tools of a namespace are one tool of that name, with the description it came with."""
        tools = [{"type": "namespace", "name": "n", "description": "about", "tools": [
            {"type": "function", "name": "a", "description": "d", "parameters": {}, "strict": False},
            {"type": "custom", "name": "b"}]}, {"type": "custom", "name": "c", "format": {"type": "text"}}]
        assert tools == render(parse(tools=tools))[0]["tools"]

    def test_refuses(self) -> None:
        """Several choices and foreign tools alone cannot be said; a mixture can."""
        own, other = c.Tool("f"), c.Tool("bash", foreign={"type": "bash"}, schema="anthropic")
        assert SCHEMA.refuses(talk(n=2, tools=(other,))) == ("n", "tool:bash")
        assert SCHEMA.refuses(talk(tools=(other, own))) == ()
        assert SCHEMA.refuses(talk(max_tokens=0)) == ("max_tokens:0",)

    def test_patch_changes_the_model_only(self) -> None:
        """Between equal schemas everything but the model keeps its bytes."""
        body = b'{ "model" : "a", "input":"hi" , "odd":1.10}'
        assert SCHEMA.patch_request(body, Target("gpt")) == b'{ "model" : "gpt", "input":"hi" , "odd":1.10}'

    def test_patch_leaves_out_sealed_reasoning(self) -> None:
        """Reasoning that another provider made is no use to a Responses backend, which would refuse the request."""
        own = '{"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":"gAAA"}'
        theirs = '{{"type":"reasoning","id":"rs_2","summary":[],"encrypted_content":"{}"}}'.format(seal(signature="s"))
        quoting = f'{{"role":"user",  "content":"what is {SEAL}?"}}'
        body = f'{{"model":"a","input":[{quoting}, {theirs}, {own}]}}'.encode()
        assert f'{{"model":"gpt","input":[{quoting},{own}]}}'.encode() == SCHEMA.patch_request(body, Target("gpt"))
        quoted = f'{{"model":"a","input":[{quoting}, {own}]}}'.encode()
        assert quoted.replace(b'"a"', b'"gpt"') == SCHEMA.patch_request(quoted, Target("gpt"))

    @pytest.mark.parametrize("given", ['{"a":"%s"}', '["%s"]'])
    def test_patch_of_odd_input(self, given: str) -> None:
        """An input that holds a seal in a place of no sense is refused, not an exception."""
        with pytest.raises(RequestError, match="input"):
            SCHEMA.patch_request(f'{{"model":"a","input":{given % SEAL}}}'.encode(), Target("gpt"))


class TestThoughts:
    """Reasoning of other providers, kept by a client that has no state."""

    @pytest.mark.parametrize(
        ("events", "part"),
        [
            ([c.ThinkingDelta("a\n"), c.ThinkingDelta("b"), c.ThinkingDelta(signature="sig=")],
             c.Thinking("a\nb", signature="sig=")),
            ([c.ThinkingDelta(signature="only")], c.Thinking(signature="only")),
            ([c.ThinkingDelta(redacted="blob")], c.Thinking(redacted="blob")),
            ([c.ThinkingDelta("plain")], c.Thinking("plain")),
            ([c.ThinkingDelta(encrypted="gA", id="rs_9")], c.Thinking(encrypted="gA", id="rs_9")),
            ([c.ThinkingDelta("t"), c.ThinkingDelta(encrypted="gA", id="rs_9")],
             c.Thinking("t", encrypted="gA", id="rs_9")),
        ],
    )
    def test_survives_a_turn(self, events: list[c.Event], part: c.Thinking) -> None:
        """What the client sends back of an answer is the very thought, with its signature."""
        *_, last = read(stream(*events, c.TextDelta("x")))
        output = last["response"]["output"]
        assert (part, c.Text("x")) == parse(USER, *output).messages[1].parts
        without_ids = [{key: value for key, value in item.items() if key != "id"} for item in output]
        if part.id is None:
            assert (part, c.Text("x")) == parse(USER, *without_ids).messages[1].parts

    def test_openai_keeps_its_own_form(self) -> None:
        """Content that OpenAI encrypted goes out under the id it was made for, unsealed."""
        (item,) = read(stream(c.ThinkingDelta(encrypted="gA", id="rs_9")))[-1]["response"]["output"]
        assert (item["id"], item["encrypted_content"], item["summary"]) == ("rs_9", "gA", [])

    @pytest.mark.parametrize("content", [SEAL, SEAL + "!!", SEAL + "bm8", SEAL + "WzFd", SEAL + "\u00e9"])
    def test_broken_seals(self, content: str) -> None:
        """A seal that cannot be read is no error: the text alone is left."""
        item = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "t"}], "encrypted_content": content}
        assert (c.Thinking("t"),) == parse(USER, item).messages[1].parts


class TestStreamRenderer:
    """Streams for clients."""

    def test_text(self) -> None:
        """The events of a text, each with all its fields."""
        data = read(stream(c.TextDelta("Hel"), c.TextDelta("lo"), c.UsageReport(Tokens(input=3, output=2)), c.Stop("end")))
        assert [event["type"] for event in data] == [
            "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
            "response.output_text.delta", "response.output_text.delta", "response.output_text.done",
            "response.content_part.done", "response.output_item.done", "response.completed",
        ]
        part = {"type": "output_text", "annotations": [], "logprobs": [], "text": "Hello"}
        place = {"item_id": "msg_1_0", "output_index": 0, "content_index": 0}
        assert {"type": "response.output_text.delta", **place, "logprobs": [], "delta": "Hel", "sequence_number": 4} == data[4]
        assert {"type": "response.output_text.done", **place, "logprobs": [], "text": "Hello", "sequence_number": 6} == data[6]
        assert part == data[7]["part"]
        item = {"id": "msg_1_0", "type": "message", "status": "completed", "role": "assistant", "content": [part]}
        assert item == data[8]["item"]
        response = data[9]["response"]
        assert ("resp_1", "completed", "m", 7, [item]) == tuple(
            response[key] for key in ("id", "status", "model", "created_at", "output"))
        assert response["usage"] == {
            "input_tokens": 3, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0}, "output_tokens": 2,
            "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 5}

    def test_calls(self) -> None:
        """Function and custom calls with their own delta and done events, in their namespaces."""
        data = read(stream(
            c.ToolStart(0, "c1", "f", namespace="ns"), c.ToolDelta(0, '{"a":'), c.ToolDelta(0, "1}"),
            c.ToolStart(1, "c2", "p", "custom"), c.ToolDelta(1, "raw"), c.Stop("tool_use")))
        assert [event["type"] for event in data[2:-1]] == [
            "response.output_item.added", "response.function_call_arguments.delta",
            "response.function_call_arguments.delta", "response.function_call_arguments.done",
            "response.output_item.done", "response.output_item.added", "response.custom_tool_call_input.delta",
            "response.custom_tool_call_input.done", "response.output_item.done",
        ]
        assert data[2]["item"] == {"id": "fc_1_0", "type": "function_call", "status": "in_progress", "arguments": "", "call_id": "c1",
                "name": "f", "namespace": "ns"}
        assert '{"a":1}' == data[5]["arguments"] == data[6]["item"]["arguments"]
        assert "raw" == data[9]["input"] == data[10]["item"]["input"]
        assert [event["output_index"] for event in data[2:-1]] == [0] * 5 + [1] * 4

    def test_interleaved_calls_wait(self) -> None:
        """Items never overlap: a call's deltas wait until the item before is complete."""
        data = read(stream(
            c.ToolStart(0, "a", "f"), c.ToolStart(1, "b", "g"), c.ToolDelta(1, '{"x'), c.ToolDelta(0, '{"y"'),
            c.ToolDelta(1, '":1}'), c.ToolDelta(0, ":2}"), c.TextDelta("end")))
        indices = [event["output_index"] for event in data if "output_index" in event]
        assert sorted(indices) == indices
        assert [item["arguments"] for item in data[-1]["response"]["output"][:2]] == ['{"y":2}', '{"x":1}']
        assert data[-1]["response"]["output"][2]["content"][0]["text"] == "end"

    def test_call_without_arguments(self) -> None:
        """A call of no arguments has an empty object."""
        assert read(stream(c.ToolStart(0, "a", "f")))[-1]["response"]["output"][0]["arguments"] == "{}"

    def test_reasoning(self) -> None:
        """A thought is a reasoning item with one summary part; a redacted one has no part."""
        data = read(stream(c.ThinkingDelta("hm"), c.ThinkingDelta(signature="s"), c.ThinkingDelta(redacted="r")))
        assert [event["type"] for event in data[2:-1]] == [
            "response.output_item.added", "response.reasoning_summary_part.added",
            "response.reasoning_summary_text.delta", "response.reasoning_summary_text.done",
            "response.reasoning_summary_part.done", "response.output_item.done", "response.output_item.added",
            "response.output_item.done",
        ]
        assert [event["summary_index"] for event in data[3:7]] == [0, 0, 0, 0]
        assert {"type": "summary_text", "text": "hm"} == data[6]["part"] == data[7]["item"]["summary"][0]
        assert [item["id"] for item in data[-1]["response"]["output"]] == ["rs_1_0", "rs_1_1"]

    def test_nothing_is_begun_for_nothing(self) -> None:
        """An answer without content has no item at all."""
        data = read(stream(c.TextDelta(""), c.ThinkingDelta(""), c.Stop("end")))
        assert [event["type"] for event in data] == ["response.created", "response.in_progress", "response.completed"]
        assert (data[-1]["response"]["output"], data[-1]["response"]["usage"]) == ([], None)

    @pytest.mark.parametrize(
        ("reason", "status", "details"),
        [("end", "completed", None), ("tool_use", "completed", None), ("stop_sequence", "completed", None),
         ("length", "incomplete", "max_output_tokens"), ("context", "incomplete", "max_output_tokens"),
         ("filtered", "incomplete", "content_filter")],
    )
    def test_stop_reasons(self, reason: Any, status: str, details: str | None) -> None:
        """A cut answer is incomplete, and so is its last item."""
        *_, last = read(stream(c.TextDelta("x"), c.Stop(reason)))
        response = last["response"]
        assert (f"response.{status}", status) == (last["type"], response["status"])
        assert status == response["output"][-1]["status"]
        assert details == (response["incomplete_details"] or {}).get("reason")

    def test_ids(self) -> None:
        """Ids come from the answer's id; one that is not OpenAI's gives way to the request's."""
        renderer = SCHEMA.stream_renderer(model="m", created=1, fallback_id="req-1", include_usage=False)
        data = read(renderer.feed(c.Start("msg_x", "claude")) + renderer.feed(c.TextDelta("x")))
        assert data[0]["response"]["id"] == "resp_req-1"
        assert data[2]["item"]["id"] == "msg_req-1_0"

    def test_nothing_after_a_failure(self) -> None:
        """After a Failure nothing more is written: the error event ends the stream."""
        renderer = SCHEMA.stream_renderer(model="m", created=1, fallback_id="r", include_usage=False)
        assert renderer.feed(c.Failure("upstream", "x")) + renderer.feed(c.TextDelta("x")) + renderer.feed(c.Done()) == b""

    def test_whole_answers_are_the_same(self) -> None:
        """A whole answer is the response object that a stream ends with."""
        events = [c.Start("resp_1"), c.ThinkingDelta("t"), c.TextDelta("x"), c.ToolStart(0, "c", "f"),
                  c.UsageReport(Tokens(input=1, output=1)), c.Stop("tool_use")]
        whole = SCHEMA.render_response(events, model="m", created=7, fallback_id="rid")
        assert read(stream(*events[1:]))[-1]["response"] == json.loads(whole)
        with pytest.raises(UpstreamError, match="broken"):
            SCHEMA.render_response([c.Failure("upstream", "broken")], model="m", created=7, fallback_id="rid")


class TestStreamParser:
    """Streams of providers."""

    ADDED: ClassVar[dict[str, Any]] = {"type": "response.output_item.added", "output_index": 0}
    DONE: ClassVar[dict[str, Any]] = {"type": "response.output_item.done", "output_index": 0}

    def test_custom_call(self) -> None:
        """Deltas of a custom call are its raw input; the finished item adds nothing to them."""
        item = {"type": "custom_tool_call", "id": "ctc", "call_id": "c", "name": "p", "input": "", "namespace": "n"}
        assert [c.ToolStart(0, "c", "p", "custom", "n"), c.ToolDelta(0, "ra"), c.ToolDelta(0, "w")] == feed(
            {**self.ADDED, "item": item},
            *({"type": "response.custom_tool_call_input.delta", "output_index": 0, "delta": d} for d in ("ra", "w")),
            {**self.DONE, "item": {**item, "input": "raw"}})

    def test_items_that_only_end(self) -> None:
        """What came without deltas, or was never announced, is told by the finished item."""
        call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
        message = {"type": "message", "content": [{"type": "output_text", "text": "x"}]}
        assert [c.TextDelta("x"), c.ToolStart(0, "c", "f"), c.ToolDelta(0, "{}"), c.ToolStart(1, "c", "f"),
                c.ToolDelta(1, "{}")] == feed(
            {**self.DONE, "item": message}, {**self.DONE, "output_index": 1, "item": call},
            {**self.ADDED, "output_index": 2, "item": {**call, "arguments": ""}},
            {**self.DONE, "output_index": 2, "item": call})

    def test_summary_parts_and_encrypted_content(self) -> None:
        """Parts of a summary are divided by an empty line; the finished item closes the thought."""
        delta = {"type": "response.reasoning_summary_text.delta", "output_index": 0}
        assert [c.ThinkingDelta("a"), c.ThinkingDelta("\n\nb"), c.ThinkingDelta("c"),
                c.ThinkingDelta(encrypted="gA", id="rs")] == feed(
            {**self.ADDED, "item": {"type": "reasoning", "id": "rs", "summary": []}},
            {**delta, "summary_index": 0, "delta": "a"}, {**delta, "summary_index": 1, "delta": "b"},
            {**delta, "summary_index": 1, "delta": "c"},
            {**self.DONE, "item": {"type": "reasoning", "id": "rs", "encrypted_content": "gA", "summary": [
                {"type": "summary_text", "text": "a"}, {"type": "summary_text", "text": "bc"}]}})

    def test_raw_reasoning_hides_its_summary(self) -> None:
        """Where both are streamed, the text is told once."""
        assert [c.ThinkingDelta("raw")] == feed(
            {"type": "response.reasoning_text.delta", "output_index": 0, "content_index": 0, "delta": "raw"},
            {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 0, "delta": "sum"})

    def test_refusal(self) -> None:
        """A refusal is text, and the answer was filtered."""
        part = {"type": "refusal", "refusal": "no"}
        done = {"type": "response.completed", "response": {"output": [{"type": "message", "content": [part]}]}}
        expected = [c.Start("", ""), c.TextDelta("no"), c.Stop("filtered"), c.Done()]
        assert expected == feed({"type": "response.created", "response": {}},
                                {"type": "response.refusal.delta", "output_index": 0, "delta": "no"}, done)
        assert expected == feed(done)

    def test_terminal_events(self) -> None:
        """Usage comes from whichever event ends the stream; only completed and incomplete are an end."""
        usage = {"input_tokens": 10, "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
                 "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 3}}
        report = c.UsageReport(Tokens(input=4, cache_read=4, cache_write_5m=2, output=2, reasoning=3))
        assert [c.Start("r", "m"), report, c.Stop("length"), c.Done()] == feed(
            {"type": "response.incomplete", "response": {"id": "r", "model": "m", "usage": usage,
                                                         "incomplete_details": {"reason": "max_output_tokens"}}})
        _, told, failure = feed({"type": "response.failed", "response": {
            "id": "r", "usage": usage, "error": {"code": "rate_limit_exceeded", "message": "slow down"}}})
        assert report == told
        assert isinstance(failure, c.Failure)
        assert (failure.kind, failure.status, failure.message) == ("rate_limit", 429, "slow down")

    def test_output_of_the_terminal_event(self) -> None:
        """A server that streams no items at all still answers."""
        assert [c.Start("r", ""), c.TextDelta("x"), c.Stop("end"), c.Done()] == feed(
            {"type": "response.completed", "response": {"id": "r", "output": [
                {"type": "message", "content": [{"type": "output_text", "text": "x"}]}]}})

    @pytest.mark.parametrize(
        ("wire", "kind"),
        [
            ({"type": "error", "code": "server_error", "message": "x", "param": None}, "upstream"),
            ({"type": "error", "error": {"type": "invalid_request_error", "message": "x"}}, "invalid_request"),
            ({"error": {"message": "x", "code": 429}}, "rate_limit"),
            ({"type": "response.failed", "response": {"error": {"code": "invalid_prompt", "message": "x"}}}, "invalid_request"),
            ({"type": "response.failed", "response": {"error": {"code": "context_length_exceeded", "message": "x"}}},
             "context_length"),
            ({"type": "response.failed", "response": {}}, "upstream"),
        ],
    )
    def test_failures(self, wire: dict[str, Any], kind: str) -> None:
        """Every form of error is a Failure of the right kind."""
        *_, failure = feed(wire)
        assert isinstance(failure, c.Failure)
        assert kind == failure.kind

    def test_cut_streams_are_not_done(self) -> None:
        """Without its terminal event a stream has not ended, whatever else it says."""
        whole = stream(c.TextDelta("x"), c.Stop("end"))
        cut = whole[: whole.index(b"event: response.completed")]
        assert c.Done() not in parsed(cut + b"data: [DONE]\n\n")
        assert c.Done() == parsed(whole)[-1]

    def test_what_is_not_known_is_passed_over(self) -> None:
        """Events of server tools and of later versions mean nothing here; those of no sense are an error."""
        assert feed("", "[DONE]", {"type": "response.web_search_call.searching", "output_index": 0},
                          {"type": "response.output_item.added", "output_index": 0, "item": {"type": "new_call"}}) == []
        with pytest.raises(UpstreamError):
            feed("{")

    def test_telling_events(self) -> None:
        """Only events that end or break a stream are parsed when bytes pass through."""
        def telling(value: dict[str, Any]) -> bool:
            return SCHEMA.usage_in_event(ServerSentEvent(b"", json.dumps(value).encode(), b""))

        assert all(telling({"sequence_number": 1, "type": f"response.{end}"}) for end in ("completed", "incomplete", "failed"))
        assert telling({"type": "error", "message": "x"})
        assert telling({"error": {"message": "x"}})
        assert not telling({"type": "response.output_text.delta", "delta": '"type":"response.completed" "error":{'})
        assert not telling({"type": "response.created", "response": {"error": None}})


class TestWholeAnswers:
    """Whole answers of providers."""

    @pytest.mark.parametrize(
        ("body", "last"),
        [
            ({"status": "completed", "output": []}, c.Done()),
            ({"status": "queued", "output": []}, c.Done()),
            ({"error": {"message": "x", "type": "server_error"}}, c.Failure),
            ({"status": "failed", "output": [], "error": {"code": "server_error", "message": "x"}}, c.Failure),
            ({"status": "cancelled", "output": []}, c.Failure),
        ],
    )
    def test_ends(self, body: dict[str, Any], last: Any) -> None:
        """An answer ends in Done, a failed or cancelled one in Failure."""
        *_, event = SCHEMA.parse_response(json.dumps(body).encode())
        assert event == last or isinstance(event, last if isinstance(last, type) else ())

    @pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"output": 5}', b'{"output": [1]}', b'{"status": 5}'])
    def test_nonsense(self, body: bytes) -> None:
        """What is no answer is an UpstreamError."""
        with pytest.raises(UpstreamError):
            SCHEMA.parse_response(body)

    def test_arguments_as_an_object(self) -> None:
        """Some servers send the arguments themselves instead of their text."""
        events = SCHEMA.parse_response(b'{"output":[{"type":"function_call","call_id":"c","name":"f","arguments":{"a":1}}]}')
        assert c.ToolDelta(0, '{"a":1}') == events[2]


class TestErrors:
    """Errors for clients and from providers."""

    def test_error_object(self) -> None:
        """OpenAI's error object, with the request id."""
        told = json.loads(SCHEMA.render_error(Problem("rate_limit", "slow"), "rid"))
        assert (told["error"]["code"], told["request_id"]) == ("rate_limit_exceeded", "rid")

    def test_parse_error(self) -> None:
        """A provider's error answer is read like any other of OpenAI's."""
        assert SCHEMA.parse_error(429, b'{"error":{"code":"insufficient_quota","message":"x"}}').kind == "quota"

    @pytest.mark.parametrize(
        ("kind", "code"),
        [("context_length", "context_length_exceeded"), ("quota", "insufficient_quota"),
         ("rate_limit", "rate_limit_exceeded"), ("upstream", "server_error"), ("timeout", "server_error")],
    )
    def test_stream_error(self, kind: Any, code: str) -> None:
        """The event is a failed response, by whose code Codex knows what to do; this parser reads it too."""
        body = SCHEMA.render_stream_error(Problem(kind, "told"), "rid")
        (event,) = SseDecoder().feed(body)
        data = json.loads(event.data)
        assert (b"response.failed", "failed", code) == (
            event.event, data["response"]["status"], data["response"]["error"]["code"])
        *_, failure = parsed(body)
        assert isinstance(failure, c.Failure)
        assert failure.message == "told"


    def test_stream_error_tells_when_to_try_again(self) -> None:
        """The time to wait stands in the message, in the words by which Codex finds it."""
        body = SCHEMA.render_stream_error(Problem("rate_limit", "slow down.", retry_after=7), "rid")
        assert b'"message":"slow down. Please try again in 7s."' in body


# --------------------------------------------------------------------------------------------- recorded traffic


def load(path: Path) -> recordings.Recording:
    """One recording."""
    value = json.loads(path.read_text("utf-8"))
    return recordings.Recording(path.stem, value["schema"], value["request"], value["status"], value["content_type"],
                                value["body"].encode())


ALL = {r.name: r for r in (*map(load, RECORDED), *recordings.recordings("responses"))}


def test_recordings_are_there() -> None:
    """The folder holds recordings of both providers."""
    assert len(ALL) > 60
    assert {"openai_responses", "deepseek_responses"} <= {name.partition(".")[0] for name in ALL}


@pytest.mark.parametrize("recorded", ALL.values(), ids=ALL)
def test_recorded_request_there_and_back(recorded: recordings.Recording) -> None:
    """A recorded request, parsed and rendered, parses to the same conversation, but for what only OpenAI has."""
    first = SCHEMA.parse_request(json.dumps(recorded.request).encode())
    rendered = SCHEMA.render_request(first, Target(first.model))
    again = SCHEMA.parse_request(rendered.body)
    assert msgspec.structs.replace(first, demands=(), unmapped=()) == msgspec.structs.replace(
        again, demands=(), unmapped=())
    assert set(rendered.dropped) == {*first.unmapped, *first.demands} - set(again.demands)


@pytest.mark.parametrize("recorded", ALL.values(), ids=ALL)
def test_recorded_answer_there_and_back(recorded: recordings.Recording) -> None:
    """A recorded answer, parsed and rendered whole and as a stream, says the same again."""
    events = parsed(recorded.body) if recorded.is_stream else list(SCHEMA.parse_response(recorded.body))
    expected = merged(events)
    if expected[-2:] == [c.Stop("pause"), c.Done()]:
        expected[-2] = c.Stop("end")  # it goes on in the background; a rendered answer is always complete
    assert c.Done() == expected[-1]
    whole = SCHEMA.render_response(events, model="m", created=1, fallback_id="x")
    assert expected == merged(list(SCHEMA.parse_response(whole)))
    renderer = SCHEMA.stream_renderer(model="m", created=1, fallback_id="x", include_usage=False)
    assert expected == merged(parsed(b"".join(renderer.feed(event) for event in events)))


@pytest.mark.parametrize("path", CAPTURES, ids=lambda p: p.stem)
def test_captured_requests(path: Path) -> None:
    """Real clients' requests come through whole, for this schema and every other."""
    body = json.loads(path.read_text("utf-8"))["body"]
    conversation = SCHEMA.parse_request(json.dumps(body).encode())
    again = SCHEMA.parse_request(SCHEMA.render_request(conversation, Target(conversation.model)).body)
    assert msgspec.structs.replace(conversation, unmapped=()) == msgspec.structs.replace(again, unmapped=())
    assert conversation.demands == ()
    assert set(conversation.unmapped) <= {"client_metadata"}
    for name in ("openai", "anthropic"):
        assert json.loads(SCHEMAS[name].render_request(conversation, Target("m")).body)["messages"]


def test_codex_conversation() -> None:
    """What Codex sends is understood: texts, the call and its output, its tools with their namespace."""
    (path,) = (path for path in CAPTURES if path.stem.startswith("codex"))
    got = SCHEMA.parse_request(json.dumps(json.loads(path.read_text("utf-8"))["body"]).encode())
    assert [message.role for message in got.messages] == ["system", "system", "user", "user", "assistant", "user"]
    assert [c.ToolUse, c.ToolResult] == [type(message.parts[-1]) for message in got.messages[-2:]]
    assert {None, "multi_agent_v1"} == {tool.namespace for tool in got.tools}
    assert [tool.name for tool in got.tools if tool.foreign is not None] == ["web_search"]
    assert (got.parallel_tools, got.thinking_display) == (True, "summarized")


# ------------------------------------------------------------------------------------------------- the real SDK


def sdk(body: bytes, content_type: str = "text/event-stream") -> openai.OpenAI:
    """OpenAI's client in front of a server that answers with these bytes."""
    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": content_type}, content=body)

    return openai.OpenAI(api_key="k", base_url="http://127.0.0.1:1/v1", max_retries=0,
                         http_client=httpx2.Client(transport=httpx2.MockTransport(answer)))


MEANT = (
    c.ThinkingDelta("I think"), c.ThinkingDelta(signature="sig"), c.TextDelta("Hel"), c.TextDelta("lo"),
    c.ToolStart(0, "c1", "f"), c.ToolStart(1, "c2", "p", "custom"), c.ToolDelta(0, '{"a"'), c.ToolDelta(1, "raw"),
    c.ToolDelta(0, ":1}"), c.UsageReport(Tokens(input=3, cache_read=4, output=5, reasoning=6)), c.Stop("tool_use"),
)


def meant(response: Any) -> None:
    """The SDK's response is what `MEANT` says."""
    assert (response.id, response.status, response.output_text) == ("resp_1", "completed", "Hello")
    thought, message, call, custom = response.output
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call", "custom_tool_call"]
    assert thought.summary[0].text == "I think"
    assert message.content[0].text == "Hello"
    assert (call.call_id, call.name, call.arguments) == ("c1", "f", '{"a":1}')
    assert (custom.call_id, custom.name, custom.input) == ("c2", "p", "raw")
    usage = response.usage
    assert (usage.input_tokens, usage.input_tokens_details.cached_tokens, usage.output_tokens,
                                 usage.output_tokens_details.reasoning_tokens, usage.total_tokens) == (7, 4, 11, 6, 18)


class TestRealSdk:
    """What OpenAI's own client makes of our bytes."""

    def test_accumulated_stream(self) -> None:
        """The SDK's stream helper puts together what was meant, and its deltas say the same."""
        with sdk(stream(*MEANT)).responses.stream(model="m", input="hi") as events:
            seen = list(events)
            meant(events.get_final_response())
        assert "".join(event.delta for event in seen if event.type == "response.output_text.delta") == "Hello"
        assert [event.snapshot for event in seen if event.type == "response.output_text.delta"][-1] == "Hello"
        assert [e.snapshot for e in seen if e.type == "response.function_call_arguments.delta"][-1] == '{"a":1}'

    def test_raw_stream(self) -> None:
        """Every event is of a type that the SDK knows, and holds all that the type requires."""
        for event in sdk(stream(*MEANT)).responses.create(model="m", input="hi", stream=True):
            type(event).model_validate_json(event.model_dump_json(), strict=False)
            assert event.type.startswith("response.")

    def test_whole_answer(self) -> None:
        """A whole answer validates as the SDK's Response."""
        body = SCHEMA.render_response([c.Start("resp_1"), *MEANT], model="m", created=1, fallback_id="x")
        response = sdk(body, "application/json").responses.create(model="m", input="hi")
        meant(response)
        type(response).model_validate_json(body)

    def test_cut_answer(self) -> None:
        """An incomplete answer reaches the SDK as such."""
        events = list(sdk(stream(c.TextDelta("x"), c.Stop("length"))).responses.create(model="m", input="hi", stream=True))
        assert (
            events[-1].type, events[-1].response.incomplete_details.reason) == ("response.incomplete", "max_output_tokens")

    @pytest.mark.parametrize("helper", [False, True])
    def test_stream_error_is_raised(self, helper: bool) -> None:
        """An error in the middle of a stream is an APIError with our words."""
        whole = stream(c.TextDelta("x"))
        body = whole[: whole.index(b"event: response.output_text.done")]
        body += SCHEMA.render_stream_error(Problem("overloaded", "too busy"), "rid")
        with pytest.raises(openai.APIError, match="too busy"):
            if helper:
                with sdk(body).responses.stream(model="m", input="hi") as events:
                    events.until_done()
            else:
                list(sdk(body).responses.create(model="m", input="hi", stream=True))
