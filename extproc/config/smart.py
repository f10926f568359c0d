"""What `model: auto` means: which chain each class of request goes to, and how the rest is weighed."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Any, Literal, cast

from pydantic import Field, field_validator, model_validator

from extproc.config.values import Duration, Model, Percent

AimWord = Literal["quality", "balanced", "savings"]
TIMES = {"quality": 30, "balanced": 8, "savings": 6}
"""How many times what the complex side costs a success is worth, by the word: a request goes there from a gain of one
in so many on, whatever its size. A long context is not only dearer, it is also more work."""
VALUES: dict[str, str] = {"cloud_share": "1", "usd_per_day": "0.1", "threshold": "1"}
"""What a success is worth in dollars, by the other kinds of aim. Where a share is given, how much goes is settled and
the order alone counts: that of the gain. Where dollars are given, a request should be worth its price."""
UNPRICED = "0.1"
"""What a success is worth where nobody knows what the complex side costs, or it costs nothing."""
SECONDS_PER_SUCCESS = 200
"""How long one would rather wait than have a failed answer: what `second_usd` is by default."""
LONGEST_SESSION = 7 * 86_400.0
_AMOUNTS = ("cloud_share", "usd_per_day")
_AIMS = "expected quality, balanced, savings, {cloud_share: 20%} or {usd_per_day: 10}"


class AimConfig(Model):
    """What the operator wants: a word, a share of requests for the stronger chain, or dollars a day for it."""

    word: AimWord | None = None
    cloud_share: Percent | None = None
    usd_per_day: Annotated[float, Field(ge=0, le=1e6)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _one(cls, value: object) -> object:
        if isinstance(value, cls):
            return value
        if isinstance(value, str) and value in ("quality", "balanced", "savings"):
            return {"word": value}
        amounts = cast("dict[object, Any]", value) if isinstance(value, dict) else {}
        if len(amounts) == 1 and next(iter(amounts)) in _AMOUNTS and None not in amounts.values():
            return amounts
        raise ValueError(_AIMS)


class PriorConfig(Model):
    """How often a backend does each kind of task well, 0 to 1; what is left out stays as the gateway assumes."""

    complete: Percent | None = None
    generate: Percent | None = None
    edit: Percent | None = None
    review: Percent | None = None
    debug: Percent | None = None
    explain: Percent | None = None
    design: Percent | None = None
    math: Percent | None = None
    knowledge: Percent | None = None
    chat: Percent | None = None

    def given(self) -> dict[str, float]:
        """The rates that are given, by task."""
        return {task: rate for task, rate in self.model_dump().items() if rate is not None}


class SessionConfig(Model):
    """How conversations stay with their backend."""

    sticky: bool = True
    keep: Duration = 3600.0
    """How long after its last request a session is remembered."""

    @field_validator("keep")
    @classmethod
    def _keep(cls, value: float) -> float:
        if not 60 <= value <= LONGEST_SESSION:
            raise ValueError("expected a duration from 1m to 168h")
        return value


class SmartConfig(Model):
    """Where `model: auto` goes for each class of request; `fim` (fill in the middle) is latency critical by default."""

    fim: str | None = None
    latency_critical: str = "cloud"
    cost_sensitive: str = "local"
    complex: str = "cloud"
    simple: str = "local"
    aim: AimConfig | None = None
    """By default `balanced`, unless one of the two older ways below is given."""
    threshold: float = Field(default=0.5, ge=0, le=1)
    """An older way: the score from which a request is complex, whatever it costs."""
    complex_share: Percent | None = None
    """An older name of `aim: {cloud_share: …}`."""
    value_usd: Annotated[float, Field(ge=0, le=1e6)] | None = None
    """What a success is worth; by default as `TIMES` and `VALUES` say."""
    second_usd: Annotated[float, Field(ge=0, le=1e6)] | None = None
    """What a second of waiting costs; by default what a success is worth divided by `SECONDS_PER_SUCCESS`."""
    priors: dict[str, PriorConfig] = {}
    """By backend, or BACKEND/MODEL, which goes before it."""
    sessions: SessionConfig = SessionConfig()

    def targets(self) -> dict[str, str]:
        """The chain of each class of request, by its key."""
        return {"latency_critical": self.latency_critical, "cost_sensitive": self.cost_sensitive,
                "complex": self.complex, "simple": self.simple} | ({"fim": self.fim} if self.fim else {})

    def ways(self) -> list[str]:
        """The keys given of those that exclude each other: `aim`, `threshold`, `complex_share`."""
        return [key for key in ("aim", "threshold", "complex_share")
                if key in self.model_fields_set and getattr(self, key) is not None]

    @property
    def kind(self) -> str:
        """The kind of aim: a key of `TIMES` or `VALUES`."""
        if self.aim is None:
            way = next(iter(self.ways()), "balanced")
            return "cloud_share" if way == "complex_share" else way
        return self.aim.word or ("cloud_share" if self.aim.cloud_share is not None else "usd_per_day")

    @property
    def share(self) -> float | None:
        """The share of requests that goes to `complex`, where one is given."""
        return self.complex_share if self.aim is None else self.aim.cloud_share

    @property
    def day_nano(self) -> int | None:
        """Nano-dollars a day for `complex`, where they are given."""
        return None if self.aim is None or self.aim.usd_per_day is None else _nano(self.aim.usd_per_day)

    @property
    def times(self) -> int | None:
        """How many times its price at the complex side a success is worth; None: it is worth an amount."""
        return TIMES.get(self.kind) if self.value_usd is None else None

    @property
    def value_nano(self) -> int:
        """What a success is worth, in nano-dollars, where its price does not say."""
        return _nano(VALUES.get(self.kind, UNPRICED) if self.value_usd is None else self.value_usd)

    @property
    def wait_nano(self) -> int | None:
        """What a second of waiting costs, in nano-dollars; None: a part of the value."""
        return None if self.second_usd is None else _nano(self.second_usd)


def _nano(usd: float | str) -> int:
    return int(Fraction(str(usd)) * 10**9)
