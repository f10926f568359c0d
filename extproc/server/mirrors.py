"""Shadows: a request asked once more at another chain, through the gateway's own front door, its answer thrown away.

A copy is a request like any other: authenticated by the same key, paid from the same budgets, recorded with the id of
the one it copies. It never delays the original, and when too many are under way it is not sent at all.
"""

from __future__ import annotations

import asyncio
import logging

import aiohttp
from prometheus_client import Counter

from extproc.core import events as ev
from extproc.server.seam import Channel, Heard

_log = logging.getLogger("extproc")
MOST = 16
"""Copies of one worker under way at once."""
_DROPPED = ("host", "content-length", "connection", "transfer-encoding")
COPIES = Counter("extproc_shadow_requests", "Copies of requests sent to a shadow chain", ["chain", "outcome"])


class Mirrors:
    """Of one worker."""

    def __init__(self, listen: str, timeout: float) -> None:
        """`listen`: HOST:PORT where Envoy takes clients; `timeout`: seconds that a copy may take."""
        host, _, port = listen.rpartition(":")
        self._base = f"http://{'127.0.0.1' if host in ('0.0.0.0', '[::]', '') else host}:{port}"  # noqa: S104
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._session: aiohttp.ClientSession | None = None
        self._under_way = 0

    def send(self, action: ev.Mirror, _stream: Heard, channel: Channel) -> None:
        """Send a copy, unless too many are under way."""
        if self._under_way >= MOST:
            COPIES.labels(action.chain, "skipped").inc()
            return
        self._under_way += 1
        channel.later(self._ask(action))

    async def _ask(self, action: ev.Mirror) -> None:
        outcome = "failed"
        try:
            if self._session is None:
                # What one client's provider sets as a cookie must not be told with another client's copy.
                self._session = aiohttp.ClientSession(timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar())
            headers = {name: value for name, value in action.headers.items() if name not in _DROPPED}
            async with self._session.post(self._base + action.path, data=action.body, headers=headers,
                                          allow_redirects=False) as answer:
                async for _ in answer.content.iter_any():
                    pass
                outcome = "answered" if answer.status < 400 else "refused"
        except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError) as error:
            _log.warning("a shadow request of %s was not answered: %s", action.chain, type(error).__name__)
        finally:
            self._under_way -= 1
            COPIES.labels(action.chain, outcome).inc()

    async def close(self) -> None:
        """Close connections."""
        if self._session is not None:
            await self._session.close()
