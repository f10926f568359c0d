"""The OpenAI Chat Completions codecs: requests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from extproc.core import conversation as c
from extproc.core.errors import RequestError
from extproc.schemas.base import Target
from extproc.schemas.openai_chat import OpenAIChat

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
        got = parse(**{"prediction": {}, "web_search_options": {}, "metadata": None, "bad\r\nname": 1})
        assert got.unmapped == ("prediction", "web_search_options")
        assert got.extras == {}

    def test_shared_settings_travel(self) -> None:
        """Settings that other schemas know too are kept with their values."""
        given = {"logit_bias": {"5": 1}, "logprobs": True, "metadata": {"a": "b"}, "verbosity": "low", "min_p": 0.1}
        assert parse(**given).extras == given

    @pytest.mark.parametrize(("fields", "demands"), [
        ({"n": 2}, ("n",)),
        ({"modalities": ["text", "audio"]}, ("audio",)),
        ({"audio": {"voice": "alloy"}}, ("audio",)),
        ({"functions": [{"name": "f"}]}, ("functions",)),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
         ("foreign:input_audio",)),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]}, ("foreign:file",)),
        ({"modalities": ["text"], "n": 1, "logprobs": True}, ()),
        ({"messages": [{"role": "assistant", "content": [{"type": "odd"}]}]}, ()),
    ])
    def test_demands(self, fields: dict[str, Any], demands: tuple[str, ...]) -> None:
        """What would be answered wrongly by a backend of another schema is a demand; a mere optimisation is not."""
        assert demands == parse(**fields).demands

    def test_message_fields_that_are_not_carried_are_named(self) -> None:
        """Vendors' fields on messages and cache breakpoints are named when they say something."""
        text = {"type": "text", "text": "x", "prompt_cache_breakpoint": {"mode": "explicit"}}
        got = parse(messages=[
            {"role": "user", "content": [text], "name": "bob"},
            {"role": "assistant", "content": "a", "prefix": True, "annotations": [], "audio": None},
            {"role": "tool", "tool_call_id": "t", "content": "r", "name": "f"},
        ], stream_options={"include_obfuscation": True})
        assert set(got.unmapped) == {"messages.name", "messages.prefix", "prompt_cache_breakpoint",
                                     "stream_options.include_obfuscation"}

    def test_cache_marks(self) -> None:
        """cache_control, as gateways take it on parts and tools, is kept for backends that cache by it."""
        mark = {"type": "ephemeral"}
        got = parse(messages=[{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": mark}]}],
                    tools=[{"type": "function", "function": {"name": "f"}, "cache_control": mark}])
        assert got.messages[0].parts == (c.Text("x", mark),)
        assert got.tools == (c.Tool("f", cache=mark),)

    def test_custom_tools(self) -> None:
        """Freeform tools, their grammar, their calls and a choice among some tools are neutral."""
        grammar = {"type": "grammar", "grammar": {"definition": "x", "syntax": "lark"}}
        got = parse(
            tools=[{"type": "custom", "custom": {"name": "patch", "description": "d", "format": grammar}},
                   {"type": "function", "function": {"name": "f"}}],
            tool_choice={"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [
                {"type": "custom", "custom": {"name": "patch"}}, {"type": "function", "name": "f"}]}},
            messages=[{"role": "assistant", "tool_calls": [
                {"id": "c", "type": "custom", "custom": {"name": "patch", "input": "*** {"}}]},
                {"role": "tool", "tool_call_id": "c", "content": "ok"}])
        flat = {"type": "grammar", "definition": "x", "syntax": "lark"}
        assert got.tools[0] == c.Tool("patch", "d", kind="custom", format=flat)
        assert got.tool_choice == c.ToolChoice("any", allowed=("patch", "f"))
        assert got.messages[0].parts == (c.ToolUse("c", "patch", "*** {", kind="custom"),)
        assert got.messages[1].parts == (c.ToolResult("c", (c.Text("ok"),)),)

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
            c.Foreign("input_audio", content[3], "openai"),
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
        """Leading system blocks are joined, less Claude Code's billing line; a later one stays at its place."""
        parts = (c.Text("x-anthropic-billing-header: v"), c.Text("a", {"type": "ephemeral"}), c.Text("b"))
        body, dropped = render(
            talk(c.Message("system", parts), c.Message("user", (c.Text("hi"),)), c.Message("system", (c.Text("late"),)))
        )
        assert body["messages"] == [
            {"role": "system", "content": "a\n\nb"},
            {"role": "user", "content": "hi"},
            {"role": "system", "content": "late"},
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

    def test_what_a_tool_message_cannot_hold_is_told(self) -> None:
        """Marked errors, moved images and inlined text documents are told as put differently."""
        parts = (c.ToolResult("a", (c.Image(url="u"),), True), c.Document(text="t"), c.Document(url="u"))
        rendered = SCHEMA.render_request(talk(c.Message("user", parts)), Target("m"))
        assert rendered.emulated == ("tool_result.images", "tool_result.is_error", "document.text")
        assert rendered.dropped == ("document:url",)

    def test_thinking(self) -> None:
        """Thinking is reasoning_content whatever the model; signatures and redacted blocks never leave."""
        parts = (c.Thinking("hm", "sig"), c.Thinking(redacted="zz"), c.Text("ok"))
        body, dropped = render(talk(c.Message("assistant", parts)), "gpt-5")
        assert body["messages"][0] == {"role": "assistant", "content": "ok", "reasoning_content": "hm"}
        assert dropped == ("thinking.signature", "thinking")

    def test_thinking_alone_is_kept(self) -> None:
        """A turn of thinking alone stays, with empty content; a turn of nothing goes."""
        body, _ = render(talk(c.Message("assistant", (c.Thinking("hm"),)), c.Message("assistant", ())))
        assert body["messages"] == [{"role": "assistant", "content": "", "reasoning_content": "hm"}]

    def test_limits(self) -> None:
        """The limit is capped and has its new name, stop strings go uncut, streams report usage."""
        body, dropped = render(talk(max_tokens=99, stop=tuple("abcde"), stream=True, top_k=4), max_output=50)
        assert (50, list("abcde"), {"include_usage": True}, 4) == (
            body["max_completion_tokens"], body["stop"], body["stream_options"], body["top_k"])
        assert dropped == ()

    def test_settings_go_whatever_the_model(self) -> None:
        """Sampling, effort and the shared settings are sent to reasoning models too: what they lack is a dialect's."""
        given = {"temperature": 0.5, "top_p": 0.9, "seed": 3}
        body, dropped = render(talk(**given, effort="max", user="u", extras={"logit_bias": {}, "store": True}), "o3")
        assert {**given, "reasoning_effort": "max", "user": "u", "logit_bias": {}, "store": True}.items() <= body.items()
        assert dropped == ()

    @pytest.mark.parametrize(("fields", "sent", "dropped", "emulated"), [
        ({"thinking": "disabled"}, "none", (), ("thinking_mode",)),
        ({"thinking": "adaptive", "effort": "high", "thinking_display": "omitted"}, "high",
         ("thinking_mode", "thinking_display"), ()),
        ({"thinking": "enabled", "thinking_budget": 5}, None, ("thinking_mode", "thinking_budget"), ()),
        ({"effort": "huge"}, None, ("effort",), ()),
        ({"system_cache": True}, None, ("cache_control",), ()),
        ({"user": "u" * 65}, None, ("user",), ()),
        ({"tool_choice": c.ToolChoice("any"), "parallel_tools": False}, None, ("tool_choice",), ()),
    ])
    def test_what_anthropic_alone_says(self, fields: dict[str, Any], sent: str | None, dropped: tuple[str, ...],
                                       emulated: tuple[str, ...]) -> None:
        """Thinking modes become effort where there is one; the rest is dropped by name."""
        rendered = SCHEMA.render_request(talk(**fields), Target("m"))
        assert (sent, dropped, emulated) == (
            rendered.fields.get("reasoning_effort"), rendered.dropped, rendered.emulated)

    def test_custom_tools_and_allowed_tools(self) -> None:
        """Freeform tools, their calls and choices among them have OpenAI's nested form."""
        flat = {"type": "grammar", "definition": "x", "syntax": "lark"}
        body, dropped = render(talk(
            c.Message("assistant", (c.ToolUse("c", "patch", "raw", kind="custom"),)),
            tools=(c.Tool("patch", kind="custom", format=flat), c.Tool("f", cache={}, extra={"defer_loading": True})),
            tool_choice=c.ToolChoice("auto", allowed=("patch", "f"))))
        assert body["tools"][0] == {"type": "custom", "custom": {"name": "patch", "format": {
            "type": "grammar", "grammar": {"definition": "x", "syntax": "lark"}}}}
        assert body["tool_choice"] == {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [
            {"type": "custom", "custom": {"name": "patch"}}, {"type": "function", "function": {"name": "f"}}]}}
        assert body["messages"][0]["tool_calls"] == [
            {"id": "c", "type": "custom", "custom": {"name": "patch", "input": "raw"}}]
        assert dropped == ("cache_control", "tools.defer_loading")

    def test_foreign_parts_go_home_only(self) -> None:
        """A part of this schema is sent as it came, one of another schema is dropped by name."""
        audio = {"type": "input_audio", "input_audio": {}}
        parts = (c.Foreign("input_audio", audio, "openai"), c.Foreign("search_result", {}, "anthropic"))
        body, dropped = render(talk(c.Message("user", parts)))
        assert body["messages"] == [{"role": "user", "content": [audio]}]
        assert dropped == ("foreign:search_result",)

    def test_broken_arguments(self) -> None:
        """Arguments of history that are no object are put into one, and told so."""
        use = c.ToolUse("t", "f", "{oops")
        rendered = SCHEMA.render_request(talk(c.Message("assistant", (use,))), Target("m"))
        assert rendered.fields["messages"][0]["tool_calls"][0]["function"]["arguments"] == '{"text":"{oops"}'
        assert rendered.emulated == ("tool_calls.arguments",)

    def test_foreign_tools_are_dropped_by_name(self) -> None:
        """A server tool is dropped, and a demand to call it too; all tools foreign is refused."""
        search = c.Tool("web_search", foreign={"type": "web_search_20260318", "name": "web_search"})
        only = talk(tools=(search,), tool_choice=c.ToolChoice("tool", "web_search"))
        body, dropped = render(only)
        assert "tools" not in body
        assert "tool_choice" not in body
        assert dropped == ("tool:web_search", "tool_choice")
        assert SCHEMA.refuses(only) == ("tool:web_search",)
        mixed = talk(tools=(search, c.Tool("f")), tool_choice=c.ToolChoice("tool", "web_search"))
        assert render(mixed)[1] == ("tool:web_search", "tool_choice")
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
            extras={"logprobs": True, "top_logprobs": 2, "service_tier": "flex"},
            top_k=4,
            stop=("a", "b", "c", "d", "e"),
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
