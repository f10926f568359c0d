"""The price of a model as gateway.yaml has it, and by what a provider multiplies what is listed: service tiers, speeds,
regions. The price catalogue has none of these.

Sources: openai.com/api-priority-processing and developers.openai.com/api/docs/guides/flex-processing (August 2026);
platform.claude.com/docs/en/about-claude/pricing and .../build-with-claude/fast-mode (October 2026).
"""

from __future__ import annotations

from fractions import Fraction

import msgspec

from extproc.config.price import PriceConfig
from extproc.core.pricing import NANO, Price, Rate, per_million

Factors = tuple[tuple[str, Fraction], ...]

_HALF = Fraction(1, 2)
_PRIORITY = (
    ("gpt-5.4", Fraction(2)), ("gpt-5.2", Fraction(2)), ("gpt-5.1", Fraction(2)), ("gpt-5.", Fraction(5, 2)),
    ("gpt-5-mini", Fraction(9, 5)), ("gpt-5", Fraction(2)), ("gpt-4.1-nano", Fraction(2)), ("gpt-4.1", Fraction(7, 4)),
    ("gpt-4o-mini", Fraction(5, 3)), ("gpt-4o", Fraction(17, 10)), ("o3", Fraction(7, 4)),
    ("o4-mini", Fraction(20, 11)),
)
"""Beginning of a model's name, the first that fits -> priority over standard."""
_DEAREST_PRIORITY = Fraction(5, 2)
"""Of models whose factor we did not find published: the highest that is."""
_FAST = (("claude-opus-4-6", Fraction(6)), ("claude-opus-4-7", Fraction(6)))
_USUAL_FAST = Fraction(2)


def factors(provider: str | None, model: str) -> Factors:
    """The factors of a model of this provider (the price catalogue's id), by the names in its answers; dearest known
    ones where its own are not."""
    if provider == "openai":
        priority = _first(_PRIORITY, model, _DEAREST_PRIORITY)
        return ("priority", priority), ("fast", priority), ("flex", _HALF), ("batch", _HALF)
    if provider == "anthropic":
        return ("fast", _first(_FAST, model, _USUAL_FAST)), ("batch", _HALF), ("us", Fraction(11, 10))
    return ()


def configured(known: PriceConfig, listed: Price | None) -> Price | None:
    """The price of a model: what gateway.yaml says, and for the rest what is listed; None: it is not known.

    Where both input and output are given the price is one's own, and nothing of the listed one holds but what
    tiers and searches cost.
    """
    input_, output = _rate(known.usd_per_million_input), _rate(known.usd_per_million_output)
    if known.usd_per_hour is not None and known.output_tokens_per_second is not None:
        nano_per_second = Fraction(str(known.usd_per_hour)) * NANO / 3600
        output = Rate(nano_per_second / Fraction(str(known.output_tokens_per_second)))
        input_ = input_ or Rate(Fraction(0))
    given: dict[str, object] = {name: rate for name, rate in (
        ("input", input_), ("output", output), ("cache_read", _rate(known.usd_per_million_cache_read)),
        ("cache_write_5m", _rate(known.usd_per_million_cache_write)),
        ("cache_write_1h", _rate(known.usd_per_million_cache_write_1h))) if rate is not None}
    if known.usd_per_thousand_searches is not None:
        given["search"] = per_million(known.usd_per_thousand_searches) * 1000
    if known.factors:
        own = {name: Fraction(str(factor)) for name, factor in known.factors.items()}
        given["factors"] = tuple((dict(listed.factors if listed is not None else ()) | own).items())
    if not given:
        return listed
    given["version"] = "gateway.yaml"
    if input_ is not None and output is not None:
        search, listed_factors = (listed.search, listed.factors) if listed is not None else (Fraction(0), ())
        listed = Price(input_, output, search=search, factors=listed_factors)
    return None if listed is None else msgspec.structs.replace(listed, **given)


def _rate(usd: float | None) -> Rate | None:
    return None if usd is None else Rate(per_million(usd))


def _first(table: tuple[tuple[str, Fraction], ...], model: str, otherwise: Fraction) -> Fraction:
    return next((factor for start, factor in table if model.startswith(start)), otherwise)
