"""`extproc report`: what the usage stream says of spend, savings, local models and failovers, or of another policy."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from extproc.commands.store import CommandError, Place, find, one_line, run, store_options, write

if TYPE_CHECKING:
    from extproc.config import GatewayConfig
    from extproc.core.pricing import Price
    from extproc.ledger.redis_treasury import RedisTreasury
    from extproc.reports.periods import Period
    from extproc.reports.tables import Table


@click.command()
@click.option("--since", default="30d", show_default=True,
              help="A day (UTC) such as 2026-11-01, or 7d or 4w up to --until.")
@click.option("--until", help="The last day (UTC); default: today.")
@click.option("--baseline", default="anthropic/claude-sonnet-5", show_default=True,
              help="PROVIDER/MODEL of the price catalogue to compare with.")
@click.option("--top", type=click.IntRange(0, 1000), default=10, show_default=True,
              help="How many of the dearest requests, or of those that change.")
@click.option("--what-if", "policy", type=click.Path(path_type=Path, dir_okay=False),
              help="A gateway.yaml, or one with routing: alone: what it would have changed, and cost.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write into this file.")
@store_options
@one_line
def report(since: str, until: str | None, baseline: str, top: int, policy: Path | None, form: str,
           output: Path | None, redis_url: str | None, config: Path | None, state: Path, org: str | None) -> None:
    """Spend, savings, what went local, and failovers. Savings are those against one model for everything."""
    from extproc.commands.read import records
    from extproc.reports.periods import period
    from extproc.reports.sections import sections
    from extproc.reports.spending import Report

    span = period(since, until, datetime.now(UTC).date())
    if policy is None:
        _price(baseline, str(span.last))
    place = find(redis_url, config, state, org)
    told = {"org": place.org, "since": str(span.first), "until": str(span.last)}
    if policy is not None:
        _tell(_what_if(policy, place, config, span, top), told | {"policy": str(policy)}, form, output)
        return
    known = place.config
    sums = Report(span, lambda day: _prices(baseline, day), _locations(known), _context(known))

    async def read(ledger: RedisTreasury) -> None:
        async for at_ms, record in records(ledger.door, place.org, span):
            sums.add(at_ms, record)

    run(place, read)
    _tell(sections(sums, baseline, top), told | {"baseline": baseline}, form, output)


def _what_if(path: Path, place: Place, config: Path | None, span: Period, top: int) -> dict[str, Table]:
    """Hold the records of a period against a policy. Raises CommandError, ConfigError."""
    from extproc.commands.policy import planned
    from extproc.commands.read import records
    from extproc.commands.route import policy_of
    from extproc.reports.what_if import WhatIf, sections

    current, other = planned(path, place, config)
    day = str(span.last)
    found = WhatIf(span, policy_of(current, day), policy_of(other, day), top)

    async def read(ledger: RedisTreasury) -> None:
        async for at_ms, record in records(ledger.door, place.org, span):
            found.add(at_ms, record)

    run(place, read)
    return sections(found)


def _tell(found: dict[str, Table], told: dict[str, str], form: str, output: Path | None) -> None:
    """Write the sections; `told` says what they are of."""
    from extproc.commands.usage import terminal_width
    from extproc.reports import tables

    if form == "json":
        data = {name: tables.as_data(table) for name, table in found.items()}
        write(json.dumps(told | data, ensure_ascii=False, indent=2) + "\n", output)
        return
    width = terminal_width() if output is None else None
    days = told["since"] if told["since"] == told["until"] else f"{told['since']} to {told['until']}"
    parts = [f"org {tables.printable(told['org'])}, {days} (UTC)\n",
             *[tables.as_text(table, width) for table in found.values() if table.rows]]
    write("\n".join(parts), output)


def _prices(baseline: str, day: str) -> Price | None:
    from extproc.prices import catalogue

    provider, _, model = baseline.partition("/")
    return catalogue(provider, model, day)[0]


def _price(baseline: str, day: str) -> None:
    """Raise CommandError where the baseline has no price."""
    provider, slash, model = baseline.partition("/")
    if not slash or not provider or not model:
        raise CommandError(f"--baseline {baseline[:80]}: expected PROVIDER/MODEL such as anthropic/claude-sonnet-5")
    if _prices(baseline, day) is None:
        raise CommandError(f"--baseline {baseline[:80]}: the price catalogue does not know it; give another one")


def _locations(config: GatewayConfig | None) -> dict[str, str]:
    return {} if config is None else {name: backend.location for name, backend in config.backends.items()}


def _context(config: GatewayConfig | None) -> int | None:
    """The largest context of a local model that the configuration tells."""
    if config is None:
        return None
    told = [model.context for backend in config.backends.values() if backend.location == "local"
            for model in backend.models.values() if model.context is not None]
    return max(told, default=None)
