"""Brings settlements to the store, each exactly once: at once, by repeats, and by way of the spool.

Every call may be repeated blindly, because the store knows (id, attempt) of what it has; so an entry leaves the spool
only after the store has answered, and whoever takes a dead process's file over sends what it finds again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable

import msgspec

from extproc.ledger.base import LedgerUnavailable, Treasury
from extproc.ledger.dead_letters import NAME, bury
from extproc.ledger.spool import Entry, Spool, SpoolFull
from extproc.money.amounts import Ended
from extproc.pb import usage_pb2 as pb

_log = logging.getLogger("extproc.spool")
HASTE = (0.0, 0.1, 0.5)
"""Pauses before the tries of a settlement that then goes to the spool."""
PATIENCE = (0.0, 0.1, 0.5, 2.0, 5.0, 10.0, 30.0)
"""The same where there is none."""
IDLE = 15.0
"""Seconds between two looks for what dead processes left."""
SOONEST, LATEST = 0.25, 5.0
"""Seconds between two replays while the store does not answer."""
AT_ONCE = 64
FIRST, FOLLOWING = (1, 0.0), (1_000, 30.0)
"""How many files are looked for, and for how long (seconds) nobody may have written to them.

A process that starts takes one, the latest: each that died is followed by one, which goes on with what it left, also of
its purse, whatever lies there from before.
"""


class Delivery:
    """One per worker."""

    def __init__(self, ledger: Treasury, spool: Spool | None = None, *,
                 on_ended: Callable[[str, Ended], None] | None = None,
                 on_drained: Callable[[], None] | None = None,
                 on_inherited: Callable[[int, int], None] | None = None) -> None:
        """`on_ended`: told what the store answered. `on_drained`: the store answers, and has all that was spooled.
        `on_inherited`: how many attempts, at what cost (n$), dead processes have left since the last time.
        """
        self._ledger, self._spool = ledger, spool
        self._on_ended, self._on_drained, self._on_inherited = on_ended, on_drained, on_inherited
        self._wake, self._stopping = asyncio.Event(), asyncio.Event()
        self._dirty, self._searched = False, 0.0
        self._unreadable: set[bytes] = set()
        self._started = False

    # ------------------------------------------------------------------------------------ what comes in

    def intend(self, entry: Entry) -> bool:
        """Write down before its dispatch what an attempt costs if nobody can say more. False: it is nowhere."""
        if self._spool is None:
            return False
        try:
            self._spool.put(entry, intent=True)
        except SpoolFull as full:
            _log.error("an attempt without the store cannot be written down: %s", full)
            return False
        self._dirty = True
        return True

    async def settle(self, entry: Entry, lost: str = "a settlement was not taken by the store") -> None:
        """Give an end to the store; what it does not take is kept for it, or else told as `lost`. Never raises."""
        if self._spool is not None and entry.key in self._spool and self._keep(entry):
            return
        tried = 0
        for pause in PATIENCE if self._spool is None else HASTE:
            tried += 1
            try:
                await self.rest(pause)
                entry = await self._choose(entry)  # kept, also when the answer to the end is lost
                await self._send(entry)
            except LedgerUnavailable:
                if self.ending:
                    break
                continue
            self._taken(entry.key)
            return
        if self._spool is None or not self._keep(entry):
            await self._insist(entry, PATIENCE[tried:], lost)

    async def _insist(self, entry: Entry, pauses: tuple[float, ...], lost: str) -> None:
        """Repeat what can be kept nowhere; the log line has all that is needed to correct the books by hand."""
        for pause in pauses:
            try:
                await self.rest(pause)
                entry = await self._choose(entry)  # kept, also when the answer to the end is lost
                await self._send(entry)
            except LedgerUnavailable:
                if self.ending:
                    break
                continue
            self._taken(entry.key)
            return
        _log.error("%s: %s", lost, facts(entry))

    def _keep(self, entry: Entry) -> bool:
        assert self._spool is not None
        try:
            self._spool.put(entry)
        except SpoolFull as full:
            _log.error("a settlement does not fit into the spool: %s: %s", full, facts(entry))
            return False
        self._dirty = True
        self._wake.set()
        return True

    # ------------------------------------------------------------------------------------ what goes out

    async def _send(self, entry: Entry) -> None:
        """End an attempt under the id that was chosen. Raises LedgerUnavailable."""
        org, rid, settlement = entry.org, entry.rid, entry.settlement
        if entry.account is None:
            code = await self._ledger.end(org, rid, entry.attempt, settlement, final=entry.final)
        else:
            ended = await self._ledger.end(
                org, rid, entry.attempt, settlement, final=entry.final, account=entry.account)
            code = ended.code
            if self._on_ended is not None:
                self._on_ended(org, ended)
        if code == "TOO_OLD":
            self._bury(entry)

    async def _choose(self, entry: Entry) -> Entry:
        """Where it is not known whether the reservation knows of an attempt, ask; the answer is kept before it is used.

        Else the repeat of an `end` whose answer was lost would find the attempt closed, take its reservation for gone,
        and charge it a second time.
        """
        if entry.chosen:
            return entry
        org, rid, number = entry.org, entry.rid, entry.attempt
        need = pb.Attempt(number=number, outcome=pb.Attempt.EXPIRED).SerializeToString()
        known = await self._ledger.begin(org, rid, number, need) == "OK" or await self._ledger.is_open(org, rid, number)
        chosen = msgspec.structs.replace(entry, rid=rid if known else entry.stray, chosen=True)
        if self._spool is not None and entry.key in self._spool:
            try:
                self._spool.put(chosen)
            except SpoolFull as full:
                raise LedgerUnavailable(f"the spool takes no choice: {full}") from full
        return chosen

    def _bury(self, entry: Entry) -> None:
        """Keep what came too late for an operator."""
        if self._spool is not None:
            try:
                bury(self._spool.folder, entry)
            except OSError as error:
                _log.error("no dead letter could be written: %s", error)
                raise LedgerUnavailable("too old, and no dead letter can be written") from error
            _log.error("a settlement is too old for the store; it is in %s, see `extproc budgets spool`: %s",
                       self._spool.folder / NAME, facts(entry))
        else:
            _log.error("a settlement was not taken by the store, it is too old: %s", facts(entry))

    def _taken(self, key: bytes) -> None:
        if self._spool is not None:
            try:
                self._spool.take(key)
            except SpoolFull as full:  # sent again by the next process, as a duplicate
                _log.warning("the spool cannot note what the store has: %s", full)

    # ------------------------------------------------------------------------------------ replay

    async def run(self) -> None:
        """Replay what the spool has, now and whenever the store is back; for ever."""
        pause = 0.0
        while self._spool is not None:
            try:
                await self.replay(self._spool)
                pause = SOONEST
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), IDLE)
            except LedgerUnavailable as error:
                if self.ending:
                    return  # the next process goes on
                if pause <= SOONEST:
                    _log.warning("%d settlements wait for the store: %s", len(self._spool), error)
                await self.rest(pause * random.uniform(0.7, 1.0))  # noqa: S311
                pause = min(max(pause * 2, SOONEST), LATEST)
            self._wake.clear()

    async def inherit(self, spool: Spool) -> None:
        """Take over what dead processes left; to be done before the first request, too."""
        first = not self._started
        found = await asyncio.to_thread(spool.search, *(FIRST if first else FOLLOWING), latest=first)
        self._started, self._searched = True, time.monotonic() + IDLE / 3
        if left := spool.admit(found):
            _log.warning("%d settlements of a process that died are sent to the store now", left)
            self._dirty = True
            if self._on_inherited is not None:
                self._on_inherited(spool.inherited, spool.inherited_nano_usd)
                spool.inherited = spool.inherited_nano_usd = 0

    async def replay(self, spool: Spool) -> None:
        """Send what waits, once. Raises LedgerUnavailable where the store did not take all of it."""
        if time.monotonic() >= self._searched:
            await self.inherit(spool)
        keys, problem = [key for key in spool.keys() if key not in self._unreadable], None  # noqa: SIM118
        for start in range(0, len(keys), AT_ONCE):
            batch = keys[start : start + AT_ONCE]
            failed = [one for one in await asyncio.gather(*(self._again(spool, key) for key in batch)) if one]
            problem = problem or next(iter(failed), None)
            if len(failed) == len(batch):
                break
        if problem is not None:
            raise problem
        if self._dirty and self._unreadable.issuperset(spool.keys()):
            await self._ledger.orgs()
            self._dirty = False
            if self._on_drained is not None:
                self._on_drained()

    async def _again(self, spool: Spool, key: bytes) -> LedgerUnavailable | None:
        try:
            entry = spool.get(key)
        except KeyError:
            return None  # delivered meanwhile
        except (OSError, msgspec.DecodeError) as error:
            _log.error("an entry in %s cannot be read, it stays there: %s", spool.folder, error)
            self._unreadable.add(key)
            return None
        try:
            await self._send(await self._choose(entry))
        except LedgerUnavailable as error:
            return error
        self._taken(key)
        return None

    # ------------------------------------------------------------------------------------ the end

    async def rest(self, seconds: float) -> None:
        """Pause between two tries, unless the process is to end."""
        with contextlib.suppress(TimeoutError):
            if seconds:
                await asyncio.wait_for(self._stopping.wait(), seconds)

    @property
    def ending(self) -> bool:
        """Whether the process is to end: nothing is repeated any more."""
        return self._stopping.is_set()

    def hurry(self) -> None:
        """The process ends: from now on what the store does not take at the next try goes to the spool."""
        self._stopping.set()

    def close(self) -> None:
        """Let go of the files; what waits is there for the next process."""
        if self._spool is not None:
            if len(self._spool):
                _log.warning("%d settlements are left in %s for the next process", len(self._spool), self._spool.folder)
            self._spool.close()


def facts(entry: Entry) -> str:
    """All that it takes to correct the books by hand."""
    settlement, row = entry.settlement, entry.settlement.row
    return (f"request {settlement.request_id} attempt {entry.attempt} cost {settlement.cost} n$ tokens "
            f"{settlement.input_tokens}+{settlement.output_tokens} org {entry.org} team {row.team!r} project "
            f"{row.project!r} user {row.user!r} key {row.key!r} model {row.model} backend {row.backend} day {row.day}")
