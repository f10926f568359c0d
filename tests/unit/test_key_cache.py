"""Gateway keys: secrets, states, and what a worker remembers of them."""

from __future__ import annotations

import asyncio
import hashlib
import re

import pytest

from extproc.core.identity import Caller
from extproc.ledger.base import LedgerUnavailable
from extproc.ledger.key_cache import KeyCache
from extproc.ledger.keys import KeyRecord, digest_of, new_secret
from extproc.ledger.memory_keys import MemoryKeyStore

ANN, BOB = Caller(key="ann"), Caller(key="bob")
A, B, NOBODY = b"a" * 32, b"b" * 32, b"n" * 32


class Store(MemoryKeyStore):
    """Counts what is asked, waits for a gate, and fails when told to."""

    def __init__(self, **known: Caller) -> None:
        super().__init__()
        self.known = {name.encode() * 32: caller for name, caller in known.items()}
        self.asked: list[bytes] = []
        self.down = False
        self.gate: asyncio.Event | None = None

    async def get(self, digest: bytes) -> Caller | None:
        self.asked.append(digest)
        if self.gate is not None:
            await self.gate.wait()
        if self.down:
            raise LedgerUnavailable("down")
        return self.known.get(digest)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store() -> Store:
    return Store(a=ANN, b=BOB)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(store: Store, clock: Clock) -> KeyCache:
    return KeyCache(store, most=3, clock=clock)


def test_secrets() -> None:
    """A secret has a prefix that scanners can find, 256 random bits, and is known by its SHA-256."""
    secret = new_secret()
    assert re.fullmatch(r"gw-[\w-]{43}", secret)
    assert secret != new_secret()
    assert digest_of(secret) == hashlib.sha256(secret.encode()).digest()
    assert len(digest_of("\udcff")) == 32


@pytest.mark.parametrize(("record", "state"), [
    (KeyRecord("", Caller()), "live"),
    (KeyRecord("", Caller(expires=100)), "expired"),
    (KeyRecord("", Caller(expires=101)), "live"),
    (KeyRecord("", Caller(since=101)), "not yet"),
    (KeyRecord("", Caller(), revoked=1), "revoked"),
])
def test_states(record: KeyRecord, state: str) -> None:
    """A key is in force from its begin to before its end, unless it is revoked."""
    assert record.state(100) == state


async def test_known_and_unknown(cache: KeyCache, store: Store) -> None:
    """Both answers are remembered."""
    for _ in range(3):
        assert (await cache.find(A), await cache.find(NOBODY)) == (ANN, None)
    assert store.asked == [A, NOBODY]


async def test_peek(cache: KeyCache, clock: Clock) -> None:
    """What is remembered is told without waiting, and what is not is said to be unknown yet."""
    assert cache.peek(A) == (False, None)
    await cache.find(A)
    await cache.find(NOBODY)
    assert (cache.peek(A), cache.peek(NOBODY)) == ((True, ANN), (True, None))
    clock.now += 1
    assert (cache.peek(A), cache.peek(NOBODY)) == ((True, ANN), (False, None))
    clock.now += 4
    assert cache.peek(A) == (False, None)


async def test_revoked(cache: KeyCache, store: Store, clock: Clock) -> None:
    """A revoked key holds for less than 5 s more."""
    await cache.find(A)
    del store.known[A]
    clock.now += 4.9
    assert await cache.find(A) == ANN
    clock.now += 0.1
    assert await cache.find(A) is None
    store.down = True
    clock.now += 2
    with pytest.raises(LedgerUnavailable):
        await cache.find(A)


async def test_just_made(cache: KeyCache, store: Store, clock: Clock) -> None:
    """A key made after it was asked for is known within a second."""
    store.known.pop(B)
    assert await cache.find(B) is None
    store.known[B] = BOB
    clock.now += 1
    assert await cache.find(B) == BOB


async def test_single_flight(cache: KeyCache, store: Store) -> None:
    """Who asks for the same key at once waits for one lookup, also when the first of them leaves."""
    store.gate = asyncio.Event()
    first = asyncio.create_task(cache.find(A))
    others = [asyncio.create_task(cache.find(A)) for _ in range(9)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    store.gate.set()
    assert await asyncio.gather(*others) == [ANN] * 9
    assert store.asked == [A]
    assert first.cancelled()


async def test_all_leave(cache: KeyCache, store: Store) -> None:
    """A failed lookup that nobody waits for any more harms nothing."""
    store.gate, store.down = asyncio.Event(), True
    task = asyncio.create_task(cache.find(A))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    store.gate.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    store.down = False
    assert await cache.find(A) == ANN


async def test_outage(cache: KeyCache, store: Store, clock: Clock) -> None:
    """While the store is away a key known lately holds for a minute after its time; others cannot be told."""
    await cache.find(A)
    await cache.find(NOBODY)
    store.down = True
    clock.now += 5
    assert await cache.find(A) == ANN
    for digest in (B, NOBODY):
        with pytest.raises(LedgerUnavailable):
            await cache.find(digest)
    clock.now += 59.9
    assert await cache.find(A) == ANN
    clock.now += 0.1
    with pytest.raises(LedgerUnavailable):
        await cache.find(A)


async def test_outage_is_not_felt(cache: KeyCache, store: Store, clock: Clock) -> None:
    """After a failed lookup known keys wait for the store once a second only."""
    await cache.find(A)
    store.down = True
    clock.now += 5
    for _ in range(10):
        await cache.find(A)
    assert store.asked == [A, A]
    clock.now += 1
    await cache.find(A)
    assert store.asked == [A, A, A]


async def test_bounded(store: Store, clock: Clock) -> None:
    """The key used longest ago is forgotten first, and guesses drive no known key out."""
    store.known = {bytes([n]) * 32: Caller(key=str(n)) for n in range(4)}
    cache = KeyCache(store, most=3, clock=clock)
    for number in (0, 1, 2, 0, 3):
        await cache.find(bytes([number]) * 32)
    for number in range(100, 200):
        await cache.find(bytes([number]) * 32)
    assert [cache.peek(bytes([number]) * 32)[0] for number in range(4)] == [True, False, True, True]
    assert sum(cache.peek(bytes([number]) * 32)[0] for number in range(100, 200)) == 3
