"""What the books say, as the command line and the admin service tell it: usage, the report, their defaults."""

from __future__ import annotations

from collections.abc import Mapping

from extproc.commands.read import records, rollups
from extproc.config import GatewayConfig
from extproc.core.pricing import Price
from extproc.ledger.redis_treasury import RedisTreasury
from extproc.prices import catalogue
from extproc.reports.periods import Period
from extproc.reports.spending import Report
from extproc.reports.usage import Usage

BASELINE = "anthropic/claude-sonnet-5"


async def usage(ledger: RedisTreasury, org: str, span: Period, by: tuple[str, ...],
                only: Mapping[str, frozenset[str]]) -> Usage:
    """Return the daily sums of a period by dimensions. Raises LedgerUnavailable."""
    sums = Usage(by, only)
    for day in span.days():
        async for row in rollups(ledger.door, org, day):
            sums.add(day, row)
    return sums


def baseline_refused(baseline: str, span: Period) -> str | None:
    """Say what is wrong with the model to compare with; None: it has a price."""
    provider, slash, model = baseline.partition("/")
    if not slash or not provider or not model:
        return f"baseline {baseline[:80]}: expected PROVIDER/MODEL such as {BASELINE}"
    if _price(baseline, str(span.last)) is None:
        return f"baseline {baseline[:80]}: the price catalogue does not know it; give another one"
    return None


async def report(ledger: RedisTreasury, org: str, span: Period, baseline: str, config: GatewayConfig | None) -> Report:
    """Return what the records of a period add up to. Raises LedgerUnavailable."""
    sums = Report(span, lambda day: _price(baseline, day), _locations(config), _context(config))
    async for at_ms, record in records(ledger.door, org, span):
        sums.add(at_ms, record)
    return sums


def _price(baseline: str, day: str) -> Price | None:
    provider, _, model = baseline.partition("/")
    return catalogue(provider, model, day)[0]


def _locations(config: GatewayConfig | None) -> dict[str, str]:
    return {} if config is None else {name: backend.location for name, backend in config.backends.items()}


def _context(config: GatewayConfig | None) -> int | None:
    """The largest context of a local model that the configuration tells."""
    local = [] if config is None else [one for one in config.backends.values() if one.location == "local"]
    told = [model.context for backend in local for model in backend.models.values() if model.context is not None]
    return max(told, default=None)
