"""The linear fits behind the text model: right, and the same on any number of threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from bench.routing.linear import Sparse, inner, logistic, softmax_regression

ROOT = Path(__file__).parents[2]
FIT = """
import hashlib, numpy as np
from bench.routing.linear import Sparse, logistic
chance = np.random.default_rng(0)
width, count, size = 40_000, 300, 120
rows = Sparse(np.arange(count + 1) * size, chance.integers(0, width, count * size), chance.random(count * size), width)
print(hashlib.sha256(logistic(rows, (chance.random(count) > 0.5).astype(float), 0.3).tobytes()).hexdigest())
"""


def dense(rows: list[list[float]]) -> Sparse:
    """Turn a full matrix into sparse rows."""
    count, width = len(rows), len(rows[0])
    return Sparse(np.arange(count + 1) * width, np.tile(np.arange(width), count), np.array(rows).ravel(), width)


def test_the_last_bit_does_not_hang_on_threads() -> None:
    """One thread of a BLAS and four give the same weights, bit for bit."""
    found = {
        subprocess.run(
            [sys.executable, "-c", FIT],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env={**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads},
        ).stdout
        for threads in ("1", "4")
    }
    assert len(found) == 1


def test_inner_product() -> None:
    """Two columns are multiplied and summed."""
    assert inner(np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0])) == 32.0


def test_logistic_finds_the_odds() -> None:
    """With hardly a penalty the fit gives each kind of row the share of its targets."""
    rows, target = dense([[1.0, 1.0], [0.0, 1.0]] * 40), np.array([1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0] * 10)
    first, constant = logistic(rows, target, 1e-6)
    assert abs(1 / (1 + np.exp(-(first + constant))) - 0.75) < 1e-3
    assert abs(1 / (1 + np.exp(-constant)) - 0.25) < 1e-3


def test_softmax_tells_classes_apart() -> None:
    """Each class has the greatest logit on its own rows."""
    rows = dense([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0]] * 8)
    weights = softmax_regression(rows, np.array([0, 1, 2] * 8), 3, 0.1, np.ones(24))
    logits = np.stack([rows.dot(column) for column in weights.T], axis=1)
    assert logits.argmax(axis=1).tolist() == [0, 1, 2] * 8
