"""Remembered sessions: the same on every store and in memory."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator

import msgspec
import pytest

from extproc.core.routing.sessions import Memory, pack
from extproc.ledger.base import LedgerUnavailable
from extproc.ledger.cluster import open_door
from extproc.ledger.memory_sessions import MemorySessions
from extproc.ledger.sessions import RedisSessions, Sessions
from tests.contract.ledger_servers import Place, Server

MINUTE = 60_000
MEMORY = Memory("claude/claude-sonnet-5", "claude-sonnet-5", "cloud", 1_800_000_000_000, 40_000, True, 12, 2**63 - 1,
                "debug.l.t", 3_600_000)
SIMPLE = Memory("qwen/q", "q", "local")


@pytest.fixture
async def sessions(place: Place | None) -> AsyncIterator[Sessions]:
    if place is None:
        yield MemorySessions()
        return
    door = open_door(place.url, connect_timeout=2, call_timeout=5)
    yield RedisSessions(door)
    await door.close()


@pytest.fixture
def session() -> str:
    """A session that no other test has: they share a store."""
    return secrets.token_hex(8)


async def test_back(sessions: Sessions, session: str) -> None:
    """What was put comes back whole, to that organisation alone."""
    await sessions.put("acme", session, MEMORY, MINUTE)
    assert await sessions.get("acme", session) == MEMORY
    assert await sessions.get("other", session) is None


async def test_unknown(sessions: Sessions, session: str) -> None:
    """Of a session that nobody put nothing is known."""
    assert await sessions.get("acme", session) is None


async def test_last(sessions: Sessions, session: str) -> None:
    """The last answer is what is remembered."""
    await sessions.put("acme", session, SIMPLE, MINUTE)
    later = msgspec.structs.replace(SIMPLE, turns=2, at=5)
    await sessions.put("acme", session, later, MINUTE)
    assert await sessions.get("acme", session) == later


async def test_escalation_is_kept(sessions: Sessions, session: str) -> None:
    """An answer that began before the session escalated, and ends after it, takes nothing back."""
    await sessions.put("acme", session, MEMORY, MINUTE)
    await sessions.put("acme", session, SIMPLE, MINUTE)
    assert await sessions.get("acme", session) == msgspec.structs.replace(SIMPLE, escalated=True)


async def test_forgotten(sessions: Sessions, session: str) -> None:
    """A session is forgotten after its time, the escalation too."""
    await sessions.put("acme", session, MEMORY, 30)
    await asyncio.sleep(0.06)
    assert await sessions.get("acme", session) is None
    await sessions.put("acme", session, SIMPLE, MINUTE)
    assert await sessions.get("acme", session) == SIMPLE


async def test_kept_alive(sessions: Sessions, session: str) -> None:
    """Each answer gives it its whole time again."""
    await sessions.put("acme", session, SIMPLE, 50)
    await sessions.put("acme", session, SIMPLE, MINUTE)
    await asyncio.sleep(0.08)
    assert await sessions.get("acme", session) == SIMPLE


@pytest.mark.parametrize("org", ["größe", "a:b", "{x}", "*", "a b\n"])
async def test_names(sessions: Sessions, session: str, org: str) -> None:
    """Any name of an organisation will do."""
    await sessions.put(org, session, SIMPLE, MINUTE)
    assert await sessions.get(org, session) == SIMPLE


async def test_many_at_once(sessions: Sessions) -> None:
    """Calls that gather go out together, each with its own answer."""
    names = [secrets.token_hex(8) for _ in range(200)]
    known = [msgspec.structs.replace(SIMPLE, turns=number) for number in range(200)]
    await asyncio.gather(*(sessions.put("acme", name, memory, MINUTE) for name, memory in zip(names, known, strict=True)))
    assert await asyncio.gather(*(sessions.get("acme", name) for name in names)) == known


async def test_unreadable(place: Place | None, session: str) -> None:
    """What another program left under the name is nothing to us."""
    if place is None:
        return
    door = open_door(place.url, connect_timeout=2, call_timeout=5)
    await door.call(("HSET", f"s:acme:{session}", "m", b"\xff\x00rubbish"))
    assert await RedisSessions(door).get("acme", session) is None
    await door.call(("PEXPIRE", f"s:acme:{session}", 1000))
    await door.close()


async def test_ttl(place: Place | None, session: str) -> None:
    """No session lies in the store for ever."""
    if place is None:
        return
    door = open_door(place.url, connect_timeout=2, call_timeout=5)
    await RedisSessions(door).put("acme", session, MEMORY, MINUTE)
    assert 0 < await door.call(("PTTL", f"s:acme:{session}")) <= MINUTE
    await door.close()


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
async def test_store_is_down(server: Server, number: signal.Signals) -> None:
    """Where the store hangs or is gone a call raises within its deadline, so that the request can go on without."""
    server.signal(number)
    door = open_door(server.url, connect_timeout=0.2, call_timeout=0.2)
    store = RedisSessions(door)
    async with asyncio.timeout(2):
        with pytest.raises(LedgerUnavailable):
            await store.get("acme", "0" * 16)
        with pytest.raises(LedgerUnavailable):
            await store.put("acme", "0" * 16, MEMORY, MINUTE)
    await door.close()
    if number == signal.SIGSTOP:
        server.signal(signal.SIGCONT)


async def test_twin_is_bounded() -> None:
    """The twin keeps so many, and drops those that were put longest ago."""
    store = MemorySessions(most=2)
    for name in ("a", "b", "a", "c"):
        await store.put("o", name, SIMPLE, MINUTE)
    assert [await store.get("o", name) for name in ("a", "b", "c")] == [SIMPLE, None, SIMPLE]


def test_small() -> None:
    """A session costs the store less than a quarter of a kilobyte."""
    assert len(pack(MEMORY)) < 256
