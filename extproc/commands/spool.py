"""`extproc budgets spool`: settlements that wait for the store on this machine, and those that came too late for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from extproc.commands.store import CommandError, find, one_line, read_config, run, store_options, write

if TYPE_CHECKING:
    from extproc.ledger.dead_letters import DeadLetter
    from extproc.ledger.export import Log
    from extproc.ledger.redis_treasury import RedisTreasury
    from extproc.ledger.spool import Entry
    from extproc.reports.tables import Row, Table

_FOLDER = click.option("--spool", "given", type=click.Path(path_type=Path, file_okay=False),
                       help="The spool folder; default: the configuration's, else `spool` in the state folder.")


@click.group(invoke_without_command=True)
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
@click.option("--state", type=click.Path(path_type=Path), default=Path(".extproc"), show_default=True,
              help="State folder of the gateway.")
@click.option("-c", "--config", type=click.Path(path_type=Path, dir_okay=False), help="gateway.yaml")
@_FOLDER
@click.pass_context
@one_line
def spool(context: click.Context, form: str, state: Path, config: Path | None, given: Path | None) -> None:
    """What waits on disk for the store, or came too late for it."""
    from extproc.commands.usage import rendered

    if context.invoked_subcommand is None:
        write(rendered(listed(folder_of(given, config, state)), form, {}), None)


def folder_of(given: Path | None, config: Path | None, state: Path) -> Path:
    """Return the spool folder. Raises CommandError, ConfigError."""
    folder = given
    if folder is None and config is not None:
        folder = read_config(config).money.spool_folder(config.parent, state)
        if folder is None:
            raise CommandError(f"{config} says money.spool: off; name a folder with --spool")
    folder = folder or state / "spool"
    if not folder.is_dir():
        raise CommandError(f"there is no spool folder {folder}; name it with --spool, --state or -c")
    return folder


def listed(folder: Path) -> Table:
    """Return what lies in a spool folder as a table. Raises CommandError."""
    from extproc.ledger.dead_letters import APPLYING, NAME
    from extproc.ledger.spool import SUFFIX, held, waiting
    from extproc.reports.tables import Column, Table

    rows: list[Row] = []
    try:
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            owner = "a living worker" if held(path) else "nobody"
            rows += [_row(path.name, owner, "runs, or was left" if intent else "waits", entry)
                     for entry, intent in waiting(path)]
        for path in [folder / NAME, *sorted(folder.glob(f"*{APPLYING}"))]:
            rows += [_row(path.name, "you", "too late", letter.settlement()) for letter in _letters(path)]
    except OSError as error:
        raise CommandError(f"{folder} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CommandError(str(error)) from error
    texts = [Column(name) for name in ("file", "held_by", "state", "org", "request")]
    return Table((*texts, Column("attempt", "count"), Column("team"), Column("model"), Column("cost", "usd"),
                  Column("tokens", "count")), rows)


def _row(file: str, owner: str, state: str, entry: Entry) -> Row:
    settlement, row = entry.settlement, entry.settlement.row
    return (file, owner, state, entry.org, settlement.request_id, entry.attempt, row.team, row.model, settlement.cost,
            settlement.input_tokens + settlement.output_tokens)


def _letters(path: Path) -> list[DeadLetter]:
    from extproc.ledger.dead_letters import read

    return read(path)


@spool.command()
@_FOLDER
@store_options
@one_line
def apply(given: Path | None, redis_url: str | None, config: Path | None, state: Path, org: str | None) -> None:
    """Charge what came too late for the store, each once. What was charged in full meanwhile is left as it is."""
    folder = folder_of(given, config, state)
    place = find(redis_url, config, state, org)
    click.echo(run(place, lambda ledger: _apply(ledger, folder)), err=True)


async def _apply(ledger: RedisTreasury, folder: Path) -> str:
    from extproc.ledger.dead_letters import APPLIED, APPLYING, correction_id, set_aside
    from extproc.ledger.export import Log

    log, charged, left = Log(ledger), 0, 0
    try:
        now = await log.now_ms("default")
        for path in set_aside(folder, now):
            for letter in _letters(path):
                entry = letter.settlement()
                if await _recorded(log, entry):
                    left += 1
                else:
                    await _charge(ledger, entry, correction_id(path, entry))
                    charged += 1
            path.rename(path.with_name(path.name.replace(APPLYING, APPLIED)))
    except OSError as error:
        raise CommandError(f"{folder} cannot be read or written: {error.strerror}") from error
    except ValueError as error:
        raise CommandError(str(error)) from error
    return f"{charged} dead letters charged; {left} attempts have a record already and were left as they are"


async def _recorded(log: Log, entry: Entry) -> bool:
    """Whether the stream has this attempt: its reservation ended meanwhile, and it was charged in full."""
    from extproc.ledger.export import Position

    since = Position(max(int.from_bytes(entry.rid[:6], "big") - 60_000, 0))
    async for _, record in log.records(entry.org, since):
        if record.admission.request_id == entry.settlement.request_id and any(
                attempt.number == entry.attempt for attempt in record.attempts):
            return True
    return False


async def _charge(ledger: RedisTreasury, entry: Entry, correction: bytes) -> None:
    from extproc.pb import usage_pb2 as pb

    settlement, row = entry.settlement, entry.settlement.row
    admission = pb.Admission(
        request_id=settlement.request_id, org=entry.org, team=row.team, project=row.project, user=row.user, key=row.key,
        reason="a settlement that came too late").SerializeToString()
    budgets = () if entry.account is None else entry.account.budgets
    done = await ledger.adjust(entry.org, correction, admission, row, budgets, settlement.cost or 0,
                               settlement.input_tokens + settlement.output_tokens)
    if done.code not in ("DONE", "DUP"):
        raise CommandError(f"request {settlement.request_id} could not be charged: the store says {done.code}")
