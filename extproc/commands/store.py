"""Which store a command talks to, and as which org; every failure is one line that says what to do."""

from __future__ import annotations

import asyncio
import functools
import os
import re
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click
import msgspec

from extproc.config import ConfigError, GatewayConfig, parse

if TYPE_CHECKING:
    from extproc.ledger.redis_treasury import RedisTreasury

P = ParamSpec("P")
R = TypeVar("R")
CONNECT_TIMEOUT = 2.0
CALL_TIMEOUT = 30.0
"""Seconds: a report may wait longer than a request."""
STORE_URL = "store.url"
"""File in a gateway's state folder with the address of its embedded store."""
_SECRET = re.compile(r"""(\bapi_key["']?[ \t]*:[ \t]*)("[^"\n]*"|'[^'\n]*'|\$\{[^}\n]*\}|[^\s,#}]+)""")


class CommandError(Exception):
    """A command cannot do what it was asked; the text says what to do."""


class Place(msgspec.Struct, frozen=True):
    """The store of a command. `config`: the gateway's, where it is known."""

    url: str
    org: str
    config: GatewayConfig | None

    @property
    def shown(self) -> str:
        """The address without its password."""
        from extproc.ledger.address import shown

        return shown(self.url)


def store_options(command: Callable[P, R],
                  org: str = "Whose books; default: the configuration's, else `default`.") -> Callable[P, R]:
    """Add --redis-url, --config, --state and --org, which means what `org` says."""
    for option in (
        click.option("--org", help=org),
        click.option("--state", type=click.Path(path_type=Path), default=Path(".extproc"), show_default=True,
                     help="State folder of an `extproc up` that runs here."),
        click.option("-c", "--config", type=click.Path(path_type=Path, dir_okay=False), help="gateway.yaml"),
        click.option("--redis-url", help="Address of the store: redis://…, rediss://…?ca=FILE, redis+cluster://… or unix://…"),
    ):
        command = option(command)
    return command


def one_line(command: Callable[P, R]) -> Callable[P, R]:
    """End with one line per problem on stderr, and the exit code 1."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **options: P.kwargs) -> R:
        from extproc.ledger.base import LedgerUnavailable
        from extproc.ledger.keys import KeyRefused
        from extproc.reports.periods import PeriodRefused
        from extproc.reports.tables import ParquetMissing
        from extproc.reports.usage import DimensionRefused

        try:
            return command(*args, **options)
        except ConfigError as error:
            lines = error.lines
        except (CommandError, LedgerUnavailable, KeyRefused, PeriodRefused, DimensionRefused, ParquetMissing) as error:
            lines = [" ".join(str(error).split())]
        for line in lines:
            click.echo(f"extproc: {line}", err=True)
        sys.exit(1)

    return wrapped


def find(redis_url: str | None, config: Path | None, state: Path, org: str | None,
         env: Mapping[str, str] = os.environ) -> Place:
    """Return the store: as given, else REDIS_URL, the configuration's, or that of an `extproc up` in `state`.

    Raises CommandError where there is none, ConfigError for an unusable configuration.
    """
    loaded = None if config is None else read_config(config, env)
    url = redis_url or env.get("REDIS_URL") or ("" if loaded is None else loaded.redis)
    if url in ("", "embedded"):
        url, beside = _running(state)
        if loaded is None and beside.is_file():
            loaded = read_config(beside, env)
    elif not re.match(r"^(rediss?(\+cluster)?|unix)://.", url):
        raise CommandError("the store's address is not one; expected redis://…, rediss://…, redis+cluster://… or "
                           "unix://…")
    return Place(url, org or ("default" if loaded is None else loaded.auth.org), loaded)


def _running(state: Path) -> tuple[str, Path]:
    """Return the address of the embedded store that runs in a state folder, and where its configuration lies."""
    found = [path.read_text("utf-8").strip() for path in sorted(state.glob(f"gateway-*/{STORE_URL}"))]
    alive = [url for url in found if _listens(url.removeprefix("unix://"))]
    if not alive:
        raise CommandError(f"no store: no `extproc up` runs on {state}; start one, set REDIS_URL, or give --redis-url "
                           "or a gateway.yaml with redis: (-c)")
    if len(alive) > 1:
        raise CommandError(f"{len(alive)} gateways run on {state}; choose one with --redis-url: {' or '.join(alive)}")
    return alive[0], Path(alive[0].removeprefix("unix://")).parent / "gateway.yaml"


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def read_config(path: Path, env: Mapping[str, str] = os.environ) -> GatewayConfig:
    """Read a gateway.yaml without the providers' keys: who asks for reports need not have them. Raises ConfigError."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: is not UTF-8 text"]) from error
    return read_text(text, str(path), path.parent, env)


def read_text(text: str, name: str, folder: Path, env: Mapping[str, str] = os.environ) -> GatewayConfig:
    """The same of the text of a gateway.yaml. Raises ConfigError."""
    return parse(_SECRET.sub(r'\g<1>"-"', text), name, folder, env)


def run(place: Place, work: Callable[[RedisTreasury], Awaitable[R]]) -> R:
    """Do the work on the place's store. Raises CommandError where the store does not answer."""
    from extproc.ledger.access import sentence
    from extproc.ledger.address import AddressRefused
    from extproc.ledger.base import LedgerUnavailable
    from extproc.ledger.redis_treasury import RedisTreasury

    async def inside() -> R:
        try:
            ledger = RedisTreasury(place.url, connect_timeout=CONNECT_TIMEOUT, call_timeout=CALL_TIMEOUT)
        except AddressRefused as error:  # its text does not repeat the password
            raise CommandError(f"the store's address cannot be used: {error}") from error
        try:
            return await work(ledger)
        finally:
            await ledger.close()

    try:
        return asyncio.run(inside())
    except LedgerUnavailable as error:
        raise CommandError(sentence(error, place.shown)) from error


def write(content: Any, output: Path | None) -> None:
    """Put text or bytes into a file, or on stdout. Raises CommandError where the file cannot be written."""
    data: bytes = content.encode("utf-8", "replace") if isinstance(content, str) else content
    if output is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()  # a reader that has gone shows here, not at exit
        return
    try:
        output.write_bytes(data)
    except OSError as error:
        raise CommandError(f"{output} cannot be written: {error.strerror}") from error
