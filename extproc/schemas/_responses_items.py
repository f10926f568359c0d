"""Input items of a Responses request -> neutral messages.

Consecutive items of the assistant (texts, calls, reasoning) become one message, consecutive outputs of tools another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from extproc.core.conversation import (
    Document,
    Foreign,
    Image,
    Message,
    Part,
    Role,
    Text,
    ToolKind,
    ToolResult,
    ToolUse,
)
from extproc.core.errors import RequestError
from extproc.schemas import _responses_builtin as builtin
from extproc.schemas._codec import compact, data_uri, label, require_text
from extproc.schemas._responses_thoughts import read_reasoning
from extproc.schemas._responses_tools import SCHEMA, Tools

_ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
BOUND = frozenset({"item_reference", "compaction", "compaction_summary", "mcp_approval_response"})
"""Items that mean something only to the server that made them, and without which the rest is not understood."""
PART = "part."
"""What the kind of a foreign content part begins with when its type does not tell it from an item."""
PART_TYPES = ("input_", "output_")

Item = dict[str, Any]


class Items:
    """Gathers the messages of one request; notes what is lost and what only OpenAI can serve."""

    def __init__(self, tools: Tools, lost: list[str], demands: list[str]) -> None:
        self._tools, self._lost, self._demands = tools, lost, demands
        self._out: list[Message] = []
        self._role: Role = "assistant"
        self._parts: list[Part] = []
        self._readers: dict[str, Callable[[Item, str], None]] = {
            "message": self._message,
            "function_call": self._function_call,
            "custom_tool_call": self._custom_call,
            "function_call_output": self._output,
            "custom_tool_call_output": self._output,
            "reasoning": self._reasoning,
            "additional_tools": self._additional,
            "tool_search_output": self._found,
            **dict.fromkeys(builtin.CALLS, self._builtin_call),
            **dict.fromkeys(builtin.OUTPUTS, self._builtin_output),
        }

    def instruct(self, text: str | None) -> None:
        """Take in the request's instructions."""
        if text:
            self._out.append(Message("system", (Text(text),)))

    def user_text(self, text: str) -> None:
        """Take in an input that is one text."""
        self._out.append(Message("user", (Text(text),)))

    def add(self, item: Item, path: str) -> None:
        """Take in one item; raise RequestError naming what is wrong in it."""
        kind = item.get("type") or ("message" if "role" in item else None)
        if not isinstance(kind, str):
            raise RequestError(f"{path}.type: expected a string", param=f"{path}.type")
        self._readers.get(kind, self._foreign)(item, path)

    def messages(self) -> tuple[Message, ...]:
        """All messages so far."""
        self._flush()
        return tuple(self._out)

    def _flush(self) -> None:
        if self._parts:
            self._out.append(Message(self._role, tuple(self._parts)))
            self._parts = []

    def _join(self, role: Role, *parts: Part) -> None:
        if self._role != role:
            self._flush()
            self._role = role
        self._parts += parts

    def _message(self, item: Item, path: str) -> None:
        given = item.get("role")
        role = _ROLES.get(given) if isinstance(given, str) else None
        if role is None:
            raise RequestError(f"{path}.role: expected user, assistant, system or developer", param=f"{path}.role")
        parts = self._content(item.get("content"), f"{path}.content")
        if role == "assistant":
            if item.get("phase") is not None:
                self._lost.append("phase")
            self._join(role, *parts)
        else:
            self._flush()
            self._out.append(Message(role, parts))

    def _content(self, content: object, path: str) -> tuple[Part, ...]:
        if content is None:
            return ()
        if isinstance(content, str):
            return (Text(content),)
        if not isinstance(content, list):
            raise RequestError(f"{path}: expected a string or a list", param=path)
        return tuple(self._part(part, f"{path}[{i}]") for i, part in enumerate(cast(list[Any], content)))

    def _part(self, given: object, path: str) -> Part:
        if not isinstance(given, dict) or not isinstance(kind := given.get("type"), str):
            raise RequestError(f"{path}.type: expected a string", param=f"{path}.type")
        part = cast(Item, given)
        if part.get("prompt_cache_breakpoint") is not None:
            self._lost.append("prompt_cache_breakpoint")
        match kind:
            case "input_text" | "output_text" | "text" | "summary_text" | "reasoning_text":
                if part.get("annotations"):
                    self._lost.append("annotations")
                return Text(_text(part, "text", path))
            case "refusal":
                return Text(_text(part, "refusal", path))
            case "input_image" if part.get("image_url") is not None:
                return _image(part, path)
            case "input_file" if part.get("file_data") is not None or part.get("file_url") is not None:
                return _document(part, path)
            case _:
                if part.get("file_id") is not None:
                    self._demands.append(f"{kind}.file_id")
                return Foreign(kind if kind.startswith(PART_TYPES) else PART + kind, part, SCHEMA)

    def _function_call(self, item: Item, path: str) -> None:
        given = item.get("arguments")
        arguments = compact(given) if isinstance(given, dict) else _text(item, "arguments", path)
        self._call(item, path, "function", arguments)

    def _custom_call(self, item: Item, path: str) -> None:
        self._call(item, path, "custom", _text(item, "input", path))

    def _call(self, item: Item, path: str, kind: ToolKind, arguments: str) -> None:
        namespace = item.get("namespace")
        self._join("assistant", ToolUse(
            require_text(item.get("call_id"), f"{path}.call_id"), require_text(item.get("name"), f"{path}.name"),
            arguments, kind=kind, namespace=namespace if isinstance(namespace, str) and namespace else None))

    def _output(self, item: Item, path: str) -> None:
        identifier = require_text(item.get("call_id"), f"{path}.call_id")
        parts = self._content(item.get("output"), f"{path}.output")
        self._lost += [label("foreign", part.kind) for part in parts if isinstance(part, Foreign)]
        known = tuple(part for part in parts if isinstance(part, Text | Image | Document))
        self._join("user", ToolResult(identifier, known))

    def _reasoning(self, item: Item, path: str) -> None:
        self._join("assistant", read_reasoning(item))

    def _builtin_call(self, item: Item, path: str) -> None:
        name, arguments = builtin.CALLS[item["type"]], builtin.read_call(item)
        if arguments is None:
            raise RequestError(f"{path}: expected an object that says what to do", param=path)
        identifier = require_text(item.get("call_id") or item.get("id"), f"{path}.call_id")
        self._join("assistant", ToolUse(identifier, name, compact(arguments), namespace=builtin.BUILTIN))

    def _builtin_output(self, item: Item, path: str) -> None:
        output = builtin.read_output(item)
        if output is None:
            raise RequestError(f"{path}.call_id: expected a non-empty string", param=f"{path}.call_id")
        self._join("user", ToolResult(output.id, (Text(output.text),), output.failed))

    def _additional(self, item: Item, path: str) -> None:
        self._tools.add(item.get("tools"), f"{path}.tools")

    def _found(self, item: Item, path: str) -> None:
        """The tools that a search brought can be called from here on; the search itself is OpenAI's form."""
        self._additional(item, path)
        self._foreign(item, path)

    def _foreign(self, item: Item, path: str) -> None:
        kind = item["type"]
        if kind.startswith((PART, *PART_TYPES)):
            raise RequestError(f"{path}.type: {kind[:40]} is no item but a part of one", param=f"{path}.type")
        if kind in BOUND:
            self._demands.append(kind)
        part = Foreign(kind, item, SCHEMA)
        self._join("user" if kind.endswith(("_output", "_response")) else "assistant", part)


def _text(item: Item, key: str, path: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise RequestError(f"{path}.{key}: expected a string", param=f"{path}.{key}")
    return value


def _image(part: Item, path: str) -> Image:
    url, detail = _text(part, "image_url", path), part.get("detail")
    detail = detail if isinstance(detail, str) and detail != "auto" else None
    media_type, data = data_uri(url)
    if data is None:
        return Image(url=url, detail=detail)
    return Image(media_type=media_type, data=data, detail=detail)


def _document(part: Item, path: str) -> Document:
    name = part.get("filename")
    name = name if isinstance(name, str) else None
    if part.get("file_data") is None:
        return Document(url=_text(part, "file_url", path), name=name)
    given = _text(part, "file_data", path)
    media_type, data = data_uri(given)
    return Document(media_type=media_type or "application/pdf", data=given if data is None else data, name=name)
