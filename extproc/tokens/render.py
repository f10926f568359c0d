"""How providers write tools and answer schemas into the prompt, as far as it is known; only the length matters here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

from extproc.core.conversation import Json, Tool

NAMESPACE = "# Tools\n\n## functions\n\nnamespace functions {\n\n} // namespace functions"

_DEPTH = 24
"""Schemas nested deeper are written as JSON from there on: hostile, or too rare to matter."""


def compact(value: Json) -> str:
    """JSON without spaces; a value nested too deep to be written counts as nothing."""
    return _dump(value, (",", ":"))


def function(tool: Tool) -> str:
    """A tool as Jinja's tojson writes OpenAI's wrapper, which open models are given."""
    inner = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    kept = {key: value for key, value in inner.items() if value is not None}
    return _dump({"type": "function", "function": kept}, (", ", ": "))


def bare(tool: Tool) -> str:
    """A tool as compact JSON of name, description and schema."""
    return compact({"name": tool.name, "description": tool.description or "", "input_schema": tool.parameters})


def answer_schema(wanted: Json) -> str:
    """The schema of a structured answer as OpenAI counts it: compact, and without additionalProperties."""
    schema = cast("dict[str, Any]", wanted).get("schema") if isinstance(wanted, dict) else wanted
    return compact(_without(schema, "additionalProperties", _DEPTH))


def typescript(tool: Tool) -> str:
    """A tool as a TypeScript type, which OpenAI's models are given."""
    lines = list(_comment(tool.description))
    parameters = _object(tool.parameters)
    if _object(parameters.get("properties")):
        lines.append(f"type {tool.name} = (_: {{\n{_properties(parameters, _DEPTH)}}}) => any;\n\n")
    else:
        lines.append(f"type {tool.name} = () => any;\n\n")
    definitions = parameters.get("$defs") or parameters.get("definitions")
    return "".join(lines) + (compact(definitions) if definitions else "")


def _properties(schema: dict[str, Any], depth: int) -> str:
    required = schema.get("required")
    names = cast("list[Any]", required) if isinstance(required, list) else []
    lines: list[str] = []
    for name, value in _object(schema.get("properties")).items():
        inner = _object(value)
        lines.extend(_comment(inner.get("description")))
        lines.append(f"{name}{'' if name in names else '?'}: {_type(inner, depth - 1)},")
        if "default" in inner:
            lines.append(f" // default: {compact(inner['default'])}")
        lines.append("\n")
    return "".join(lines)


def _type(schema: dict[str, Any], depth: int) -> str:
    if depth <= 0:
        return compact(schema)
    choices = schema.get("enum")
    if isinstance(choices, list):
        return " | ".join(map(compact, cast("list[Any]", choices)))
    if "const" in schema:
        return compact(schema["const"])
    union = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(union, list):
        return " | ".join(_type(_object(one), depth - 1) for one in cast("list[Any]", union))
    if isinstance(schema.get("$ref"), str):
        return cast("str", schema["$ref"]).rpartition("/")[2]
    return _plain(schema, depth)


def _plain(schema: dict[str, Any], depth: int) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        return " | ".join(map(str, cast("list[Any]", kind)))
    match kind:
        case "array":
            return _type(_object(schema.get("items")), depth - 1) + "[]"
        case "integer":
            return "number"
        case "object" | None if _object(schema.get("properties")):
            return "{\n" + _properties(schema, depth) + "}"
        case str():
            return kind
        case _:
            return "any"


def _comment(text: object) -> Iterator[str]:
    if isinstance(text, str) and text:
        yield from (f"// {line}\n" for line in text.split("\n"))


def _object(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _without(value: Any, name: str, depth: int) -> Any:
    if depth <= 0:
        return value
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {key: _without(inner, name, depth - 1) for key, inner in items if key != name}
    if isinstance(value, list):
        return [_without(inner, name, depth - 1) for inner in cast("list[Any]", value)]
    return value


def _dump(value: Json, separators: tuple[str, str]) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, separators=separators, default=str)
    except RecursionError:  # a thousand levels: no provider takes it
        return ""
