"""The admin address: explanations by request id."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from extproc.core.routing.explanation import Explanation, pack, unpack
from extproc.ledger.base import LedgerUnavailable
from extproc.ledger.explained import MemoryExplained
from extproc.up.admin import application, serve

RID, OTHER, AWAY = "0192f0c1a2b37c4d8e5f60718293a4b5", "f" * 32, "e" * 32


@pytest.fixture
async def address() -> AsyncIterator[str]:
    """An admin address whose store knows one request, and fails for another."""
    store = MemoryExplained()
    store.put(RID, pack(Explanation(RID, 1_790_000_000_000, "cloud", "pinned by model größe")), 60_000)

    async def lookup(rid: str) -> Explanation | None:
        if rid == AWAY:
            raise LedgerUnavailable("no connection")
        blob = await store.get(rid)
        return None if blob is None else unpack(blob)

    runner = await serve(application(lambda: {"status": "ok"}, dict, lookup), "127.0.0.1", 0)
    yield "http://{}:{}".format(*runner.addresses[0])
    await runner.cleanup()


async def get(url: str) -> tuple[int, str, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, response.content_type, await response.text()


async def test_json(address: str) -> None:
    """A known request is explained as JSON; what did not take part is left out."""
    status, kind, body = await get(f"{address}/explain/{RID}")
    assert (status, kind) == (200, "application/json")
    assert body == (f'{{"request_id":"{RID}","at":1790000000000,"route":"cloud","reason":"pinned by model größe"}}')


async def test_text(address: str) -> None:
    """With format=text it is what the command line shows."""
    status, kind, body = await get(f"{address}/explain/{RID}?format=text")
    assert (status, kind) == (200, "text/plain")
    assert "route       cloud\nreason      pinned by model größe\n" in body


@pytest.mark.parametrize(("path", "status", "words"), [
    (OTHER, 404, "longer ago than explain.keep"),
    (AWAY, 503, "the store does not answer: no connection"),
    ("not-an-id", 400, "expected a request id"), (RID.upper(), 400, "expected a request id"),
    (RID + "0", 400, "expected a request id"), ("%0a" + RID, 400, "expected a request id"),
    (f"{RID}?format=xml", 400, "expected json or text"),
])
async def test_problems(address: str, path: str, status: int, words: str) -> None:
    """What cannot be told says why, with the status that fits."""
    told, kind, body = await get(f"{address}/explain/{path}")
    assert (told, kind) == (status, "application/json")
    assert words in body


async def test_the_rest_stays(address: str) -> None:
    """Health is served beside it."""
    assert await get(f"{address}/health") == (200, "application/json", '{"status": "ok"}')
