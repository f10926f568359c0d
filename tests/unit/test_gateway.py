"""The start of a gateway that cannot be."""

from __future__ import annotations

import asyncio
import fcntl
from contextlib import ExitStack
from pathlib import Path

import pytest

from extproc.up.gateway import Gateway, Options, StartError, _tell_failure


async def test_too_many_gateways(tmp_path: Path) -> None:
    """Where no instance folder is free the start says so, and the end has nothing to end."""
    with ExitStack() as held:
        for number in range(64):
            folder = tmp_path / f"gateway-{number}"
            folder.mkdir()
            fcntl.flock(held.enter_context((folder / "lock").open("w")), fcntl.LOCK_EX)
        gateway = Gateway(Options(state=tmp_path))
        with pytest.raises(StartError, match="64 gateways already run here"):
            await gateway.start()
        await gateway.stop()


async def test_a_watch_that_fails_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Where changes can be taken no more, by a full disk or a bug, the log says so and names the cause."""
    async def watch() -> None:
        raise OSError("no space left on device")

    task = asyncio.create_task(watch())
    task.add_done_callback(_tell_failure)
    with pytest.raises(OSError, match="no space"):
        await task
    await asyncio.sleep(0)
    assert "changes are not taken any more" in caplog.text
    assert "no space left on device" in caplog.text
