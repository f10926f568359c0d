"""The rest of the ledger on Redis or Valkey: tables, corrections, cache hits, audits and limits shared by all orgs."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from extproc.ledger.base import MARK_MS, Mark, RollupRow, Treasury
from extproc.ledger.keyspace import keys_of, row_words
from extproc.ledger.redis_ledger import KEEP_ROLLUPS_S, RedisLedger
from extproc.ledger.scripts import Script
from extproc.money.amounts import Adjusted, Audit, Budget, Noted, Published, RateLimit, SeedCode, Taken, TrueUp

_PUBLISH = Script("publish", 3)
_ADJUST = Script("adjust", 6, "rows", closes=True)
_NOTE = Script("note", 5, "gcra", "rows", closes=True)
_SEED = Script("seed", 3, closes=True)
_AUDIT = Script("audit", 4, allow_oom=True)
_TAKE = Script("take", 1, "gcra")
_OPEN = Script("open", 1, allow_oom=True)
_LAST = Script("last", 1, allow_oom=True)
_TRUE_UP = Script("true_up", 1, "gcra", allow_oom=True)

_pack = msgspec.msgpack.Encoder().encode
_adjusted = msgspec.msgpack.Decoder(Adjusted).decode
_noted = msgspec.msgpack.Decoder(Noted).decode
_audit = msgspec.msgpack.Decoder(Audit).decode
_taken = msgspec.msgpack.Decoder(Taken).decode


class RedisTreasury(RedisLedger, Treasury):
    """RedisLedger with what operators, the exporter and shared limits need."""

    async def publish(self, org: str, table: bytes, expected: int, changed: dict[str, int]) -> Published:
        """Put a budget table in force."""
        keys = keys_of(org)
        fixed = (keys.epoch, keys.table, keys.windows)
        work = self.declaring(_PUBLISH, fixed, (), (expected, table, _pack(changed)), durable=self.waits)
        code, epoch = await self.keep(work)
        return Published("OK" if code == b"OK" else "STALE", int(epoch))

    async def seed(self, org: str, windows: tuple[tuple[Budget, int], ...], records: int) -> SeedCode:
        """Set what windows have spent in a store that lost its data."""
        keys, budgets, sums = keys_of(org), [budget for budget, _ in windows], [spent for _, spent in windows]
        declared = (keys.epoch, keys.log, keys.windows, *[keys.window(budget.window) for budget in budgets])
        reply = await _SEED.run(
            self.door, *declared, records, _pack(budgets), _pack(sums), keys=len(declared), durable=self.waits
        )
        return cast("SeedCode", reply.decode())

    async def table(self, org: str) -> tuple[int, bytes]:
        """Return the epoch in force and its table."""
        keys = keys_of(org)
        epoch, table = await self.door.call(("MGET", keys.epoch, keys.table))
        return int(epoch or 0), table or b""

    async def adjust(
        self,
        org: str,
        adjust_id: bytes,
        admission: bytes,
        row: RollupRow,
        budgets: tuple[Budget, ...],
        nano_usd: int,
        tokens: int = 0,
    ) -> Adjusted:
        """Correct budgets by hand."""
        keys = keys_of(org)
        row_id, dimensions = row_words(row)
        declared = (
            keys.tombs(adjust_id),
            keys.log,
            *keys.rollup(row.day, row_id),
            keys.windows,
            *[keys.window(budget.window) for budget in budgets],
        )
        words = (
            adjust_id, admission, nano_usd, tokens, self.most_rows, row_id, KEEP_ROLLUPS_S,
            _pack(budgets), *dimensions,
        )  # fmt: skip
        return _adjusted(await _ADJUST.run(self.door, *declared, *words, keys=len(declared)))

    async def note(
        self, org: str, rid: bytes, admission: bytes, row: RollupRow, limits: tuple[RateLimit, ...] = ()
    ) -> Noted:
        """Record a request that was answered without an attempt."""
        keys = keys_of(org)
        row_id, dimensions = row_words(row)
        declared = (
            keys.tombs(rid),
            keys.log,
            *keys.rollup(row.day, row_id),
            *[keys.limit(limit.id) for limit in limits],
        )
        words = (
            rid, admission, self.longest_log, self.most_rows, row_id, KEEP_ROLLUPS_S, _pack(limits), *dimensions
        )  # fmt: skip
        return _noted(await _NOTE.run(self.door, *declared, *words, keys=len(declared)))

    async def is_open(self, org: str, rid: bytes, attempt: int) -> bool:
        """Whether a reservation has this attempt as open, or as charged in full and still to be corrected."""
        return bool(await _OPEN.run(self.door, keys_of(org).reservation(rid.hex()), attempt))

    async def standing(self, org: str, seen: Mark) -> tuple[Mark, bool]:
        """Return how far the org's stream is, and whether it has lost a record that was seen there."""
        told: list[int] = await _LAST.run(self.door, keys_of(org).log, f"{seen.ms}-{seen.number}", seen.added)
        return Mark(*told[:3]), bool(told[3])

    @property
    def connections(self) -> int:
        """How often the store was connected to."""
        return self.door.connections

    async def audit(self, org: str) -> Audit:
        """Return all windows of the org at one moment."""
        keys = keys_of(org)
        fixed = (keys.epoch, keys.leases, keys.log, keys.windows)
        reply: Any = await self.declaring(_AUDIT, fixed, (), ())
        return _audit(reply)

    async def take(self, scope: str, rid: bytes, limits: tuple[RateLimit, ...]) -> Taken:
        """Take rate limits shared by all orgs."""
        if not limits:
            return Taken("OK")
        names = _shared(scope, rid, limits)
        return _taken(await _TAKE.run(self.door, *names, MARK_MS, _pack(limits), keys=len(names)))

    async def give_back(self, scope: str, rid: bytes, true_ups: tuple[TrueUp, ...]) -> None:
        """Correct what was taken of shared limits."""
        if true_ups:
            names = _shared(scope, rid, true_ups)
            await _TRUE_UP.run(self.door, *names, MARK_MS, _pack(true_ups), keys=len(names))


def _shared(scope: str, rid: bytes, limits: tuple[RateLimit, ...] | tuple[TrueUp, ...]) -> list[str]:
    """The mark of a request and the limits, in one slot."""
    prefix = f"{{be:{scope}}}:"
    return [f"{prefix}m:{rid.hex()}", *[f"{prefix}g:{limit.id}" for limit in limits]]
