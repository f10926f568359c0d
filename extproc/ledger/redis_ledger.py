"""The ledger on Redis or Valkey: typed wrappers around the scripts in `lua/`.

All keys of one org carry its hash tag, so they live in one cluster slot.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from functools import lru_cache
from typing import Any, cast, overload

import msgspec

from extproc.ledger.base import (
    LEASE_MS,
    BeginCode,
    EndCode,
    ExpireCode,
    FinishCode,
    Ledger,
    LedgerMisconfigured,
    LedgerUnavailable,
    Mark,
    ReserveCode,
    RollupRow,
    Settlement,
)
from extproc.ledger.cluster import Door, NotReplicated, Wait, open_door
from extproc.ledger.keyspace import keys_of, read_row, row_words
from extproc.ledger.link import Reply, StoreRefused, Word
from extproc.ledger.scripts import Script
from extproc.money.amounts import Account, Ask, Begun, Crossing, Ended, Grant, Need
from extproc.pb import usage_pb2 as pb

KEEP_ROLLUPS_S = 400 * 86_400
LONGEST_LOG = 2_000_000
"""Records in the stream at which admission closes: the exporter has stopped."""
MOST_ROWS = 100_000
"""Rollup rows a day; what comes after is summed in one row `other`."""


_RESERVE = Script("reserve", 3, "gcra")
_BEGIN = Script("begin", 2, "rows")
_END = Script("end", 8, "gcra", "rows", closes=True)
_FINISH = Script("finish", 4, closes=True)
_EXPIRE = Script("expire", 4, closes=True)
_RENEW = Script("renew", 1, allow_oom=True)
_DUE = Script("due", 2, allow_oom=True)


@lru_cache(maxsize=8192)
def _identity(org: str, row: RollupRow) -> bytes:
    who = pb.Admission(org=org, team=row.team, project=row.project, user=row.user, key=row.key)
    return who.SerializeToString()


class _Recorded(Ended, frozen=True, array_like=True):
    """What the script says besides: the id of the record that it appended."""

    record: str = ""


_pack = msgspec.msgpack.Encoder().encode
_grant = msgspec.msgpack.Decoder(Grant).decode
_begun = msgspec.msgpack.Decoder(Begun).decode
_ended = msgspec.msgpack.Decoder(_Recorded).decode


def orphan_admission(org: str, rid: bytes, settlement: Settlement) -> bytes:
    """Return what an `end` knows of a request whose reservation was lost: the id and who pays."""
    request_id = (settlement.request_id or rid.hex()).encode()
    # Protobuf messages merge by concatenation; field 1 here, the rest from the cache.
    return b"\x0a%c%b%b" % (len(request_id), request_id, _identity(org, settlement.row))


class RedisLedger(Ledger):
    """One pipelined connection per server; a call that fails raises LedgerUnavailable and nothing else."""

    def __init__(
        self,
        url: str,
        *,
        connect_timeout: float = 0.1,
        call_timeout: float = 0.25,
        wait: Wait = 0,
        patience: float | None = None,
        longest_log: int = LONGEST_LOG,
        most_rows: int = MOST_ROWS,
        on_crossed: Callable[[str, tuple[Crossing, ...]], None] | None = None,
    ) -> None:
        """`on_crossed` is told the soft limits that finish, expire and sweep cross; an `end` returns its own."""
        self.on_recorded: Callable[[str, Mark], None] | None = None
        self._wait, self.longest_log, self.most_rows = wait, longest_log, most_rows
        self._on_crossed = on_crossed
        self._link: Door = open_door(
            url, connect_timeout=connect_timeout, call_timeout=call_timeout, wait=wait, patience=patience
        )
        for script in (_RESERVE, _BEGIN, _END, _FINISH, _EXPIRE, _RENEW, _DUE):
            self._link.greet_with("SCRIPT", "LOAD", script.text)
        self._announced: set[tuple[str, int]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def door(self) -> Door:
        """Return the connection; calls that are not in this class share it."""
        return self._link

    @property
    def waits(self) -> bool:
        """Whether holds must be confirmed by replicas."""
        return self._wait != 0

    @overload
    async def reserve(self, org: str, rid: bytes, admission: bytes, lease_ms: int = LEASE_MS) -> ReserveCode: ...

    @overload
    async def reserve(
        self, org: str, rid: bytes, admission: bytes, lease_ms: int = LEASE_MS, *, ask: Ask
    ) -> Grant: ...

    async def reserve(
        self, org: str, rid: bytes, admission: bytes, lease_ms: int = LEASE_MS, *, ask: Ask | None = None
    ) -> ReserveCode | Grant:
        """Open a reservation."""
        keys = keys_of(org)
        fixed = (keys.reservation(rid.hex()), keys.leases, keys.tombs(rid))
        self._announce(org)
        if ask is None:
            reply = _RESERVE.run(self._link, *fixed, rid, admission, lease_ms, durable=self.waits)
            return cast("ReserveCode", (await self._or_finish(org, rid, reply)).decode())
        prefix = keys.prefix
        declared = (
            *fixed,
            keys.epoch,
            keys.log,
            keys.windows,
            *[f"{prefix}b:{budget.id}:{budget.start_ms}" for budget in ask.budgets],
            *[f"{prefix}g:{limit.id}" for limit in ask.limits],
        )
        reply = _RESERVE.run(
            self._link,
            *declared,
            rid,
            admission,
            lease_ms,
            self.longest_log,
            _pack(ask),
            keys=len(declared),
            durable=self.waits,
        )
        return _grant(await self._or_finish(org, rid, reply))

    async def _or_finish(self, org: str, rid: bytes, reply: asyncio.Future[Reply]) -> Reply:
        """A hold that a fail-over could lose is given back and not granted."""
        try:
            return await reply
        except NotReplicated:
            await self.finish(org, rid)
            raise

    def _announce(self, org: str) -> None:
        """List the org for sweepers: another slot, so not in the script. Again on every new connection."""
        mark = (org, self._link.connections)
        if mark not in self._announced:
            self._announced = {known for known in self._announced if known[1] == mark[1]} | {mark}
            self._link.call(("SADD", "orgs", org)).add_done_callback(_ignore_failure)

    @overload
    async def begin(
        self, org: str, rid: bytes, attempt: int, need: bytes, lease_ms: int = LEASE_MS
    ) -> BeginCode: ...

    @overload
    async def begin(
        self,
        org: str,
        rid: bytes,
        attempt: int,
        need: bytes,
        lease_ms: int = LEASE_MS,
        *,
        bound: Need,
        row: RollupRow,
    ) -> Begun: ...

    async def begin(
        self,
        org: str,
        rid: bytes,
        attempt: int,
        need: bytes,
        lease_ms: int = LEASE_MS,
        *,
        bound: Need | None = None,
        row: RollupRow | None = None,
    ) -> BeginCode | Begun:
        """Announce an attempt."""
        keys, rid_hex = keys_of(org), rid.hex()
        durable = self.waits
        if bound is None or row is None:
            reply = _BEGIN.run(
                self._link, keys.reservation(rid_hex), keys.leases, rid, attempt, need, lease_ms, durable=durable
            )
            return cast("BeginCode", (await reply).decode())
        row_id, dimensions = row_words(row)
        declared = (keys.reservation(rid_hex), keys.leases, *keys.rollup(row.day, row_id))
        words = (
            rid, attempt, need, lease_ms, bound.nano_usd, bound.tokens,
            self.most_rows, row_id, KEEP_ROLLUPS_S, *dimensions,
        )  # fmt: skip
        return _begun(await self.declaring(_BEGIN, declared, (), words, durable=durable))

    async def declaring(
        self,
        script: Script,
        fixed: tuple[Word, ...],
        more: tuple[Word, ...],
        words: tuple[Word, ...],
        *,
        durable: bool = False,
    ) -> Any:
        """Call a script; where it finds that it needs other keys than `more`, again with those declared."""
        while True:
            count = len(fixed) + len(more)
            reply = await script.run(self._link, *fixed, *more, *words, keys=count, durable=durable)
            if not isinstance(reply, list) or not reply or reply[0] != b"KEYS":
                return cast("Any", reply)
            more = tuple(cast("list[bytes]", reply)[1:])

    @overload
    async def end(
        self, org: str, rid: bytes, attempt: int, settlement: Settlement, *, final: bool
    ) -> EndCode: ...

    @overload
    async def end(
        self, org: str, rid: bytes, attempt: int, settlement: Settlement, *, final: bool, account: Account
    ) -> Ended: ...

    async def end(
        self,
        org: str,
        rid: bytes,
        attempt: int,
        settlement: Settlement,
        *,
        final: bool,
        account: Account | None = None,
    ) -> EndCode | Ended:
        """Settle an attempt."""
        keys, row = keys_of(org), settlement.row
        row_id, dimensions = row_words(row)
        fixed = (
            keys.reservation(rid.hex()),
            keys.leases,
            keys.tombs(rid),
            keys.log,
            *keys.rollup(row.day, row_id),
            keys.windows,
        )
        budgets: tuple[Word, ...] = ()
        if account is not None:
            prefix = keys.prefix
            budgets = tuple([f"{prefix}b:{budget.id}:{budget.start_ms}" for budget in account.budgets])
            fixed = (*fixed, *[f"{prefix}g:{entry.id}" for entry in account.true_ups])
        words = (
            rid,
            attempt,
            settlement.attempt,
            int(final),
            orphan_admission(org, rid, settlement),
            "" if settlement.cost is None else settlement.cost,
            settlement.input_tokens,
            settlement.output_tokens,
            self.most_rows,
            row_id,
            KEEP_ROLLUPS_S,
            "" if account is None else _pack(account),
            *dimensions,
        )
        if account is None:  # a reservation with budgets takes a second round trip, which must not be given up
            reply = await self.keep(self.declaring(_END, fixed, (), words))
            return cast("EndCode", reply.decode())
        ended = _ended(await self.declaring(_END, fixed, budgets, words))
        self._tell(org, [], ended.record)
        return Ended(ended.code, ended.unfunded_nano_usd, ended.crossed)

    async def finish(self, org: str, rid: bytes) -> tuple[FinishCode, list[bytes]]:
        """Say that no further attempt can come."""
        code, blobs, crossed, record = await self.keep(self._close_with(_FINISH, org, rid))
        self._tell(org, crossed, record.decode())
        return cast("FinishCode", code.decode()), blobs

    async def expire(self, org: str, rid: bytes) -> ExpireCode:
        """Close one reservation whose lease is over."""
        code, crossed, record = await self.keep(self._close_with(_EXPIRE, org, rid))
        self._tell(org, crossed, record.decode())
        return cast("ExpireCode", code.decode())

    def _tell(self, org: str, crossed: list[Any], record: str) -> None:
        if record and self.on_recorded is not None:
            ms, _, number = record.partition("-")
            self.on_recorded(org, Mark(int(ms), int(number)))
        if crossed and self._on_crossed is not None:
            self._on_crossed(org, tuple(Crossing(window.decode(), percent) for window, percent in crossed))

    async def _close_with(self, script: Script, org: str, rid: bytes) -> list[Any]:
        keys = keys_of(org)
        fixed = (keys.reservation(rid.hex()), keys.leases, keys.tombs(rid), keys.log)
        return await self.declaring(script, fixed, (), (rid,))

    async def keep(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Await work that outlives its caller's cancellation (a single round trip needs no such care)."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        _ignore_failure(task)

    async def renew(self, org: str, rids: list[bytes], lease_ms: int = LEASE_MS) -> None:
        """Extend the leases of requests that are still running."""
        if rids:
            await _RENEW.run(self._link, keys_of(org).leases, lease_ms, *rids)

    async def sweep(self, org: str, limit: int = 200) -> int:
        """Expire what is over, at most `limit`; any number of sweepers may run at once."""
        keys = keys_of(org)
        due: list[bytes] = await _DUE.run(self._link, keys.leases, keys.windows, limit)
        codes = await asyncio.gather(*(self.expire(org, rid) for rid in due))
        return sum(code == "DONE" for code in codes)

    async def orgs(self) -> list[str]:
        """List the orgs that ever reserved, for sweepers and exporters."""
        return sorted(org.decode() for org in await self._link.call(("SMEMBERS", "orgs")))

    async def check(self) -> str | None:
        """Return a warning, or None when all is well.

        Raises LedgerMisconfigured when the server may evict keys: a spend would be forgotten silently.
        """
        await self._link.each(("PING",))  # else who may not even connect would be told of the settings below
        try:
            replies: list[list[bytes]] = await self._link.each(("CONFIG", "GET", "maxmemory-policy"))
        except LedgerUnavailable as exc:
            if not isinstance(exc, StoreRefused) and not str(exc).startswith("ERR"):
                raise
            return f"cannot verify that maxmemory-policy is noeviction: {exc}"
        for reply in replies:
            policy = reply[1].decode() if len(reply) > 1 else "unknown"
            if policy != "noeviction":
                raise LedgerMisconfigured(
                    f"maxmemory-policy is {policy!r}; the ledger needs 'noeviction': evicting forgets spend"
                )
        try:
            return await self._replication_warning()
        except StoreRefused as exc:
            return f"cannot see how many replicas the store has: {exc}"

    async def _replication_warning(self) -> str | None:
        counts = [
            int(found[1]) if (found := re.search(rb"connected_slaves:(\d+)", info)) else 0
            for info in await self._link.each(("INFO", "replication"))
        ]
        most = max(counts)
        if most > 0 and self._wait == 0:
            return f"the store has {most} replicas and no call waits for them: a fail-over may forget holds"
        if isinstance(self._wait, int) and most > self._wait:
            return f"the store has {most} replicas, calls wait for {self._wait}: the wrong one may be promoted"
        return None

    async def records(self, org: str, count: int = 100) -> list[pb.UsageRecord]:
        """Return the last `count` records of the org's stream, newest last."""
        entries: list[Any] = await self._link.call(("XREVRANGE", keys_of(org).log, "+", "-", "COUNT", count))
        return [pb.UsageRecord.FromString(fields[1]) for _, fields in reversed(entries)]

    async def rollups(self, org: str, day: str) -> list[dict[str, str | int]]:
        """Return the day's rollup rows."""
        keys = keys_of(org)
        ids: list[bytes] = await self._link.call(("SMEMBERS", keys.rows(day)))
        rows = await asyncio.gather(
            *(self._link.call(("HGETALL", keys.row(day, row_id.decode()))) for row_id in sorted(ids))
        )
        return [read_row(row) for row in rows]

    async def close(self) -> None:
        """Let calls under way end, then disconnect."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._link.close()


def _ignore_failure(reply: asyncio.Future[Any]) -> None:
    # The next reservation of the org announces it again on the next connection.
    if not reply.cancelled():
        reply.exception()
