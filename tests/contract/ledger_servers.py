"""Servers for the ledger suite: each on its own temporary unix socket, each a child of the test run."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from extproc.ledger import embedded


def binary(kind: str) -> str | None:
    """Return the server binary of that kind, or None when this machine has none."""
    if kind == "redis":
        return shutil.which("redis-server", path=None) or shutil.which("redis-server", path="/usr/bin")
    return embedded.command(Path(), Path())[0]


class Server:
    """One server process with its data directory; it can be killed, frozen and started again."""

    def __init__(self, kind: str, *settings: str) -> None:
        # Not tmp_path: a unix socket's path must stay under 108 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="ledger-"))
        self.url = embedded.url(self.folder / "s")
        self._command = [str(binary(kind)), *embedded.arguments(self.folder / "s", self.folder), *settings]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        # Its own process group, so that a wrapper script and the server end together.
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        asyncio.run(embedded.wait_ready(self.url, 10))

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
