"""What a router is measured by, as RouteLLM defines it (github.com/lm-sys/RouteLLM, evals), and a few plain measures.
What a router is measured by, as RouteLLM defines it (github.com/lm-sys/RouteLLM, evals), and a few plain measures."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
QUANTILES = 10


class Gain(NamedTuple):
    """APGR: 0.5 is random, more than 1 is possible. CPT: per cent of calls that must go to the strong model."""

    apgr: float
    cpt50: float
    cpt80: float


def gain(score: Vector, weak: Vector, strong: Vector) -> Gain:
    """Send the highest scores to the strong model, at ten quantiles of the score; linear between them."""
    total = float(np.mean(strong) - np.mean(weak))
    shares, recovered = [0.0], [0.0]
    for edge in sorted(np.unique(np.quantile(score, np.linspace(0.0, 1.0, QUANTILES + 1))), reverse=True):
        chosen = score >= edge
        shares.append(float(np.mean(chosen)))
        recovered.append(float(np.mean(np.where(chosen, strong, weak)) - np.mean(weak)) / total)
    return Gain(
        float(np.trapezoid(recovered, shares)), _needed(shares, recovered, 0.5), _needed(shares, recovered, 0.8)
    )


def _needed(shares: list[float], recovered: list[float], level: float) -> float:
    for i in range(1, len(shares)):
        if recovered[i] >= level:
            low, high = recovered[i - 1], recovered[i]
            part = 1.0 if high == low else (level - low) / (high - low)
            return 100.0 * (shares[i - 1] + part * (shares[i] - shares[i - 1]))
    return 100.0


def auc(score: Vector, positive: npt.NDArray[np.bool_]) -> float:
    """Chance that a positive scores above a negative; ties count half."""
    values, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2.0
    ranks = middle[inverse]
    ones, zeros = int(np.sum(positive)), int(np.sum(~positive))
    del values
    return float((np.sum(ranks[positive]) - ones * (ones + 1) / 2.0) / (ones * zeros))


def calibration_error(probability: Vector, outcome: Vector, bins: int = 10) -> float:
    """Expected calibration error over bins of equal size."""
    order = np.argsort(probability, kind="stable")
    parts = [p for p in np.array_split(order, bins) if len(p)]
    return float(sum(len(p) * abs(np.mean(probability[p]) - np.mean(outcome[p])) for p in parts) / len(probability))


def macro_f1(truth: list[str], guess: list[str]) -> float:
    """Mean F1 over the classes that occur in the truth."""
    scores: list[float] = []
    for name in sorted(set(truth)):
        hit = sum(t == g == name for t, g in zip(truth, guess, strict=True))
        scores.append(2.0 * hit / (truth.count(name) + guess.count(name)))
    return sum(scores) / len(scores)
