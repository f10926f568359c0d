"""`extproc keys`: make, list, change, replace and end gateway keys. A secret is shown once and stored nowhere."""

from __future__ import annotations

import json
import re
import shlex
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from extproc.commands.store import CommandError, Place, find, one_line, run, store_options, write

if TYPE_CHECKING:
    from extproc.ledger.keys import Changes, KeyRecord, KeyStore
    from extproc.ledger.redis_treasury import RedisTreasury
    from extproc.reports.tables import Table

SHOWN = 500
"""Keys that a text table shows at most unless told otherwise."""
_HEX = re.compile(r"^[0-9a-f]{6,64}$")


@click.group()
def keys() -> None:
    """Make, list, change, replace and end gateway keys."""


@keys.command()
@click.option("--name", required=True, help="Unique among the keys in force; shown in usage and logs.")
@click.option("--team", default="default", show_default=True)
@click.option("--project", default="")
@click.option("--user", default="")
@click.option("--route", multiple=True,
              help="A chain, smart, or BACKEND/MODEL it may use; may be repeated. Default: all.")
@click.option("--expires", help="Valid this long, such as 90d; default: for ever.")
@click.option("--config-only", is_flag=True, help="Store nothing; print the entry for auth.keys of a gateway.yaml.")
@store_options
@one_line
def create(name: str, team: str, project: str, user: str, route: tuple[str, ...], expires: str | None,
           config_only: bool, redis_url: str | None, config: Path | None, state: Path, org: str | None) -> None:
    """Make a key. It is printed once, alone on stdout; the store keeps its hash only."""
    from extproc.core.identity import Caller
    from extproc.ledger.keys import digest_of, new_secret

    secret, term = new_secret(), _length("--expires", expires)
    digest = digest_of(secret).hex()
    if config_only:
        _print_entry(secret, {"name": name, "sha256": digest, "team": team, "project": project, "user": user},
                     route, expires)
        return
    place = find(redis_url, config, state, org)
    _check_routes(place, route)
    caller = Caller(org=place.org, team=team, project=project, user=user, key=name, routes=route or None)
    code = run(place, lambda ledger: _store(ledger).create(digest, caller, term))
    if code != "DONE":
        raise CommandError(f"a key named {name} is in force; choose another name, or replace it with: "
                           f"extproc keys rotate {shlex.quote(name)} --overlap 24h")
    _show(secret, f"key {name} of team {team}, valid {'for ' + expires if expires else 'until revoked'}; "
                  "it is shown once")
    if place.config is not None and place.config.auth.mode != "keys":
        click.echo(f"nobody is asked for it: auth.mode is {place.config.auth.mode}, not keys", err=True)


def _print_entry(secret: str, entry: dict[str, Any], route: tuple[str, ...], expires: str | None) -> None:
    if expires is not None:
        raise CommandError("a key in gateway.yaml does not expire; leave --expires out, or --config-only")
    if not entry["user"]:
        del entry["user"]
    if route:
        entry["routes"] = list(route)
    click.echo(f"key (shown once): {secret}", err=True)
    click.echo(f"add to gateway.yaml under auth.keys:\n  - {json.dumps(entry, ensure_ascii=False)}", err=True)


def _check_routes(place: Place, routes: tuple[str, ...]) -> None:
    """Raise CommandError for a route that the configuration does not have."""
    config = place.config
    if config is None:
        return
    for route in routes:
        backend, _, model = route.partition("/")
        if route != "smart" and route not in config.chains and not (backend in config.backends and model):
            raise CommandError(f"--route {route}: unknown; allowed: {', '.join(sorted(config.chains))}, smart, or "
                               "BACKEND/MODEL")


@keys.command("list")
@click.option("--team", multiple=True, help="Only this team; may be repeated.")
@click.option("--all", "everything", is_flag=True, help="Also keys that are revoked or expired.")
@click.option("--limit", type=click.IntRange(1), help=f"At most so many; default: {SHOWN} in a table, else all.")
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
@store_options
@one_line
def list_(team: tuple[str, ...], everything: bool, limit: int | None, form: str, redis_url: str | None,
          config: Path | None, state: Path, org: str | None) -> None:
    """List keys by name."""
    from extproc.reports import tables

    place = find(redis_url, config, state, org)
    most = limit or (SHOWN if form == "table" else None)
    now = time.time_ns() // 1_000_000
    put = partial(write, output=None)

    async def read(ledger: RedisTreasury) -> bool:
        found: list[KeyRecord] = []
        pages, count = None if form == "table" else tables.Pages("csv" if form == "csv" else "json", put), 0
        if pages is not None:
            pages.add(_table([], now, 64))
        async for page in _store(ledger).pages():
            some = [record for record in page if (everything or record.state(now) in ("live", "not yet"))
                    and (not team or record.caller.team in team)]
            kept, count = some if most is None else some[: max(most - count, 0)], count + len(some)
            if pages is None:
                found += kept
            else:
                pages.add(_table(kept, now, 64))
            if most is not None and count > most:
                break
        if pages is None:
            put(tables.as_text(_table(found, now, 16), _width()))
        else:
            pages.close()
        return most is not None and count > most

    more = run(place, read)
    if more:
        click.echo(f"extproc: only the first {most} are shown; raise --limit, or use --format csv", err=True)


def _width() -> int | None:
    from extproc.commands.usage import terminal_width

    return terminal_width()


def _table(records: list[KeyRecord], now: int, digits: int) -> Table:
    from extproc.reports.tables import Column, Table

    columns = (Column("name"), Column("org"), Column("team"), Column("project"), Column("user"),
               Column("routes", "list"), Column("state"), Column("created", "moment", "created (UTC)"),
               Column("expires", "moment", "expires (UTC)"), Column("sha256"))
    rows = [
        (r.caller.key, r.caller.org, r.caller.team, r.caller.project, r.caller.user, r.caller.routes or ("*",),
         r.state(now), r.created, r.caller.expires, r.digest[:digits])
        for r in records
    ]
    return Table(columns, rows)


@keys.command()
@click.argument("key")
@store_options
@one_line
def revoke(key: str, redis_url: str | None, config: Path | None, state: Path, org: str | None) -> None:
    """End a key for good. KEY: its name (then all keys in force of that name), or 6 or more digits of its hash."""
    place = find(redis_url, config, state, org)

    async def work(ledger: RedisTreasury) -> list[KeyRecord]:
        found = await _named(_store(ledger), key)
        for record in found:
            await _store(ledger).revoke(record.digest)
        return found

    for record in run(place, work):
        click.echo(f"revoked {record.caller.key} ({record.digest[:16]}); workers forget it within 5 seconds", err=True)


@keys.command()
@click.argument("name")
@click.option("--overlap", default="24h", show_default=True, help="How long the old key stays valid.")
@click.option("--expires", help="Valid this long, such as 90d; default: as long as the old key was to be.")
@store_options
@one_line
def rotate(name: str, overlap: str, expires: str | None, redis_url: str | None, config: Path | None, state: Path,
           org: str | None) -> None:
    """Make a new key in place of NAME. It is printed once, alone on stdout."""
    from extproc.ledger.keys import digest_of, new_secret

    secret, stays = new_secret(), _length("--overlap", overlap)
    term = None if expires is None else _length("--expires", expires)
    place = find(redis_url, config, state, org)
    digest = digest_of(secret).hex()
    code = run(place, lambda ledger: _store(ledger).rotate(name, digest, stays, term))
    if code != "DONE":
        raise CommandError(f"no key named {name} is in force; list them with: extproc keys list")
    _show(secret, f"key {name} is replaced, the old one stays valid for {overlap}; the new one is shown once")


@keys.command()
@click.argument("key")
@click.option("--team")
@click.option("--project")
@click.option("--user")
@click.option("--route", multiple=True, help="A chain, smart, or BACKEND/MODEL it may use; may be repeated; `*`: all.")
@click.option("--expires", help="Valid this long from now, such as 90d, or `never`.")
@store_options
@one_line
def update(key: str, team: str | None, project: str | None, user: str | None, route: tuple[str, ...],
           expires: str | None, redis_url: str | None, config: Path | None, state: Path, org: str | None) -> None:
    """Change a key. KEY: its name (then all keys in force of that name), or 6 or more digits of its hash."""
    from extproc.ledger.keys import Changes, check_term

    place = find(redis_url, config, state, org)
    routes = None if not route else () if route == ("*",) else route
    _check_routes(place, routes or ())
    at = None
    if expires is not None:
        at = 0 if expires == "never" else time.time_ns() // 1_000_000 + check_term(_length("--expires", expires))
    changes = Changes(team, project, user, routes, at)
    if changes == Changes():
        raise CommandError("nothing to change; give --team, --project, --user, --route or --expires")
    for record in run(place, lambda ledger: _change(_store(ledger), key, changes)):
        click.echo(f"changed {record.caller.key} ({record.digest[:16]}); workers take it within 5 seconds", err=True)


@keys.command()
@click.option("--older", default="30d", show_default=True, help="Only keys that ended at least so long ago; 0d: all.")
@click.option("--dry-run", is_flag=True, help="Only tell how many there are.")
@store_options
@one_line
def purge(older: str, dry_run: bool, redis_url: str | None, config: Path | None, state: Path,
          org: str | None) -> None:
    """Forget keys that ended long ago, of all orgs. Usage keeps their names."""
    place, length = find(redis_url, config, state, org), _length("--older", older)
    count = run(place, lambda ledger: _store(ledger).purge(length, dry=dry_run))
    click.echo(f"{count} keys ended {older} ago or earlier" + ("" if dry_run else "; they are forgotten"), err=True)


async def _change(store: KeyStore, key: str, changes: Changes) -> list[KeyRecord]:
    found = await _named(store, key)
    for record in found:
        await store.change(record.digest, changes)
    return found


async def _named(store: KeyStore, key: str) -> list[KeyRecord]:
    """Return the keys in force of a name, else the one whose digest starts so. Raises CommandError."""
    now = time.time_ns() // 1_000_000
    found = [record for record in await store.named(key) if record.state(now) in ("live", "not yet")]
    if found or not _HEX.match(key.lower()):
        if not found:
            raise CommandError(f"no key named {key} is in force; list them with: extproc keys list")
        return found
    found = await store.starting(key.lower())
    if len(found) > 1:
        raise CommandError(f"more than one key's hash starts with {key}; give more digits")
    if not found or found[0].revoked:
        raise CommandError(f"no key in force has the name {key} or a hash that starts so; list them with: "
                           "extproc keys list")
    return found


def _store(ledger: RedisTreasury) -> KeyStore:
    from extproc.ledger.keys import KeyStore

    return KeyStore(ledger.door)


def _length(option: str, text: str | None) -> int:
    """Return a length of time in ms, 0 for none. Raises PeriodRefused."""
    from extproc.reports.periods import PeriodRefused, length_ms

    length = 0 if text is None else length_ms(option, text)
    if option == "--expires" and text is not None and length == 0:
        raise PeriodRefused(f"--expires {text}: expected a length of time such as 90d")
    return length


def _show(secret: str, told: str) -> None:
    """Put the secret alone on stdout, so that `KEY=$(extproc keys create …)` works."""
    click.echo(told, err=True)
    click.echo(secret)
