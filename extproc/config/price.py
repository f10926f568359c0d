"""What a model costs, in gateway.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from extproc.config.values import Model

Usd = Annotated[float, Field(ge=0)]


class PriceConfig(Model):
    """Prices of one model at one backend. What is left out is the price catalogue's for a cloud, and free for a local
    one; of a price of one's own, cached input costs as plain input and reasoning as output unless given."""

    usd_per_million_input: Usd | None = None
    usd_per_million_output: Usd | None = None
    usd_per_million_cache_read: Usd | None = None
    usd_per_million_cache_write: Usd | None = None
    usd_per_million_cache_write_1h: Usd | None = None
    usd_per_thousand_searches: Usd | None = None
    factors: dict[str, Usd] = {}
    """By what the prices are multiplied in a service tier or a region, by the name in the provider's answers; `auto`:
    where a request names no tier, for accounts whose requests are then served in a dearer one."""
    usd_per_hour: Usd | None = None
    """What the machine of a local model costs while it answers, power included; spread over its output tokens."""
    output_tokens_per_second: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _hourly(self) -> PriceConfig:
        if (self.usd_per_hour is None) != (self.output_tokens_per_second is None):
            raise ValueError("usd_per_hour and output_tokens_per_second go together")
        if self.usd_per_hour is not None and self.usd_per_million_output is not None:
            raise ValueError("give usd_per_hour or usd_per_million_output, not both")
        return self
