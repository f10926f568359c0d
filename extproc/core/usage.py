"""Token usage in disjoint classes: the one internal record from which every public shape is derived."""

from __future__ import annotations

import msgspec

MAX_TOKENS = 1 << 40
"""A counter above this is a lie of the provider, not a measurement."""


class Tokens(msgspec.Struct, frozen=True):
    """Disjoint token classes of one exchange.

    ``None`` is unknown and never zero. Total input = input + cache_read + cache_write_5m + cache_write_1h;
    total output = output + reasoning (where a provider does not split them, all of it is in ``output``).
    """

    input: int | None = None
    cache_read: int | None = None
    cache_write_5m: int | None = None
    cache_write_1h: int | None = None
    output: int | None = None
    reasoning: int | None = None

    @property
    def total_input(self) -> int | None:
        """All input tokens, or None when the uncached part is unknown."""
        if self.input is None:
            return None
        return self.input + (self.cache_read or 0) + self.cache_write

    @property
    def cache_write(self) -> int:
        """Tokens written to the prompt cache, whatever their time to live."""
        return (self.cache_write_5m or 0) + (self.cache_write_1h or 0)

    @property
    def total_output(self) -> int | None:
        """All output tokens, or None when unknown."""
        if self.output is None:
            return None
        return self.output + (self.reasoning or 0)

    @property
    def complete(self) -> bool:
        """Whether both directions were reported."""
        return self.input is not None and self.output is not None

    def merged(self, later: Tokens) -> Tokens:
        """Take the last known value per class; an absent later value never erases an earlier one."""
        return Tokens(
            *[new if new is not None else old
              for old, new in zip(msgspec.structs.astuple(self), msgspec.structs.astuple(later), strict=True)]
        )


def count(value: object) -> int | None:
    """Read a token counter of a provider: a plain non-negative, sane integer, else None (unknown)."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= MAX_TOKENS else None
