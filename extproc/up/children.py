"""Child processes that stay up: started, watched, restarted with a growing pause, stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from pathlib import Path

from extproc.up.errors import StartError

_log = logging.getLogger("extproc.up")
ENVOY, STORE = "envoy", "store"
"""Names of the programs that end first and last."""
FIRST_PAUSE, LAST_PAUSE, STEADY = 0.1, 5.0, 10.0
FAILING = 4
"""A program that was started again so often while all others still start will not come up."""


class Child:
    """One program kept running. Its output goes to the file `log`, or to ours when it is None."""

    def __init__(self, name: str, argv: list[str], log: Path | None, env: dict[str, str] | None = None) -> None:
        self.name, self._argv, self.log, self._env = name, argv, log, env
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = False
        self.restarts = 0

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
        if self.log is None or not self.log.is_file():
            return ""
        lines = self.log.read_text("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    async def start(self) -> None:
        """Start it and keep it running. Raises OSError when the program cannot be started at all."""
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep())

    async def _spawn(self) -> None:
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(self.log.open("ab")) if self.log else None
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
            pause = FIRST_PAUSE if time.monotonic() - born > STEADY else min(pause * 2, LAST_PAUSE)
            where = f"; see {self.log}" if self.log else ""
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


class Children:
    """All programs of a gateway. Their output goes to files in the folder `logs`, or to ours when it is None."""

    def __init__(self, logs: Path | None) -> None:
        self._logs = logs
        self._all: list[Child] = []

    async def start(self, name: str, argv: list[str], env: dict[str, str] | None = None) -> Child:
        """Start a program and keep it running. Raises StartError when it cannot be started at all."""
        child = Child(name, argv, None if self._logs is None else self._logs / f"{name}.log", env)
        try:
            await child.start()
        except OSError as error:
            raise StartError(f"{name} cannot be started: {argv[0]}: {error.strerror}") from error
        self._all.append(child)
        return child

    def states(self) -> dict[str, str]:
        """What each is: up, or restarting."""
        return {child.name: "up" if child.pid else "restarting" for child in self._all}

    def restarts(self) -> dict[str, int]:
        """How often each was started again."""
        return {child.name: child.restarts for child in self._all}

    def failing(self) -> list[Child]:
        """Those that ended again and again."""
        return [child for child in self._all if child.failing]

    async def stop(self) -> None:
        """End all: Envoy first, so that no client is accepted; the store, which the others need, last."""
        for group in (
            [child for child in self._all if child.name == ENVOY],
            [child for child in self._all if child.name not in (ENVOY, STORE)],
            [child for child in self._all if child.name == STORE],
        ):
            await asyncio.gather(*[child.stop() for child in group])
