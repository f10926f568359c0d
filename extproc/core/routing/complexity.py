"""What a stronger backend is likely to add for a request: the text model's reading of the last human ask."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from extproc.core.routing.signals import Signals
from extproc.textmodel import Prior, Reading, load
from extproc.textmodel.model import CLOUD_PRIOR, LOCAL_PRIOR

_SCALE = 4.0
"""A score of 0.5 is an expected gain of one success in eight."""
_UNREAD = 0.75


class Complexity(msgspec.Struct, frozen=True):
    """0 (a local model does as well) to 1, the kind of task, and the words and facts that made it.

    Chances are those of a local and of a cloud backend, by the shipped priors. `reading`: the model's own, where the
    text was read here; else these are all that is known, as the ledger keeps them.
    """

    score: float
    why: str
    task: str = ""
    p_local: float | None = None
    p_cloud: float | None = None
    reading: Reading | None = None

    def chance(self, prior: Prior, *, cloud: bool) -> float:
        """How likely a backend with this prior does it well, 0 to 1."""
        if self.reading is not None:
            return self.reading.chance(prior, cloud=cloud)
        known, shipped = (self.p_cloud, CLOUD_PRIOR) if cloud else (self.p_local, LOCAL_PRIOR)
        if known is not None:
            return min(max(known + self.more(prior, shipped), 0.0), 1.0)
        return _UNREAD + self.score / _SCALE if cloud else _UNREAD

    def more(self, prior: Prior, shipped: Prior) -> float:
        """How much likelier a success is with this prior than with the shipped one, where the text is all of its main
        task: of the others nothing was kept."""
        return getattr(prior, self.task, 0.0) - getattr(shipped, self.task, 0.0)


Scorer = Callable[[Signals], Complexity]


def score(signals: Signals) -> Complexity:
    """Score the last human ask. It promises a sensible order, not a forecast of who solves the task."""
    reading = load().read(signals.ask)
    return Complexity(round(min(max(reading.gain * _SCALE, 0.0), 1.0), 2), ", ".join(reading.why), reading.task,
                      reading.p_local, reading.p_cloud, reading)
