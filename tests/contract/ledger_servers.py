"""Servers for the ledger suite: single ones on a temporary unix socket, a cluster on loopback ports; all are children
of the test run."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from extproc.ledger import embedded
from extproc.ledger.base import LedgerUnavailable
from extproc.ledger.link import Link
from tests.free_ports import free_cluster_port

SURE = ("--appendfsync", "always")
"""For tests that kill a server and miss nothing: with `everysec` a busy disk makes it hold back what it confirmed."""
_UNPACKED = str(Path(__file__).parents[2] / ".redis")
"""Where `make test` unpacks Debian's Redis."""


def binary(kind: str) -> str | None:
    """Return the server binary of that kind, or None when this machine has none."""
    if kind == "redis":
        return next(filter(None, (shutil.which("redis-server", path=place) for place in (None, "/usr/bin", _UNPACKED))), None)
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


class Node:
    """One process of a cluster."""

    def __init__(self, folder: Path, kind: str = "valkey") -> None:
        self.port = free_cluster_port()
        self.folder = folder / str(self.port)
        self.folder.mkdir()
        self.id = ""
        self._process: subprocess.Popen[bytes] | None = None
        settings = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.folder),
            "cluster-enabled": "yes",
            "cluster-node-timeout": "1500",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "repl-diskless-sync-delay": "0",
            "loglevel": "warning",
        }
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        self._command = [str(binary(kind)), *words]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def call(self, *words: Any) -> Any:
        """Send one command over a connection of its own."""
        link = Link(f"redis://127.0.0.1:{self.port}", connect_timeout=2, call_timeout=5)
        try:
            return await link.call(words)
        finally:
            await link.close()


class Cluster:
    """Three primaries with a replica each, joined by hand: the wheel brings no command-line client."""

    def __init__(self, primaries: int = 3) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cluster-"))
        self.nodes: list[Node] = []
        try:
            while len(self.nodes) < 2 * primaries:
                self.nodes.append(Node(self.folder))
            self.primaries, self.replicas = self.nodes[:primaries], self.nodes[primaries:]
            self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.primaries)
            asyncio.run(self._form())
        except BaseException:
            self.remove()  # nobody else will: there is no cluster to end
            raise

    async def _form(self) -> None:
        for node in self.nodes:
            await embedded.wait_ready(f"redis://127.0.0.1:{node.port}", 10)
            node.id = (await node.call("CLUSTER", "MYID")).decode()
        slots = [round(16384 * i / len(self.primaries)) for i in range(len(self.primaries) + 1)]
        for index, node in enumerate(self.primaries):
            await node.call("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
            await node.call("CLUSTER", "ADDSLOTSRANGE", slots[index], slots[index + 1] - 1)
        for node in self.nodes[1:]:
            await self.nodes[0].call("CLUSTER", "MEET", "127.0.0.1", node.port)
        await self.until(self._all_know_all)
        for primary, replica in zip(self.primaries, self.replicas, strict=False):  # some clusters have no replicas
            await replica.call("CLUSTER", "REPLICATE", primary.id)
        await self.until(self.healthy)

    async def _all_know_all(self) -> bool:
        infos = [await node.call("CLUSTER", "INFO") for node in self.nodes]
        return all(f"cluster_known_nodes:{len(self.nodes)}".encode() in info for info in infos)

    async def healthy(self) -> bool:
        """Whether every node says that all slots are served, and every primary has its copy, whoever that is by now."""
        infos = [await node.call("CLUSTER", "INFO") for node in self.nodes]
        copies = [await node.call("INFO", "replication") for node in self.nodes]
        return (all(b"cluster_state:ok" in info for info in infos)
                and sum(b"master_link_status:up" in copy for copy in copies) == len(self.replicas))

    async def until(self, condition: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
        """Wait until the condition holds."""
        limit = time.monotonic() + seconds
        while True:
            try:
                if await condition():
                    return
            except LedgerUnavailable:
                pass
            assert time.monotonic() < limit, "the cluster did not get there in time"
            await asyncio.sleep(0.05)

    async def owner(self, slot: int) -> Node:
        """Return the node that serves a slot, as a living node sees it."""
        for node in self.nodes:
            try:
                ranges = await node.call("CLUSTER", "SLOTS")
            except LedgerUnavailable:
                continue
            for first, last, primary, *_ in ranges:
                if first <= slot <= last:
                    return next(known for known in self.nodes if known.port == primary[1])
        raise AssertionError(f"nobody serves slot {slot}")

    def remove(self) -> None:
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


Place = Server | Cluster
