"""Exact cost: integers, rounded up once, unknown is not zero."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.core.pricing import FREE, Price, Rate, cost, per_million, usd_text
from extproc.core.usage import MAX_TOKENS, Tokens, count

PRICE = Price(Rate(Fraction(3000)), Rate(Fraction(15000)), Rate(Fraction(300)), Rate(Fraction(3750)),
              Rate(Fraction(6000)))


@pytest.mark.parametrize(("tokens", "nano"), [
    (Tokens(input=1, output=1), 18_000), (Tokens(input=0, output=0), 0),
    (Tokens(input=0, output=0, cache_read=10), 3_000), (Tokens(input=0, output=0, cache_write_5m=10), 37_500),
    (Tokens(input=0, output=0, cache_write_1h=10), 60_000), (Tokens(input=0, output=1, reasoning=2), 45_000),
])
def test_classes(tokens: Tokens, nano: int) -> None:
    """Every class of tokens has its own rate; reasoning costs as output."""
    assert cost(tokens, PRICE) == nano


def test_absent_cache_rates() -> None:
    """A cache class without a rate of its own is charged as plain input, and 1 h writes as 5 min ones."""
    plain = Price(Rate(Fraction(10)), Rate(Fraction(0)))
    assert cost(Tokens(input=1, cache_read=1, cache_write_5m=1, cache_write_1h=1, output=0), plain) == 40
    written = Price(Rate(Fraction(10)), Rate(Fraction(0)), cache_write_5m=Rate(Fraction(20)))
    assert cost(Tokens(input=0, cache_write_1h=1, output=0), written) == 20


@pytest.mark.parametrize("tokens", [Tokens(), Tokens(input=1), Tokens(output=1)])
def test_unknown_usage_is_not_free(tokens: Tokens) -> None:
    """Unknown usage has no cost, and neither has an unknown price."""
    assert cost(tokens, PRICE) is None
    assert cost(Tokens(input=1, output=1), None) is None
    assert cost(Tokens(input=1, output=1), FREE) == 0


def test_rounded_up_once() -> None:
    """Fractions of a nano-dollar are summed exactly and rounded up once."""
    third = Price(Rate(Fraction(1, 3)), Rate(Fraction(1, 3)))
    assert cost(Tokens(input=1, output=1), third) == 1
    assert cost(Tokens(input=2, output=1), third) == 1
    assert cost(Tokens(input=2, output=2), third) == 2


def test_tiers() -> None:
    """A tier applies to the whole request once the total input, cache included, is above its start."""
    tiers = ((100, Fraction(2)), (200, Fraction(4)))
    tiered = Price(Rate(Fraction(1), tiers), Rate(Fraction(0), ((100, Fraction(1)),)))
    assert cost(Tokens(input=100, output=5), tiered) == 100
    assert cost(Tokens(input=101, output=5), tiered) == 207
    assert cost(Tokens(input=1, cache_read=200, output=0), tiered) == 804


@pytest.mark.parametrize(("usd", "rate"), [
    (0.1, Fraction(100)), ("3", Fraction(3000)), (0.0375, Fraction(75, 2)), (3, 3000),
])
def test_per_million(usd: float | str, rate: Fraction) -> None:
    """Dollars per million tokens become nano-dollars per token by their decimal text, exactly."""
    assert per_million(usd) == rate


@pytest.mark.parametrize(("nano", "text"), [(0, "0.000000000"), (1, "0.000000001"), (12_345_678_901, "12.345678901")])
def test_usd_text(nano: int, text: str) -> None:
    """An amount is told in plain decimals, never in exponents."""
    assert usd_text(nano) == text


@given(st.integers(0, MAX_TOKENS), st.integers(0, MAX_TOKENS), st.integers(0, MAX_TOKENS), st.integers(1, 10**9))
def test_never_below_the_exact_amount(uncached: int, cached: int, output: int, millionths: int) -> None:
    """The charge is the exact amount rounded up by less than one nano-dollar, at any size."""
    price = Price(Rate(Fraction(millionths, 997)), Rate(Fraction(millionths, 991)))
    exact = Fraction(millionths, 997) * (uncached + cached) + Fraction(millionths, 991) * output
    charged = cost(Tokens(input=uncached, cache_read=cached, output=output), price)
    assert charged is not None
    assert 0 <= charged - exact < 1


@pytest.mark.parametrize("value", [True, -1, 1.0, "1", None, MAX_TOKENS + 1, [1]])
def test_a_counter_that_is_no_measurement(value: object) -> None:
    """Whatever is not a sane whole number is unknown."""
    assert count(value) is None
