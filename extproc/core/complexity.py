"""What a stronger backend is likely to add for a request: the text model's reading of the last human ask."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from extproc.core.signals import Signals
from extproc.textmodel import ShareTracker, load

_SCALE = 4.0
"""A score of 0.5 is an expected gain of one success in eight."""


class Complexity(msgspec.Struct, frozen=True):
    """0 (a local model does as well) to 1, the kind of task, and the words and facts that made it."""

    score: float
    why: str
    task: str = ""
    above: bool | None = None
    """Whether it is among the share that goes to the stronger chain; None: a threshold decides."""


Scorer = Callable[[Signals], Complexity]


def score(signals: Signals) -> Complexity:
    """Score the last human ask. It promises a sensible order, not a forecast of who solves the task."""
    reading = load().read(signals.ask)
    return Complexity(round(min(max(reading.gain * _SCALE, 0.0), 1.0), 2), ", ".join(reading.why), reading.task)


class Shared:
    """A scorer that holds a share: its threshold is a quantile of what this worker has seen lately."""

    def __init__(self, share: float) -> None:
        self.share = share
        self._tracker = ShareTracker(share)

    def __call__(self, signals: Signals) -> Complexity:
        """Score, and say whether the request is among the share. Token counts are answered, not counted."""
        rated = score(signals)
        if signals.task == "count":
            return rated
        return msgspec.structs.replace(rated, above=self._tracker.decide(rated.score))
