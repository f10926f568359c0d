"""`extproc regret`: what routing by value has left on the table, by what is believed now."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from extproc.commands.store import CommandError, find, one_line, run, store_options, write

if TYPE_CHECKING:
    from extproc.config import GatewayConfig
    from extproc.config.learning import LearningConfig
    from extproc.core.pricing import Price
    from extproc.core.routing.learning import Learned
    from extproc.ledger.redis_treasury import RedisTreasury
    from extproc.ledger.tallies import Tallies
    from extproc.reports.regret import Values

_EPOCH = date(1970, 1, 1)


@click.command()
@click.option("--since", default="7d", show_default=True,
              help="A day (UTC) such as 2026-11-01, or 7d or 4w up to --until.")
@click.option("--until", help="The last day (UTC); default: today.")
@click.option("--value", type=click.FloatRange(0, 1e6),
              help="What a success is worth in dollars; default: what routing.smart says.")
@click.option("--format", "form", type=click.Choice(["table", "csv", "json", "parquet"]), default="table",
              show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write into this file.")
@store_options
@one_line
def regret(since: str, until: str | None, value: float | None, form: str, output: Path | None, redis_url: str | None,
           config: Path | None, state: Path, org: str | None) -> None:
    """What better choices would have gained. By kind of request: who answered, and how likely that is to be good."""
    from extproc.commands.read import records
    from extproc.commands.usage import check_binary, rendered
    from extproc.ledger.tallies import RedisTallies
    from extproc.reports.periods import period
    from extproc.reports.regret import Regret, Values

    today = datetime.now(UTC).date()
    span = period(since, until, today)
    check_binary(form, output)
    place = find(redis_url, config, state, org)
    known = place.config
    if known is None:
        raise CommandError("give the gateway.yaml with -c: beliefs are held against its backends and prices")
    values = values_of(known) if value is None else Values(round(value * 10**9))

    async def read(ledger: RedisTreasury) -> Regret:
        learned = await beliefs(RedisTallies(ledger.door), place.org, today, learning_of(known))
        found = Regret(span, learned, values, lambda entry: price_of(known, entry, str(span.last)), entries_of(known),
                       lambda entry, task: believed_of(known, entry, task))
        async for at_ms, record in records(ledger.door, place.org, span):
            found.add(at_ms, record)
        return found

    found = run(place, read)
    told = {"org": place.org, "since": str(span.first), "until": str(span.last), "value_nano_usd": values.nano,
            "value_times": values.times, "left_out": found.left_out}
    write(rendered(found.table(), form, told), output)
    if form == "table" and not found.cells:
        click.echo(f"extproc: org {place.org} has no requests in {span} that were routed by value", err=True)


async def beliefs(tallies: Tallies, org: str, today: date, config: LearningConfig) -> Learned:
    """Return what the store knows of outcomes. Raises LedgerUnavailable."""
    from extproc.core.routing.learning import Learned

    learned = Learned(enabled=config.enabled, half_life=config.half_life, prior_weight=config.prior_weight)
    number = (today - _EPOCH).days
    days = learned.wanted(number)
    learned.load(dict(zip(days, await tallies.read(f"learned:{org}", days), strict=True)), number)
    return learned


def learning_of(config: GatewayConfig) -> LearningConfig:
    """Return how the gateway learns."""
    return config.learning


def values_of(config: GatewayConfig) -> Values:
    """Return what a success is worth by the aim: an amount, or so many times its price at the complex chain."""
    from extproc.reports.regret import Values

    smart = config.routing.smart
    return Values(smart.value_nano, smart.times, next(iter(config.chains.get(smart.complex, [])), ""))


def believed_of(config: GatewayConfig, entry: str, task: str) -> float:
    """Return how much likelier the operator believes a success is than the shipped prior, where they say so."""
    from extproc.core.routing.objective import believed

    backend = config.backends.get(entry.partition("/")[0])
    return 0.0 if backend is None else believed(config.routing.smart, entry, backend.location, task)


def entries_of(config: GatewayConfig) -> dict[str, str]:
    """Return where each BACKEND/MODEL is that smart routing can choose: local or cloud."""
    chains = [config.chains.get(name, []) for name in config.routing.smart.targets().values()]
    return {entry: config.backends[entry.partition("/")[0]].location for chain in chains for entry in chain}


def price_of(config: GatewayConfig, entry: str, day: str) -> Price | None:
    """Return the price of a BACKEND/MODEL on a day, as the gateway takes it; None: unknown."""
    from extproc.core.pricing import FREE
    from extproc.core.tariffs import configured
    from extproc.prices import catalogue

    name, _, model = entry.partition("/")
    backend = config.backends.get(name)
    if backend is None:
        return None
    listed = FREE if backend.location == "local" else catalogue(backend.provider, model, day)[0]
    known = backend.models.get(model)
    return listed if known is None else configured(known, listed)
