"""Tools that a provider runs by itself: each use is one more pass over the context that is billed, a search a fee."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from extproc.core.conversation import Conversation

_CLIENTS = ("bash_", "text_editor_", "memory_", "computer_2", "computer_use", "local_shell", "apply_patch")
"""How the types of tools begin that the client runs: a call of one ends the answer, like that of a function."""
_COUNTED = ("web_search_2", "web_fetch_2")
"""Anthropic's that take `max_uses`."""
_SEARCHES = "web_search"


class Served(msgspec.Struct, frozen=True):
    """What a request lets its provider do: uses of tools in all, how many of them may be searches, and other models
    that may answer in between."""

    uses: int = 0
    searches: int = 0
    models: tuple[str, ...] = ()


def served(conversation: Conversation, most: int) -> Served:
    """The uses that a request allows; `most`: of a tool, or a request, that names no maximum of its own."""
    kinds = [cast("dict[str, Any]", tool.foreign) for tool in conversation.tools if _runs_there(tool.foreign)]
    models = tuple(dict.fromkeys(model for kind in kinds if isinstance(model := kind.get("model"), str)))
    if conversation.server_calls is not None:  # for all of them together (Responses)
        uses = conversation.server_calls if kinds else 0
        return Served(uses, uses if any(_searches(kind) for kind in kinds) else 0, models)
    allowed = [(kind, _named(kind, most)) for kind in kinds]
    return Served(sum(uses for _, uses in allowed), sum(uses for kind, uses in allowed if _searches(kind)), models)


def capped(tools: list[Any], most: int) -> bool:
    """Write the maximum that was paid for into Anthropic's tools that name none; whether any was changed."""
    changed = False
    for tool in tools:
        if isinstance(tool, dict):
            kind = cast("dict[str, Any]", tool)
            if _kind(kind).startswith(_COUNTED) and kind.get("max_uses") is None:
                kind["max_uses"], changed = most, True
    return changed


def any_served(tools: list[Any]) -> bool:
    """Whether one of a Responses request's tools is run by the provider."""
    return any(_runs_there(tool) for tool in tools)


def _runs_there(tool: object) -> bool:
    if not isinstance(tool, dict):
        return False
    given = cast("dict[str, Any]", tool)
    kind, place = _kind(given), given.get("environment")
    if kind == "shell":
        return isinstance(place, dict) and cast("dict[str, Any]", place).get("type") != "local"
    return kind not in ("", "function", "custom", "namespace") and not kind.startswith(_CLIENTS)


def _kind(tool: dict[str, Any]) -> str:
    kind = tool.get("type")
    return kind if isinstance(kind, str) else ""


def _searches(tool: dict[str, Any]) -> bool:
    return _kind(tool).startswith(_SEARCHES)


def _named(tool: dict[str, Any], most: int) -> int:
    uses = tool.get("max_uses")
    return uses if isinstance(uses, int) and not isinstance(uses, bool) and uses >= 0 else most
