"""The worker process."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from extproc.config import changed_at
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


def test_a_configuration_changed_twice_in_a_second(tmp_path: Path) -> None:
    """The later one has the higher generation: its budgets replace the earlier ones'."""
    file, generations = tmp_path / "gateway.yaml", list[int]()
    file.touch()
    for changed in (1_790_000_000_100_000_000, 1_790_000_000_400_000_000):
        os.utime(file, ns=(changed, changed))
        generations.append(changed_at(file))
    assert generations == [1_790_000_000_100, 1_790_000_000_400]
