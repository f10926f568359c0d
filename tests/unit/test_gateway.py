"""The start of a gateway that cannot be."""

from __future__ import annotations

import fcntl
from contextlib import ExitStack
from pathlib import Path

import pytest

from extproc.up.gateway import Gateway, Options, StartError


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
