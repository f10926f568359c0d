"""Exact cost: integers in, integer nano-dollars out, rounded up once per attempt."""

from __future__ import annotations

from fractions import Fraction

import msgspec

from extproc.core.usage import Tokens

NANO = 10**9


class Rate(msgspec.Struct, frozen=True):
    """Nano-dollars per token: the base, and higher tiers as (total input tokens above, rate), ascending."""

    base: Fraction
    tiers: tuple[tuple[int, Fraction], ...] = ()

    def at(self, total_input: int) -> Fraction:
        """The rate in force for a request of that much input."""
        rate = self.base
        for start, tier in self.tiers:
            if total_input > start:
                rate = tier
        return rate


class Price(msgspec.Struct, frozen=True):
    """Rates by token class; an absent cache class is charged as plain input, absent reasoning as output."""

    input: Rate
    output: Rate
    cache_read: Rate | None = None
    cache_write_5m: Rate | None = None
    cache_write_1h: Rate | None = None
    version: str = ""


FREE = Price(Rate(Fraction(0)), Rate(Fraction(0)), version="free")


def per_million(usd: str | int | float) -> Fraction:
    """Turn dollars per million tokens into nano-dollars per token, exactly (floats by their decimal text)."""
    return Fraction(str(usd)) * 1000


def cost(tokens: Tokens, price: Price | None) -> int | None:
    """Nano-dollars of one attempt, or None when the price or the usage is unknown."""
    total = tokens.total_input
    if price is None or total is None or tokens.output is None:
        return None
    parts = (
        (tokens.input, price.input),
        (tokens.cache_read, price.cache_read or price.input),
        (tokens.cache_write_5m, price.cache_write_5m or price.input),
        (tokens.cache_write_1h, price.cache_write_1h or price.cache_write_5m or price.input),
        (tokens.output, price.output),
        (tokens.reasoning, price.output),
    )
    exact = sum((rate.at(total) * count for count, rate in parts if count), Fraction(0))
    return -(-exact.numerator // exact.denominator)


def usd_text(nano: int) -> str:
    """Nano-dollars as a plain decimal dollar text."""
    return f"{nano // NANO}.{nano % NANO:09d}"
