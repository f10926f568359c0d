"""Hold a share of cloud calls: the threshold is a quantile of the scores seen lately, so that it means something."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

WINDOW = 1000
"""Scores remembered; older traffic is forgotten."""
HORIZON = 50
"""Calls over which the quantile makes up for calls that were too many or too few so far."""


class ShareTracker:
    """Sends the highest scores to the cloud so that `share` of the calls go there. Pure: no clock, no chance."""

    def __init__(self, share: float, window: int = WINDOW) -> None:
        """Take the target share, 0 to 1.

        Raises:
            ValueError: the share is outside 0 to 1, or the window is empty.
        """
        if not 0.0 <= share <= 1.0 or window < 1:
            raise ValueError(f"share must lie between 0 and 1 and the window must hold a score: {share}, {window}")
        self.share = share
        self._order: deque[float] = deque()
        self._sorted: list[float] = []
        self._window = window
        self._sent: deque[bool] = deque()
        self._cloud = 0

    @property
    def realised(self) -> float:
        """Share of the remembered calls that went to the cloud; the target before the first."""
        return self._cloud / len(self._sent) if self._sent else self.share

    def threshold(self) -> float:
        """Score from which a call goes to the cloud now."""
        if not self._sorted:
            return 0.0
        missing = self.share * len(self._sent) - self._cloud
        wanted = min(max(self.share + missing / HORIZON, 0.0), 1.0)
        place = len(self._sorted) - wanted * len(self._sorted)
        return self._sorted[min(int(place), len(self._sorted) - 1)]

    def decide(self, score: float) -> bool:
        """Say whether this call goes to the cloud, and remember it; equal scores are shared out."""
        level = self.threshold()
        tie = score == level and self.realised <= self.share
        chosen = self.share > 0.0 and (self.share >= 1.0 or score > level or tie)
        self._remember(score, chosen)
        return chosen

    def _remember(self, score: float, chosen: bool) -> None:
        self._order.append(score)
        insort(self._sorted, score)
        self._sent.append(chosen)
        self._cloud += chosen
        if len(self._order) > self._window:
            self._sorted.pop(bisect_left(self._sorted, self._order.popleft()))
            self._cloud -= self._sent.popleft()
