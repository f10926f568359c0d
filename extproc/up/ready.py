"""Whether all that was started serves: workers, demo backends, Envoy, and Envoy's own view of the demo backends."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import aiohttp
import msgspec

TIMEOUT = 60.0
"""Seconds that all may take; a small or busy machine needs many."""
_POLL = 0.03


class Awaited(msgspec.Struct, frozen=True):
    """What must serve. `ports`: of demo backends on loopback; `listen`, `envoy_admin`: Envoy's HOST:PORT, "" where
    it is not ours."""

    sockets: Sequence[str]
    ports: Sequence[int]
    listen: str
    envoy_admin: str


async def wait(awaited: Awaited, hopeless: Callable[[], bool]) -> bool:
    """Wait until everything serves; False: it took too long, or is `hopeless`."""
    deadline = time.monotonic() + TIMEOUT
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1)) as session:
        while time.monotonic() < deadline and not hopeless():
            if await _serves(awaited, session):
                return True
            await asyncio.sleep(_POLL)
    return False


async def _serves(awaited: Awaited, session: aiohttp.ClientSession) -> bool:
    if not all(Path(socket_).exists() for socket_ in awaited.sockets) or not all(map(_listens, awaited.ports)):  # noqa: ASYNC240
        return False
    if not awaited.listen:
        return True
    try:
        async with session.get(f"http://{awaited.listen}/health") as answer:
            if answer.status != 200:
                return False
        async with session.get(f"http://{awaited.envoy_admin}/clusters") as answer:
            text = await answer.text()
    except (aiohttp.ClientError, TimeoutError):
        return False
    # Envoy may have looked for a demo backend before it was there: until it looks again, others would be asked.
    away = [line for line in text.splitlines() if "health_flags::/failed_active_hc" in line]
    return not any(f"127.0.0.1:{port}::" in line for line in away for port in awaited.ports)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
