"""Settings of chat completion requests: corrections that several dialects share.

The fields are those of a rendered request or come straight from a client's JSON: any of them may have any type, and
nothing here raises. What has not the expected form stays as it is, for the provider to judge.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, cast

from extproc.dialects.base import Fields, Notes

DEFAULTS: Mapping[str, Any] = {
    "n": 1, "temperature": 1, "top_p": 1, "frequency_penalty": 0, "presence_penalty": 0, "logprobs": False,
    "store": False, "tool_choice": "auto", "parallel_tool_calls": True, "service_tier": "auto", "logit_bias": {},
    "metadata": {},
}
"""A setting that only says what is so anyway goes without a word."""


def as_object(value: Any) -> Fields | None:
    """The value when it is a JSON object."""
    return cast(Fields, value) if isinstance(value, dict) else None


def objects(value: Any) -> list[Fields]:
    """The objects of a JSON array; nothing of anything else."""
    if not isinstance(value, list | tuple):
        return []
    return [cast(Fields, item) for item in cast(list[Any], value) if isinstance(item, dict)]


def kind(value: Fields, default: str = "") -> str:
    """The `type` of a part, tool or choice."""
    given = value.get("type", default)
    return given if isinstance(given, str) else ""


def messages(fields: Fields, role: str | None = None) -> list[Fields]:
    """The messages, all or those of one role; changing one changes the request."""
    return [message for message in objects(fields.get("messages")) if role is None or message.get("role") == role]


def drop(fields: Fields, names: Iterable[str], notes: Notes) -> None:
    """Remove settings by name; those that were set to more than the default are noted."""
    for name in names:
        value = fields.pop(name, None)
        if value is not None and value != DEFAULTS.get(name):
            notes.dropped.append(name)


def keep(fields: Fields, names: Collection[str], notes: Notes) -> None:
    """Remove every setting that is not named: for providers that refuse what they do not know."""
    drop(fields, [name for name in fields if name not in names], notes)


def rename(fields: Fields, old: str, new: str) -> None:
    """Give a setting the provider's name; one that is there already wins."""
    value = fields.pop(old, None)
    if value is not None:
        fields.setdefault(new, value)


def max_tokens(fields: Fields) -> None:
    """`max_completion_tokens` under the older name, which all servers know; where both are given, the newer counts."""
    limit = fields.pop("max_completion_tokens", None)
    if limit is not None:
        fields["max_tokens"] = limit


def stop(fields: Fields, limit: int, notes: Notes) -> None:
    """No more stop strings than the provider takes."""
    given = fields.get("stop")
    if isinstance(given, list | tuple) and len(given) > limit:
        fields["stop"] = list(cast(list[Any], given))[:limit]
        notes.dropped.append("stop")


def effort(fields: Fields, known: Mapping[str, str], notes: Notes) -> None:
    """`reasoning_effort` in the provider's own levels; one it has no level for is dropped."""
    given = fields.get("reasoning_effort")
    if given is None:
        fields.pop("reasoning_effort", None)
        return
    level = known.get(given) if isinstance(given, str) else None
    if level is None:
        del fields["reasoning_effort"]
        notes.dropped.append("effort")
    elif level != given:
        fields["reasoning_effort"] = level
        notes.emulated.append("effort")


def switch_thinking(fields: Fields) -> None:
    """Effort `none` said to a chat template of Qwen's kind, which has thinking on or off."""
    if fields.get("reasoning_effort") == "none":
        given = as_object(fields.get("chat_template_kwargs")) or {}
        fields["chat_template_kwargs"] = {"enable_thinking": False, **given}
