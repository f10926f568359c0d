"""`extproc budgets publish` and `extproc budgets rebuild`: the budgets in force, and spend after a loss of data."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from extproc.commands.store import CommandError, Place, find, one_line, run, store_options

if TYPE_CHECKING:
    from extproc.commands.folder import Folder
    from extproc.ledger.export import Log
    from extproc.ledger.rebuild import Charged
    from extproc.ledger.redis_treasury import RedisTreasury
    from extproc.money.amounts import Budget
    from extproc.money.tables import Table
    from extproc.pb.usage_pb2 import UsageRecord

TRIES = 4
"""How often a call is made anew when another writer was faster."""
MANY_TRIES = 100
"""The same while requests that run add their records."""
AT_ONCE = 1_000
"""Windows that are seeded in one call."""


def _all_orgs(command: Callable[..., None]) -> Callable[..., None]:
    return click.option("--all-orgs", is_flag=True, help="For every org that the store or the files know.")(command)


@click.command()
@click.option("--force", is_flag=True, help="Also over newer budgets, and at zero where records exist.")
@_all_orgs
@store_options
@one_line
def publish(force: bool, all_orgs: bool, redis_url: str | None, config: Path | None, state: Path,
            org: str | None) -> None:
    """Put the budgets of a gateway.yaml (-c) in force. Workers follow at their next request."""
    own = _table(config)
    place = _place(find(redis_url, config, state, org), org, all_orgs)
    run(place, lambda ledger: _each(ledger, place, None, all_orgs, lambda name: _publish(ledger, name, own, force)))


def _place(place: Place, org: str | None, all_orgs: bool) -> Place:
    if all_orgs and org is not None:
        raise CommandError("give --org or --all-orgs, not both")
    return place


async def _each(ledger: RedisTreasury, place: Place, root: Path | None, all_orgs: bool,
                work: Callable[[str], Awaitable[str]]) -> None:
    """Do the work for the place's org, or all: those that the store knows and those that have files. One line each;
    what fails for one org does not keep the others from theirs. Raises CommandError."""
    from extproc.commands.folder import orgs_of
    from extproc.reports.tables import printable

    orgs = {place.org}
    if all_orgs:
        orgs |= {*await ledger.orgs(), *(() if root is None else orgs_of(root))}
    failed: list[str] = []
    for name in sorted(orgs):
        try:
            click.echo(f"org {printable(name)}: {await work(name)}", err=True)
        except CommandError as error:
            if not all_orgs:
                raise
            failed.append(name)
            click.echo(f"extproc: {error}", err=True)
    if failed:
        raise CommandError(f"{len(failed)} of {len(orgs)} orgs were left as they are: "
                           f"{printable(', '.join(failed[:10]))}")


def _table(path: Path | None) -> Table:
    """Return the table of a configuration. Raises CommandError, ConfigError."""
    from extproc.commands.store import read_config
    from extproc.config import changed_at
    from extproc.core.admission import table_of

    if path is None:
        raise CommandError("give the gateway.yaml whose budgets to put in force, with -c")
    config = read_config(path)
    return table_of(config.budgets, config.limits, config.money.generation or changed_at(path))


async def _publish(ledger: RedisTreasury, org: str, own: Table, force: bool) -> str:
    """Put the table in force; return what to tell. Raises CommandError."""
    from msgspec import DecodeError
    from msgspec.structs import replace

    from extproc.ledger.export import Log
    from extproc.money import tables

    for _ in range(TRIES):
        epoch, blob = await ledger.table(org)
        try:
            stored = tables.decode(blob) if epoch else None
        except DecodeError as error:
            raise CommandError("the store's budget table was written by another version; use its command") from error
        if stored is None and not force and (await Log(ledger).stream(org)).added:
            raise CommandError(f"org {org} has records but no budgets in force, so the store has lost data; use: "
                               "extproc budgets rebuild (or begin at zero with --force)")
        if stored is not None and stored.entries == own.entries:
            return f"these {len(own.entries)} budgets are in force already, as epoch {epoch}"
        table = own
        if not tables.supersedes(own, stored):
            assert stored is not None
            if not force:
                raise CommandError(
                    f"generation {own.generation} of these budgets is not above {stored.generation}, which is in force;"
                    " raise money.generation (without one it is the time the file was changed), or use --force")
            table = replace(own, generation=stored.generation + 1)
        done = await ledger.publish(org, tables.encode(table), epoch, tables.changed(stored, table))
        if done.code == "OK":
            return f"{len(table.entries)} budgets in force, as epoch {done.epoch} of generation {table.generation}"
    raise CommandError(f"org {org}: others put budgets in force at the same time; try again")


# ---------------------------------------------------------------------------------------- rebuild


@click.command()
@click.option("--from", "root", type=click.Path(path_type=Path, file_okay=False, exists=True),
              help="Folder of `extproc export --to`, besides what the stream still has.")
@click.option("--force", is_flag=True,
              help="Also where budgets are in force: requests under budgets are refused for a moment.")
@_all_orgs
@store_options
@one_line
def rebuild(root: Path | None, force: bool, all_orgs: bool, redis_url: str | None, config: Path | None, state: Path,
            org: str | None) -> None:
    """Make spend again from records, in a store that lost it. The budgets are put in force."""
    from extproc.commands.folder import Folder

    own = _table(config)
    place = _place(find(redis_url, config, state, org), org, all_orgs)

    async def one(ledger: RedisTreasury, name: str) -> str:
        return await _rebuild(ledger, name, own, None if root is None else Folder(root, name), force)

    run(place, lambda ledger: _each(ledger, place, root, all_orgs, lambda name: one(ledger, name)))


async def _rebuild(ledger: RedisTreasury, org: str, own: Table, folder: Folder | None, force: bool) -> str:
    from extproc.ledger.export import Log
    from extproc.money import tables

    log = Log(ledger)
    epoch = (await ledger.table(org))[0]
    if epoch != 0 and not force:
        raise CommandError(f"org {org} has budgets in force, as epoch {epoch}; where their windows miss what was spent "
                           "before, use --force")
    stream = await log.stream(org)
    if folder is None and stream.added > stream.length:
        raise CommandError(f"{stream.added - stream.length} records of org {org} were removed from the stream; give "
                           "the folder they were exported to, with --from")
    reading = Reading(folder)
    await reading.follow(log, org)
    if not reading.records:
        looked = "" if folder is None else f" or in {folder.path}"
        raise CommandError(f"org {org} has no records in the stream{looked}; give the folder of an export with --from, "
                           "or begin at zero with: extproc budgets publish")
    for _ in range(MANY_TRIES):
        if force:
            await log.withdraw(org)
        await reading.follow(log, org)
        windows = windows_of(own, reading.sums, await log.now_ms(org))
        code = await _seed(ledger, org, windows, reading.length)
        if code == "OK" and (done := await ledger.publish(org, tables.encode(own), 0, {})).code == "OK":
            return (f"{len(windows)} windows made again from {reading.records} records ({reading.span}); "
                    f"{len(own.entries)} budgets in force, as epoch {done.epoch}")
    raise CommandError(f"org {org}: records are added or removed, or budgets put in force, all the while; stop the "
                       "gateway and repeat this: until then requests under budgets are refused")


class Reading:
    """Sums every record once, from files and then the stream, which may overlap. `length`: records of the stream."""

    def __init__(self, folder: Folder | None) -> None:
        from extproc.ledger.export import START, Position

        self.records = self.length = 0
        self.sums: dict[str, Charged] = {}
        self._first = self._last = 0
        self._exported = self._at = START
        for entry in () if folder is None else folder.records():
            self._exported = Position(entry.ms, entry.number)
            self._add(entry.ms, entry.record)

    @property
    def span(self) -> str:
        """From when the records are (UTC)."""
        from extproc.reports.periods import moment

        return f"{moment(self._first)} to {moment(self._last)} UTC"

    async def follow(self, log: Log, org: str) -> None:
        """Add what the stream has got since the last time."""
        async for at, record in log.records(org, self._at):
            self._at = at
            self.length += 1
            if at > self._exported:
                self._add(at.ms, record)

    def _add(self, ms: int, record: UsageRecord) -> None:
        from extproc.ledger.rebuild import Charged, charged

        self.records += 1
        self._first, self._last = self._first or ms, ms
        for window, part in charged([record]).items():
            entry = self.sums.setdefault(window, Charged())
            entry.nano_usd += part.nano_usd
            entry.tokens += part.tokens
            entry.requests += part.requests


def windows_of(own: Table, sums: dict[str, Charged], now_ms: int) -> tuple[tuple[Budget, int], ...]:
    """Return the windows that still count or take corrections, with what each has spent."""
    from extproc.ledger.rebuild import seeds

    # Incomplete records may have what was given back and not what was spent.
    return tuple((budget, max(spent, 0)) for budget, spent in seeds(own, sums) if now_ms < budget.until_ms)


async def _seed(ledger: RedisTreasury, org: str, windows: tuple[tuple[Budget, int], ...], length: int) -> str:
    for start in range(0, max(len(windows), 1), AT_ONCE):
        code = await ledger.seed(org, windows[start : start + AT_ONCE], length)
        if code != "OK":
            return code
    return "OK"
