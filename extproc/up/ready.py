"""Whether all that was started serves: workers, demo backends, Envoy, and Envoy's own view of the demo backends."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import msgspec

from extproc.config import GatewayConfig

TIMEOUT = 60.0
"""Seconds that all may take; a small or busy machine needs many."""
_POLL = 0.03
GLANCE = 0.5
"""Seconds that a local backend has to take a connection, for the screen alone."""


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


async def silent(config: GatewayConfig) -> set[str]:
    """The local backends where nothing takes a connection. Clouds are not asked: a start needs no network."""
    local = [name for name, backend in config.backends.items() if backend.location == "local"]
    there = await asyncio.gather(*[_answers(config.backends[name].base_url) for name in local])
    return {name for name, answers in zip(local, there, strict=True) if not answers}


async def _answers(base_url: str) -> bool:
    url = urlsplit(base_url)
    try:
        _, writer = await asyncio.wait_for(
            asyncio.open_connection(url.hostname, url.port or (443 if url.scheme == "https" else 80)), GLANCE)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


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
