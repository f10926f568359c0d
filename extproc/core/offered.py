"""Which tools a client offered, read from its own request without parsing the rest: what its answer is watched by."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from extproc.core.dispatch import Said
from extproc.core.events import Carried
from extproc.core.routing.outcomes import Watch

_WATCHED = frozenset({"openai", "anthropic", "responses"})
"""Client schemas whose answers are turns of a conversation."""
_RUN_BY_CLIENT = frozenset({"local_shell", "shell", "apply_patch"})
"""Types of tools that are called by their type."""
_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError)


class _Named(msgspec.Struct):
    name: str = ""


class _Tool(msgspec.Struct):
    """A tool in any schema; `tools`: those of a namespace."""

    type: str | None = None
    name: str = ""
    function: _Named | None = None
    custom: _Named | None = None
    tools: list[_Tool] | None = None


class _Request(msgspec.Struct):
    """What bears on tools; the fields after the first bring tools, or answers, that only the provider knows."""

    tools: list[_Tool] | None = None
    functions: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()
    mcp_servers: msgspec.Raw = msgspec.Raw()
    modalities: list[str] | None = None


_REQUEST = msgspec.json.Decoder(_Request)


def watch_for(carried: Carried, said: Said, body: bytes) -> Watch | None:
    """What looks for flaws in the answer to a request; None: nothing is learnt of it, or its bytes pass through.

    `body`: the client's own.
    """
    if carried.judged is None or carried.schema not in _WATCHED:
        return None
    passes = said.wire == carried.schema and not (said.repairs or said.recall or said.rewrite or said.filling)
    return None if carried.stream and passes else Watch(tool_names(carried.schema, body))


def tool_names(schema: str, body: bytes) -> frozenset[str] | None:
    """The names of the tools of a request; None: not all are known. Never raises."""
    try:
        request = _REQUEST.decode(body)
    except _ERRORS:
        return None
    if request.functions or request.prompt or request.mcp_servers or (request.modalities or ["text"]) != ["text"]:
        return None
    tools = request.tools or ()
    lists = 1 + sum(tool.type == "namespace" for tool in tools)
    if schema == "responses" and body.count(b'"tools"') > lists:
        return None  # items of the conversation may bring more
    return _names(tools)


def _names(tools: Iterable[_Tool]) -> frozenset[str] | None:
    found: set[str] = set()
    for tool in tools:
        if tool.type == "namespace":
            inner = _names(tool.tools or ())
            if inner is None:
                return None
            found |= inner
        elif tool.type in _RUN_BY_CLIENT:
            found.add(tool.type or "")
        elif tool.type in (None, "function", "custom"):
            found.add((tool.function or tool.custom or _Named(tool.name)).name)
        else:
            return None
    return frozenset(found)
