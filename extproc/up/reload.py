"""Changes while the gateway runs: of its file, and of what local servers say of themselves."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from extproc.config import ConfigError, GatewayConfig
from extproc.up import recognize
from extproc.up.effective import Effective
from extproc.up.workers import Workers

if TYPE_CHECKING:
    from extproc.up.data_plane import DataPlane

_log = logging.getLogger("extproc.up")
POLL = 0.5
"""Seconds between two looks at the file."""
SETTLE = 2.0
"""Seconds between the workers' swap and the removal of clusters that only the old configuration used."""
_FIXED = ("listen", "admin", "admin_grpc", "envoy_admin", "workers", "redis", "max_body", "telemetry")
"""Settings that are read at start only."""


class Reload:
    """Brings a change to Envoy, where it is ours, and to the workers; one change at a time."""

    def __init__(self, effective: Effective, workers: Workers, data_plane: DataPlane | None) -> None:
        self._effective, self._workers, self._data_plane = effective, workers, data_plane
        self._swapping = asyncio.Lock()

    async def watch_file(self, path: Path) -> None:
        """Take a changed file, for ever."""
        seen: str | None = self._effective.text
        while True:
            await asyncio.sleep(POLL)
            try:
                text = await asyncio.to_thread(path.read_text, "utf-8")
            except OSError:
                continue  # being replaced; the next look finds it
            except UnicodeDecodeError:
                text = None
            if text == seen:
                continue
            seen = text
            if text is None:
                _refused(f"{path}: is not UTF-8 text")
            else:
                await self._swap(text)

    async def watch_locals(self) -> None:
        """Ask local servers that were not up yet what they speak, until all have told."""
        while True:
            await asyncio.sleep(recognize.ASK_AGAIN)
            if await self._effective.heard_more():
                await self._swap(self._effective.text)

    async def _swap(self, text: str) -> None:
        """Add the new clusters, swap the workers, then remove what only the old configuration used."""
        async with self._swapping:
            try:
                config = self._effective.parse(text)
            except ConfigError as error:
                _refused(str(error))
                return
            for what in _for_a_new_start(self._effective.config, config):
                _log.warning("%s takes effect when the gateway is started anew", what)
            await self._effective.take(text, config)
            if self._data_plane is not None:
                await self._data_plane.add(self._effective.compile())
            self._workers.reload()
            if self._data_plane is not None:
                await asyncio.sleep(SETTLE)
                self._data_plane.settle()
            _log.info("the changed configuration is in force")


def _refused(why: str) -> None:
    _log.error("the changed configuration is refused, the old one stays:\n%s", why)


def _for_a_new_start(old: GatewayConfig, new: GatewayConfig) -> list[str]:
    """What has changed that a running gateway does not take."""
    changed = [f"a changed {name}" for name in _FIXED if getattr(new, name) != getattr(old, name)]
    if (new.auth.jwt, new.auth.mode) != (old.auth.jwt, old.auth.mode):
        changed.append("how Envoy checks tokens (auth.jwt)")
    if (new.money.spool, new.money.spool_limit) != (old.money.spool, old.money.spool_limit):
        changed.append("a changed money.spool")
    return changed
