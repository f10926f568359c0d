"""The worker processes: how each is started, and where it listens."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from extproc.config import GatewayConfig
from extproc.server.count import workers
from extproc.up.children import Child, Children
from extproc.up.effective import Effective
from extproc.up.store import URL, Store


class Workers:
    """`sockets` are those of all, in order."""

    def __init__(self, config: GatewayConfig, folder: Path) -> None:
        """`folder`: where they listen."""
        self.sockets = tuple(str(folder / f"worker-{i}.sock") for i in range(workers(config.workers)))
        self._running: list[Child] = []

    async def start(self, children: Children, effective: Effective, store: Store, state: Path) -> None:
        """Start them all; `state`: where settlements wait that the store did not take. Raises StartError."""
        spool = store.spool(effective.config.money.spool_folder(effective.folder, state))
        for index, socket in enumerate(self.sockets):
            Path(socket).unlink(missing_ok=True)  # noqa: ASYNC240
            self._running.append(await children.start(f"worker-{index}", [
                sys.executable, "-m", "extproc.server.worker", str(effective.path), f"unix:{socket}",
                str(effective.folder.resolve()), str(store.tables), spool, store.name], {URL: store.url}))

    def reload(self) -> None:
        """Let them read their files again."""
        for worker in self._running:
            worker.signal(signal.SIGHUP)

    @property
    def any_up(self) -> bool:
        """Whether one at least runs."""
        return any(worker.pid for worker in self._running)
