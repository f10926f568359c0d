"""Neutral conversation -> Anthropic Messages request: settings, tools and formats.

The form is Anthropic's own, for a model that has everything; what single models or other servers refuse (sampling,
thinking modes, system messages between the turns) is for their dialects.
"""

from __future__ import annotations

from typing import Any

import msgspec

from extproc.core.conversation import Conversation, Tool, ToolChoice
from extproc.core.served import capped
from extproc.schemas._anthropic_render_blocks import Block, Blocks, cached
from extproc.schemas._codec import decode, encode, label, labels
from extproc.schemas._passing import edits
from extproc.schemas.base import Rendered, Target
from extproc.wire.json_splice import TopLevel

_EFFORT = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}
_TIERS = {"auto": "auto", "default": "standard_only"}
_MAX_USER = 256
_OFF = {"type": "disabled"}
_TOOLS = msgspec.json.Decoder(list[Any])


def render_request(conversation: Conversation, target: Target) -> Rendered:
    """Render a Messages request."""
    dropped, emulated = list(conversation.unmapped), list[str]()
    system, messages = Blocks(dropped, emulated).render(conversation.messages)
    body: dict[str, Any] = {"model": target.model, "max_tokens": _max_tokens(conversation, target)}
    if system:
        body["system"] = system
    body["messages"] = messages
    _tools(body, conversation, dropped, emulated)
    _settings(body, conversation, dropped)
    _thinking(body, conversation, dropped)
    _output(body, conversation, dropped, emulated)
    if conversation.stream:
        body["stream"] = True
    return Rendered(body, labels(dropped), labels(emulated))


def patch_request(body: bytes, target: Target, limits: tuple[str, ...]) -> bytes:
    """Replace the model and the limits; all else keeps its bytes. Raise RequestError for a field given twice."""
    fields = TopLevel(body)
    changed = edits(fields, target, limits)
    tools = fields.get("tools")
    if target.server_uses is not None and tools is not None and b'"web_' in tools:
        given = decode(_TOOLS, tools, "tools")
        if capped(given, target.server_uses):
            changed["tools"] = encode(given)
    return fields.edit(changed)


def refuses(conversation: Conversation) -> tuple[str, ...]:
    """Several choices: one request has one answer."""
    return ("n",) if conversation.n > 1 else ()


def _max_tokens(conversation: Conversation, target: Target) -> int:
    limit = conversation.max_tokens
    if limit is None:
        return target.max_output or target.default_max_tokens
    return limit if target.max_output is None else min(limit, target.max_output)


def _settings(body: dict[str, Any], conversation: Conversation, dropped: list[str]) -> None:
    for name, value in (
        ("temperature", conversation.temperature),
        ("top_p", conversation.top_p),
        ("top_k", conversation.top_k),
    ):
        if value is not None:
            body[name] = value
    if conversation.seed is not None:
        dropped.append("seed")
    stop = [text for text in conversation.stop if text.strip()]  # whitespace-only ones are a 400
    if stop:
        body["stop_sequences"] = stop
    if len(stop) < len(conversation.stop):
        dropped.append("stop")
    _user(body, conversation, dropped)
    _extras(body, conversation, dropped)
    if conversation.system_cache:
        body["cache_control"] = {"type": "ephemeral"}


def _user(body: dict[str, Any], conversation: Conversation, dropped: list[str]) -> None:
    if conversation.user is None:
        return
    if len(conversation.user) <= _MAX_USER:
        body["metadata"] = {"user_id": conversation.user}
    else:
        dropped.append("user")


def _extras(body: dict[str, Any], conversation: Conversation, dropped: list[str]) -> None:
    for name, value in conversation.extras.items():
        if name == "service_tier" and isinstance(value, str) and value in _TIERS:
            body[name] = _TIERS[value]
        else:
            dropped.append(name)


def _thinking(body: dict[str, Any], conversation: Conversation, dropped: list[str]) -> None:
    kind = conversation.thinking
    if kind is None and conversation.thinking_budget is not None:
        kind = "enabled"
    elif kind is None and conversation.effort == "none":
        kind = "disabled"
    if kind is None:
        if conversation.thinking_display is not None:
            dropped.append("thinking_display")
        return
    thinking: dict[str, Any] = {"type": kind}
    if conversation.thinking_budget is not None:
        thinking["budget_tokens"] = conversation.thinking_budget
    if conversation.thinking_display is not None:
        thinking["display"] = conversation.thinking_display
    body["thinking"] = thinking


def _output(body: dict[str, Any], conversation: Conversation, dropped: list[str], emulated: list[str]) -> None:
    output: dict[str, Any] = {}
    if conversation.effort in _EFFORT:
        output["effort"] = _EFFORT[conversation.effort]
        if conversation.effort != output["effort"]:
            emulated.append("effort")
    elif conversation.effort is not None and (conversation.effort, body.get("thinking")) != ("none", _OFF):
        dropped.append("effort")
    if conversation.json_schema is not None:
        output["format"] = {"type": "json_schema", "schema": conversation.json_schema.get("schema") or {}}
        dropped += [f"response_format.{name}" for name, value in conversation.json_schema.items()
                    if name != "schema" and (name, value) != ("name", "response")]
    elif conversation.json_object:
        dropped.append("response_format")
    if output:
        body["output_config"] = output


def _tools(body: dict[str, Any], conversation: Conversation, dropped: list[str], emulated: list[str]) -> None:
    choice = conversation.tool_choice
    allowed = choice.allowed if choice is not None and choice.mode in ("auto", "any") else ()
    tools: list[Block] = []
    names: set[str] = set()
    for tool in conversation.tools:
        if allowed and tool.name not in allowed:
            continue
        if tool.kind == "custom" or (tool.foreign is not None and tool.schema != "anthropic"):
            dropped.append(label("tool", tool.name))
            continue
        tools.append(tool.foreign if tool.foreign is not None else _tool(tool, dropped))
        names.add(tool.name)
    if allowed:  # there is no such choice here: only the allowed tools are told
        emulated.append("tool_choice.allowed_tools")
    if tools:
        body["tools"] = tools
        _tool_choice(body, choice, conversation.parallel_tools, names, dropped)
    elif choice is not None and choice.mode in ("any", "tool"):
        dropped.append("tool_choice")


def _tool_choice(body: dict[str, Any], choice: ToolChoice | None, parallel: bool | None, names: set[str],
                 dropped: list[str]) -> None:
    wanted: Block | None = None
    if choice is not None and choice.mode == "tool" and choice.name not in names:
        dropped.append("tool_choice")
    elif choice is not None:
        wanted = {"type": choice.mode, "name": choice.name} if choice.mode == "tool" else {"type": choice.mode}
    if parallel is not None and (wanted is not None or not parallel):
        wanted = wanted or {"type": "auto"}
        if wanted["type"] != "none":
            wanted["disable_parallel_tool_use"] = not parallel
    if wanted is not None:
        body["tool_choice"] = wanted


def _tool(tool: Tool, dropped: list[str]) -> Block:
    block: Block = {"name": tool.name}
    if tool.description is not None:
        block["description"] = tool.description
    block["input_schema"] = {"type": "object", **(tool.parameters or {"properties": {}})}
    if tool.strict is not None:
        block["strict"] = tool.strict
    if tool.schema == "anthropic":
        block.update(tool.extra or {})
    else:
        dropped += [f"tools.{name}" for name in tool.extra or ()]
    return cached(block, tool.cache)
