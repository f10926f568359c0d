"""The arguments of a call that was read from text: JSON by the schema of the tool, or the JSON the model wrote.

The json module reads here and not msgspec, because it forgives line ends in strings and keeps integers of any size.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, cast

PYTHON_LIMIT = 64 << 10
"""Characters of a Python literal that is read in place of JSON."""
_DEPTH = 8
_KINDS = frozenset({"string", "integer", "number", "boolean", "null", "object", "array"})
_KIND_OF: dict[type, str] = {
    str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null", dict: "object", list: "array",
}
_FORGOTTEN = re.compile(r"\n<parameter=([^<>\n]{1,256})>")
_PYTHON = {"true": "true", "false": "false", "null": "null", "none": "null"}
_FAILURES = (ValueError, SyntaxError, RecursionError, MemoryError, OverflowError, TypeError)
"""What the two readers raise on nonsense, on nesting without end and on what JSON cannot say."""


def from_parameters(schema: Any, pairs: Sequence[tuple[str, str]]) -> str:
    """The JSON object of raw parameter texts, each typed by the tool's schema; the last of equal names counts."""
    members = {
        key: _typed(_without_line_ends(value), _property(schema, key), schema)
        for key, value in _parted(schema, pairs)
    }
    return "{" + ",".join(f"{_string(key)}:{value}" for key, value in members.items()) + "}"


def from_object(text: str) -> tuple[str, str] | None:
    """Name and arguments of a call written as a JSON object; None if it is no such object."""
    call = _loads(text)
    if not isinstance(call, dict) or not isinstance(name := call.get("name"), str):
        return None
    arguments = call.get("arguments", call.get("parameters"))
    if isinstance(arguments, str):
        arguments = _loads(arguments) if arguments.strip() else {}
    written = _dumps({} if arguments is None else arguments)
    return (name, written) if written.startswith("{") else None


# ---------------------------------------------------------------- values


def _without_line_ends(value: str) -> str:
    """Without the one line end after the opening and the one before the closing tag."""
    return value.removeprefix("\n").removesuffix("\n")


def _parted(schema: Any, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Undo a forgotten closing tag between two parameters, where a required one would be missing otherwise."""
    required = _get(schema, "required")
    missing = {key for key in required if isinstance(key, str)} if isinstance(required, list) else set[str]()
    missing -= {key for key, _ in pairs}
    if not missing:
        return list(pairs)
    out: list[tuple[str, str]] = []
    for first, value in pairs:
        key, start = first, 0
        for found in _FORGOTTEN.finditer(value):
            if found[1] in missing:
                out.append((key, value[start:found.start() + 1]))
                key, start = found[1], found.end()
                missing.discard(key)
        out.append((key, value[start:]))
    return out


def _typed(value: str, schema: Any, root: Any) -> str:
    """The JSON text of one value."""
    kinds, choices = set[str](), list[Any]()
    _gather(schema, root, kinds, choices, _DEPTH)
    if value in choices or (kinds and kinds == {"string"}):
        return _string(value)
    bare = value.strip()
    known = _PYTHON.get(bare.lower(), "")
    if known == "null" and ("null" in kinds or (kinds and "string" not in kinds)):
        return known
    if known in ("true", "false") and "boolean" in kinds:
        return known
    if (kinds & {"integer", "number"}) and (number := _number(bare, whole="number" not in kinds)):
        return number
    # A declared parameter without any type takes whatever it is given: only what can be nothing else is read as JSON.
    if kinds & {"object", "array"} or (schema is not None and not kinds and not choices):
        return _container(bare, kinds) or _string(value)
    return _string(value)


def _number(text: str, *, whole: bool) -> str:
    """The JSON number `text`, or "". A number that must be whole loses a fraction of zeros."""
    number = _loads(text)
    if isinstance(number, bool) or not isinstance(number, int | float):
        return ""
    if isinstance(number, float) and whole:
        return str(int(number)) if number.is_integer() and abs(number) < 1 << 53 else ""
    return text if _dumps(number) else ""


def _container(text: str, kinds: set[str]) -> str:
    """The JSON of an object or array, or "". A Python literal is read too: templates render such values with str()."""
    if not text.startswith(("{", "[")):
        return ""
    value = _loads(text)
    if value is None and len(text) <= PYTHON_LIMIT:
        try:
            value = ast.literal_eval(text)
        except _FAILURES:
            return ""
    kind = "object" if isinstance(value, dict) else "array" if isinstance(value, list) else ""
    return _dumps(value) if kind in (kinds & {"object", "array"} or {"object", "array"}) else ""


def _loads(text: str) -> Any:
    """The value of JSON text, None if it is none. Models forget to escape line ends in strings: that is forgiven."""
    try:
        return json.loads(text, strict=False, parse_constant=_refuse)
    except _FAILURES:
        return None


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def _dumps(value: Any) -> str:
    """Compact JSON, or "" for what JSON cannot say."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text if _is_utf8(text) else json.dumps(value, allow_nan=False, separators=(",", ":"))
    except _FAILURES:
        return ""


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=not _is_utf8(text))


def _is_utf8(text: str) -> bool:
    """False for half a surrogate pair, which JSON can name by an escape but no wire can carry."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# ---------------------------------------------------------------- schemas


def _get(schema: Any, key: str) -> Any:
    return cast("dict[str, Any]", schema).get(key) if isinstance(schema, dict) else None


def _property(schema: Any, key: str) -> Any:
    """The schema of a parameter; None if the tool declares none of that name."""
    return _get(_get(schema, "properties"), key)


def _gather(schema: Any, root: Any, kinds: set[str], choices: list[Any], depth: int) -> None:
    """Collect the types that a value may have, and the values it must be one of."""
    if not isinstance(schema, dict) or depth == 0:
        return
    declared = _get(schema, "type")
    kinds.update(_KINDS.intersection(_strings(declared if isinstance(declared, list) else [declared])))
    if _get(schema, "nullable") is True:
        kinds.add("null")
    if declared is None and _get(schema, "properties") is not None:
        kinds.add("object")
    if declared is None and _get(schema, "items") is not None:
        kinds.add("array")
    enum, const = _get(schema, "enum"), _get(schema, "const")
    for choice in cast("list[Any]", enum) if isinstance(enum, list) else [const] if "const" in schema else []:
        choices.append(choice)
        if declared is None:
            kinds.add(_KIND_OF.get(type(choice), "string"))
    for word in ("anyOf", "oneOf", "allOf"):
        options = _get(schema, word)
        for option in cast("list[Any]", options) if isinstance(options, list) else []:
            _gather(option, root, kinds, choices, depth - 1)
    if isinstance(reference := _get(schema, "$ref"), str):
        _gather(_resolved(reference, root), root, kinds, choices, depth - 1)


def _strings(values: Iterable[Any]) -> Iterable[str]:
    return (value for value in values if isinstance(value, str))


def _resolved(reference: str, root: Any) -> Any:
    """What a reference within the tool's own schema points to, or None."""
    if not reference.startswith("#/"):
        return None
    for step in reference[2:].split("/"):
        root = _get(root, step.replace("~1", "/").replace("~0", "~"))
    return root
