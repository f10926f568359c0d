"""Child processes that stay up: started, watched, restarted with a growing pause, stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

_log = logging.getLogger("extproc.up")
FIRST_PAUSE, LAST_PAUSE, STEADY = 0.1, 5.0, 10.0
FAILING = 4
"""A program that was started again so often while all others still start will not come up."""


class Child:
    """One program kept running. Its output goes to a log file, or to ours when `log` is None."""

    def __init__(self, name: str, argv: list[str], log: Path | None, env: dict[str, str] | None = None,
                 on_exit: Callable[[int], None] | None = None) -> None:
        self.name, self._argv, self._log, self._env = name, argv, log, env
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = False
        self.restarts = 0
        self._on_exit = on_exit

    @property
    def pid(self) -> int | None:
        """The running process, None between two lives."""
        return self._process.pid if self._process and self._process.returncode is None else None

    @property
    def failing(self) -> bool:
        """Whether it ended again and again."""
        return self.restarts >= FAILING

    def last_words(self) -> str:
        """The last line that it wrote into its log; "" where there is none."""
        if self._log is None or not self._log.is_file():
            return ""
        lines = self._log.read_text("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    async def start(self) -> None:
        """Start it and keep it running. Raises OSError when the program cannot be started at all."""
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep())

    async def _spawn(self) -> None:
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(self._log.open("ab")) if self._log else None
            # Its own session: Ctrl-C reaches us alone and we stop the children in order.
            self._process = await asyncio.create_subprocess_exec(
                *self._argv, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out,
                env={**os.environ, **(self._env or {})}, start_new_session=True)

    async def _keep(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopping:
            assert self._process is not None
            born = time.monotonic()
            code = await self._process.wait()
            if self._stopping:
                return
            if self._on_exit is not None:
                self._on_exit(code)
            pause = FIRST_PAUSE if time.monotonic() - born > STEADY else min(pause * 2, LAST_PAUSE)
            where = f"; see {self._log}" if self._log else ""
            _log.warning("%s ended with code %s; starting it again in %.1f s%s", self.name, code, pause, where)
            await asyncio.sleep(pause)
            if not self._stopping:
                self.restarts += 1
                await self._spawn()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if it runs."""
        if self.pid is not None:
            os.kill(self.pid, number)

    async def stop(self, grace: float = 6.0) -> None:
        """Ask it to end; after `grace` seconds make it."""
        self._stopping = True
        if self._process is not None and self._process.returncode is None:
            self.signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), grace)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
