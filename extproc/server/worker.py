"""One worker process: the transport on its socket, the stages, the ledger; reloads its configuration on SIGHUP."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from extproc import textmodel
from extproc.config import ConfigError, changed_at, load
from extproc.ledger.key_cache import KeyCache
from extproc.ledger.keys import KeyStore
from extproc.ledger.redis_treasury import RedisTreasury
from extproc.ledger.spool import Spool
from extproc.prices import catalogue
from extproc.runtime import Detected, Runtime
from extproc.server.board import Board
from extproc.server.count import workers
from extproc.server.mirrors import Mirrors
from extproc.server.performer import Performer, Runtimes, tell_crossed
from extproc.server.stores import at
from extproc.server.stream import opener
from extproc.server.transport_grpc import GrpcTransport
from extproc.server.treasurer import Treasurer
from extproc.telemetry.tracing import Tracing
from extproc.up.detected import read

_log = logging.getLogger("extproc")
GRACE = 5.0
MAY_LOSE_MS = 10_000
"""Records that a fail-over may lose without that the store counts as gone back."""


def compile_runtime(path: Path, folder: Path | None = None, detected: Mapping[str, Detected] | None = None) -> Runtime:
    """Load and compile a configuration with today's prices; `file:` secrets are relative to `folder`, `detected` is
    what local servers said of themselves.

    Raises:
        ConfigError: with one line per finding.
    """
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    return Runtime(load(path, folder=folder), lambda provider, model: catalogue(provider, model, day), detected)


async def run(config: Path, address: str, redis_url: str, folder: Path, seen: Path | None = None,
              spooled: Path | None = None, store: str = "") -> None:
    """Serve until SIGTERM or SIGINT. `seen`: the file that remembers what the store had; `spooled`: the folder of
    settlements that it did not take, under its name `store`."""
    runtime = compile_runtime(config, folder, read(config))
    runtimes = Runtimes(runtime)
    telemetry = runtime.config.telemetry
    tracing = Tracing(telemetry.otlp_endpoint, telemetry.service_name)
    ledger = RedisTreasury(redis_url, wait=runtime.config.money.wait, on_crossed=tell_crossed)
    money = runtime.config.money
    may_lose = MAY_LOSE_MS if money.wait != 0 or redis_url.startswith(("redis+cluster:", "rediss+cluster:")) else 0
    treasurer = Treasurer(ledger, runtime, changed_at(config), seen, may_lose)
    spool = None if spooled is None else Spool(spooled, store, money.spool_limit)
    board = Board(runtime, at(ledger.door, runtime.config.explain.per_second), workers(runtime.config.workers))
    mirrors = Mirrors(os.environ.get("EXTPROC_LISTEN", runtime.config.listen), runtime.config.failover.answer_timeout)
    performer = Performer(runtimes, ledger, tracing, treasurer, KeyCache(KeyStore(ledger.door)), board, mirrors,
                          spool)
    delivery = performer.cashier.delivery
    if spool is not None:
        await delivery.inherit(spool)
    transport = GrpcTransport(opener(performer), address, runtime.config.max_body + (1 << 20), board.broke)
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _reload, runtimes, treasurer, config, folder)
    await transport.start()
    tasks = [asyncio.create_task(work) for work in (performer.run_watch(), board.run(), delivery.run())]
    for task in tasks:
        task.add_done_callback(lambda task: _watch_ended(task, stop))
    textmodel.load()  # before traffic: reading its weights takes a tenth of a second
    gc.collect()
    gc.freeze()  # what is loaded stays: the collector need not look at it again
    print("ready", flush=True)
    await stop.wait()
    delivery.hurry()
    await transport.stop(GRACE)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await mirrors.close()
    await ledger.close()
    treasurer.remember(now=True)
    delivery.close()
    tracing.shutdown()


def _watch_ended(task: asyncio.Task[None], stop: asyncio.Event) -> None:
    """Without its watch a worker would hold silent streams and dead leases for ever, without its board it would not
    know of the others: it ends and is started anew."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.critical("the watch of this worker failed; the worker ends", exc_info=error)
        stop.set()


def _reload(runtimes: Runtimes, treasurer: Treasurer, config: Path, folder: Path) -> None:
    """Swap the runtime whole; a bad file is refused and the old one stays."""
    try:
        runtimes.swap(compile_runtime(config, folder, read(config)))
    except ConfigError as error:
        _log.error("the new configuration is refused, the old one stays: %s", error)
        return
    treasurer.swap(runtimes.current, changed_at(config))
    _log.info("configuration %s in force", runtimes.current.generation)


def main() -> None:
    """`python -m extproc.server.worker CONFIG ADDRESS FOLDER SEEN SPOOL STORE`, as the supervisor does.

    The store's address is in EXTPROC_REDIS_URL: it may have a password, and command lines are not secret.
    """
    # The canonical line needs none of what the logging module gathers for each record.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    config, address, folder, seen, spool, store = sys.argv[1:7]
    spooled = Path(spool) if spool else None
    uvloop.run(run(Path(config), address, os.environ["EXTPROC_REDIS_URL"], Path(folder), Path(seen), spooled, store))


if __name__ == "__main__":
    main()
