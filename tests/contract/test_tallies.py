"""Shared counters: the same on every store and in memory."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest

from extproc.ledger.base import LedgerUnavailable
from extproc.ledger.cluster import open_door
from extproc.ledger.memory_tallies import MemoryTallies
from extproc.ledger.tallies import MOST_FIELDS, RedisTallies, Tallies
from tests.contract.ledger_servers import Place, Server

MINUTE = 60_000


@pytest.fixture
async def tallies(place: Place | None) -> AsyncIterator[Tallies]:
    if place is None:
        yield MemoryTallies()
        return
    door = open_door(place.url, connect_timeout=2, call_timeout=5)
    yield RedisTallies(door)
    await door.close()


@pytest.fixture
async def small(place: Place | None) -> AsyncIterator[Tallies]:
    """Counters of three fields a hash."""
    if place is None:
        yield MemoryTallies(most_fields=3)
        return
    door = open_door(place.url, connect_timeout=2, call_timeout=5)
    yield RedisTallies(door, most_fields=3)
    await door.close()


@pytest.fixture
def scope() -> str:
    """A scope that no other test has: they share a store."""
    return f"test:{secrets.token_hex(6)}"


class TestBuckets:
    """Sums by bucket."""

    async def test_sums(self, tallies: Tallies, scope: str) -> None:
        """What several add to a field is its sum; fields and buckets are apart."""
        await tallies.add(scope, 7, {"a|ok": 2, "b|ok": 1}, MINUTE)
        await tallies.add(scope, 7, {"a|ok": 3}, MINUTE)
        await tallies.add(scope, 8, {"a|ok": 10}, MINUTE)
        assert await tallies.read(scope, [8, 7]) == [{"a|ok": 10}, {"a|ok": 5, "b|ok": 1}]

    async def test_unknown(self, tallies: Tallies, scope: str) -> None:
        """A bucket that nobody added to is empty, and no buckets are no answer."""
        assert await tallies.read(scope, [1, 2]) == [{}, {}]
        assert await tallies.read(scope, []) == []
        assert await tallies.got(scope) == {}

    async def test_nothing_to_add(self, tallies: Tallies, scope: str) -> None:
        """An empty addition makes no bucket."""
        await tallies.add(scope, 1, {}, MINUTE)
        await tallies.put(scope, {}, MINUTE)
        assert await tallies.read(scope, [1]) == [{}]
        assert await tallies.got(scope) == {}

    async def test_scopes(self, tallies: Tallies, scope: str) -> None:
        """Scopes with brackets, blanks or any script are apart from each other."""
        scopes = [scope, f"{scope}}}", f"{scope}}}:b", f"{{{scope}", f"{scope} größe", f"{scope}:b:1"]
        for number, each in enumerate(scopes):
            await tallies.add(each, 1, {"n": number + 1}, MINUTE)
        assert [(await tallies.read(each, [1]))[0]["n"] for each in scopes] == [1, 2, 3, 4, 5, 6]

    async def test_numbers(self, tallies: Tallies, scope: str) -> None:
        """Large and negative amounts, also of negative buckets, are exact."""
        await tallies.add(scope, -1, {"x": 2**53 + 1, "y": -5}, MINUTE)
        await tallies.add(scope, -1, {"x": 1, "y": 5}, MINUTE)
        assert await tallies.read(scope, [-1]) == [{"x": 2**53 + 2, "y": 0}]

    async def test_at_once(self, tallies: Tallies, scope: str) -> None:
        """Nothing is lost when many add at once."""
        await asyncio.gather(*(tallies.add(scope, 1, {"n": 1, f"f{i % 3}": 2}, MINUTE) for i in range(60)))
        assert await tallies.read(scope, [1]) == [{"n": 60, "f0": 40, "f1": 40, "f2": 40}]

    async def test_end(self, tallies: Tallies, scope: str) -> None:
        """A bucket is gone after its time, which each addition begins anew."""
        await tallies.add(scope, 1, {"n": 1}, 50)
        await tallies.add(scope, 2, {"n": 1}, 50)
        await tallies.add(scope, 2, {"n": 1}, MINUTE)
        await asyncio.sleep(0.2)
        assert await tallies.read(scope, [1, 2]) == [{}, {"n": 2}]

    async def test_too_many_fields(self, small: Tallies, scope: str) -> None:
        """Fields beyond the limit are summed in `other`; those that are known still count on their own."""
        await small.add(scope, 1, {"a": 1, "b": 1, "c": 1, "d": 1}, MINUTE)
        await small.add(scope, 1, {"e": 5, "a": 1}, MINUTE)
        assert await small.read(scope, [1]) == [{"a": 2, "b": 1, "c": 1, "other": 6}]

    async def test_many_fields(self, tallies: Tallies, scope: str) -> None:
        """As many fields as are allowed, and some more, in one addition."""
        await tallies.add(scope, 1, {f"f{i}": i for i in range(MOST_FIELDS + 10)}, MINUTE)
        [found] = await tallies.read(scope, [1])
        assert len(found) == MOST_FIELDS + 1
        assert found["f4999"] == 4999
        assert found["other"] == sum(range(MOST_FIELDS, MOST_FIELDS + 10))


class TestMaxima:
    """Values that are only ever raised."""

    async def test_raised(self, tallies: Tallies, scope: str) -> None:
        """The highest that anybody put is kept, however they come."""
        await tallies.put(scope, {"a": 1_790_000_000_000, "b": 3}, MINUTE)
        await tallies.put(scope, {"a": 1_780_000_000_000, "b": 4, "c": -1}, MINUTE)
        assert await tallies.got(scope) == {"a": 1_790_000_000_000, "b": 4, "c": -1}

    async def test_apart_from_buckets(self, tallies: Tallies, scope: str) -> None:
        """Values and counters of one scope do not mix."""
        await tallies.put(scope, {"a": 9}, MINUTE)
        await tallies.add(scope, 0, {"a": 1}, MINUTE)
        assert (await tallies.got(scope), await tallies.read(scope, [0])) == ({"a": 9}, [{"a": 1}])

    async def test_end(self, tallies: Tallies, scope: str) -> None:
        """Values are gone after the time of the last put."""
        await tallies.put(scope, {"a": 9}, 50)
        await asyncio.sleep(0.2)
        assert await tallies.got(scope) == {}

    async def test_too_many_fields(self, small: Tallies, scope: str) -> None:
        """Values beyond the limit are dropped; those that are known can be raised."""
        await small.put(scope, {"a": 1, "b": 1, "c": 1, "d": 1}, MINUTE)
        await small.put(scope, {"a": 2, "e": 1}, MINUTE)
        assert await small.got(scope) == {"a": 2, "b": 1, "c": 1}


async def test_store_away(server: Server) -> None:
    """Every call says that the store is away, and works again when it is back."""
    door = open_door(server.url, connect_timeout=0.5, call_timeout=0.5)
    tallies = RedisTallies(door)
    await tallies.add("s", 1, {"n": 1}, MINUTE)
    server.kill()
    for call in (tallies.add("s", 1, {"n": 1}, MINUTE), tallies.read("s", [1]), tallies.put("s", {"n": 1}, MINUTE),
                 tallies.got("s")):
        with pytest.raises(LedgerUnavailable):
            await call
    await asyncio.to_thread(server.start)
    await tallies.put("s", {"n": 1}, MINUTE)
    assert await tallies.got("s") == {"n": 1}
    await door.close()
