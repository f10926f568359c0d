"""What a request is told about money: why it was refused, what is left, what was lowered."""

from __future__ import annotations

from datetime import UTC, datetime

from extproc import names
from extproc.core.errors import Problem
from extproc.core.events import Reserved
from extproc.core.pricing import usd_text
from extproc.money.amounts import Ask, Budget, Grant, RateLimit, Unit
from extproc.money.limits import refusal
from extproc.runtime import Backend
from extproc.tokens import family_of

_WORDS = {Unit.USD: "dollars", Unit.TOKENS: "tokens", Unit.REQUESTS: "requests", Unit.CONCURRENT: "requests at once"}
_EXACT = ("openai", "qwen")
_SOFT = (95, 75)
"""Per cent of a budget from which a client is warned."""


def amount(unit: Unit, value: int) -> str:
    """An amount of a budget in words."""
    if unit is Unit.USD:
        return f"${usd_text(max(value, 0)).rstrip('0').rstrip('.')}"
    return f"{value} {_WORDS[unit]}"


def refused(event: Reserved, jitter: float) -> Problem:
    """The answer to a request that budgets or limits do not admit. `jitter`, 0 to 1, spreads clients that wait."""
    grant, ask = event.grant, event.ask
    assert grant is not None and ask is not None
    said = refusal(grant, ask, jitter)
    assert said is not None
    if event.code == "BUDGET":
        budget = next(b for b in ask.budgets if b.id == grant.blocked)
        return Problem("quota", _budget_text(budget, grant), retry_after=said.retry_after, should_retry=said.retry)
    if event.code == "LIMIT":
        return Problem("rate_limit", _limit_text(ask, grant.blocked), retry_after=said.retry_after,
                       should_retry=said.retry)
    text = "the budget table is missing from the store; publish it: extproc budgets publish"
    if event.code == "LOG_FULL":
        text = "the ledger is full until it is exported"
    return Problem("unavailable", text, retry_after=said.retry_after, should_retry=said.retry)


def _budget_text(budget: Budget, grant: Grant) -> str:
    shortage = grant.shortage
    assert shortage is not None
    dimension, _, rest = budget.id.partition(".")
    per = rest.split(".")[2]
    window = "in total" if per == "total" else f"per {per}"
    if budget.unit is Unit.CONCURRENT:
        return f"{dimension} limit reached: {shortage.limit} requests at once"
    resets = "" if per == "total" else f"; resets {_moment(budget.end_ms)}"
    return (f"{dimension} spend limit reached: {amount(budget.unit, shortage.limit)} {window}, "
            f"{amount(budget.unit, shortage.free)} free, this request may need "
            f"{amount(budget.unit, shortage.needed)}{resets}")


def _limit_text(ask: Ask, blocked: str) -> str:
    limit = next((one for one in ask.limits if one.id == blocked), None)
    dimension, _, unit, per = [*blocked.split("."), "", "", "", ""][:4]
    number = f"{limit.limit} " if limit is not None else ""
    return f"{dimension} rate limit reached: {number}{unit} per {per}"


def _moment(ms: int) -> str:
    return datetime.fromtimestamp(min(ms, 253_402_300_799_000) / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def exact_model(backends: list[Backend]) -> str | None:
    """The model to count a prompt by when the cheap bound does not fit: only where every one that costs something has
    a tokenizer of its own here; None where the bound has to stand."""
    priced = [backend for backend in backends if backend.price is not None and backend.price.output.base > 0]
    if not priced or not all(_is_exact(backend.model) for backend in priced):
        return None
    return priced[0].model


def _is_exact(model: str) -> bool:
    family = family_of(model)
    return family.factor == 1.0 and family.name.startswith(_EXACT)


def told(grant: Grant, ask: Ask, family: str) -> dict[str, str]:
    """Response headers: what is left of the tightest dollar budget, a warning near a limit, and the rate limits in the
    words of the client's API (`family`)."""
    headers: dict[str, str] = {}
    dollars = [left for budget, left in zip(ask.budgets, grant.budgets, strict=False) if budget.unit is Unit.USD]
    if dollars:
        headers[names.BUDGET_REMAINING] = usd_text(max(min(left.free for left in dollars), 0))
    warnings = [
        f"{budget.id.partition('.')[0]} {percent}%"
        for budget, left in zip(ask.budgets, grant.budgets, strict=False)
        if budget.unit is not Unit.CONCURRENT and left.limit > 0
        for percent in [next((p for p in _SOFT if (left.limit - left.free) * 100 >= left.limit * p), 0)] if percent
    ]
    if warnings:
        headers[names.BUDGET_WARNING] = ", ".join(warnings)
    for limit, left in zip(ask.limits, grant.limits, strict=False):
        headers |= _rate_headers(limit, left.remaining, left.reset_ms, grant.time_ms, family)
    return headers


def left(event: Reserved) -> float | None:
    """What is left of the tightest dollar budget after a grant, 0 to 1; None: there is none."""
    if event.grant is None or event.ask is None:
        return None
    told = zip(event.ask.budgets, event.grant.budgets, strict=False)
    shares = [max(found.free, 0) / found.limit for budget, found in told if budget.unit is Unit.USD and found.limit > 0]
    return min(shares, default=None)


def _rate_headers(limit: RateLimit, remaining: int, reset_ms: int, now: int, family: str) -> dict[str, str]:
    unit = "requests" if ".requests." in limit.id else "tokens"
    if family == "anthropic":
        moment = datetime.fromtimestamp((now + reset_ms) / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {f"anthropic-ratelimit-{unit}-limit": str(limit.limit),
                f"anthropic-ratelimit-{unit}-remaining": str(remaining),
                f"anthropic-ratelimit-{unit}-reset": moment}
    return {f"x-ratelimit-limit-{unit}": str(limit.limit), f"x-ratelimit-remaining-{unit}": str(remaining),
            f"x-ratelimit-reset-{unit}": f"{reset_ms / 1000:.3f}s"}
