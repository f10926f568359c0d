"""Budgets and rate limits between the stages' plans and the store: the table in force, its epoch, the store's clock."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import msgspec

from extproc.core.admission import Plan, Shared, entries_for, table_of
from extproc.core.events import Reserved
from extproc.ledger.base import LedgerUnavailable, Mark, Treasury
from extproc.ledger.seen import NOTHING, Seen
from extproc.money import tables
from extproc.money.amounts import Ask, Grant, RateLimit, TrueUp, Unit
from extproc.money.tables import Table
from extproc.runtime import Runtime

_log = logging.getLogger("extproc.budgets")
TRIES = 4
"""How often a reservation is asked for anew with a fresher table or clock."""
LOOK_EVERY = 1.0
"""Seconds between two looks at how far the records of an org are."""


class _Book(msgspec.Struct):
    """What a worker knows of an org's table; and of the store, when it looked last."""

    epoch: int = 0
    table: Table = Table(0)
    connections: int = -1
    look_at: float = 0.0
    ripe: Mark = Mark()
    ripe_at: float = 0.0


class Treasurer:
    """One per worker."""

    def __init__(self, ledger: Treasury, runtime: Runtime, generation: int, seen: Path | None = None,
                 may_lose_ms: int = 0) -> None:
        """`seen`: the file that remembers what this store had, beyond this process. `may_lose_ms`: of its records, when
        it fails over."""
        self._ledger, self._seen, self._may_lose = ledger, Seen(seen), may_lose_ms
        self._read_at = 0.0
        ledger.on_recorded = self._recorded
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
        book = self._books.get(org) or self._books.setdefault(org, _Book())
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
                case "OK" if not await self._in_order(org, book):
                    await self._ledger.finish(org, rid)  # of a store that went back, and did not tell before
                    return Reserved("EMPTY", Grant("EMPTY", self._now()), ask)
                case "OK":
                    return await self._shared(rid, Reserved("OK", grant, ask), plan)
                case "GONE" | "LIMIT" | "BUDGET" | "LOG_FULL":
                    return Reserved(grant.code, grant, ask)
        # The store's clock or its table changes faster than we can follow.
        return Reserved("EMPTY", Grant("EMPTY", self._now()), ask)

    def offline(self, org: str, plan: Plan) -> Ask:
        """The budgets of a plan by what is known without the store: the table it had, else our own. The epoch is 0."""
        book = self._books.get(org)
        table = book.table if book is not None and book.table.generation else self._own
        now = self._now()
        budgets = tuple(entry.at(now) for entry in entries_for(table, plan.who) if entry.unit is not Unit.CONCURRENT)
        return Ask(0, budgets, (), plan.options)

    def _now(self) -> int:
        return time.time_ns() // 1_000_000 + self._ahead

    async def _load(self, org: str, book: _Book) -> bool:
        """Take the table in force, or put our own in force where it is newer; False when the store has lost it."""
        async with self._loading:
            if not await self._in_order(org, book):
                return False
            for _ in range(TRIES):
                if book.epoch:
                    return True
                epoch, blob = await self._ledger.table(org)
                stored = tables.decode(blob) if epoch else None
                if stored is None and self._seen.had_table(org):
                    _log.critical("the budget table of %s is gone from the store: it has lost its data", org)
                    return False
                if stored is not None and (stored.entries == self._own.entries
                                           or not tables.supersedes(self._own, stored)):
                    if stored.entries != self._own.entries:
                        _log.warning("budgets of %s: generation %d is in force; those of this gateway.yaml are older "
                                     "(%d) and are not", org, stored.generation, self._own.generation)
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
        self._seen.note_table(org)

    async def _in_order(self, org: str, book: _Book) -> bool:
        """Whether the store has all records that it was seen to have; asked on each new connection, and now and then.

        A table younger than the last record seen was put in force by an operator, on a store that was made anew.
        """
        now = time.monotonic()
        connections = self._ledger.connections
        if book.connections == connections and now < book.look_at:
            return True
        own = self._seen.last(org)
        if book.connections != connections or now >= self._read_at:
            self._read_at = now + LOOK_EVERY
            self._seen.refresh()
        # What another worker saw after the store went back is there, and must not hide what this one saw before.
        last = missing = self._seen.lost(org)
        for seen in () if missing is not None else dict.fromkeys((own, self._seen.last(org))):
            last, lost = await self._ledger.standing(org, seen)
            if lost:
                missing = seen
                break
        if missing is not None:
            return await self._is_repaired(org, book, missing)
        assert last is not None
        if self._may_lose == 0 or now >= book.ripe_at:
            # Where a fail-over may lose the last records, only what is older counts as seen.
            self._seen.note(org, last if self._may_lose == 0 else book.ripe)
            book.ripe, book.ripe_at = last, now + self._may_lose / 1000
        book.connections, book.look_at = connections, now + LOOK_EVERY
        return True

    async def _is_repaired(self, org: str, book: _Book, missing: Mark) -> bool:
        """Whether budgets were put in force since a record got lost; until then no worker admits the org's requests."""
        epoch, _ = await self._ledger.table(org)
        if epoch <= missing.ms:
            book.epoch = 0
            self._seen.note_lost(org, missing)
            _log.critical("a record of %s, %d-%d, is gone from the store: it has gone back to older data; use: "
                          "extproc budgets rebuild --force", org, missing.ms, missing.number)
            return False
        _log.warning("the budgets of %s were put in force on a store that was made anew", org)
        last, _ = await self._ledger.standing(org, NOTHING)
        self._seen.note_again(org, last)
        book.connections = -1  # looked at again by the next request
        return True

    def _recorded(self, org: str, record: Mark) -> None:
        """A call of this worker added a record: it must be there from now on.

        Behind a new connection that counts only when the store was looked at: it may have gone back by more than that.
        """
        book = self._books.get(org)
        if self._may_lose == 0 and book is not None and book.connections == self._ledger.connections:
            self._seen.note(org, msgspec.structs.replace(record, added=self._seen.last(org).added))

    def remember(self, *, now: bool = False) -> None:
        """Write down what was seen; to be called now and then, and `now` at the end."""
        self._seen.write(now=now)

    async def _shared(self, rid: bytes, reserved: Reserved, plan: Plan) -> Reserved:
        """Take the limits of the first backend of the granted chain that has room."""
        if not plan.shared or reserved.grant is None:
            return reserved
        backends = plan.shared[reserved.grant.option - 1]
        for index, shared in enumerate(backends):
            if not shared.limits:
                return msgspec.structs.replace(reserved, skipped=index)
            taken = await self._ledger.take(shared.scope, rid, shared.limits)
            if taken.code == "OK":
                return msgspec.structs.replace(reserved, skipped=index, taken=shared)
            if not shared.moves or index == len(backends) - 1:
                ask = reserved.ask
                assert ask is not None
                grant = msgspec.structs.replace(
                    reserved.grant, code="LIMIT", wait_ms=taken.wait_ms, blocked=taken.blocked)
                return Reserved("LIMIT", grant, msgspec.structs.replace(ask, limits=(*ask.limits, *shared.limits)))
        return reserved

    async def settle_shared(self, rid: bytes, shared: Shared, tokens: int) -> None:
        """Correct what a request took of a backend's limits to what it used."""
        await self._correct(rid, shared, tuple(true_up(limit, tokens) for limit in shared.limits))

    async def give_back(self, rid: bytes, shared: Shared) -> None:
        """Give back all that a request took of a backend's limits: it was never sent."""
        await self._correct(rid, shared, tuple(TrueUp.of(limit, 0) for limit in shared.limits))

    async def _correct(self, rid: bytes, shared: Shared, ups: tuple[TrueUp, ...]) -> None:
        try:
            await self._ledger.give_back(shared.scope, rid, ups)
        except LedgerUnavailable:
            _log.warning("a rate limit of %s was not corrected: the store is not reachable", shared.scope)


def true_up(limit: RateLimit, tokens: int) -> TrueUp:
    """The correction of a limit to the tokens that were used; requests stay one."""
    return TrueUp.of(limit, limit.cost if ".requests." in limit.id else tokens)
