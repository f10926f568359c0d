"""`extproc up` and `extproc serve`: workers, and on one machine also Envoy, the store and the demo backends."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from extproc.config import read
from extproc.up import admin, discovery, ports, ready, served
from extproc.up.children import Children
from extproc.up.effective import Effective
from extproc.up.errors import StartError
from extproc.up.explanations import Explanations
from extproc.up.folders import Folders
from extproc.up.reload import Reload
from extproc.up.store import Store, embedded_store, given_store
from extproc.up.workers import Workers

if TYPE_CHECKING:
    from extproc.up.data_plane import DataPlane

_log = logging.getLogger("extproc.up")
ADMIN_TRIES = 5
"""Addresses that are tried for the admin service where none was configured."""


class Options(msgspec.Struct, frozen=True):
    """What the command line asked for."""

    config: Path | None = None
    local_model: Path | None = None
    state: Path = Path(".extproc")
    sockets: Path | None = None
    with_envoy: bool = True


class Gateway:
    """Everything that runs; `start`, then `stop`, which also ends what a start left when it failed."""

    folders: Folders
    effective: Effective
    store: Store
    workers: Workers

    def __init__(self, options: Options) -> None:
        self._options = options
        self._ending = AsyncExitStack()
        self._data_plane: DataPlane | None = None
        self._demo_ports: list[int] = []
        self.listen = self.admin = self.admin_grpc = self.envoy_admin = ""

    async def start(self) -> None:
        """Bring everything up; raises StartError or ConfigError with one line per problem."""
        self.folders = Folders(self._options.state, self._options.sockets)
        self._ending.callback(self.folders.close)
        self._children = Children(self.folders.logs if self._options.with_envoy else None)
        self._ending.push_async_callback(self._children.stop)
        self.effective = await self._configuration()
        await self.effective.write()
        self._choose_addresses()
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(self.folders.metrics)
        os.environ.setdefault("EXTPROC_LISTEN", self.listen)  # where shadows are sent to
        self.store = await self._open_store()
        self.workers = Workers(self.effective.config, self.folders.sockets)
        await self.workers.start(self._children, self.effective, self.store, self._options.state)
        if self._options.with_envoy:
            await self._start_envoy()
        await self._serve_admin()
        await self._serve_admin_grpc()
        await self._ready()
        self._watch()

    async def stop(self) -> None:
        """End everything: what was started last first, but of the programs Envoy first and the store last."""
        await self._ending.aclose()

    async def watch_store(self) -> None:
        """Ask a store that was away at the start until it answers. Raises StartError: money cannot rest on it."""
        await self.store.watch(lambda: self.effective.config)

    # ------------------------------------------------------------------------------------ start

    async def _configuration(self) -> Effective:
        """The configuration of the command line, or one for what this machine offers."""
        path = self._options.config
        if path is not None:
            return Effective(self.folders.run, read(path), str(path), path.parent, path.stat().st_mtime_ns)
        found = discovery.configuration(await self._discover())
        return Effective(self.folders.run, found, "(found)", Path(), time.time_ns())

    async def _discover(self) -> list[discovery.Found]:
        found = discovery.clouds(os.environ)
        if self._options.local_model is not None:
            found.append(await served.model(self._children, self._options.local_model))
        else:
            found += await discovery.local_servers()
        if not found:
            found = await served.demo(self._children, self._options.state.resolve() / "models")
            self._demo_ports = [port for f in found if (port := urlsplit(f.base_url).port)]
        return found

    def _choose_addresses(self) -> None:
        config = self.effective.config
        given = config.model_fields_set
        self.listen, self.envoy_admin = config.listen, config.envoy_admin
        here = self._options.with_envoy  # elsewhere Envoy owns its addresses, and may already use them
        if here:
            self.listen = ports.claim(config.listen, "listen" in given)
        self.admin = ports.claim(config.admin, "admin" in given, (self.listen,))
        if here:
            self.envoy_admin = ports.claim(config.envoy_admin, "envoy_admin" in given, (self.listen, self.admin))

    async def _open_store(self) -> Store:
        configured = os.environ.get("REDIS_URL") or self.effective.config.redis
        if configured == "embedded":
            return await embedded_store(self.folders, self._children)
        store = given_store(configured, self.folders)
        await store.check(self.effective.config)
        return store

    async def _start_envoy(self) -> None:
        from extproc.up.data_plane import DataPlane  # Envoy is not part of every installation

        self._data_plane = DataPlane(self.folders.run, self.workers.sockets, self.listen, self.envoy_admin)
        await self._data_plane.start(self._children, self.effective.compile())

    async def _serve_admin(self) -> None:
        """Listen at the admin address; a default one that somebody took meanwhile is given up for the next."""
        explanations = Explanations(self.store.url)
        self._ending.push_async_callback(explanations.close)
        application = admin.application(self._health, self._backends, explanations.get)
        config = self.effective.config
        explicit, taken = "admin" in config.model_fields_set, (self.listen, self.envoy_admin)
        for left in range(ADMIN_TRIES - 1, -1, -1):
            host, _, port = self.admin.rpartition(":")
            try:
                runner = await admin.serve(application, host.strip("[]"), int(port))
            except OSError as error:
                if explicit or not left:
                    raise StartError(f"the admin address {self.admin} cannot be used: {error.strerror}") from error
                self.admin = ports.claim(config.admin, False, (*taken, self.admin))
            else:
                self._ending.push_async_callback(runner.cleanup)
                return

    async def _serve_admin_grpc(self) -> None:
        from extproc.admin_rpc.server import AdminServer  # by now the workers are starting as well

        config = self.effective.config
        self.admin_grpc = ports.claim(config.admin_grpc, "admin_grpc" in config.model_fields_set,
                                      (self.listen, self.admin, self.envoy_admin))
        server = AdminServer(self.store.url, lambda: self.effective.config)
        self._ending.push_async_callback(server.stop)
        try:
            await server.start(self.admin_grpc)
        except OSError as error:
            raise StartError(f"the admin_grpc address {self.admin_grpc} cannot be used: {error.strerror}") from error

    async def _ready(self) -> None:
        ours = self._data_plane is not None
        awaited = ready.Awaited(self.workers.sockets, self._demo_ports, self.listen if ours else "",
                                self.envoy_admin if ours else "")
        if not await ready.wait(awaited, lambda: bool(self._children.failing())):
            why = "; ".join(f"{child.name} does not stay up ({child.last_words() or 'it says nothing'})"
                            for child in self._children.failing())
            raise StartError(f"{why or f'not ready after {ready.TIMEOUT:.0f} s'}; see the logs in {self.folders.logs}")

    def _watch(self) -> None:
        reload = Reload(self.effective, self.workers, self._data_plane)
        watches = [reload.watch_locals()]
        if self._options.config is not None:
            watches.append(reload.watch_file(self._options.config))
        for watch in watches:
            task = asyncio.create_task(watch)
            task.add_done_callback(_tell_failure)
            self._ending.callback(task.cancel)

    # ------------------------------------------------------------------------------------ what the admin address tells

    def _health(self) -> dict[str, object]:
        good = self.workers.any_up and (self._data_plane is None or self._data_plane.up)
        return {"status": "ok" if good else "degraded", "children": self._children.states(),
                "restarts": self._children.restarts()}

    def _backends(self) -> dict[str, object]:
        config = self.effective.config
        backends = {
            name: {"dialect": self.effective.dialects[name], "base_url": b.base_url, "location": b.location,
                   "note": b.note}
            for name, b in config.backends.items()}
        return {"backends": backends, "chains": config.chains}


def _tell_failure(watch: asyncio.Task[None]) -> None:
    """A watch that fails is a bug or a full disk: the gateway serves on, and says that it takes no changes any more."""
    if not watch.cancelled() and (error := watch.exception()) is not None:
        _log.error("changes are not taken any more, start the gateway anew", exc_info=error)
