"""What a stronger backend is likely to add for a request: the text model's reading of the last human ask."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from extproc.core.signals import Signals
from extproc.textmodel import load

_SCALE = 4.0
"""A score of 0.5 is an expected gain of one success in eight."""


class Complexity(msgspec.Struct, frozen=True):
    """0 (a local model does as well) to 1, the kind of task, and the words and facts that made it."""

    score: float
    why: str
    task: str = ""


Scorer = Callable[[Signals], Complexity]


def score(signals: Signals) -> Complexity:
    """Score the last human ask. It promises a sensible order, not a forecast of who solves the task."""
    reading = load().read(signals.ask)
    return Complexity(round(min(max(reading.gain * _SCALE, 0.0), 1.0), 2), ", ".join(reading.why), reading.task)
