"""What the completion schemas share: reading a prompt, its settings, and saying both again."""

from __future__ import annotations

from typing import Any, cast

from extproc.core.conversation import Conversation, Json, Message, Text
from extproc.core.errors import RequestError
from extproc.schemas._codec import require_text
from extproc.schemas.base import Target


def check(model: str, **least_zero: int | None) -> None:
    """A model is named and no limit is negative; raise RequestError naming the field."""
    require_text(model, "model")
    for name, value in least_zero.items():
        if value is not None and value < 0:
            raise RequestError(f"{name}: expected at least 0, got {str(value)[:20]}", param=name)


def read_texts(value: object, path: str) -> tuple[list[str], bool]:
    """The texts of a prompt or an input: one, several, token ids or several lists of them (then the second is True).

    The numbers of token ids stand for their text, so that such an input weighs too much rather than nothing.

    Raises:
        RequestError: it is something else, or empty.
    """
    if isinstance(value, str):
        return [value], False
    items = cast(list[object], value) if isinstance(value, list) else []
    if items and all(isinstance(item, str) for item in items):
        return cast(list[str], items), False
    if _are_ids(items):
        return [_written(items)], True
    if items and all(isinstance(item, list) and _are_ids(cast(list[object], item)) for item in items):
        return [_written(cast(list[object], item)) for item in items], True
    raise RequestError(f"{path}: expected a string, a list of strings, or lists of token ids", param=path)


def _are_ids(items: list[object]) -> bool:
    return bool(items) and all(type(item) is int for item in items)


def _written(ids: list[object]) -> str:
    return " ".join(map(str, ids))


def stops(stop: str | list[str] | None) -> tuple[str, ...]:
    """The stop strings, given as one or as a list."""
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def as_messages(prompt: str, suffix: str | None) -> tuple[Message, ...]:
    """The texts as a user message, for what only weighs a request (signals, estimates)."""
    return (Message("user", (Text(prompt), Text(suffix)) if suffix else (Text(prompt),)),)


def common(conversation: Conversation, target: Target) -> dict[str, Any]:
    """The fields that the completion APIs have in common; raise RequestError when there is no prompt."""
    prompt = conversation.prompt
    if prompt is None:
        raise RequestError("a conversation cannot be sent as one prompt", param="messages")
    fields: dict[str, Any] = {"model": target.model, "prompt": prompt.text}
    if prompt.suffix is not None:
        fields["suffix"] = prompt.suffix
    for name, value in (("temperature", conversation.temperature), ("top_p", conversation.top_p)):
        if value is not None:
            fields[name] = value
    return fields


def limit(conversation: Conversation, target: Target) -> int | None:
    """The output limit within what the model can do; None when none was set."""
    asked = conversation.max_tokens
    return asked if asked is None or target.max_output is None else min(asked, target.max_output)


def unsaid(conversation: Conversation, said: frozenset[str] = frozenset()) -> list[str]:
    """Names of the settings that a completion cannot hold, but for those in `said`."""
    values: dict[str, Json] = {
        "top_k": conversation.top_k,
        "seed": conversation.seed,
        "user": conversation.user,
        "effort": conversation.effort,
        "thinking": conversation.thinking,
        "thinking_budget": conversation.thinking_budget,
        "response_format": conversation.json_schema or conversation.json_object or None,
        "tools": conversation.tools or None,
        **conversation.extras,
    }
    return [*conversation.unmapped, *(name for name, value in values.items() if value is not None and name not in said)]


def refused(conversation: Conversation) -> list[str]:
    """What no completion API can say: a conversation, several choices of another schema, a mere warming of a cache."""
    names = ["chat"] if conversation.prompt is None else []
    return names + (["max_tokens:0"] if conversation.max_tokens == 0 else [])
