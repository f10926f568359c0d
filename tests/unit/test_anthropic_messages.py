"""The Anthropic Messages codecs: requests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from extproc.core import conversation as c
from extproc.core.errors import RequestError
from extproc.schemas.anthropic_messages import AnthropicMessages
from extproc.schemas.base import Target

SCHEMA = AnthropicMessages()
CACHE = {"type": "ephemeral"}


def parse(**fields: Any) -> c.Conversation:
    """Parse a request with these fields over a minimal one."""
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], **fields}
    return SCHEMA.parse_request(json.dumps(body).encode())


def render(*messages: c.Message, target: Target | None = None, **fields: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Render for a backend; the body decoded."""
    rendered = SCHEMA.render_request(c.Conversation("x", messages, **fields), target or Target("m"))
    return json.loads(rendered.body), rendered.dropped


def user(*parts: c.Part) -> c.Message:
    """A user message."""
    return c.Message("user", parts)


class TestParseRequest:
    """A client's request."""

    def test_blocks(self) -> None:
        """System comes first; blocks keep cache_control, signatures and the exact bytes of tool input."""
        body = (
            b'{"model":"m","max_tokens":1,"system":[{"type":"text","text":"s","cache_control":{"type":"ephemeral"}}],'
            b'"messages":[{"role":"assistant","content":[{"type":"thinking","thinking":"h","signature":"g"},'
            b'{"type":"redacted_thinking","data":"d"},'
            b'{"type":"tool_use","id":"t","name":"f","input":{"b": 1.50}}]},'
            b'{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","is_error":true,"content":"no"},'
            b'{"type":"image","source":{"type":"url","url":"u"}},{"type":"novel","x":1}]},'
            b'{"role":"system","content":"late"}]}'
        )
        assert (
            c.Message("system", (c.Text("s", CACHE),)),
            c.Message(
                "assistant", (c.Thinking("h", "g"), c.Thinking(redacted="d"), c.ToolUse("t", "f", '{"b": 1.50}'))
            ),
            user(
                c.ToolResult("t", (c.Text("no"),), True),
                c.Image(url="u"),
                c.Foreign("novel", {"type": "novel", "x": 1}, "anthropic"),
            ),
            c.Message("system", (c.Text("late"),)),
        ) == SCHEMA.parse_request(body).messages

    def test_settings(self) -> None:
        """Effort, format, budget, tool choice and user are mapped; the rest is named."""
        got = parse(
            output_config={"effort": "high", "format": {"type": "json_schema", "schema": {"type": "object"}}},
            thinking={"type": "enabled", "budget_tokens": 5},
            metadata={"user_id": "u"},
            service_tier="auto",
            tool_choice={"type": "any", "disable_parallel_tool_use": True},
            context_management={},
        )
        assert ("high", {"name": "response", "schema": {"type": "object"}}, 5, "u", c.ToolChoice("any"), False) == (
            got.effort,
            got.json_schema,
            got.thinking_budget,
            got.user,
            got.tool_choice,
            got.parallel_tools,
        )
        assert (got.unmapped, got.extras, got.thinking) == (
            ("context_management",), {"service_tier": "auto"}, "enabled")
        adaptive = parse(thinking={"type": "adaptive", "display": "omitted"}, cache_control=CACHE)
        assert (adaptive.thinking, adaptive.thinking_display, adaptive.thinking_budget, adaptive.system_cache) == (
            "adaptive", "omitted", None, True)

    def test_both_api_versions_parse(self) -> None:
        """Sampling parameters (2023-06-01) and their absence with newer thinking modes (2026-10-21) are both read."""
        old = parse(temperature=0.2, top_p=0.9, top_k=40)
        assert (old.temperature, old.top_p, old.top_k) == (0.2, 0.9, 40)
        new = parse(thinking={"type": "between_tools"}, service_tier="standard_only", messages=[
            {"role": "user", "content": "a"}, {"role": "system", "content": "s"}])
        assert (new.thinking, new.extras["service_tier"], new.messages[1].role) == ("between_tools", "default", "system")

    @pytest.mark.parametrize("role", ["ctx", "msg"])
    def test_roles_of_claude_code(self, role: str) -> None:
        """The roles that only Claude Code knows are a user's."""
        assert parse(messages=[{"role": role, "content": "a"}]).messages == (user(c.Text("a")),)

    @pytest.mark.parametrize(("fields", "demands", "unmapped"), [
        ({"mcp_servers": [{"type": "url"}], "container": "c"}, ("mcp_servers", "container"), ()),
        ({"mcp_servers": [], "inference_geo": "global", "container": None}, (), ()),
        ({"inference_geo": "us", "thread": {"type": "create"}}, ("thread", "inference_geo"), ()),
        ({"context_management": {}, "speed": "fast", "fallbacks": []}, (),
         ("context_management", "speed", "fallbacks")),
        ({"output_config": {"task_budget": {}}, "metadata": {"x": 1}, "cache_control": {"ttl": "1h"}}, (),
         ("output_config.task_budget", "metadata.x", "cache_control.ttl")),
        ({"messages": [{"role": "user", "content": [{"type": "search_result"}, {"type": "mcp_tool_result"}]}]},
         ("foreign:search_result",), ()),
        ({"messages": [{"role": "user", "content": [
            {"type": "image", "source": {"type": "file", "file_id": "f"}}]}]}, ("foreign:image",), ()),
        ({"messages": [{"role": "assistant", "content": [{"type": "compaction"}, {"type": "server_tool_use"}]}]},
         ("foreign:compaction",), ()),
        ({"messages": [{"role": "user", "content": [
            {"type": "document", "source": {"type": "url", "url": "u"}, "citations": {"enabled": True}},
            {"type": "text", "text": "x", "citations": [{}]}]}]}, (), ("document.citations", "citations")),
    ])
    def test_demands(self, fields: dict[str, Any], demands: tuple[str, ...], unmapped: tuple[str, ...]) -> None:
        """What would be answered wrongly by a backend of another schema is a demand; the rest is named as lost."""
        got = parse(**fields)
        assert (demands, unmapped) == (got.demands, got.unmapped)

    def test_typed_tool_is_foreign(self) -> None:
        """A provider-typed tool is kept whole; a custom one needs a schema."""
        typed = {"type": "web_search_20260318", "name": "web_search", "max_uses": 2}
        assert (c.Tool("web_search", foreign=typed, schema="anthropic"),) == parse(tools=[typed]).tools
        with pytest.raises(RequestError, match="input_schema"):
            parse(tools=[{"name": "f"}])

    def test_fields_of_tools(self) -> None:
        """What only Anthropic knows of a function is kept beside it."""
        extra = {"type": "custom", "defer_loading": True, "input_examples": [{}], "allowed_callers": ["direct"]}
        given = {"name": "f", "input_schema": {"type": "object"}, "strict": False, **extra}
        (tool,) = parse(tools=[given]).tools
        assert tool == c.Tool("f", parameters={"type": "object"}, strict=False, extra=extra, schema="anthropic")
        assert render(user(c.Text("a")), tools=(tool,))[0]["tools"] == [given]
        elsewhere = c.Tool("f", extra={"odd": 1}, schema="openai")
        assert render(user(c.Text("a")), tools=(elsewhere,))[1] == ("tools.odd",)

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"messages": []}, "messages"),
            ({"output_config": {"effort": 1}}, "output_config.effort"),
            ({"metadata": {"user_id": 1}}, "metadata.user_id"),
            ({"messages": [{"role": "user"}]}, "messages[0].content"),
            ({"messages": [{"role": "bot", "content": ""}]}, "messages[0].role"),
            ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
            (
                {"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "a", "name": "b", "input": 1}]}]},
                "messages[0].content[0].input",
            ),
            ({"max_tokens": None}, "max_tokens"),
            ({"max_tokens": -1}, "max_tokens"),
            ({"tools": {}}, "tools"),
        ],
    )
    def test_wrong_field_is_named(self, fields: dict[str, Any], param: str) -> None:
        """A wrong request is refused with the path of the field."""
        with pytest.raises(RequestError) as caught:
            parse(**fields)
        assert param == caught.value.problem.param

    def test_missing_max_tokens(self) -> None:
        """max_tokens is required."""
        with pytest.raises(RequestError) as caught:
            SCHEMA.parse_request(b'{"model":"m","messages":[{"role":"user","content":"x"}]}')
        assert caught.value.problem.param == "max_tokens"


class TestRenderRequest:
    """A request for an Anthropic backend."""

    def test_turns(self) -> None:
        """Same roles merge, tool results lead, late system stays, empty text and foreign thinking go."""
        body, dropped = render(
            c.Message("system", (c.Text("s", CACHE), c.Text(""))),
            user(c.Text("a")),
            c.Message("assistant", (c.Thinking("h"), c.Thinking("k", "sig"), c.Text(""), c.ToolUse("t:1", "f", ""))),
            c.Message("system", (c.Text("late", CACHE),)),
            user(c.Text("b"), c.ToolResult("t:1", (c.Text("r"),), True)),
        )
        assert body["system"] == [{"type": "text", "text": "s", "cache_control": CACHE}]
        assert body["messages"] == [
            {"role": "user", "content": [{"type": "text", "text": "a"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "k", "signature": "sig"},
                    {"type": "tool_use", "id": "t_1", "name": "f", "input": {}},
                ],
            },
            {"role": "system", "content": [{"type": "text", "text": "late", "cache_control": CACHE}]},
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "t_1",
                        "content": [{"type": "text", "text": "r"}],
                        "is_error": True,
                    },
                    {"type": "text", "text": "b"},
                ],
            },
        ]
        assert dropped == ("thinking",)

    @pytest.mark.parametrize(
        ("asked", "target", "sent"),
        [(None, Target("m"), 16384), (None, Target("m", 100), 100), (500, Target("m", 100), 100), (5, Target("m"), 5)],
    )
    def test_max_tokens(self, asked: int | None, target: Target, sent: int) -> None:
        """A limit is always sent, and never above the model's."""
        assert sent == render(user(c.Text("a")), target=target, max_tokens=asked)[0]["max_tokens"]

    def test_settings_go_as_given(self) -> None:
        """Sampling, thinking and effort go whatever the model; the service tier has its own words."""
        body, dropped = render(
            user(c.Text("a")), temperature=1.0, top_p=0.5, top_k=1, effort="xhigh", thinking="adaptive",
            thinking_display="omitted", system_cache=True, extras={"service_tier": "default"})
        expected = {"temperature": 1.0, "top_p": 0.5, "top_k": 1, "thinking": {"type": "adaptive", "display": "omitted"},
                    "output_config": {"effort": "xhigh"}, "cache_control": CACHE, "service_tier": "standard_only"}
        assert expected.items() <= body.items()
        assert dropped == ()

    def test_lossy_settings_are_named(self) -> None:
        """Seed, JSON mode, what a schema has beside its form, other settings and unmapped fields are dropped by name."""
        _, dropped = render(
            user(c.Text("a")),
            seed=1,
            json_object=True,
            unmapped=("prediction",),
            extras={"logit_bias": {}, "service_tier": "flex", "metadata": {}},
            stop=(" ",),
            user="u" * 257,
            thinking_display="omitted",
            tool_choice=c.ToolChoice("any"),
        )
        assert set(dropped) == {"seed", "response_format", "prediction", "logit_bias", "service_tier", "metadata",
                                "stop", "user", "thinking_display", "tool_choice"}
        named = render(user(c.Text("a")), json_schema={"name": "n", "schema": {}, "strict": True, "description": "d"})[1]
        assert set(named) == {"response_format.name", "response_format.strict", "response_format.description"}

    @pytest.mark.parametrize(
        ("effort", "expected", "emulated"),
        [
            ("minimal", {"output_config": {"effort": "low"}}, ("effort",)),
            ("max", {"output_config": {"effort": "max"}}, ()),
            ("none", {"thinking": {"type": "disabled"}}, ()),
            ("huge", {}, ()),
        ],
    )
    def test_effort(self, effort: str, expected: dict[str, Any], emulated: tuple[str, ...]) -> None:
        """Effort maps to output_config; none turns thinking off."""
        conversation = c.Conversation("x", (user(c.Text("a")),), effort=effort)
        rendered = SCHEMA.render_request(conversation, Target("m"))
        assert expected == {key: rendered.fields[key] for key in ("thinking", "output_config") if key in rendered.fields}
        assert emulated == rendered.emulated
        assert ("effort" in rendered.dropped) == (effort == "huge")

    def test_tools(self) -> None:
        """Schemas get their type, serial calling rides on the choice, others' typed and freeform tools are dropped."""
        custom = c.Tool("p", kind="custom")
        body, dropped = render(
            user(c.Text("a")), tools=(c.Tool("f", parameters={"properties": {}}), custom), parallel_tools=False
        )
        assert body["tools"] == [{"name": "f", "input_schema": {"type": "object", "properties": {}}}]
        assert body["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
        assert dropped == ("tool:p",)
        typed = c.Tool("w", foreign={"type": "w"}, schema="openai")
        assert render(user(c.Text("a")), tools=(typed,), tool_choice=c.ToolChoice("tool", "w"))[1] == (
            "tool:w", "tool_choice")

    def test_detail_of_images(self) -> None:
        """The detail of an image is dropped by name, but for auto, which says nothing."""
        image = c.Image("image/png", "QQ==", detail="auto")
        assert render(user(image))[1] == ()
        assert render(user(c.Image("image/png", "QQ==", detail="low")))[1] == ("image.detail",)

    def test_a_choice_among_some_tools(self) -> None:
        """Only the allowed tools are told, because the schema has no such choice."""
        choice = c.ToolChoice("any", allowed=("g",))
        conversation = c.Conversation("x", (user(c.Text("a")),), tools=(c.Tool("f"), c.Tool("g")), tool_choice=choice)
        rendered = SCHEMA.render_request(conversation, Target("m"))
        assert [tool["name"] for tool in rendered.fields["tools"]] == ["g"]
        assert rendered.fields["tool_choice"] == {"type": "any"}
        assert rendered.emulated == ("tool_choice.allowed_tools",)

    def test_foreign_parts_go_home_only(self) -> None:
        """A block of this schema is sent as it came, at its place; a part of another schema is dropped by name."""
        added = {"type": "tool_addition", "tool": {}}
        found = {"type": "web_search_tool_result"}
        body, dropped = render(
            c.Message("system", (c.Foreign("tool_addition", added, "anthropic"),)),
            user(c.Foreign("input_audio", {}, "openai"), c.Text("a")),
            c.Message("assistant", (c.Foreign("web_search_tool_result", found, "anthropic"),)),
        )
        assert [message["content"] for message in body["messages"]] == [[added], [{"type": "text", "text": "a"}], [found]]
        assert dropped == ("foreign:input_audio",)

    def test_refuses(self) -> None:
        """Several choices are refused: one request has one answer."""
        assert SCHEMA.refuses(c.Conversation("m", (user(c.Text("a")),), n=2)) == ("n",)
        assert SCHEMA.refuses(c.Conversation("m", (user(c.Text("a")),))) == ()

    def test_round_trip(self) -> None:
        """What Anthropic's schema can say survives rendering and parsing."""
        given = c.Conversation(
            "m",
            (
                c.Message("system", (c.Text("s", CACHE),)),
                user(c.Text("q"), c.Image("image/png", "QQ==", cache=CACHE)),
                c.Message("assistant", (c.Thinking("h", "g"), c.ToolUse("t", "f", '{"a": 1.0}', CACHE))),
                user(c.ToolResult("t", (c.Text("r"),), cache=CACHE), c.Document(url="u", name="n")),
            ),
            tools=(c.Tool("f", "d", {"type": "object"}, True, CACHE),),
            tool_choice=c.ToolChoice("tool", "f"),
            parallel_tools=False,
            max_tokens=4,
            stream=True,
            stop=("x",),
            effort="low",
            thinking="enabled",
            thinking_budget=2,
            temperature=0.5,
            top_k=3,
            system_cache=True,
            extras={"service_tier": "auto"},
            user="u",
            json_schema={"name": "response", "schema": {}},
        )
        assert given == SCHEMA.parse_request(SCHEMA.render_request(given, Target("m")).body)

    def test_patch_keeps_bytes(self) -> None:
        """Pass-through replaces the model and nothing else."""
        assert SCHEMA.patch_request(b'{"x": 1.0, "model":"a" }', Target("t")) == b'{"x": 1.0, "model":"t" }'
