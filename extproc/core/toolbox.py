"""Tools between a client and a provider with other rules: names, ids, namespaces and freeform input, both ways.

`fit` rewrites the tools, tool choice and history of a conversation to what a provider takes, and remembers in a
`Recall` what the client called them; `Restorer` puts the client's names and kinds back into the answer's events. Every
rewriting is a function of the client's own text alone, so that all turns of a conversation agree with no state kept.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from extproc.core.conversation import (
    Conversation,
    Done,
    Event,
    Failure,
    Message,
    Part,
    Stop,
    Tool,
    ToolChoice,
    ToolDelta,
    ToolKind,
    ToolResult,
    ToolStart,
    ToolUse,
)

INPUT = "input"
"""The one argument of the function that stands for a custom tool."""
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_CUSTOM_SCHEMA: Any = {"type": "object", "properties": {INPUT: {"type": "string"}}, "required": [INPUT],
                       "additionalProperties": False}


class Rules(msgspec.Struct, frozen=True):
    """What a provider takes: the longest tool name, the longest call id (or the one exact length), freeform tools."""

    name_limit: int = 64
    id_limit: int = 64
    id_exact: int | None = None
    custom: bool = False
    namespaces: bool = False


class Called(msgspec.Struct, frozen=True):
    """How the client called a tool."""

    name: str
    kind: ToolKind = "function"
    namespace: str | None = None


Recall = Mapping[str, Called]
"""The provider's tool name -> the client's, for those that differ."""


def fit(conversation: Conversation, rules: Rules) -> tuple[Conversation, Recall]:
    """The conversation with its tools as the provider takes them, and what to restore in the answer."""
    names = {(t.namespace, t.name): _fit_name(t.namespace, t.name, rules) for t in conversation.tools}
    recall = {
        names[tool.namespace, tool.name]: Called(tool.name, tool.kind, tool.namespace)
        for tool in conversation.tools
        if tool.foreign is None and _differs(tool, names[tool.namespace, tool.name], rules)
    }
    tools = tuple(_tool(tool, names[tool.namespace, tool.name], rules) for tool in conversation.tools)
    messages = tuple(_message(message, rules) for message in conversation.messages)
    if tools == conversation.tools and messages == conversation.messages:
        return conversation, recall
    choice = _choice(conversation.tool_choice, names)
    return msgspec.structs.replace(conversation, tools=tools, messages=messages, tool_choice=choice), recall


def _differs(tool: Tool, name: str, rules: Rules) -> bool:
    return name != tool.name or (tool.kind == "custom" and not rules.custom) or (
        tool.namespace is not None and not rules.namespaces)


def _fit_name(namespace: str | None, name: str, rules: Rules) -> str:
    """The name with its namespace before it, in the common alphabet, cut with a hash when it is too long."""
    full = name if namespace is None or rules.namespaces else f"{namespace}__{name}"
    safe = full if _NAME.fullmatch(full) else re.sub(r"[^A-Za-z0-9_-]", "_", full) or "tool"
    if safe == full and len(full) <= rules.name_limit:
        return full
    return f"{safe[: rules.name_limit - 9]}_{hashlib.sha256(full.encode()).hexdigest()[:8]}"


def fit_id(identifier: str, rules: Rules) -> str:
    """A call id in the provider's form; one that has it already stays, so that its own ids come back to it."""
    exact = rules.id_exact
    if exact is not None:
        if len(identifier) == exact and identifier.isascii() and identifier.isalnum():
            return identifier
        return _letters(identifier, exact)
    if 0 < len(identifier) <= rules.id_limit and _NAME.fullmatch(identifier):
        return identifier
    return f"call_{_letters(identifier, 24)}"


def _letters(text: str, length: int) -> str:
    number = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest(), "big")
    out: list[str] = []
    for _ in range(length):
        number, digit = divmod(number, len(_ALPHABET))
        out.append(_ALPHABET[digit])
    return "".join(out)


def _tool(tool: Tool, name: str, rules: Rules) -> Tool:
    if tool.foreign is not None:
        return tool
    if tool.kind == "custom" and not rules.custom:
        return Tool(name, _described(tool), _CUSTOM_SCHEMA, cache=tool.cache)
    if name == tool.name:
        return tool
    return msgspec.structs.replace(tool, name=name, namespace=tool.namespace if rules.namespaces else None)


def _described(tool: Tool) -> str:
    """The description of a custom tool, with its grammar: a function cannot be held to one."""
    text = tool.description or ""
    grammar = tool.format.get("definition") if isinstance(tool.format, dict) else None
    told = f"Give the tool's whole raw input as the string `{INPUT}`."
    if isinstance(grammar, str) and grammar:
        told += f" It must follow this grammar:\n{grammar}"
    return f"{text}\n\n{told}".strip()


def _choice(choice: ToolChoice | None, names: Mapping[tuple[str | None, str], str]) -> ToolChoice | None:
    if choice is None:
        return None
    plain = {name: fitted for (_, name), fitted in names.items()}
    return msgspec.structs.replace(
        choice, name=None if choice.name is None else plain.get(choice.name, choice.name),
        allowed=tuple(plain.get(name, name) for name in choice.allowed))


def _message(message: Message, rules: Rules) -> Message:
    if message.role == "system" or not any(isinstance(part, ToolUse | ToolResult) for part in message.parts):
        return message
    parts = tuple(_part(part, rules) for part in message.parts)
    return message if parts == message.parts else Message(message.role, parts)


def _part(part: Part, rules: Rules) -> Part:
    match part:
        case ToolUse():
            custom = part.kind == "custom" and not rules.custom
            arguments = msgspec.json.encode({INPUT: part.arguments}).decode() if custom else part.arguments
            return msgspec.structs.replace(
                part, id=fit_id(part.id, rules), name=_fit_name(part.namespace, part.name, rules), arguments=arguments,
                kind="function" if custom else part.kind, namespace=part.namespace if rules.namespaces else None)
        case ToolResult():
            return msgspec.structs.replace(part, id=fit_id(part.id, rules))
        case _:
            return part


class Restorer:
    """A filter over an answer's events that gives tools back the names and kinds that the client knows."""

    __slots__ = ("_custom", "_recall")

    def __init__(self, recall: Recall) -> None:
        self._recall = recall
        self._custom: dict[int, list[str]] = {}

    def feed(self, event: Event) -> Sequence[Event]:
        """Return the events that take this one's place."""
        match event:
            case ToolStart() if (called := self._recall.get(event.name)) is not None:
                if called.kind == "custom":
                    self._custom[event.index] = []
                return (msgspec.structs.replace(
                    event, name=called.name, kind=called.kind, namespace=called.namespace),)
            case ToolDelta() if event.index in self._custom:
                self._custom[event.index].append(event.arguments)
                return ()
            case Stop() | Done() if self._custom:
                return (*self._inputs(), event)
            case Failure():
                self._custom = {}
                return (event,)
            case _:
                return (event,)

    def _inputs(self) -> list[Event]:
        """The raw input of each custom call: known only when its arguments are whole, because it is escaped there."""
        custom, self._custom = self._custom, {}
        return [ToolDelta(index, raw_input("".join(pieces))) for index, pieces in custom.items()]


def raw_input(arguments: str) -> str:
    """The text that a model meant for a custom tool, from the arguments of the function that stands for it."""
    try:
        value = msgspec.json.decode(arguments)
    except (msgspec.MsgspecError, RecursionError):
        return arguments  # the model wrote the raw text itself
    if isinstance(value, dict):
        given = value.get(INPUT)
        if isinstance(given, str):
            return given
        if len(value) == 1 and isinstance(only := next(iter(value.values())), str):
            return only
    return value if isinstance(value, str) else arguments


Filter = Callable[[Event], Sequence[Event]]
"""What stands between a provider's parser and a client's renderer."""
