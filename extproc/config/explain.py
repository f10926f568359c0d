"""How long the explanations of decisions are kept in the store."""

from __future__ import annotations

from pydantic import Field

from extproc.config.values import Duration, Model


class ExplainConfig(Model):
    """`keep`: for how long the gateway can say why a request went where it went; 0s: it keeps none."""

    keep: Duration = 3600.0
    per_second: int = Field(default=20, ge=1)
    """Explanations that one worker keeps per second at most: each takes up to 2 KB of the store until it expires."""
