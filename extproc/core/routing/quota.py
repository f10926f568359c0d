"""Hold a share that may move: the threshold is a quantile of what was seen lately, whatever the order it comes in."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

WINDOW = 1000
"""Gaps remembered."""
HORIZON = 50
"""Requests over which the quantile makes up for what was too much or too little."""
SLACK = 6
"""Requests by which the share may be missed; then the next one is decided by that alone. At a steady share the realised
one is thus within two points from the 350th request on, even where the gaps only ever rise or fall."""
DEBT = 200
"""The most requests that others may have sent (sessions that stay) for which the share is made up later."""


class Quota:
    """Chooses the requests with the greatest gap so that `target` of them are chosen. Pure: no clock, no chance."""

    def __init__(self, window: int = WINDOW) -> None:
        self._window = window
        self._order: deque[int] = deque()
        self._sorted: list[int] = []
        self._credit = 0.0  # requests that the share still allows; below 0: too many were chosen

    def level(self, target: float) -> int:
        """The gap a request has to exceed now; 0 before anything was seen."""
        if not self._sorted:
            return 0
        wanted = min(max(target + self._credit / HORIZON, 0.0), 1.0)
        place = int(len(self._sorted) * (1.0 - wanted))
        return self._sorted[min(place, len(self._sorted) - 1)]

    def decide(self, gap: int, target: float) -> tuple[bool, int]:
        """Decide a request and remember it; returns the level that it was held against besides. Equal gaps are
        shared out."""
        level, credit = self.level(target), self._credit + target
        if target <= 0.0 or target >= 1.0:
            chosen = target >= 1.0
        elif abs(credit) > SLACK:
            chosen = credit > 0
        else:
            chosen = gap > level or (gap == level and credit >= 0.5)
        self.note(gap, target, chosen=chosen)
        return chosen, level

    def note(self, gap: int | None, target: float, *, chosen: bool) -> None:
        """Remember a request that was decided, here or elsewhere; `gap` None: it was not weighed."""
        # A surplus may not pile up while everything goes: it would be spent at once when the share falls.
        self._credit = min(max(self._credit + target - chosen, -DEBT), SLACK + 1)
        if gap is None:
            return
        self._order.append(gap)
        insort(self._sorted, gap)
        if len(self._order) > self._window:
            self._sorted.pop(bisect_left(self._sorted, self._order.popleft()))
