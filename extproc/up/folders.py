"""The folders of one gateway: its own below the state folder, which it locks, and a short-lived one for sockets and
secrets."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import TextIO

from extproc.up.errors import StartError

MOST = 64
"""Gateways that may run in one state folder."""


class Folders:
    """`own` holds what outlives the process, `logs` and `metrics` included; `run` goes with it; workers listen in
    `sockets`."""

    def __init__(self, state: Path, sockets: Path | None) -> None:
        """Make them. Raises StartError: too many gateways run in `state`, or a folder cannot be used."""
        try:
            self._make(state, sockets)
        except OSError as error:
            raise StartError(f"{error.filename} cannot be used: {error.strerror}; name folders of your own with --state"
                             + (" and --sockets" if sockets else "")) from error

    def _make(self, state: Path, sockets: Path | None) -> None:
        state.mkdir(parents=True, exist_ok=True)
        if sockets is not None:
            sockets.mkdir(parents=True, exist_ok=True)
        self.own, self._lock = _taken(state)
        self.logs = self.own / "logs"
        self.logs.mkdir(exist_ok=True)
        self.metrics = self.own / "metrics"
        shutil.rmtree(self.metrics, ignore_errors=True)
        self.metrics.mkdir()
        # Unix socket paths may have 107 bytes, so they do not go below the working folder.
        self.run = Path(tempfile.mkdtemp(prefix="extproc-"))
        self.sockets = sockets or self.run

    def close(self) -> None:
        """Remove what was for this run alone, and let another gateway have the rest."""
        shutil.rmtree(self.run, ignore_errors=True)
        self._lock.close()


def _taken(state: Path) -> tuple[Path, TextIO]:
    """A folder of our own, with the lock that keeps it ours: two gateways of one state folder take one each."""
    for number in range(MOST):
        folder = state / f"gateway-{number}"
        folder.mkdir(exist_ok=True)
        lock = (folder / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
        else:
            return folder.resolve(), lock
    raise StartError(f"{state}: {MOST} gateways already run here")


def private(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def replace(path: Path, text: str, written: int | None = None) -> None:
    """Write such a file for others that read it at any time: they find the old text or the new one.

    `written`: as old as it is to look, in ns since the epoch.
    """
    temporary = path.with_name(f".{path.name}.new")
    private(temporary, text)
    if written is not None:
        os.utime(temporary, ns=(written, written))
    temporary.rename(path)
