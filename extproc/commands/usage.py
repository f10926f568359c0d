"""`extproc usage`: sums of the daily rollups."""

from __future__ import annotations

import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from extproc.commands.store import CommandError, find, one_line, run, store_options, write

if TYPE_CHECKING:
    from extproc.ledger.redis_treasury import RedisTreasury
    from extproc.reports.tables import Table


@click.command()
@click.option("--by", default="team,model", show_default=True,
              help="Some of day, team, project, user, key, model, backend; joined by commas.")
@click.option("--since", default="7d", show_default=True,
              help="A day (UTC) such as 2026-11-01, or 7d or 4w up to --until.")
@click.option("--until", help="The last day (UTC); default: today.")
@click.option("--format", "form", type=click.Choice(["table", "csv", "json", "parquet"]), default="table",
              show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write into this file.")
@click.option("--team", multiple=True, help="Only this team; may be repeated, as the next four.")
@click.option("--project", multiple=True)
@click.option("--user", multiple=True)
@click.option("--key", multiple=True)
@click.option("--model", multiple=True)
@click.option("--backend", multiple=True)
@store_options
@one_line
def usage(by: str, since: str, until: str | None, form: str, output: Path | None, redis_url: str | None,
          config: Path | None, state: Path, org: str | None, **only: tuple[str, ...]) -> None:
    """Requests, tokens and exact cost by team, model and more."""
    from extproc.commands.read import rollups
    from extproc.reports.periods import period
    from extproc.reports.usage import Usage, dimensions

    span = period(since, until, datetime.now(UTC).date())
    sums = Usage(dimensions(by), {name: frozenset(values) for name, values in only.items() if values})
    check_binary(form, output)
    place = find(redis_url, config, state, org)

    async def read(ledger: RedisTreasury) -> None:
        for day in span.days():
            async for row in rollups(ledger.door, place.org, day):
                sums.add(day, row)

    run(place, read)
    told = {"org": place.org, "since": str(span.first), "until": str(span.last), "by": list(sums.by)}
    write(rendered(sums.table(), form, told), output)
    if form == "table" and not sums.total.requests and not sums.total.cost:
        click.echo(f"extproc: org {place.org} has no usage in {span}", err=True)


def check_binary(form: str, output: Path | None) -> None:
    """Raise CommandError where a terminal would get a binary file."""
    if form == "parquet" and output is None and sys.stdout.isatty():
        raise CommandError("Parquet is binary; name a file with --output")


def rendered(table: Table, form: str, told: dict[str, Any]) -> str | bytes:
    """Return a table in the form that was asked for; `told` goes into JSON besides the rows."""
    from extproc.reports import tables

    match form:
        case "csv":
            return tables.as_csv(table)
        case "json":
            return tables.as_json(table, **told)
        case "parquet":
            return tables.as_parquet(table)
        case _:
            return tables.as_text(table, terminal_width())


def terminal_width() -> int | None:
    """Return the columns of the terminal on stdout; None: it is none, so lines may be as long as they are."""
    if not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns
