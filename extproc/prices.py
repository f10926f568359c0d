"""The price catalogue edge: genai-prices (with effective dates) turned into exact core prices."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from extproc.core.pricing import Price, Rate, per_million
from extproc.core.tariffs import factors


def _rate(value: Any) -> Rate | None:
    if value is None:
        return None
    if hasattr(value, "base"):
        tiers = tuple((int(t.start), per_million(str(t.price))) for t in value.tiers)
        return Rate(per_million(str(value.base)), tuple(sorted(tiers)))
    return Rate(per_million(str(value)))


@lru_cache(maxsize=4096)
def catalogue(provider: str | None, model: str, day: str) -> tuple[Price | None, int | None]:
    """Price and context window of a model on a day, (None, None) where the catalogue does not know it."""
    from genai_prices.data_snapshot import get_snapshot  # 0.2 s to import: only where prices are asked for

    try:
        listed, entry = get_snapshot().find_provider_model(model, None, provider, None)
    except LookupError:
        return None, None
    found = entry.get_prices(datetime.fromisoformat(day).replace(tzinfo=UTC))
    plain_in, plain_out = _rate(found.input_mtok), _rate(found.output_mtok)
    if plain_in is None or plain_out is None:
        return None, entry.context_window
    price = Price(plain_in, plain_out, _rate(found.cache_read_mtok), _rate(found.cache_write_mtok),
                  _rate(getattr(found, "cache_write_1h_mtok", None)), version=f"genai-prices/{entry.id}/{day}",
                  search=per_million(str(getattr(found, "web_searches_kcount", None) or 0)) * 1000,
                  factors=factors(listed.id, entry.id))
    return price, entry.context_window
