"""Budgets and rate limits in gateway.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import available_timezones

from pydantic import AfterValidator, Field, field_validator, model_validator

from extproc.config.values import Duration, Holder, Model, Size

MAX_NANO = 2**53 - 1
"""The largest amount that is exact in the store's arithmetic (nine million dollars)."""
LONGEST_ALLOWED = 24 * 3600.0
"""Seconds without the store: half of the time after which a call is too old for it."""


def _whose(value: str) -> str:
    if not value:
        raise ValueError('expected a name, or "*"')
    return value


Whose = Annotated[Holder, AfterValidator(_whose)]


class WhomConfig(Model):
    """Whose requests count. Exactly one; `"*"` means each one for itself."""

    org: Whose | None = None
    team: Whose | None = None
    project: Whose | None = None
    user: Whose | None = None
    key: Whose | None = None

    def pair(self) -> tuple[str, str]:
        """The dimension and its value."""
        return next((name, value) for name, value in self.model_dump().items() if value is not None)

    @model_validator(mode="after")
    def _one(self) -> WhomConfig:
        if sum(value is not None for value in self.model_dump().values()) != 1:
            raise ValueError(f"expected exactly one of: {', '.join(type(self).model_fields)}")
        return self


class LimitedConfig(WhomConfig):
    """Whose requests a rate limit counts: also those of one model or one backend."""

    model: str | None = None
    backend: str | None = None


class BudgetConfig(Model):
    """What may be spent in a window, counted exactly. One unit: dollars, tokens or requests."""

    for_: WhomConfig = Field(alias="for")
    usd: float | None = Field(None, ge=0, le=MAX_NANO // 10**9)
    tokens: int | None = Field(None, ge=0, le=MAX_NANO)
    requests: int | None = Field(None, ge=0, le=MAX_NANO)
    per: Literal["minute", "hour", "day", "week", "month", "total"]
    time_zone: str = "UTC"

    @field_validator("time_zone")
    @classmethod
    def _zone(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError("expected an IANA time zone such as Europe/Berlin")
        return value

    @model_validator(mode="after")
    def _unit(self) -> BudgetConfig:
        if sum(value is not None for value in (self.usd, self.tokens, self.requests)) != 1:
            raise ValueError("expected exactly one of: usd, tokens, requests")
        return self


class LimitConfig(Model):
    """How fast: requests or tokens per period (a sliding rate, GCRA), or how many requests at once."""

    for_: LimitedConfig = Field(alias="for")
    requests: int | None = Field(None, ge=1, le=MAX_NANO)
    tokens: int | None = Field(None, ge=1, le=MAX_NANO)
    concurrent: int | None = Field(None, ge=1, le=MAX_NANO)
    per: Literal["minute", "hour", "day"] | None = None
    burst: int | None = Field(None, ge=1)
    strict: bool = False
    then: Literal["refuse", "next"] = "refuse"

    @model_validator(mode="after")
    def _unit(self) -> LimitConfig:
        if sum(value is not None for value in (self.requests, self.tokens, self.concurrent)) != 1:
            raise ValueError("expected exactly one of: requests, tokens, concurrent")
        if (self.concurrent is None) == (self.per is None):
            raise ValueError("per is for requests and tokens, and required there")
        if self.concurrent is not None and self.for_.pair()[0] in ("model", "backend"):
            raise ValueError("concurrent is for org, team, project, user or key")
        if self.then == "next" and self.for_.pair()[0] not in ("model", "backend"):
            raise ValueError("then: next is for limits of a model or a backend")
        if self.strict and (self.burst or (self.limit // 5) or 1) >= self.limit:
            raise ValueError("a strict limit needs a burst below it")
        return self

    @property
    def limit(self) -> int:
        """The number, whatever it counts."""
        return self.requests or self.tokens or self.concurrent or 0


class AllowConfig(Model):
    """What each worker may dispatch while the store does not answer, counted by upper bounds."""

    usd: float = Field(ge=0, le=MAX_NANO // 10**9)
    requests: int = Field(ge=1, le=MAX_NANO)
    for_: Duration = Field(alias="for")

    @field_validator("for_")
    @classmethod
    def _some(cls, value: float) -> float:
        if not 0 < value <= LONGEST_ALLOWED:
            raise ValueError("expected a duration up to 24h: what is older may find no trace in the store any more")
        return value


class MoneyConfig(Model):
    """How strictly money is held together."""

    unknown_price: Literal["refuse", "allow"] = "refuse"
    """A model without a price under a dollar budget."""
    clamp: bool = False
    """Whether `max_tokens` that the client named may be lowered to what is affordable (told in a header)."""
    store_down: Literal["deny", "allow"] | None = None
    """Without the store: refuse, or go on unreserved. Default: deny where there are budgets, else allow."""
    server_tool_uses: Annotated[int, Field(ge=1, le=100)] = 5
    """Uses of a provider's own tools (web search) that are paid for, and sent as the limit, where none is named."""
    allow: AllowConfig | None = None
    """The purse of `store_down: allow`, required where there are budgets."""
    spool: str | None = None
    """Folder for settlements that the store does not take, or off. Default: `spool` in the state folder."""
    spool_limit: Size = 256 << 20
    """Bytes of one worker's file there."""
    wait: Annotated[int, Field(ge=0, le=16)] | Literal["auto"] = 0
    """How many replicas must have a reservation before it counts: as many as may be promoted; auto asks the store."""
    baseline: str | None = None
    """BACKEND/MODEL that requests would have gone to without the gateway: what savings are told against."""
    generation: Annotated[int, Field(ge=1)] | None = None
    """Of the budgets: a higher one replaces those in the store. Default: the time the file was changed."""

    @model_validator(mode="before")
    @classmethod
    def _allows(cls, value: object) -> object:
        """A purse says that there is something to be allowed."""
        if isinstance(value, dict) and value.get("allow") is not None and value.get("store_down") is None:
            return {**value, "store_down": "allow"}
        return value

    @model_validator(mode="after")
    def _together(self) -> MoneyConfig:
        if self.allow is not None and self.store_down == "deny":
            raise ValueError("allow is what store_down: allow permits; with store_down: deny leave it out")
        if self.allow is not None and self.spool == "off":
            raise ValueError("allow needs a spool: what is dispatched without the store must be found again")
        if self.spool == "":
            raise ValueError("spool is a folder, or off")
        if self.spool_limit < 1 << 20:
            raise ValueError("spool_limit is 1MiB or more")
        return self

    def spool_folder(self, folder: Path, state: Path) -> Path | None:
        """Where settlements wait for the store; None: nowhere. `folder`: the configuration's own."""
        if self.spool == "off":
            return None
        return state / "spool" if self.spool is None else folder / self.spool

    def denies(self, *, budgets: bool) -> bool:
        """Whether nothing is dispatched without the store."""
        return (self.store_down or ("deny" if budgets else "allow")) == "deny"
