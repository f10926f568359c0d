"""Addresses that are free, and stay ours from the choice on: another gateway may start at the same moment."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from pathlib import Path
from typing import TextIO

from extproc.up.errors import StartError

TRIES = 200
_OWN = "127.0.0.1:10100"
"""From here on servers of ours are found a port."""
_held: list[TextIO] = []
"""Locks on the ports that this process has chosen; they end with it."""


def free(address: str, explicit: bool, chosen: tuple[str, ...], tries: int = TRIES) -> str | None:
    """The address itself, or for a default one the next free port that is not `chosen` already; None: there is none.

    `tries`: ports that are looked at from a default one on.
    """
    host, _, port = address.rpartition(":")
    for candidate in range(int(port), int(port) + (1 if explicit else tries)):
        if f"{host}:{candidate}" in chosen or not (explicit or _held_now(candidate)):
            continue
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host.strip("[]"), candidate))
            except OSError:
                continue
        return f"{host}:{candidate}"
    return None


def claim(address: str, explicit: bool, chosen: tuple[str, ...] = ()) -> str:
    """Such an address. Raises StartError: an explicit one is taken, or all are."""
    if (found := free(address, explicit, chosen)) is None:
        raise StartError(f"{address} is taken; set another address in the configuration")
    return found


def own() -> int:
    """A port for a server of ours that nobody else needs to know. Raises StartError."""
    return int(claim(_OWN, False).rpartition(":")[2])


def _held_now(port: int) -> bool:
    """Whether no other gateway of this user has chosen the port; from now on none will."""
    folder = Path(tempfile.gettempdir()) / f"extproc-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    lock = (folder / str(port)).open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return False
    _held.append(lock)
    return True
