"""OpenAI's tools that the client itself runs (shell, local_shell, apply_patch) as functions any model can call.

They travel as functions of the namespace `BUILTIN`, so that a call by any provider's model becomes the item that the
client waits for. Source: PyPI openai 3.54.0, types/responses/response_input_item_param.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from extproc.core.conversation import Tool
from extproc.schemas._codec import ANY, FOREIGN_ERRORS, compact

BUILTIN = "builtin"
"""The namespace of these functions."""
_TEXT: Any = {"type": "string"}
_TEXTS: Any = {"type": "array", "items": _TEXT}
_NUMBER: Any = {"type": "integer"}


def _schema(required: list[str], **properties: Any) -> Any:
    return {"type": "object", "properties": properties, "required": required}


_TOOLS: dict[str, tuple[str, Any]] = {
    "local_shell": (
        "Run one command on the user's machine and return its output.",
        _schema(
            ["command"], command={**_TEXTS, "description": "The program and its arguments."},
            working_directory=_TEXT, timeout_ms=_NUMBER, env={"type": "object", "additionalProperties": _TEXT},
            user=_TEXT,
        ),
    ),
    "shell": (
        "Run shell commands, in order, on the user's machine and return what each printed.",
        _schema(["commands"], commands={**_TEXTS, "description": "Shell command lines."}, timeout_ms=_NUMBER,
                max_output_length=_NUMBER),
    ),
    "apply_patch": (
        "Create, update or delete one file. `diff` is left out when deleting; its lines begin with + (added), "
        "- (removed) or a space (context), and @@ begins a hunk. A created file has + lines only.",
        _schema(["type", "path"], type={"type": "string", "enum": ["create_file", "update_file", "delete_file"]},
                path=_TEXT, diff=_TEXT),
    ),
}
CALLS = {"local_shell_call": "local_shell", "shell_call": "shell", "apply_patch_call": "apply_patch"}
"""Item type -> tool."""
OUTPUTS = {"local_shell_call_output": "local_shell", "shell_call_output": "shell",
           "apply_patch_call_output": "apply_patch"}
ID_PREFIX = {"local_shell_call": "lsh", "shell_call": "sh", "apply_patch_call": "apc"}
"""Item type -> what the ids of such items begin with: OpenAI refuses any other when the item comes back."""
_HOSTED = ("container_auto", "container_reference")


class Output(NamedTuple):
    """What a tool of this kind gave back."""

    id: str
    text: str
    failed: bool


def read_tool(value: dict[str, Any]) -> Tool | None:
    """The function that stands for a tool; None when it is none of these or OpenAI's servers would run it."""
    name = value.get("type")
    if not isinstance(name, str) or name not in _TOOLS:
        return None
    environment = value.get("environment")
    if isinstance(environment, dict) and environment.get("type") in _HOSTED:
        return None
    description, schema = _TOOLS[name]
    extra = {key: given for key, given in value.items() if key != "type" and given is not None}
    return Tool(name, description, schema, extra=extra or None, namespace=BUILTIN, schema="responses" if extra else "")


def write_tool(tool: Tool) -> dict[str, Any]:
    """The tool that a function of this namespace stands for."""
    return {"type": tool.name, **(tool.extra or {})}


def read_call(item: dict[str, Any]) -> dict[str, Any] | None:
    """The arguments of a call item; None when it holds none."""
    given = item.get("operation" if item.get("type") == "apply_patch_call" else "action")
    if not isinstance(given, dict):
        return None
    if item.get("type") == "local_shell_call":
        return {key: value for key, value in given.items() if key != "type"}
    return given


def write_call(name: str, arguments: str) -> dict[str, Any] | None:
    """The fields of the call item for a model's arguments, mended where their meaning is plain; else None."""
    try:
        given = ANY.decode(arguments)
    except FOREIGN_ERRORS:
        given = None
    fields: dict[str, Any] = given if isinstance(given, dict) else {}
    match name:
        case "local_shell":
            command = _command(fields.get("command"), ["bash", "-lc"])
            action: dict[str, Any] = {"type": "exec", "command": command, "env": {}, **_but(fields, "command")}
            return {"type": "local_shell_call", "action": action} if command else None
        case "shell":
            commands = _command(fields.get("commands"), [])
            return {"type": "shell_call", "action": {"commands": commands, **_but(fields, "commands")}} \
                if commands else None
        case "apply_patch" if isinstance(fields.get("type"), str) and isinstance(fields.get("path"), str):
            return {"type": "apply_patch_call", "operation": fields}
        case _:
            return None


def read_output(item: dict[str, Any]) -> Output | None:
    """What an output item says; None when it does not name its call."""
    identifier = item.get("call_id") or item.get("id")
    if not isinstance(identifier, str) or not identifier:
        return None
    output = item.get("output")
    text = output if isinstance(output, str) else "" if output is None else compact(output)
    return Output(identifier, text, item.get("status") == "failed")


def write_output(name: str, identifier: str, text: str, failed: bool) -> dict[str, Any]:
    """The output item of a call of this tool."""
    match name:
        case "local_shell":
            return {"type": "local_shell_call_output", "id": identifier, "output": text}
        case "shell":
            return {"type": "shell_call_output", "call_id": identifier, "output": _chunks(text, failed)}
        case _:
            status = "failed" if failed else "completed"
            return {"type": "apply_patch_call_output", "call_id": identifier, "status": status, "output": text}


def _chunks(text: str, failed: bool) -> Any:
    try:
        chunks = ANY.decode(text)
    except FOREIGN_ERRORS:
        chunks = None
    if isinstance(chunks, list):
        return chunks
    return [{"stdout": text, "stderr": "", "outcome": {"type": "exit", "exit_code": 1 if failed else 0}}]


def _command(given: Any, prefix: list[str]) -> list[str]:
    if isinstance(given, str):
        return [*prefix, given]
    if isinstance(given, list) and all(isinstance(word, str) for word in given):
        return given
    return []


def _but(fields: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != key}
