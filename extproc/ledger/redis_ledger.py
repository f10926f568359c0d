"""The ledger on Redis or Valkey: typed wrappers around the scripts in `lua/`.

All keys of one org carry its hash tag, so they live in one cluster slot.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Coroutine
from functools import lru_cache
from importlib.resources import files
from typing import Any, cast

from extproc.ledger.base import (
    LEASE_MS,
    BeginCode,
    EndCode,
    ExpireCode,
    FinishCode,
    Ledger,
    LedgerMisconfigured,
    LedgerUnavailable,
    ReserveCode,
    RollupRow,
    Settlement,
)
from extproc.ledger.link import Link, Reply, Word
from extproc.pb import usage_pb2 as pb

KEEP_ROLLUPS_S = 400 * 86_400
SUMS = ("requests", "input", "output", "cost", "unpriced")
"""Fields of a rollup row that are amounts; the others are its dimensions."""


class Script:
    """A Lua script, called by its digest; its text is sent only where the digest is unknown."""

    def __init__(self, name: str, keys: int, *, closes: bool = False, allow_oom: bool = False) -> None:
        folder = files("extproc.ledger") / "lua"
        # Nothing could be released on a full server if closing were refused there.
        flags = "#!lua flags=allow-oom\n" if closes or allow_oom else "#!lua\n"
        shared = (folder / "close.lua").read_text() if closes else ""
        self.text = flags + shared + (folder / f"{name}.lua").read_text()
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        self.keys = keys

    def run(self, link: Link, *words: Word, keys: int | None = None) -> asyncio.Future[Reply]:
        count = self.keys if keys is None else keys
        return link.call(("EVALSHA", self.sha, count, *words), ("EVAL", self.text, count, *words))


_RESERVE = Script("reserve", 3)
_BEGIN = Script("begin", 2)
_END = Script("end", 6, closes=True)
_FINISH = Script("finish", 4, closes=True)
_EXPIRE = Script("expire", 4, closes=True)
_RENEW = Script("renew", 1, allow_oom=True)


class _Keys:
    """Key names of one org."""

    __slots__ = ("leases", "log", "prefix")

    def __init__(self, org: str) -> None:
        self.prefix = f"{{{org}}}:"
        self.leases = self.prefix + "x"
        self.log = self.prefix + "log"

    def reservation(self, rid_hex: str) -> str:
        return f"{self.prefix}r:{rid_hex}"

    def tombs(self, rid: bytes) -> str:
        # The id carries its own time (UUIDv7: 48 bits of ms), so the bucket is found without a lookup.
        return f"{self.prefix}z:{int.from_bytes(rid[:6], 'big') // 60_000}:{rid[-1]:02x}"

    def rows(self, day: str) -> str:
        return f"{self.prefix}ui:{day}"

    def row(self, day: str, row_id: str) -> str:
        return f"{self.prefix}u:{day}:{row_id}"


@lru_cache(maxsize=1024)
def _keys(org: str) -> _Keys:
    return _Keys(org)


@lru_cache(maxsize=8192)
def row_words(row: RollupRow) -> tuple[str, tuple[str, ...]]:
    """Return a row's id and its dimensions as alternating field and value."""
    dimensions = {
        "team": row.team,
        "project": row.project,
        "user": row.user,
        "key": row.key,
        "model": row.model,
        "backend": row.backend,
    }
    digest = hashlib.blake2b("\0".join(dimensions.values()).encode(), digest_size=8)
    return digest.hexdigest(), tuple(word for item in dimensions.items() for word in item)


@lru_cache(maxsize=8192)
def _identity(org: str, row: RollupRow) -> bytes:
    who = pb.Admission(org=org, team=row.team, project=row.project, user=row.user, key=row.key)
    return who.SerializeToString()


def orphan_admission(org: str, rid: bytes, settlement: Settlement) -> bytes:
    """Return what an `end` knows of a request whose reservation was lost: the id and who pays."""
    request_id = (settlement.request_id or rid.hex()).encode()
    # Protobuf messages merge by concatenation; field 1 here, the rest from the cache.
    return b"\x0a%c%b%b" % (len(request_id), request_id, _identity(org, settlement.row))


class RedisLedger(Ledger):
    """One pipelined connection for all orgs; a call that fails raises LedgerUnavailable and nothing else."""

    def __init__(self, url: str, *, connect_timeout: float = 0.1, call_timeout: float = 0.25) -> None:
        self._link = Link(url, connect_timeout=connect_timeout, call_timeout=call_timeout)
        for script in (_RESERVE, _BEGIN, _END, _FINISH, _EXPIRE, _RENEW):
            self._link.greet_with("SCRIPT", "LOAD", script.text)
        self._announced: set[tuple[str, int]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def reserve(self, org: str, rid: bytes, admission: bytes, lease_ms: int = LEASE_MS) -> ReserveCode:
        """Open a reservation."""
        keys, rid_hex = _keys(org), rid.hex()
        reply = _RESERVE.run(
            self._link, keys.reservation(rid_hex), keys.leases, keys.tombs(rid), rid_hex, admission, lease_ms
        )
        self._announce(org)
        return cast("ReserveCode", (await reply).decode())

    def _announce(self, org: str) -> None:
        """List the org for sweepers: another slot, so not in the script. Again on every new connection."""
        mark = (org, self._link.connections)
        if mark not in self._announced:
            self._announced = {known for known in self._announced if known[1] == mark[1]} | {mark}
            self._link.call(("SADD", "orgs", org)).add_done_callback(_ignore_failure)

    async def begin(
        self, org: str, rid: bytes, attempt: int, need: bytes, lease_ms: int = LEASE_MS
    ) -> BeginCode:
        """Announce an attempt."""
        keys, rid_hex = _keys(org), rid.hex()
        reply = _BEGIN.run(
            self._link, keys.reservation(rid_hex), keys.leases, rid_hex, attempt, need, lease_ms
        )
        return cast("BeginCode", (await reply).decode())

    async def end(
        self, org: str, rid: bytes, attempt: int, settlement: Settlement, *, final: bool
    ) -> EndCode:
        """Settle an attempt."""
        keys, rid_hex, row = _keys(org), rid.hex(), settlement.row
        row_id, dimensions = row_words(row)
        reply = _END.run(
            self._link,
            keys.reservation(rid_hex),
            keys.leases,
            keys.tombs(rid),
            keys.log,
            keys.row(row.day, row_id),
            keys.rows(row.day),
            rid_hex,
            attempt,
            settlement.attempt,
            int(final),
            orphan_admission(org, rid, settlement),
            "" if settlement.cost is None else settlement.cost,
            settlement.input_tokens,
            settlement.output_tokens,
            row_id,
            KEEP_ROLLUPS_S,
            *dimensions,
        )
        return cast("EndCode", (await reply).decode())

    async def finish(self, org: str, rid: bytes) -> tuple[FinishCode, list[bytes]]:
        """Say that no further attempt can come."""
        code, blobs = await self._keep(self._close_with(_FINISH, org, rid.hex(), _keys(org).tombs(rid)))
        return cast("FinishCode", code.decode()), blobs

    async def expire(self, org: str, rid: bytes) -> ExpireCode:
        """Close one reservation whose lease is over."""
        (code,) = await self._keep(self._close_with(_EXPIRE, org, rid.hex(), _keys(org).tombs(rid)))
        return cast("ExpireCode", code.decode())

    async def _close_with(self, script: Script, org: str, rid_hex: str, tombs: str) -> list[Any]:
        """Run finish or expire; if the request has to be counted on a row, again with that row's key."""
        keys = _keys(org)
        words = (keys.reservation(rid_hex), keys.leases, tombs, keys.log)
        reply: list[Any] = await script.run(self._link, *words, rid_hex)
        while reply[0] == b"ROW":  # again if yet another attempt ended between the two
            reply = await script.run(self._link, *words, reply[1], rid_hex, keys=5)
        return reply

    async def _keep(self, work: Coroutine[Any, Any, list[Any]]) -> list[Any]:
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
            await _RENEW.run(self._link, _keys(org).leases, lease_ms, *(rid.hex() for rid in rids))

    async def sweep(self, org: str, limit: int = 200) -> int:
        """Expire what is over, at most `limit`; any number of sweepers may run at once."""
        seconds, micros = await self._link.call(("TIME",))
        now = int(seconds) * 1000 + int(micros) // 1000
        due: list[bytes] = await self._link.call(
            ("ZRANGEBYSCORE", _keys(org).leases, "-inf", now, "LIMIT", 0, limit)
        )
        codes = await asyncio.gather(*(self.expire(org, bytes.fromhex(rid.decode())) for rid in due))
        return sum(code == "DONE" for code in codes)

    async def orgs(self) -> list[str]:
        """List the orgs that ever reserved, for sweepers and exporters."""
        return sorted(org.decode() for org in await self._link.call(("SMEMBERS", "orgs")))

    async def check(self) -> str | None:
        """Return a warning, or None when all is well.

        Raises LedgerMisconfigured when the server may evict keys: a spend would be forgotten silently.
        """
        try:
            reply: list[bytes] = await self._link.call(("CONFIG", "GET", "maxmemory-policy"))
        except LedgerUnavailable as exc:
            if not str(exc).startswith(("NOPERM", "ERR")):
                raise
            return f"cannot verify that maxmemory-policy is noeviction: {exc}"
        policy = reply[1].decode() if len(reply) > 1 else "unknown"
        if policy != "noeviction":
            raise LedgerMisconfigured(
                f"maxmemory-policy is {policy!r}; the ledger needs 'noeviction': evicting forgets spend"
            )
        return None

    async def records(self, org: str, count: int = 100) -> list[pb.UsageRecord]:
        """Return the last `count` records of the org's stream, newest last."""
        entries: list[Any] = await self._link.call(("XREVRANGE", _keys(org).log, "+", "-", "COUNT", count))
        return [pb.UsageRecord.FromString(fields[1]) for _, fields in reversed(entries)]

    async def rollups(self, org: str, day: str) -> list[dict[str, str | int]]:
        """Return the day's rollup rows."""
        keys = _keys(org)
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


def read_row(flat: list[bytes]) -> dict[str, str | int]:
    """Return a rollup row from alternating fields and values; sums that never grew are 0."""
    row: dict[str, str | int] = dict.fromkeys(SUMS, 0)
    for name, value in zip(flat[::2], flat[1::2], strict=True):
        field, text = name.decode(), value.decode()
        row[field] = int(text) if field in SUMS else text
    return row


def _ignore_failure(reply: asyncio.Future[Any]) -> None:
    # The next reservation of the org announces it again on the next connection.
    if not reply.cancelled():
        reply.exception()
