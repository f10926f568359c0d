"""The usage stream as exporters and operators read it: in pages; a consumer group remembers how far."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from extproc.ledger.keyspace import keys_of
from extproc.ledger.redis_ledger import RedisLedger
from extproc.ledger.scripts import Script
from extproc.pb import usage_pb2 as pb

PAGE = 1_000
_EXPORTED = Script("exported", 1)
_TRIM = Script("trim", 1, allow_oom=True)
_ID = re.compile(r"^(\d{1,15})-(\d{1,15})$", re.ASCII)


class Position(msgspec.Struct, frozen=True, order=True):
    """An id of the stream: ms of the store's clock, and a number within the ms. All records up to it are taken."""

    ms: int = 0
    number: int = 0

    def __str__(self) -> str:
        return f"{self.ms}-{self.number}"


START = Position()


def position_of(text: str) -> Position | None:
    """Read an id; None: it is none."""
    match = _ID.match(text)
    return None if match is None else Position(int(match[1]), int(match[2]))


class Stream(msgspec.Struct, frozen=True):
    """What the store says of a stream. `last`: the highest id it ever gave; `added`: how many records it ever had."""

    length: int = 0
    last: Position = START
    added: int = 0
    groups: dict[str, Position] = {}


class OtherExporter(Exception):  # noqa: N818 - a state of the store
    """Another exporter moves the same group; `stands` is where."""

    def __init__(self, stands: Position) -> None:
        super().__init__(f"another exporter has moved this group to {stands}")
        self.stands = stands


def _position(reply: bytes) -> Position:
    ms, _, number = reply.partition(b"-")
    return Position(int(ms), int(number))


def _fields(flat: list[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


class Log:
    """The usage streams of a store. All calls raise LedgerUnavailable."""

    def __init__(self, ledger: RedisLedger) -> None:
        self._door, self._ledger = ledger.door, ledger

    async def orgs(self) -> list[str]:
        """Return the orgs that ever reserved."""
        return await self._ledger.orgs()

    async def now_ms(self, org: str) -> int:
        """Return the clock of the server that has this org's stream."""
        script = "local t = redis.call('TIME') return t[1] * 1000 + math.floor(t[2] / 1000)"
        return int(await self._door.call(("EVAL", script, 1, keys_of(org).log)))

    async def stream(self, org: str) -> Stream:
        """Return what the store says of a stream; one that it does not have is empty."""
        log = keys_of(org).log
        if not await self._door.call(("EXISTS", log)):
            return Stream()
        about = _fields(await self._door.call(("XINFO", "STREAM", log)))
        groups = [_fields(group) for group in await self._door.call(("XINFO", "GROUPS", log))]
        return Stream(
            int(about[b"length"]), _position(about[b"last-generated-id"]), int(about[b"entries-added"]),
            {group[b"name"].decode(): _position(group[b"last-delivered-id"]) for group in groups},
        )

    async def page(self, org: str, after: Position, count: int = PAGE) -> list[tuple[Position, pb.UsageRecord]]:
        """Return the first records behind a position, oldest first."""
        entries: list[Any] = await self._door.call(("XRANGE", keys_of(org).log, f"({after}", "+", "COUNT", count))
        return [(_position(entry), pb.UsageRecord.FromString(fields[1])) for entry, fields in entries]

    async def records(self, org: str, after: Position = START) -> AsyncIterator[tuple[Position, pb.UsageRecord]]:
        """Return all records behind a position, in bounded memory."""
        while page := await self.page(org, after):
            for entry in page:
                yield entry
            after = page[-1][0]

    async def acknowledge(self, org: str, group: str, had: Position, has: Position) -> None:
        """Remember that a group has taken all up to `has`. Raises OtherExporter if it did not stand at `had`."""
        reply: bytes = await _EXPORTED.run(self._door, keys_of(org).log, group, str(had), str(has))
        if (stands := _position(reply)) != has:
            raise OtherExporter(stands)

    async def trim(self, org: str, group: str, keep_ms: int = 0) -> int:
        """Remove what every group of the stream has taken and is older than `keep_ms`; return how many records.

        Nothing is removed unless this group has acknowledged.
        """
        return int(await _TRIM.run(self._door, keys_of(org).log, group, keep_ms))

    async def withdraw(self, org: str) -> None:
        """Take the budget table of an org out of force, so that its windows can be seeded: nothing is granted until one
        is published. Holds stay."""
        keys = keys_of(org)
        await self._door.call(("DEL", keys.epoch, keys.table))
