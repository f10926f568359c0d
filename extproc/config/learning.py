"""How the gateway learns from its own traffic."""

from __future__ import annotations

import re
from typing import Annotated

import pydantic
from pydantic import Field, model_validator

from extproc.config.values import Model, Percent

_DAYS = re.compile(r"^(\d{1,3}(?:\.\d{1,3})?)(h|d|w)$", re.ASCII)
_IN_DAYS = {"h": 1 / 24, "d": 1.0, "w": 7.0}
SHORTEST, LONGEST = 0.25, 365.0
"""Days: counts are kept by day, so a shorter half-life would be told from none."""


def _days(value: object) -> object:
    if isinstance(value, str) and (match := _DAYS.match(value)):
        days = float(match[1]) * _IN_DAYS[match[2]]
        if SHORTEST <= days <= LONGEST:
            return days
    raise ValueError("expected a half-life such as 14d, 36h or 2w, from 6h to 365d")


Days = Annotated[float, pydantic.BeforeValidator(_days)]


class LearningConfig(Model):
    """Beliefs in backends, moved by outcomes; `off` in its place leaves the text model and the operator's priors."""

    enabled: bool = True
    half_life: Days = 14.0
    """Days after which an outcome counts half."""
    prior_weight: float = Field(default=20, ge=1, le=1000)
    """How many outcomes the text model's word counts for."""
    explore: Percent = 0.0
    """Share of the requests judged by value that goes to the other side, so that it is learnt of as well."""

    @model_validator(mode="before")
    @classmethod
    def _switch(cls, value: object) -> object:
        if value in ("off", False):
            return {"enabled": False}
        return {} if value in ("on", True) else value
