"""How many requests each backend works on, over all workers.

A worker reports its own gauges once per window into a shared bucket of that window, where they add up; it reads the
last whole window of all. A worker that dies stops reporting, so what it had under way is forgotten after two windows:
nothing has to be balanced. Between reports workers do not see each other's new requests, so that for up to two windows
a backend may get up to its capacity from each of them, and a place that was left looks taken.
"""

from __future__ import annotations

from collections.abc import Mapping

WINDOW_MS = 2_000
KEEP_MS = 10_000
KEPT_MS = 2 * WINDOW_MS + 1_000
"""How long others may count a request that is over: two windows, and until they read again."""


class Busy:
    """One per worker; pure. Gauges by backend name."""

    def __init__(self) -> None:
        self._own: dict[str, int] = {}
        self._reported: dict[int, dict[str, int]] = {}
        self._others: dict[str, int] = {}

    def begin(self, name: str) -> None:
        """An attempt is at this backend from now on."""
        self._own[name] = self._own.get(name, 0) + 1

    def end(self, name: str) -> None:
        """It is over."""
        left = self._own.get(name, 0) - 1
        if left > 0:
            self._own[name] = left
        else:
            self._own.pop(name, None)

    def report(self, now: int) -> tuple[int, dict[str, int]] | None:
        """The window's number and what to add to it; None when this worker reported in it. Call it each second."""
        window = now // WINDOW_MS
        if window in self._reported:
            return None
        self._reported = {w: told for w, told in self._reported.items() if w == window - 1} | {window: dict(self._own)}
        return window, self._reported[window]

    def wanted(self, now: int) -> int:
        """The window to read: the last whole one."""
        return now // WINDOW_MS - 1

    def load(self, window: int, counts: Mapping[str, int]) -> None:
        """Take what all workers reported in a window; this worker's own part of it is replaced by what it has now."""
        own = self._reported.get(window, {})
        self._others = {name: more for name, count in counts.items() if (more := count - own.get(name, 0)) > 0}

    def total(self) -> dict[str, int]:
        """Requests under way by backend name, of all workers."""
        return {name: self._own.get(name, 0) + self._others.get(name, 0) for name in self._own.keys() | self._others}
