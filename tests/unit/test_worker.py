"""The worker process."""

from __future__ import annotations

import asyncio

from extproc.server.worker import _watch_ended


async def test_a_failed_watch_ends_the_worker() -> None:
    """A worker whose watch fails ends, to be started anew; a cancelled watch is no failure."""
    async def fail() -> None:
        raise ZeroDivisionError

    for work, ends in ((fail(), True), (asyncio.sleep(9), False)):
        stop, task = asyncio.Event(), asyncio.ensure_future(work)
        if not ends:
            task.cancel()
        await asyncio.wait({task})
        _watch_ended(task, stop)
        assert stop.is_set() == ends
