"""Kept explanations: the same on every store and in memory."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest

from extproc.core.routing.explanation import LIMIT, Explanation, pack, unpack
from extproc.ledger.base import LedgerUnavailable
from extproc.ledger.cluster import open_door
from extproc.ledger.explained import Explained, ExplainedStore, MemoryExplained, is_id
from tests.contract.ledger_servers import Place, Server

HOUR = 3_600_000
MANY = 10_000


@pytest.fixture
async def explained(place: Place | None) -> AsyncIterator[Explained]:
    if place is None:
        yield MemoryExplained(per_second=MANY)
        return
    door = open_door(place.url, connect_timeout=2, call_timeout=5)
    yield ExplainedStore(door, MANY)
    await door.close()


def rid() -> str:
    return secrets.token_hex(16)


async def test_what_was_put(explained: Explained) -> None:
    """An explanation is found under its request's id, byte for byte, and under no other."""
    own, blob = rid(), bytes(range(256)) * (LIMIT // 256)
    assert explained.put(own, blob, HOUR)
    assert await explained.get(own) == blob
    assert await explained.get(rid()) is None


async def test_a_whole_explanation(explained: Explained) -> None:
    """What is packed comes back as it was."""
    own = rid()
    told = Explanation(own, 7, "cloud", "pinned by model größe", "m", {"turns": 3, "stream": True})
    explained.put(own, pack(told), HOUR)
    assert unpack(await explained.get(own) or b"") == told


async def test_many_in_one_tick(explained: Explained) -> None:
    """Nobody waits for the writes, and what is asked behind them sees them all."""
    ids = [rid() for _ in range(200)]
    for number, own in enumerate(ids):
        assert explained.put(own, b"%d" % number, HOUR)
    assert await asyncio.gather(*[explained.get(own) for own in ids]) == [b"%d" % n for n in range(200)]


async def test_later_explanations_win(explained: Explained) -> None:
    """A request that is decided anew has the later explanation."""
    own = rid()
    explained.put(own, b"first", HOUR)
    explained.put(own, b"second", HOUR)
    assert await explained.get(own) == b"second"


async def test_they_expire(explained: Explained) -> None:
    """After its time an explanation is gone."""
    own = rid()
    explained.put(own, b"x", 150)
    assert await explained.get(own) == b"x"
    await asyncio.sleep(0.25)
    assert await explained.get(own) is None


async def test_made_only_where_it_is_kept(explained: Explained) -> None:
    """What makes an explanation is called when there is room for it, and not otherwise."""
    own, made = rid(), list[bytes]()

    def make() -> bytes:
        made.append(b"made")
        return made[-1]

    assert not explained.put(own, make, 0)
    assert not made
    assert explained.put(own, make, HOUR)
    assert (await explained.get(own), made) == (b"made", [b"made"])


async def test_none_are_kept(explained: Explained) -> None:
    """Zero time keeps nothing."""
    own = rid()
    assert not explained.put(own, b"x", 0)
    assert await explained.get(own) is None


async def test_only_so_many_per_second(place: Place | None) -> None:
    """A busy worker keeps some of each second, so that the store does not fill up."""
    if place is None:
        clock = [1_000]
        twin = MemoryExplained(lambda: clock[0], per_second=3)
        assert [twin.put(rid(), b"x", HOUR) for _ in range(5)] == [True] * 3 + [False] * 2
        clock[0] += 1_000
        assert twin.put(rid(), b"x", HOUR)
        return
    door = open_door(place.url, connect_timeout=2, call_timeout=5)
    store = ExplainedStore(door, 3)
    taken = [store.put(rid(), b"x", HOUR) for _ in range(50)]
    assert taken[:3] == [True] * 3
    assert sum(taken) <= 6, "two seconds at most"
    await door.close()


async def test_a_store_that_is_away(server: Server) -> None:
    """Writes to a store that does not answer are counted and hurt nobody; reads say so."""
    door = open_door(server.url, connect_timeout=0.5, call_timeout=0.5)
    store = ExplainedStore(door)
    server.kill()
    assert store.put(rid(), b"x", HOUR)
    with pytest.raises(LedgerUnavailable):
        await store.get(rid())
    assert store.lost == 1
    await door.close()


@pytest.mark.parametrize(("text", "good"), [
    ("0192f0c1a2b37c4d8e5f60718293a4b5", True), ("0192F0C1A2B37C4D8E5F60718293A4B5", False), ("", False),
    ("0192f0c1a2b37c4d8e5f60718293a4b5\n", False), ("0" * 31, False), ("0" * 33, False), ("g" * 32, False),
    ("٠" * 32, False),
])
def test_ids(text: str, good: bool) -> None:
    """A request id is 32 lower-case hex digits and nothing else."""
    assert is_id(text) is good
