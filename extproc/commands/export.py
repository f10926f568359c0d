"""`extproc export`: the usage stream of every org as files, each record once, and the stream trimmed behind them."""

from __future__ import annotations

import asyncio
import functools
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from extproc.commands.store import CommandError, find, one_line, run, store_options

if TYPE_CHECKING:
    from extproc.commands.folder import Folder
    from extproc.ledger.export import Log, Position
    from extproc.ledger.redis_treasury import RedisTreasury
    from extproc.reports.lines import Form


@click.command()
@click.option("--to", "root", type=click.Path(path_type=Path, file_okay=False), required=True,
              help="Folder for the files, one folder per org in it.")
@click.option("--format", "form", type=click.Choice(["jsonl", "parquet"]), default="jsonl", show_default=True)
@click.option("--follow", is_flag=True, help="Go on until ended (Ctrl-C, SIGTERM).")
@click.option("--every", default="60s", show_default=True, help="With --follow: how often files are written.")
@click.option("--batch", type=click.IntRange(1, 100_000), default=10_000, show_default=True,
              help="Records per file at most.")
@click.option("--trim", is_flag=True, help="Remove from the store what all exporters have; reports read only the rest.")
@click.option("--keep", help="With --trim: records younger than this stay in the store, such as 31d.")
@click.option("--group", default="export", show_default=True,
              help="Name under which the store remembers what is exported; one per folder of files.")
@functools.partial(store_options, org="Only this org; default: every one.")
@one_line
def export(root: Path, form: Form, follow: bool, every: str, batch: int, trim: bool, keep: str | None, group: str,
           redis_url: str | None, config: Path | None, state: Path, org: str | None) -> None:
    """Write the records of all requests into files. Each comes once, also when this is killed and run again."""
    from extproc.commands.folder import writing
    from extproc.ledger.export import Log
    from extproc.reports.lines import check
    from extproc.reports.periods import length_ms

    if keep is not None and not trim:
        raise CommandError("--keep is for --trim; give both, or none")
    if not group:
        raise CommandError("--group is empty; give the export a name")
    pause = length_ms("--every", every) / 1000 if follow else None
    if pause == 0:
        raise CommandError(f"--every {every}: expected at least 1s")
    kept = 0 if keep is None else length_ms("--keep", keep)
    check(form)
    place = find(redis_url, config, state, org)

    async def work(ledger: RedisTreasury) -> None:
        job = Export(Log(ledger), root, form, batch, group, kept if trim else None)
        await (job.once(org) if pause is None else _follow(job, org, pause))

    with writing(root):
        run(place, work)


async def _follow(job: Export, org: str | None, pause: float) -> None:
    """Export now and then until a signal; one that comes while files are written waits for their end."""
    from extproc.ledger.base import LedgerUnavailable

    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    while not stop.is_set():
        try:
            await job.once(org)
        except LedgerUnavailable as error:
            click.echo(f"extproc: the store does not answer ({error}); tried again in {pause:g} s", err=True)
        try:
            async with asyncio.timeout(pause):
                await stop.wait()
        except TimeoutError:
            continue


class Export:
    """One export into one folder under one group. `keep_ms`: None: nothing is trimmed."""

    def __init__(self, log: Log, root: Path, form: Form, batch: int, group: str, keep_ms: int | None) -> None:
        self._log, self._root, self._batch = log, root, batch
        self._form: Form = form
        self._group, self._keep_ms = group, keep_ms

    async def once(self, org: str | None = None) -> None:
        """Export what there is, of one org or all. Raises CommandError, LedgerUnavailable."""
        for name in [org] if org is not None else await self._log.orgs():
            await self._export(name)

    async def _export(self, org: str) -> None:
        from extproc.commands.folder import Folder
        from extproc.ledger.export import START
        from extproc.reports.tables import printable

        stream = await self._log.stream(org)
        if stream.last == START:
            return
        folder, acknowledged = Folder(self._root, org), stream.groups.get(self._group, START)
        position = folder.last()
        if position < acknowledged:
            raise CommandError(
                f"{folder.path}: the export {self._group} has come to {acknowledged}, but the files end at {position}; "
                "give the folder of then, or another --group for an export of its own")
        if position > stream.last:
            raise CommandError(
                f"{folder.path}: the files end at {position}, but the stream at {stream.last}; this is another store "
                "or an older copy: give another folder")
        if position == START and stream.added > stream.length:
            gone = stream.added - stream.length
            click.echo(f"extproc: org {printable(org)}: {gone} records were removed before this export began", err=True)
        position = await self._acknowledge(org, acknowledged, position)
        written = await self._pages(org, folder, position, stream.last)
        removed = 0 if self._keep_ms is None else await self._log.trim(org, self._group, self._keep_ms)
        if written or removed:
            click.echo(f"extproc: org {printable(org)}: {written} records exported, {removed} removed from the store",
                       err=True)

    async def _pages(self, org: str, folder: Folder, position: Position, last: Position) -> int:
        """Write what the stream had when this began: a busy gateway would never let it end."""
        from extproc.reports.lines import Logged

        written = 0
        while position < last and (page := await self._log.page(org, position, self._batch)):
            entries = [Logged(at.ms, at.number, record) for at, record in page]
            await asyncio.to_thread(folder.write, entries, self._form)
            position = await self._acknowledge(org, position, page[-1][0])
            written += len(page)
        return written

    async def _acknowledge(self, org: str, had: Position, has: Position) -> Position:
        """Tell the store what is safe on disk; what a killed export wrote and did not tell is told by the next one."""
        from extproc.ledger.export import OtherExporter
        from extproc.reports.tables import printable

        if had != has:
            try:
                await self._log.acknowledge(org, self._group, had, has)
            except OtherExporter as error:
                raise CommandError(f"org {printable(org)}: another export moves the group {self._group}; end it, or "
                                   "give another --group") from error
        return has
