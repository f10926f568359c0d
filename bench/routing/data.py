"""Rows of the public sets as the model reads them, and where they come from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.routing.linear import Sparse, Vector
from extproc.textmodel import features

ROOT = Path(__file__).parents[2]
INTENTS = ROOT / "tests" / "data" / "intents" / "intents.jsonl"
PLACES = (ROOT / "tests" / "data" / "routing", ROOT.parent / "shared" / "data" / "routing")
WEIGHTS = (1.0, 0.7, 0.2, 1.4)
"""Of words, pairs, first and last words, n-grams: chosen by cross-validation inside MMLU and GSM8K training rows."""
TASK_WEIGHTS = (1.0, 0.7, 0.7, 1.4)
"""The same for the task heads, where the first and last words matter more."""


def find(path: Path | None = None) -> Path | None:
    """Return the folder with the routing labels: the given one, or the first known place that has them."""
    return next((p for p in ([path] if path else PLACES) if (p / "routellm_mmlu.jsonl").exists()), None)


def load(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def fact_scale(prompts: Sequence[str]) -> tuple[Vector, Vector]:
    """Mean and deviation of the counted facts."""
    facts = np.array([features.extract(p).facts for p in prompts], dtype=np.float64)
    return facts.mean(axis=0), facts.std(axis=0) + 1e-3


def matrix(prompts: Iterable[str], scale: tuple[Vector, Vector], weights: Sequence[float] = WEIGHTS) -> Sparse:
    """Hashed rows, scaled facts and a constant: what one linear head sees."""
    width, mean, deviation = 1 << features.BITS, *scale
    facts_at = width + np.arange(len(mean) + 1)
    columns: list[npt.NDArray[Any]] = []
    values: list[npt.NDArray[Any]] = []
    for prompt in prompts:
        seen = features.extract(prompt)
        sizes = np.diff(seen.marks)
        shares = np.repeat(np.array(weights) / np.sqrt(np.maximum(sizes, 1)), sizes)
        facts = np.clip((seen.facts - mean) / deviation, -4.0, 4.0) / np.sqrt(len(mean))
        columns.append(np.concatenate((seen.rows, facts_at)))
        values.append(np.concatenate((shares, facts, [1.0])))
    pointer = np.concatenate(([0], np.cumsum([len(c) for c in columns])))
    return Sparse(pointer, np.concatenate(columns).astype(np.int64), np.concatenate(values), width + len(facts_at))
