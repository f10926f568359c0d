"""Linear models on sparse rows in plain numpy: logistic regression by L-BFGS, exact to its tolerance, no randomness.

Sums are numpy's own, not those of a BLAS, which differ with its number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
MEMORY = 8
"""Pairs of steps that L-BFGS remembers."""


class Sparse(NamedTuple):
    """Rows of a sparse matrix: the columns and values of row i lie between pointer[i] and pointer[i + 1]."""

    pointer: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    values: Vector
    width: int

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.pointer) - 1

    def dot(self, weights: Vector) -> Vector:
        """Multiply by a column."""
        products = np.append(self.values * weights[self.columns], 0.0)
        sums = np.add.reduceat(products, self.pointer[:-1])
        sums[self.pointer[:-1] == self.pointer[1:]] = 0.0
        return sums

    def back(self, errors: Vector) -> Vector:
        """Multiply the transpose by a column."""
        spread = np.repeat(errors, np.diff(self.pointer))
        return np.bincount(self.columns, weights=self.values * spread, minlength=self.width)

    def take(self, rows: npt.NDArray[np.intp]) -> Sparse:
        """Choose rows, in the given order."""
        sizes = self.pointer[rows + 1] - self.pointer[rows]
        pointer = np.concatenate(([0], np.cumsum(sizes)))
        offset = np.repeat(self.pointer[rows] - pointer[:-1], sizes) + np.arange(pointer[-1])
        return Sparse(pointer, self.columns[offset], self.values[offset], self.width)


def inner(first: Vector, second: Vector) -> float:
    """Multiply two columns."""
    return float(np.sum(first * second))


def minimise(slope: Callable[[Vector], tuple[float, Vector]], start: Vector, steps: int) -> Vector:
    """Walk down by L-BFGS with backtracking until the gradient is small or the steps are used up."""
    point = start
    value, gradient = slope(point)
    pairs: list[tuple[Vector, Vector, float]] = []
    for _ in range(steps):
        direction = _direction(gradient, pairs)
        length, fall = 1.0 if pairs else 1.0 / max(1.0, float(np.abs(gradient).sum())), inner(gradient, direction)
        while True:
            after = point + length * direction
            new_value, new_gradient = slope(after)
            if new_value <= value + 1e-4 * length * fall or length < 1e-10:
                break
            length /= 2
        moved, turned = after - point, new_gradient - gradient
        if (curve := inner(moved, turned)) > 1e-12:
            pairs = [*pairs[1 - MEMORY :], (moved, turned, 1.0 / curve)]
        small = value - new_value < 1e-7 * max(1.0, abs(value))
        point, value, gradient = after, new_value, new_gradient
        if small:
            break
    return point


def _direction(gradient: Vector, pairs: list[tuple[Vector, Vector, float]]) -> Vector:
    direction, shares = -gradient, []
    for moved, turned, inverse in reversed(pairs):
        share = inverse * inner(moved, direction)
        shares.append(share)
        direction = direction - share * turned
    if pairs:
        moved, turned, inverse = pairs[-1]
        direction = direction / (inverse * inner(turned, turned))
    for (moved, turned, inverse), share in zip(pairs, reversed(shares), strict=True):
        direction = direction + moved * (share - inverse * inner(turned, direction))
    return direction


def sigmoid(logits: Vector) -> Vector:
    """Turn logits into probabilities without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))


def logistic(
    rows: Sparse,
    target: Vector,
    penalty: float,
    weight: Vector | None = None,
    offset: Vector | None = None,
    free: int = 1,
    steps: int = 150,
) -> Vector:
    """Fit P(target) with an L2 penalty on all but the last `free` columns; targets may lie between 0 and 1."""
    share = np.ones(len(rows)) if weight is None else weight
    base = np.zeros(len(rows)) if offset is None else offset
    strength = np.full(rows.width, penalty)
    strength[rows.width - free :] = 1e-6

    def slope(weights: Vector) -> tuple[float, Vector]:
        logits = rows.dot(weights) + base
        loss = inner(share, np.logaddexp(0.0, logits) - target * logits) + 0.5 * inner(strength, weights**2)
        return loss, rows.back(share * (sigmoid(logits) - target)) + strength * weights

    return minimise(slope, np.zeros(rows.width), steps)


def softmax_regression(
    rows: Sparse, target: npt.NDArray[np.intp], classes: int, penalty: float, weight: Vector, steps: int = 120
) -> Vector:
    """Fit P(class) for all classes at once; one column of weights per class."""
    strength = np.full((rows.width, 1), penalty)
    strength[-1] = 1e-6
    wanted = np.eye(classes)[target]

    def slope(flat: Vector) -> tuple[float, Vector]:
        weights = flat.reshape(rows.width, classes)
        logits = np.stack([rows.dot(weights[:, k]) for k in range(classes)], axis=1)
        logits -= logits.max(axis=1, keepdims=True)
        total = np.log(np.exp(logits).sum(axis=1, keepdims=True))
        loss = inner(weight, total[:, 0] - (logits * wanted).sum(axis=1)) + 0.5 * float((strength * weights**2).sum())
        errors = weight[:, None] * (np.exp(logits - total) - wanted)
        gradient = np.stack([rows.back(errors[:, k]) for k in range(classes)], axis=1) + strength * weights
        return loss, gradient.ravel()

    return minimise(slope, np.zeros(rows.width * classes), steps).reshape(rows.width, classes)
