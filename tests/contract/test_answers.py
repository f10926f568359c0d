"""Who answered a request, kept for the client's word on it: the same on every store and in memory."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator

import msgspec
import pytest

from extproc.ledger import answers as module
from extproc.ledger.answers import Answered, Answers, MemoryAnswers, RedisAnswers
from extproc.ledger.base import LedgerUnavailable
from extproc.ledger.cluster import open_door
from tests.contract.ledger_servers import Place, Server

HOUR = 3_600_000
ANSWERED = Answered("acme", "größe", "ci", "debug.s.n", "near/n", 700)


@pytest.fixture
async def answers(place: Place | None) -> AsyncIterator[Answers]:
    if place is None:
        yield MemoryAnswers()
        return
    door = open_door(place.url, connect_timeout=2, call_timeout=5)
    yield RedisAnswers(door)
    await door.close()


def rid() -> str:
    return secrets.token_hex(16)


async def test_back(answers: Answers) -> None:
    """What was put is found under its request's id, and under no other; the later one wins."""
    own = rid()
    answers.put(own, ANSWERED, HOUR)
    assert await answers.get(own) == ANSWERED
    assert await answers.get(rid()) is None
    answers.put(own, msgspec.structs.replace(ANSWERED, backend="big/b"), HOUR)
    found = await answers.get(own)
    assert found is not None and found.backend == "big/b"


async def test_it_expires(answers: Answers) -> None:
    """After its time it is gone, and at once where it was to be kept for none."""
    own, brief = rid(), rid()
    answers.put(own, ANSWERED, 150)
    answers.put(brief, ANSWERED, 0)
    assert await answers.get(own) == ANSWERED
    await asyncio.sleep(0.25)
    assert await answers.get(own) is None
    assert await answers.get(brief) is None


async def test_once(answers: Answers) -> None:
    """Of many words on one answer, at the same moment too, one is the first; after its time there is a first again."""
    own = rid()
    firsts = await asyncio.gather(*[answers.once(own, 150) for _ in range(20)])
    assert sum(firsts) == 1
    assert await answers.once(rid(), HOUR)
    await asyncio.sleep(0.25)
    assert await answers.once(own, HOUR)
    assert not await answers.once(own, HOUR)


async def test_a_word_is_no_answer(answers: Answers) -> None:
    """A word on a request that nobody answered makes no answer of it."""
    own = rid()
    assert await answers.once(own, HOUR)
    assert await answers.get(own) is None


@pytest.mark.parametrize("blob", [b"", b"\x00", b"x" * 100, msgspec.msgpack.encode(["one"]),
                                  msgspec.msgpack.encode(["o", "t", "k", "c", "b", "p"])])
async def test_another_version(place: Place | None, blob: bytes) -> None:
    """What another version wrote is none."""
    own = rid()
    if place is None:
        twin = MemoryAnswers()
        twin._kept[own] = (blob, 1 << 60)
        assert await twin.get(own) is None
        return
    door = open_door(place.url, connect_timeout=2, call_timeout=5)
    await door.call(("SET", f"answer:{{{own}}}", blob))
    assert await RedisAnswers(door).get(own) is None
    await door.close()


async def test_the_twin_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory the oldest go, of answers and of words alike."""
    monkeypatch.setattr(module, "MOST", 10)
    twin = MemoryAnswers()
    for number in range(50):
        twin.put(str(number), ANSWERED, HOUR)
        assert await twin.once(str(number), HOUR)
    assert await twin.get("39") is None
    assert await twin.get("40") == ANSWERED
    assert len(twin._rated) <= 10


async def test_a_store_that_is_away(server: Server) -> None:
    """Writes to a store that does not answer are counted and hurt nobody; reads say so."""
    door = open_door(server.url, connect_timeout=0.5, call_timeout=0.5)
    store = RedisAnswers(door)
    server.kill()
    store.put(rid(), ANSWERED, HOUR)
    with pytest.raises(LedgerUnavailable):
        await store.get(rid())
    with pytest.raises(LedgerUnavailable):
        await store.once(rid(), HOUR)
    assert store.lost == 1
    await door.close()
