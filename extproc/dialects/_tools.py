"""Tools of chat completion requests: corrections that several dialects share.

The fields are those of a rendered request or come straight from a client's JSON: any of them may have any type, and
nothing here raises. What has not the expected form stays as it is, for the provider to judge.
"""

from __future__ import annotations

from typing import Any

import msgspec

from extproc.dialects._chat import as_object, kind, messages, objects
from extproc.dialects.base import Fields, Notes
from extproc.schemas._codec import FOREIGN_ERRORS, json_object, label


def functions_only(fields: Fields, notes: Notes) -> None:
    """No tools but functions, and a choice among them: what most servers know."""
    given = fields.get("tools")
    if isinstance(given, list | tuple):
        tools = [tool for tool in objects(given) if kind(tool, "function") == "function"]
        notes.dropped += [label("tool", tool_name(t)) for t in objects(given) if kind(t, "function") != "function"]
        _set_tools(fields, tools)
    _plain_choice(fields, notes)


def _set_tools(fields: Fields, tools: list[Fields]) -> None:
    if tools:
        fields["tools"] = tools
    else:  # an empty list, or a choice among no tools, is an error to many servers
        for name in ("tools", "tool_choice", "parallel_tool_calls"):
            fields.pop(name, None)


def tool_name(tool: Fields) -> str:
    """The name of a tool of any type; its type when it has none."""
    inner = as_object(tool.get(kind(tool, "function"))) or tool
    name = inner.get("name")
    return name if isinstance(name, str) else kind(tool) or "tool"


def _plain_choice(fields: Fields, notes: Notes) -> None:
    choice = as_object(fields.get("tool_choice"))
    if choice is None:
        return
    if kind(choice) == "allowed_tools":
        allowed = as_object(choice.get("allowed_tools")) or {}
        names = {tool_name(tool) for tool in objects(allowed.get("tools"))}
        fields["tool_choice"] = "required" if allowed.get("mode") == "required" else "auto"
        _set_tools(fields, [tool for tool in objects(fields.get("tools")) if tool_name(tool) in names])
        notes.emulated.append("tool_choice.allowed_tools")
    elif kind(choice, "function") != "function":
        del fields["tool_choice"]
        notes.dropped.append("tool_choice")


def chosen(fields: Fields) -> str | None:
    """The tool that must be called, when one is named."""
    choice = as_object(fields.get("tool_choice"))
    function = None if choice is None else as_object(choice.get("function"))
    name = None if function is None else function.get("name")
    return name if isinstance(name, str) else None


def only_chosen(fields: Fields, choice: str | None, notes: Notes) -> None:
    """A named choice for a server that cannot take one: the tool is offered alone, with this `choice` of its own."""
    name = chosen(fields)
    if name is None:
        return
    tools = [tool for tool in objects(fields.get("tools")) if tool_name(tool) == name]
    if tools:
        fields["tools"] = tools
    if choice is None or not tools:
        fields.pop("tool_choice", None)
    else:
        fields["tool_choice"] = choice
    notes.emulated.append("tool_choice")


def forces_a_tool(fields: Fields) -> bool:
    """Whether the model may not answer without a call."""
    return chosen(fields) is not None or fields.get("tool_choice") in ("required", "any")


def calls(message: Fields) -> list[Fields]:
    """The tool calls of an assistant message."""
    return objects(message.get("tool_calls"))


def whole_arguments(fields: Fields) -> None:
    """Arguments of earlier calls as the JSON text of an object: templates and Go servers parse them, and fail."""
    for message in messages(fields, "assistant"):
        for call in calls(message):
            function = as_object(call.get("function"))
            if function is not None:
                function["arguments"] = _arguments(function.get("arguments"))


def _arguments(given: Any) -> Any:
    if isinstance(given, str):
        if not given.strip():
            return "{}"
        return given if json_object(given) else _encoded({"text": given}, given)
    return "{}" if given is None else _encoded(given, given)


def _encoded(value: Any, otherwise: Any) -> Any:
    try:
        return msgspec.json.encode(value).decode()
    except FOREIGN_ERRORS:
        return otherwise
