"""Rate limits as they are configured, and what a refused grant means for the client. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from extproc.money.amounts import Ask, Grant, RateLimit

SHORT_WINDOW_MS = 60_000
"""Windows up to this long are worth waiting for."""


def rate_limit(
    limit_id: str, limit: int, period_ms: int, cost: int, *, burst: int | None = None, strict: bool = False
) -> RateLimit:
    """Return the limit that a request takes `cost` of; the burst is a fifth of the limit unless given.

    A period lets through limit + burst at worst. `strict` lowers the rate so that no period exceeds the limit.
    Raises ValueError when a strict burst leaves no rate.
    """
    size = max(limit // 5, 1) if burst is None else burst
    if not strict:
        return RateLimit(limit_id, period_ms, limit, size, cost)
    if size >= limit:
        raise ValueError(f"rate limit {limit_id}: a strict burst must be below the limit")
    return RateLimit(limit_id, period_ms, limit - size, size, cost)


class Refusal(msgspec.Struct, frozen=True):
    """What to answer: status, `retry-after` in seconds (None: not told), and whether a client should retry."""

    status: Literal[429, 503]
    retry_after: int | None
    retry: bool


def refusal(grant: Grant, ask: Ask, jitter: float = 0.0) -> Refusal | None:
    """Return the refusal that a grant's code stands for; None when it is no refusal (OK, or to be asked again).

    `jitter`, 0 to 1, spreads the clients that wait for reservations in flight over one to five seconds.
    """
    match grant.code:
        case "LIMIT":
            return Refusal(429, _seconds(grant.wait_ms), True)
        case "BUDGET":
            return _budget(grant, ask, jitter)
        case "EMPTY" | "LOG_FULL":
            return Refusal(503, 1 + round(4 * jitter), True)
        case "OK" | "GONE" | "STALE" | "WINDOW":
            return None


def _budget(grant: Grant, ask: Ask, jitter: float) -> Refusal:
    shortage = grant.shortage
    assert shortage is not None
    if shortage.hopeless:
        return Refusal(429, None, False)
    if shortage.passing:
        return Refusal(429, 1 + round(4 * jitter), True)
    window = next(budget for budget in ask.budgets if budget.id == grant.blocked)
    if window.start_ms == 0:  # `total`: waiting never helps
        return Refusal(429, None, False)
    wait = _seconds(window.end_ms - grant.time_ms)
    return Refusal(429, wait, window.end_ms - window.start_ms <= SHORT_WINDOW_MS)


def _seconds(wait_ms: int) -> int:
    return max(-(-wait_ms // 1000), 1)
