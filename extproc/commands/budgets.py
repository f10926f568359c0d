"""`extproc budgets`: the state of every window."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from extproc.commands.adjust import adjust
from extproc.commands.store import CommandError, Place, find, one_line, run, store_options, write

if TYPE_CHECKING:
    from extproc.ledger.redis_treasury import RedisTreasury
    from extproc.money.amounts import Audit
    from extproc.money.tables import Table
    from extproc.reports import tables
    from extproc.reports.budgets import Names

LOOK_BACK_DAYS = 31
"""How far names are looked for that the configuration does not tell: the longest window of the calendar."""


@click.group(invoke_without_command=True)
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
@click.option("--all", "everything", is_flag=True, help="Also windows that are over, and budgets that were taken away.")
@store_options
@click.pass_context
@one_line
def budgets(context: click.Context, form: str, everything: bool, redis_url: str | None, config: Path | None,
            state: Path, org: str | None) -> None:
    """What every budget has spent, holds, and has left. The commands below change budgets."""
    from extproc.commands.usage import rendered
    from extproc.reports.tables import without

    if context.invoked_subcommand is not None:
        if any(context.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in context.params):
            raise CommandError(f"give options behind {context.invoked_subcommand}, not before it")
        return
    place = find(redis_url, config, state, org)
    table, now = run(place, lambda ledger: read(ledger, place, everything))
    if form == "table":
        table = without(table, "budget")
    write(rendered(table, form, {"org": place.org, "time_unix_ms": now}), None)


budgets.add_command(adjust)


async def read(ledger: RedisTreasury, place: Place, everything: bool) -> tuple[tables.Table, int]:
    """Return the windows as a table, and the store's time (ms). Raises CommandError, LedgerUnavailable."""
    from extproc.reports.budgets import Names, lines, table_of

    table, audit = await _in_force(ledger, place.org)
    found = lines(table, audit, everything=everything)
    names = Names(table, found)
    await _look_up(ledger, place, names, audit.time_ms)
    return table_of(found, names, audit.time_ms), audit.time_ms


async def _in_force(ledger: RedisTreasury, org: str) -> tuple[Table, Audit]:
    from msgspec import DecodeError

    from extproc.money.tables import decode

    epoch, blob = await ledger.table(org)
    if not epoch:
        raise CommandError(f"org {org} has no budgets in this store; put some under budgets: in gateway.yaml and start "
                           "the gateway, or name another --org")
    try:
        return decode(blob), await ledger.audit(org)
    except DecodeError as error:
        raise CommandError(
            "the store's budget table was written by another version; use that version's command") from error


async def _look_up(ledger: RedisTreasury, place: Place, names: Names, now_ms: int) -> None:
    """Budgets are stored under hashes of names: try those of the configuration, of the keys, then of recent usage."""
    from extproc.commands.read import rollups
    from extproc.ledger.keys import KeyStore
    from extproc.reports.budgets import WHOM
    from extproc.reports.periods import DAY_MS, day_of

    names.offer("org", place.org)
    if place.config is not None:
        for whom in [*[b.for_ for b in place.config.budgets], *[limit.for_ for limit in place.config.limits]]:
            if whom.pair()[0] in WHOM:
                names.offer(*whom.pair())
    for number in range(LOOK_BACK_DAYS):
        if not names.missing:
            return
        async for row in rollups(ledger.door, place.org, day_of(now_ms - number * DAY_MS)):
            for dimension in WHOM[1:]:
                names.offer(dimension, str(row.get(dimension, "")))
    async for page in KeyStore(ledger.door).pages():
        if not names.missing:
            return
        for record in page:
            for dimension in WHOM[1:]:
                names.offer(dimension, getattr(record.caller, dimension))
