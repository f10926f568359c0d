"""Shadow requests: sent once to the gateway's own door, never waited for, bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import REGISTRY

from extproc.core import events as ev
from extproc.server import mirrors
from extproc.server.mirrors import MOST, Mirrors
from tests.free_ports import free_port

HEADERS = {"authorization": "Bearer k", "content-type": "application/json", "host": "provider.example",
           "content-length": "3", "connection": "close", "transfer-encoding": "chunked", "x-extproc-shadow": "a",
           "user-agent": "\ufffdü"}


class Work:
    """A stream and its channel: the work that was started."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.ensure_future(work))

    def reply(self, answers: list[bytes]) -> None:
        raise AssertionError

    def hear(self, event: ev.Event) -> None:
        raise AssertionError("nobody hears of a copy")


class Door:
    """What stands where Envoy takes clients."""

    def __init__(self) -> None:
        self.port = free_port()
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.answer: Any = lambda: web.Response(text="{}")
        self.gate = asyncio.Event()
        self.gate.set()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.path_qs, {k.lower(): v for k, v in request.headers.items()}, await request.read()))
        await self.gate.wait()
        return self.answer()


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    made, app = Door(), web.Application()
    app.router.add_route("*", "/{tail:.*}", made.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", made.port).start()
    yield made
    made.gate.set()
    await runner.cleanup()


def copy(chain: str, path: str = "/v1/chat/completions?a=1") -> ev.Mirror:
    return ev.Mirror(chain, path, HEADERS, b'{"a":1}')


def counted(chain: str, outcome: str) -> float:
    return REGISTRY.get_sample_value(
        "extproc_shadow_requests_total", {"chain": chain, "outcome": outcome}) or 0.0


async def sent(sender: Mirrors, action: ev.Mirror, times: int = 1) -> None:
    work = Work()
    for _ in range(times):
        sender.send(action, work, work)
    await asyncio.gather(*work.tasks)


@pytest.mark.parametrize("listen", ["127.0.0.1", "0.0.0.0", "[::]", ""])
async def test_sent(door: Door, listen: str) -> None:
    """The body and the headers go to the gateway's own port, wherever it listens; those of a connection do not."""
    sender = Mirrors(f"{listen}:{door.port}", 5)
    await sent(sender, copy("sent"))
    [(path, headers, body)] = door.seen
    assert (path, body, headers["authorization"], headers["x-extproc-shadow"]) == (
        "/v1/chat/completions?a=1", b'{"a":1}', "Bearer k", "a")
    assert headers["host"] == f"127.0.0.1:{door.port}"
    assert headers["content-length"] == "7"
    await sender.close()


@pytest.mark.parametrize(("status", "outcome"), [(200, "answered"), (404, "refused"), (503, "refused")])
async def test_counted(door: Door, status: int, outcome: str) -> None:
    """What became of copies is counted by chain."""
    door.answer = lambda: web.Response(status=status)
    sender, before = Mirrors(f"127.0.0.1:{door.port}", 5), counted("counted", outcome)
    await sent(sender, copy("counted"))
    assert counted("counted", outcome) == before + 1
    await sender.close()


async def test_nobody_there(caplog: pytest.LogCaptureFixture) -> None:
    """A door that is shut is said, and hurts nobody."""
    sender, before = Mirrors(f"127.0.0.1:{free_port()}", 5), counted("shut", "failed")
    await sent(sender, copy("shut"))
    assert counted("shut", "failed") == before + 1
    assert [r.message for r in caplog.records] == [
        "a shadow request of shut was not answered: ClientConnectorError"]
    await sender.close()


async def test_silence(door: Door) -> None:
    """A copy that takes too long is given up."""
    door.gate.clear()
    sender, before = Mirrors(f"127.0.0.1:{door.port}", 0.1), counted("silent", "failed")
    await sent(sender, copy("silent"))
    assert counted("silent", "failed") == before + 1
    await sender.close()


async def test_only_so_many(door: Door) -> None:
    """Too many at once are not sent; when some are done there is room again."""
    door.gate.clear()
    sender, skipped = Mirrors(f"127.0.0.1:{door.port}", 5), counted("many", "skipped")
    work = asyncio.create_task(sent(sender, copy("many"), MOST + 5))
    while len(door.seen) < MOST:
        await asyncio.sleep(0.005)
    assert counted("many", "skipped") == skipped + 5
    door.gate.set()
    await work
    await sent(sender, copy("many"), 3)
    assert len(door.seen) == MOST + 3
    await sender.close()


async def test_no_redirect(door: Door) -> None:
    """A redirect is not followed: a client's key goes nowhere but to this gateway."""
    door.answer = lambda: web.Response(status=307, headers={"location": f"http://127.0.0.1:{door.port}/elsewhere"})
    sender = Mirrors(f"127.0.0.1:{door.port}", 5)
    await sent(sender, copy("redirect"))
    assert [path for path, _, _ in door.seen] == ["/v1/chat/completions?a=1"]
    await sender.close()


async def test_no_cookies(door: Door) -> None:
    """What one copy is told to remember the next one does not tell."""
    door.answer = lambda: web.Response(headers={"set-cookie": "who=alice; Path=/"})
    sender = Mirrors(f"localhost:{door.port}", 5)
    for _ in range(2):
        await sent(sender, copy("cookies"))
    assert len(door.seen) == 2
    assert not any("cookie" in headers for _, headers, _ in door.seen)
    await sender.close()


async def test_close() -> None:
    """One that never sent anything can be closed."""
    await Mirrors("127.0.0.1:1", 1).close()
    assert mirrors.MOST == MOST
