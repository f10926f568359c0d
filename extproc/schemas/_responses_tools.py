"""Tools and tool choice of the OpenAI Responses schema, both directions.

Source: PyPI openai 3.54.0, types/responses/tool_param.py, namespace_tool_param.py and tool_choice_*.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

from extproc.core.conversation import Conversation, Tool, ToolChoice
from extproc.core.errors import RequestError
from extproc.schemas import _responses_builtin as builtin
from extproc.schemas._codec import label, require_text

SCHEMA = "responses"
_FUNCTION = frozenset({"type", "name", "description", "parameters", "strict"})
_CUSTOM = frozenset({"type", "name", "description", "format"})
_ABOUT = "namespace_description"
"""Where the first tool of a namespace keeps the namespace's own description."""
_SERVED = frozenset({
    "mcp", "file_search", "computer", "computer_use", "computer_use_preview", "shell", "local_shell", "apply_patch",
})
"""Tools run by OpenAI's servers on what only they can reach: a request for them is not served without them. Others,
such as web_search, are offered by clients as a matter of course and can be left out."""


class Tools:
    """The tools of one request, gathered from its `tools` and from the items that bring more."""

    def __init__(self, demands: list[str]) -> None:
        self._demands = demands
        self._tools: list[Tool] = []
        self._names: set[tuple[str | None, str]] = set()

    def add(self, given: object, path: str) -> None:
        """Take in a list of tools; one that is known already stays as it is. Raises RequestError."""
        if given is None:
            return
        if not isinstance(given, list):
            raise RequestError(f"{path}: expected a list", param=path)
        for i, value in enumerate(given):
            for tool in self._read(value, f"{path}[{i}]", None):
                key = (tool.namespace, tool.name)
                # Two tools of one server kind may differ (two MCP servers); two of one name may not.
                if key not in self._names or (tool.foreign is not None and tool not in self._tools):
                    self._names.add(key)
                    self._tools.append(tool)

    def all(self) -> tuple[Tool, ...]:
        """The tools in the order of their first mention."""
        return tuple(self._tools)

    def _read(self, value: object, path: str, namespace: str | None) -> Sequence[Tool]:
        if not isinstance(value, dict):
            raise RequestError(f"{path}: expected an object", param=path)
        tool = cast(dict[str, Any], value)
        match tool.get("type"):
            case "function":
                return (_function(tool, path, namespace),)
            case "custom":
                return (_custom(tool, path, namespace),)
            case "namespace" if namespace is None:
                return self._namespace(tool, path)
            case str() as kind:
                if (own := builtin.read_tool(tool)) is not None:
                    return (own,)
                if kind in _SERVED:
                    self._demands.append(label("tool", kind))
                name = tool.get("name")
                return (Tool(name if isinstance(name, str) and name else kind, foreign=tool, namespace=namespace,
                             schema=SCHEMA),)
            case _:
                raise RequestError(f"{path}.type: expected a string", param=f"{path}.type")

    def _namespace(self, value: dict[str, Any], path: str) -> Sequence[Tool]:
        name = require_text(value.get("name"), f"{path}.name")
        inner = value.get("tools")
        if not isinstance(inner, list):
            raise RequestError(f"{path}.tools: expected a list", param=f"{path}.tools")
        tools = [tool for i, one in enumerate(inner) for tool in self._read(one, f"{path}.tools[{i}]", name)]
        about = value.get("description")
        if tools and isinstance(about, str) and about and tools[0].foreign is None:
            first = tools[0]
            tools[0] = _with_extra(first, {_ABOUT: about, **(first.extra or {})})
        return tools


def _with_extra(tool: Tool, extra: dict[str, Any]) -> Tool:
    return Tool(tool.name, tool.description, tool.parameters, tool.strict, kind=tool.kind, format=tool.format,
                namespace=tool.namespace, extra=extra, schema=SCHEMA)


def _function(tool: dict[str, Any], path: str, namespace: str | None) -> Tool:
    parameters, strict = tool.get("parameters"), tool.get("strict")
    if parameters is not None and not isinstance(parameters, dict):
        raise RequestError(f"{path}.parameters: expected an object", param=f"{path}.parameters")
    extra = _extra(tool, _FUNCTION)
    return Tool(
        require_text(tool.get("name"), f"{path}.name"), _about(tool), parameters,
        strict if isinstance(strict, bool) else None, namespace=namespace, extra=extra, schema=SCHEMA if extra else "")


def _custom(tool: dict[str, Any], path: str, namespace: str | None) -> Tool:
    extra = _extra(tool, _CUSTOM)
    return Tool(require_text(tool.get("name"), f"{path}.name"), _about(tool), kind="custom", format=tool.get("format"),
                namespace=namespace, extra=extra, schema=SCHEMA if extra else "")


def _about(tool: dict[str, Any]) -> str | None:
    description = tool.get("description")
    return description if isinstance(description, str) else None


def _extra(tool: dict[str, Any], known: frozenset[str]) -> dict[str, Any] | None:
    return {key: value for key, value in tool.items() if key not in known and value is not None} or None


def read_choice(choice: str | dict[str, Any] | None) -> ToolChoice | None:
    """The neutral tool choice; raise RequestError for one that is none."""
    match choice:
        case None:
            return None
        case "auto" | "none":
            return ToolChoice(choice)
        case "required":
            return ToolChoice("any")
        case str():
            raise RequestError(f"tool_choice: unknown choice {choice[:40]!r}", param="tool_choice")
        case {"type": "allowed_tools"}:
            allowed = choice.get("tools")
            names = [_chosen(tool) for tool in allowed] if isinstance(allowed, list) else []
            return ToolChoice("any" if choice.get("mode") == "required" else "auto", allowed=tuple(names))
        case _:
            return ToolChoice("tool", _chosen(choice))


def _chosen(choice: object) -> str:
    """The name of a chosen tool; server tools are named by their type."""
    given = cast(dict[str, object], choice) if isinstance(choice, dict) else {}
    return require_text(given.get("name") or given.get("type"), "tool_choice.name")


def render_tools(body: dict[str, Any], conversation: Conversation, dropped: list[str]) -> None:
    """Set `tools`, `tool_choice` and `parallel_tool_calls`."""
    tools, choice = list(_rendered(conversation.tools, dropped)), conversation.tool_choice
    if not tools:
        if choice is not None and (choice.mode in ("any", "tool") or choice.allowed):
            dropped.append("tool_choice")
        return
    body["tools"] = tools
    if choice is not None:
        _render_choice(body, choice, conversation.tools, dropped)
    if conversation.parallel_tools is not None:
        body["parallel_tool_calls"] = conversation.parallel_tools


def is_foreign(tool: Tool) -> bool:
    """Whether the tool is another schema's own."""
    return tool.foreign is not None and tool.schema != SCHEMA


def _rendered(tools: Iterable[Tool], dropped: list[str]) -> Iterable[dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = {}
    for tool in tools:
        if tool.cache is not None:
            dropped.append("cache_control")
        if is_foreign(tool):
            dropped.append(label("tool", tool.name))
        elif tool.namespace == builtin.BUILTIN:
            yield builtin.write_tool(tool)
        elif tool.namespace is None:
            yield _render(tool, dropped)
        elif (group := groups.get(tool.namespace)) is not None:
            group["tools"].append(_render(tool, dropped))
        else:
            about = tool.extra.get(_ABOUT) if isinstance(tool.extra, dict) else None
            groups[tool.namespace] = {"type": "namespace", "name": tool.namespace,
                                      "description": about or tool.namespace, "tools": [_render(tool, dropped)]}
            yield groups[tool.namespace]


def _render(tool: Tool, dropped: list[str]) -> dict[str, Any]:
    if tool.foreign is not None:
        return tool.foreign
    out: dict[str, Any] = {"type": tool.kind, "name": tool.name}
    if tool.description is not None:
        out["description"] = tool.description
    if tool.kind == "custom":
        if tool.format is not None:
            out["format"] = tool.format
    else:
        # Both are required by the schema; strict left out would mean true.
        out["parameters"] = tool.parameters
        out["strict"] = bool(tool.strict)
    if isinstance(tool.extra, dict):
        if tool.schema == SCHEMA:
            out |= {key: value for key, value in tool.extra.items() if key != _ABOUT}
        else:
            dropped += [f"tools.{key}" for key in tool.extra]
    return out


def _render_choice(body: dict[str, Any], choice: ToolChoice, tools: Sequence[Tool], dropped: list[str]) -> None:
    mode = "required" if choice.mode == "any" else choice.mode
    if choice.mode == "tool":
        named = _named(choice.name or "", tools)
        if named is None:
            dropped.append("tool_choice")
        else:
            body["tool_choice"] = named
    elif choice.allowed:
        allowed = [named for name in choice.allowed if (named := _named(name, tools)) is not None]
        body["tool_choice"] = {"type": "allowed_tools", "mode": mode, "tools": allowed}
    else:
        body["tool_choice"] = mode


def _named(name: str, tools: Sequence[Tool]) -> dict[str, Any] | None:
    """How a tool is named in a choice; None for another schema's."""
    tool = next((tool for tool in tools if tool.name == name), None)
    if tool is None:
        return {"type": "function", "name": name}
    if is_foreign(tool):
        return None
    if tool.namespace == builtin.BUILTIN:
        return {"type": name}
    if tool.foreign is not None:
        own = {"type": tool.foreign.get("type", name)}
        return own if own["type"] == name else {**own, "name": name}
    return {"type": tool.kind, "name": name}
