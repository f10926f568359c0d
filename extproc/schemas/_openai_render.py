"""Neutral conversation -> OpenAI Chat Completions request: settings, tools and formats.

The form is OpenAI's own, for its newest models; what other servers or models lack is for their dialects.
"""

from __future__ import annotations

from typing import Any

import msgspec

from extproc.core.conversation import Conversation, Tool
from extproc.core.errors import RequestError
from extproc.schemas._codec import label, labels
from extproc.schemas._openai_render_messages import Messages
from extproc.schemas._passing import edits
from extproc.schemas.base import Rendered, Target
from extproc.wire.json_splice import TopLevel

_EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})
_MAX_USER = 64


def render_request(conversation: Conversation, target: Target) -> Rendered:
    """Render a chat completion request."""
    dropped, emulated = list(conversation.unmapped), list[str]()
    body: dict[str, Any] = {
        "model": target.model,
        "messages": Messages(dropped, emulated).render(conversation.messages),
    }
    _limits(body, conversation, target)
    _sampling(body, conversation)
    _reasoning(body, conversation, dropped, emulated)
    _tools(body, conversation, dropped)
    _format(body, conversation)
    _user(body, conversation, dropped)
    body.update(conversation.extras)
    if conversation.system_cache:
        dropped.append("cache_control")
    if conversation.stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    return Rendered(body, labels(dropped), labels(emulated))


def patch_request(body: bytes, target: Target, limits: tuple[str, ...]) -> bytes:
    """Replace the model and the limit, and make a stream report its usage; all else keeps its bytes.

    Raises:
        RequestError: the body is not an object or has a field twice.
    """
    fields = TopLevel(body)
    changed = edits(fields, target, limits)
    if fields.get("stream") == b"true":
        options = _usage_options(fields.get("stream_options"))
        if options is not None:
            changed["stream_options"] = options
    return fields.edit(changed)


def refuses(conversation: Conversation) -> tuple[str, ...]:
    """A request whose tools are all another provider's server tools, or that only warms a cache."""
    refused = ["max_tokens:0"] if conversation.max_tokens == 0 else []
    if conversation.tools and all(_is_foreign(tool) for tool in conversation.tools):
        refused += [label("tool", tool.name) for tool in conversation.tools]
    return labels(refused)


def _usage_options(raw: bytes | None) -> bytes | None:
    """stream_options with include_usage true; None when it is so already."""
    try:
        options = {} if raw is None else msgspec.json.decode(raw, type=dict[str, msgspec.Raw] | None) or {}
    except msgspec.ValidationError as exc:
        raise RequestError("stream_options: expected object", param="stream_options") from exc
    if bytes(options.get("include_usage", b"")) == b"true":
        return None
    options["include_usage"] = msgspec.Raw(b"true")
    return msgspec.json.encode(options)


def _limits(body: dict[str, Any], conversation: Conversation, target: Target) -> None:
    limit = conversation.max_tokens
    if limit is not None:
        body["max_completion_tokens"] = limit if target.max_output is None else min(limit, target.max_output)
    if conversation.stop:
        body["stop"] = list(conversation.stop)
    if conversation.n != 1:
        body["n"] = conversation.n


def _sampling(body: dict[str, Any], conversation: Conversation) -> None:
    for name, value in (
        ("temperature", conversation.temperature),
        ("top_p", conversation.top_p),
        ("top_k", conversation.top_k),
        ("seed", conversation.seed),
    ):
        if value is not None:
            body[name] = value


def _reasoning(body: dict[str, Any], conversation: Conversation, dropped: list[str], emulated: list[str]) -> None:
    if conversation.effort in _EFFORTS:
        body["reasoning_effort"] = conversation.effort
    elif conversation.effort is not None:
        dropped.append("effort")
    if conversation.thinking == "disabled":
        body["reasoning_effort"] = "none"
        emulated.append("thinking_mode")
    elif conversation.thinking is not None:
        dropped.append("thinking_mode")
    if conversation.thinking_budget is not None:
        dropped.append("thinking_budget")
    if conversation.thinking_display is not None:
        dropped.append("thinking_display")


def _format(body: dict[str, Any], conversation: Conversation) -> None:
    if conversation.json_schema is not None:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "response", **conversation.json_schema},
        }
    elif conversation.json_object:
        body["response_format"] = {"type": "json_object"}


def _user(body: dict[str, Any], conversation: Conversation, dropped: list[str]) -> None:
    if conversation.user is None:
        return
    # Longer ones are an agent's device and account ids, which are not for another provider.
    if len(conversation.user) <= _MAX_USER:
        body["user"] = conversation.user
    else:
        dropped.append("user")


def _is_foreign(tool: Tool) -> bool:
    """Whether a tool is typed by the provider of another schema."""
    return tool.foreign is not None and tool.schema != "openai"


def _tools(body: dict[str, Any], conversation: Conversation, dropped: list[str]) -> None:
    tools: list[Any] = []
    for tool in conversation.tools:
        if _is_foreign(tool):
            dropped.append(label("tool", tool.name))
            continue
        if tool.cache is not None:
            dropped.append("cache_control")
        dropped += [f"tools.{name}" for name in tool.extra or () if name != "type"]
        tools.append(_tool(tool))
    if tools:
        body["tools"] = tools
        _tool_choice(body, conversation, dropped)
        if conversation.parallel_tools is not None:
            body["parallel_tool_calls"] = conversation.parallel_tools
    elif (choice := conversation.tool_choice) is not None and (choice.allowed or choice.mode in ("any", "tool")):
        dropped.append("tool_choice")  # OpenAI refuses a choice where there is no tool


def _tool(tool: Tool) -> Any:
    if tool.foreign is not None:
        return tool.foreign
    if tool.kind == "custom":
        return {"type": "custom", "custom": _custom(tool)}
    return {"type": "function", "function": _function(tool)}


def _function(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.parameters is not None:
        function["parameters"] = tool.parameters
    if tool.strict is not None:
        function["strict"] = tool.strict
    return function


def _custom(tool: Tool) -> dict[str, Any]:
    custom: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        custom["description"] = tool.description
    if tool.format is not None:
        custom["format"] = _nested(tool.format)
    return custom


def _nested(given: Any) -> Any:
    """A grammar in this API's form, under its own name."""
    if not isinstance(given, dict) or given.get("type") != "grammar" or "grammar" in given:
        return given
    return {"type": "grammar", "grammar": {name: value for name, value in given.items() if name != "type"}}


def _tool_choice(body: dict[str, Any], conversation: Conversation, dropped: list[str]) -> None:
    choice = conversation.tool_choice
    if choice is None:
        return
    sent = {tool.name: tool for tool in conversation.tools if not _is_foreign(tool)}
    if choice.mode == "tool":
        foreign = any(tool.name == choice.name for tool in conversation.tools) and choice.name not in sent
        if foreign:
            dropped.append("tool_choice")
        else:
            body["tool_choice"] = _named(choice.name, sent)
        return
    mode = "required" if choice.mode == "any" else choice.mode
    known = {tool.name for tool in conversation.tools}
    allowed = [_named(name, sent) for name in choice.allowed if name in sent or name not in known]
    if allowed and choice.mode != "none":
        body["tool_choice"] = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": allowed}}
    else:
        body["tool_choice"] = mode


def _named(name: str | None, tools: dict[str, Tool]) -> dict[str, Any]:
    tool = tools.get(name or "")
    kind = "function" if tool is None else tool.kind
    return {"type": kind, kind: {"name": name}}
