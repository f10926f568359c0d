"""Exact cost: integers in, integer nano-dollars out, rounded up once per attempt."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import msgspec

from extproc.core.usage import PLAIN, Terms, Tokens

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
    """Rates by token class; an absent cache class is charged as plain input, absent reasoning as output.

    `search`: nano-dollars of one web search. `factors`: by what the rates are multiplied in a tier or a region, by the
    name under which the provider reports it; of one that is not named here the rates stay as they are.
    """

    input: Rate
    output: Rate
    cache_read: Rate | None = None
    cache_write_5m: Rate | None = None
    cache_write_1h: Rate | None = None
    version: str = ""
    search: Fraction = Fraction(0)
    factors: tuple[tuple[str, Fraction], ...] = ()

    def factor(self, *names: str | None) -> Fraction:
        """By what the rates are multiplied under all of these names together."""
        product = Fraction(1)
        for name, factor in self.factors:
            if name in names:
                product *= factor
        return product


FREE = Price(Rate(Fraction(0)), Rate(Fraction(0)), version="free")


def _nobody(_model: str) -> None:
    """The price of other models, where none is known."""


def per_million(usd: str | int | float) -> Fraction:
    """Turn dollars per million tokens into nano-dollars per token, exactly (floats by their decimal text)."""
    return Fraction(str(usd)) * 1000


def cost(tokens: Tokens, price: Price | None, terms: Terms = PLAIN,
         price_of: Callable[[str], Price | None] = _nobody) -> int | None:
    """Nano-dollars of one attempt, or None when the price or the usage is unknown.

    A search costs the same in any tier. `price_of`: the prices of other models of the provider, for passes that are
    billed beside the usage; one of unknown price costs as the answer's own model.
    """
    total = tokens.total_input
    if price is None or total is None or tokens.output is None:
        return None
    exact = _exact(tokens, price, terms) + price.search * (terms.searches or 0)
    for one in terms.passes or ():
        own = price if one.model is None else price_of(one.model) or price
        exact += _exact(one.tokens, own, terms)
    return -(-exact.numerator // exact.denominator)


def _exact(tokens: Tokens, price: Price, terms: Terms) -> Fraction:
    total = tokens.total_input or 0
    parts = (
        (tokens.input, price.input),
        (tokens.cache_read, price.cache_read or price.input),
        (tokens.cache_write_5m, price.cache_write_5m or price.input),
        (tokens.cache_write_1h, price.cache_write_1h or price.cache_write_5m or price.input),
        (tokens.output, price.output),
        (tokens.reasoning, price.output),
    )
    return sum((rate.at(total) * count for count, rate in parts if count), Fraction(0)) * price.factor(
        terms.tier, terms.region)


def usd_text(nano: int) -> str:
    """Nano-dollars as a plain decimal dollar text."""
    return f"{nano // NANO}.{nano % NANO:09d}"
