"""The store of a gateway: embedded, or one that it was told to use and asks before it serves whether money can rest
on it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

from extproc.config import GatewayConfig
from extproc.ledger import embedded
from extproc.ledger.access import sentence, verify
from extproc.ledger.address import AddressRefused, place_of, shown
from extproc.ledger.base import LedgerMisconfigured, LedgerUnavailable
from extproc.ledger.link import StoreRefused
from extproc.ledger.spool import Spool, SpoolUnusable
from extproc.up.children import STORE, Children
from extproc.up.errors import StartError
from extproc.up.folders import Folders

_log = logging.getLogger("extproc.up")
PATIENCE = 15.0
"""Seconds that all questions together may take."""
AGAIN = 5.0
"""Seconds between two tries to reach a store that was away at the start."""
URL = "EXTPROC_REDIS_URL"
"""Where workers find the address: everybody on the machine may read a command line."""


class StoreUnusable(Exception):  # noqa: N818
    """The store, or its address, is not one that money can rest on; the text is one line, without the password."""


class StoreAway(Exception):  # noqa: N818
    """The store does not answer; the text is one line, without the password."""


async def ask(url: str, config: GatewayConfig) -> list[str]:
    """Ask a store whether this gateway can use it; return warnings, one line each.

    Raises StoreUnusable where time heals nothing, StoreAway where it may; within `PATIENCE` seconds.
    """
    place = shown(url)
    try:
        async with asyncio.timeout(PATIENCE):
            return [f"the store at {place}: {text}" for text in await verify(url, config.auth.org,
                                                                             wait=config.money.wait)]
    except AddressRefused as error:
        raise StoreUnusable(f"the store's address cannot be used: {error}") from error
    except StoreRefused as error:
        raise StoreUnusable(_line(sentence(error, place))) from error
    except LedgerMisconfigured as error:
        raise StoreUnusable(_line(f"the store at {place} cannot be used: {error}")) from error
    except (LedgerUnavailable, TimeoutError) as error:
        reason = _line(str(error)) or f"no answer within {PATIENCE:.0f} s"
        raise StoreAway(f"the store at {place} does not answer ({reason})") from error


def _line(text: str) -> str:
    return " ".join(text.split())


class Store:
    """`url` is where it is, `note` whose it is, in words, `name` what tells it from others as long as its data lives;
    `tables` is the file of the orgs whose budget tables it had: what is gone from it then was lost."""

    def __init__(self, url: str, note: str, name: str, tables: Path) -> None:
        self.url, self.note, self.name, self.tables = url, note, name, tables
        self._away = False

    async def check(self, config: GatewayConfig) -> None:
        """Refuse a store that lets us in nowhere or forgets; one that is away may come. Raises StartError."""
        try:
            await self._ask(config)
        except StoreAway as error:
            self._away = True
            denies = config.money.denies(budgets=bool(config.budgets))
            _log.warning("%s; until it does, %s", error, "requests are refused with 503" if denies
                         else "requests go on without it, as money.store_down allows")

    async def watch(self, config: Callable[[], GatewayConfig]) -> None:
        """Ask a store that was away at the start what it was not asked then.

        Raises StartError: what money cannot rest on ends the gateway, as it would have at the start.
        """
        while self._away:
            await asyncio.sleep(AGAIN)
            try:
                await self._ask(config())
            except StoreAway:
                continue  # said once, and by every worker that needs it
            self._away = False

    async def _ask(self, config: GatewayConfig) -> None:
        try:
            for warning in await ask(self.url, config):
                _log.warning("%s", warning)
        except StoreUnusable as error:
            raise StartError(str(error)) from error

    def spool(self, folder: Path | None) -> str:
        """The folder of settlements that the store did not take, or "" for none. Raises StartError."""
        if folder is None:
            return ""
        try:
            Spool(folder.resolve(), self.name).close()
        except SpoolUnusable as error:
            raise StartError(str(error)) from error
        return str(folder.resolve())


async def embedded_store(folders: Folders, children: Children) -> Store:
    """Start a Valkey whose data outlives the gateway. Raises StartError."""
    path, data = folders.run / "store.sock", folders.own / "data"
    data.mkdir(mode=0o700, exist_ok=True)
    await children.start(STORE, embedded.command(path, data))
    url = embedded.url(path)
    (folders.own / "store.url").write_text(url)  # where `extproc keys`, `usage` and others find it
    return Store(url, f"embedded Valkey, data in {data}", f"embedded in {folders.own}", _tables(folders, "embedded"))


def given_store(url: str, folders: Folders) -> Store:
    """The one that the configuration or the environment names."""
    return Store(url, "from the configuration", place_of(url), _tables(folders, place_of(url)))


def _tables(folders: Folders, identity: str) -> Path:
    return folders.own / f"budget-tables-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
