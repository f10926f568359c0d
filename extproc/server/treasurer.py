"""Budgets and rate limits between the stages' plans and the store: the table in force, its epoch, the store's clock."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import msgspec

from extproc.core.admission import Plan, Shared, entries_for, table_of
from extproc.core.events import Reserved
from extproc.ledger.base import LedgerUnavailable, Treasury
from extproc.money import tables
from extproc.money.amounts import Ask, Grant, RateLimit, TrueUp
from extproc.money.tables import Table
from extproc.runtime import Runtime

_log = logging.getLogger("extproc.budgets")
TRIES = 4
"""How often a reservation is asked for anew with a fresher table or clock."""


class _Book(msgspec.Struct):
    """What a worker knows of an org's table. `seen`: it was there once, so that its absence is a loss."""

    epoch: int = 0
    table: Table = Table(0)
    seen: bool = False


class Treasurer:
    """One per worker."""

    def __init__(self, ledger: Treasury, runtime: Runtime, generation: int, seen: Path | None = None) -> None:
        """`seen`: the file that remembers for which orgs this store had a table, beyond this process."""
        self._ledger, self._seen = ledger, seen
        self._own = self._table(runtime, generation)
        self._books: dict[str, _Book] = {}
        self._ahead = 0  # ms that the store's clock is ahead of ours
        self._loading = asyncio.Lock()

    def _table(self, runtime: Runtime, generation: int) -> Table:
        config = runtime.config
        return table_of(config.budgets, config.limits, config.money.generation or generation)

    def swap(self, runtime: Runtime, generation: int) -> None:
        """A new configuration: its table is published at the next reservation of each org."""
        self._own = self._table(runtime, generation)
        for book in self._books.values():
            book.epoch = 0

    async def reserve(self, org: str, rid: bytes, blob: bytes, plan: Plan) -> Reserved:
        """Reserve what a plan asks for, in the windows of the store's clock; raise LedgerUnavailable."""
        book = self._books.get(org) or self._books.setdefault(org, _Book(seen=self._remembered(org)))
        grant = Grant("EMPTY", 0)
        ask = Ask(0)
        for _ in range(TRIES):
            if book.epoch == 0 and not await self._load(org, book):
                return Reserved("EMPTY", Grant("EMPTY", self._now()), ask)
            now = self._now()
            budgets = tuple(entry.at(now) for entry in entries_for(book.table, plan.who))
            ask = Ask(book.epoch, budgets, plan.limits, plan.options)
            grant = await self._ledger.reserve(org, rid, blob, ask=ask)
            match grant.code:
                case "STALE" | "EMPTY":
                    book.epoch = 0
                case "WINDOW":
                    self._ahead = grant.time_ms - time.time_ns() // 1_000_000
                case "OK":
                    return await self._shared(Reserved("OK", grant, ask), plan)
                case "GONE" | "LIMIT" | "BUDGET" | "LOG_FULL":
                    return Reserved(grant.code, grant, ask)
        return Reserved("EMPTY", grant, ask)

    def _now(self) -> int:
        return time.time_ns() // 1_000_000 + self._ahead

    async def _load(self, org: str, book: _Book) -> bool:
        """Take the table in force, or put our own in force where it is newer; False when the store has lost it."""
        async with self._loading:
            for _ in range(TRIES):
                if book.epoch:
                    return True
                epoch, blob = await self._ledger.table(org)
                stored = tables.decode(blob) if epoch else None
                if stored is None and book.seen:
                    _log.critical("the budget table of %s is gone from the store: it has lost its data", org)
                    return False
                if stored is not None and (stored.entries == self._own.entries
                                           or not tables.supersedes(self._own, stored)):
                    self._in_force(org, book, epoch, stored)
                    return True
                published = await self._ledger.publish(
                    org, tables.encode(self._own), epoch, tables.changed(stored, self._own))
                if published.code == "OK":
                    self._in_force(org, book, published.epoch, self._own)
                    _log.info("budgets of %s: generation %d in force as epoch %d", org, self._own.generation,
                              published.epoch)
                    return True
            return False

    def _in_force(self, org: str, book: _Book, epoch: int, table: Table) -> None:
        book.epoch, book.table = epoch, table
        if not book.seen:
            book.seen = True
            if self._seen is not None:
                with self._seen.open("a", encoding="utf-8") as file:
                    file.write(f"{org}\n")

    def _remembered(self, org: str) -> bool:
        """Whether this store had a table of the org before this process: then its absence means lost data."""
        if self._seen is None or not self._seen.is_file():
            return False
        return org in self._seen.read_text("utf-8").splitlines()

    async def _shared(self, reserved: Reserved, plan: Plan) -> Reserved:
        """Take the limits of the first backend of the granted chain that has room."""
        if not plan.shared or reserved.grant is None:
            return reserved
        backends = plan.shared[reserved.grant.option - 1]
        for index, shared in enumerate(backends):
            if not shared.limits:
                return msgspec.structs.replace(reserved, skipped=index)
            taken = await self._ledger.take(shared.scope, shared.limits)
            if taken.code == "OK":
                return msgspec.structs.replace(reserved, skipped=index, taken=shared)
            if not shared.moves or index == len(backends) - 1:
                ask = reserved.ask
                assert ask is not None
                grant = msgspec.structs.replace(
                    reserved.grant, code="LIMIT", wait_ms=taken.wait_ms, blocked=taken.blocked)
                return Reserved("LIMIT", grant, msgspec.structs.replace(ask, limits=(*ask.limits, *shared.limits)))
        return reserved

    async def settle_shared(self, shared: Shared, tokens: int) -> None:
        """Correct what a request took of a backend's limits to what it used."""
        ups = tuple(true_up(limit, tokens) for limit in shared.limits)
        try:
            await self._ledger.give_back(shared.scope, ups)
        except LedgerUnavailable:
            _log.warning("a rate limit of %s was not corrected: the store is not reachable", shared.scope)


def true_up(limit: RateLimit, tokens: int) -> TrueUp:
    """The correction of a limit to the tokens that were used; requests stay one."""
    return TrueUp.of(limit, limit.cost if ".requests." in limit.id else tokens)
