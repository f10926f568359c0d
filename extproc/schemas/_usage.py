"""Token counters of the OpenAI APIs, which include each other, and our classes, which do not."""

from __future__ import annotations

from typing import cast

from extproc.core.usage import Tokens


def split(
    total: int | None, part: int | None, other: int | None = None
) -> tuple[int | None, int | None, int | None]:
    """Make inclusive counters disjoint: (rest, part, other), clamped so that they sum to the total."""
    if total is None:
        return None, None, None
    part = None if part is None else min(part, total)
    other = None if other is None else min(other, total - (part or 0))
    return total - (part or 0) - (other or 0), part, other


def disjoint(
    *, prompt: int | None, cached: int | None, written: int | None, completion: int | None, reasoning: int | None
) -> Tokens | None:
    """The classes of a prompt that includes cached and written tokens, and of a completion that includes reasoning;
    None when neither was counted."""
    fresh, read, write = split(prompt, cached, written)
    output, thought, _ = split(completion, reasoning)
    if fresh is None and output is None:
        return None
    return Tokens(input=fresh, cache_read=read, cache_write_5m=write, output=output, reasoning=thought)


def details(usage: dict[str, object], key: str) -> dict[str, object]:
    """An object of counters within another; empty when there is none."""
    value = usage.get(key)
    return cast(dict[str, object], value) if isinstance(value, dict) else {}


def known(tokens: Tokens) -> bool:
    """Whether any usage was reported."""
    return tokens.total_input is not None or tokens.total_output is not None
