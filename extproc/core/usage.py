"""Token usage in disjoint classes: the one internal record from which every public shape is derived."""

from __future__ import annotations

import msgspec

MAX_TOKENS = 1 << 30
"""A counter above this is a lie of the provider, not a measurement. Below it no price makes an amount inexact."""
MAX_SEARCHES = 10_000


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


class Pass(msgspec.Struct, frozen=True):
    """A pass of another model, or of a kind of its own, that a provider bills beside an answer's usage (an advisor, a
    compaction). `model` None: the answer's own."""

    model: str | None
    tokens: Tokens


class Terms(msgspec.Struct, frozen=True):
    """What beside tokens decides an exchange's price, as the provider reports it. ``None``: it said nothing unusual.

    `tier`: the service tier or speed it was served in (`priority`, `flex`, `fast`); `region`: where, if that is
    priced (`us`); `searches`: web searches that are billed by number; `passes`: what is billed beside the usage.
    """

    tier: str | None = None
    region: str | None = None
    searches: int | None = None
    passes: tuple[Pass, ...] | None = None

    def merged(self, later: Terms) -> Terms:
        """Take the last known value of each; an absent later one never erases an earlier one."""
        return Terms(*[new if new is not None else old for old, new in zip(
            msgspec.structs.astuple(self), msgspec.structs.astuple(later), strict=True)])


PLAIN = Terms()
"""Nothing that changes a price."""


_USUAL = ("default", "standard", "auto", "global", "not_available", "")
"""Names for what the listed price is the price of."""


def with_passes(tokens: Tokens, terms: Terms) -> tuple[int, int]:
    """All input and all output tokens of an exchange, with those of passes that are billed beside its usage."""
    parts = [tokens, *(one.tokens for one in terms.passes or ())]
    return sum(one.total_input or 0 for one in parts), sum(one.total_output or 0 for one in parts)


def searches(value: object) -> int | None:
    """Read how many web searches are billed: a sane number, else None (unknown)."""
    found = count(value)
    return found if found is not None and found <= MAX_SEARCHES else None


def term(value: object) -> str | None:
    """Read the name of a tier or a region; None where it is the usual one, or none at all."""
    return value if isinstance(value, str) and value not in _USUAL and len(value) <= 64 else None


def count(value: object) -> int | None:
    """Read a token counter of a provider: a plain non-negative, sane integer, else None (unknown)."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= MAX_TOKENS else None
