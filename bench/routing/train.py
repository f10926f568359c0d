"""Train the shipped text model: `python -m bench.routing.train [--data DIR]`. Fixed seeds; a minute on one core."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import struct
import time
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.routing import data, phrases, sources
from bench.routing.linear import Sparse, Vector, logistic, softmax_regression
from extproc.textmodel import features, model

VERSION = "2.1"
TASK_PENALTY, TIER_PENALTY, OUTCOME_PENALTY = 0.3, 0.3, 10.0
STEPS = 70
TEMPERATURE = 0.55
"""Divides the task logits; the likeliest for the dev half of the own intents, left out of training for that."""
TASK_SHARE = 0.1
"""Weight of the task logits among the features of the tier head; being linear, they fold into its weights."""
Scale = tuple[Vector, Vector]


class Heads(NamedTuple):
    """Weights of all heads over hashed rows, scaled facts and the constant, and the scale of the facts."""

    weights: np.ndarray[Any, np.dtype[np.float64]]
    scale: Scale


def train_tasks(examples: list[phrases.Example]) -> Heads:
    """Fit the ten task heads."""
    scale = data.fact_scale([e.prompt for e in examples])
    rows = data.matrix([e.prompt for e in examples], scale, data.TASK_WEIGHTS)
    target = np.array([model.TASKS.index(e.task) for e in examples])
    weights = softmax_regression(rows, target, len(model.TASKS), TASK_PENALTY, np.ones(len(target)), STEPS)
    return Heads((weights - weights.mean(axis=1, keepdims=True)) / TEMPERATURE, scale)


def _with_tasks(rows: Sparse, tasks: Heads) -> Sparse:
    """Add the task logits as columns before the constant."""
    logits = TASK_SHARE * np.stack([rows.dot(w) for w in tasks.weights.T], axis=1)
    count, last = logits.shape[1], rows.width - 1
    at = rows.pointer[1:] - 1
    columns = np.insert(rows.columns, np.repeat(at, count), np.tile(last + np.arange(count), len(rows)))
    ends = rows.pointer[1:] + count * np.arange(1, len(rows) + 1)
    columns[ends - 1] = last + count
    values = np.insert(rows.values, np.repeat(at, count), logits.ravel())
    return Sparse(np.concatenate(([0], ends)), columns, values, rows.width + count)


def train_tier(prompts: list[str], hard: Vector, tasks: Heads, weight: Vector | None = None) -> Vector:
    """Fit the tier head on hashed rows and task logits, folded into one column."""
    rows = data.matrix(prompts, tasks.scale, data.TASK_WEIGHTS)
    fitted = logistic(_with_tasks(rows, tasks), hard, TIER_PENALTY, weight)
    count = tasks.weights.shape[1]
    folded = np.append(fitted[: rows.width - 1], fitted[-1])
    return folded + TASK_SHARE * (tasks.weights * fitted[rows.width - 1 : rows.width - 1 + count]).sum(axis=1)


def train_outcome(prompts: list[str], solved: Vector, sets: list[str], scale: Scale) -> Vector:
    """Fit what makes an answer succeed within its set: the mean of each set is given, not learned."""
    means = {name: float(np.mean([s for s, n in zip(solved, sets, strict=True) if n == name])) for name in set(sets)}
    rate = np.clip(np.array([means[name] for name in sets]), 0.02, 0.98)
    rows = data.matrix(prompts, scale, data.TASK_WEIGHTS)
    return logistic(rows, solved, OUTCOME_PENALTY, offset=np.log(rate / (1 - rate)))


class TierRows(NamedTuple):
    """Prompts with their tiers, what each counts, and where it is from: a recipe of the probes, "own" or "level"."""

    prompts: list[str]
    hard: Vector
    weight: Vector
    origin: npt.NDArray[np.str_]

    def fit(self, rows: npt.NDArray[np.intp], tasks: Heads) -> Vector:
        """Fit the tier head on some of the rows."""
        return train_tier([self.prompts[i] for i in rows], self.hard[rows], tasks, self.weight[rows])


def tier_rows(root: Path) -> TierRows:
    """Probes, own sentences, and questions of known level; these count as much as the probes, all together."""
    probes, (own, own_hard), (public, level) = sources.tiers(root), sources.tier_phrases(), sources.levels(root)
    share = _alike(public, np.array(level))
    return TierRows(
        probes.prompts + own + public,
        np.concatenate((probes.hard, own_hard, level)).astype(float),
        np.concatenate((np.ones(len(probes.prompts) + len(own)), share * len(probes.prompts))),
        np.array(probes.recipes + ["own"] * len(own) + ["level"] * len(public)),
    )


def _alike(prompts: list[str], hard: npt.NDArray[np.bool_]) -> Vector:
    """Weights that sum to 1 and make easy and hard prompts count alike at each length: their length tells nothing."""
    sizes = (2 * np.log2([len(prompt) for prompt in prompts])).astype(int)
    share = np.zeros(len(prompts))
    for size in np.unique(sizes):
        sides = [(sizes == size) & (hard == side) for side in (False, True)]
        for side in sides:
            share[side] = min(np.sum(sides[0]), np.sum(sides[1])) / max(np.sum(side), 1)
    return share / share.sum()


def vocabulary() -> list[str]:
    """Words that an explanation may name: those of the training phrases, which hold nobody's secrets."""
    text = (phrases.SOURCE.read_text(encoding="utf-8") + sources.TIER_PHRASES.read_text(encoding="utf-8")).lower()
    return sorted({w for w in re.findall(r"[^\W\d_]+", re.sub(r"\{\w+\}", " ", text)) if len(w) > 1 or ord(w) > 0x2E80})


def pack(heads: Heads, report: dict[str, Any]) -> bytes:
    """Quantise to 16 bits per head and write header and payload as one file."""
    table, rest = heads.weights[: 1 << features.BITS], heads.weights[1 << features.BITS :]
    steps = np.maximum(np.abs(table).max(axis=0), 1e-9) / 32767.0
    whole = np.round(table / steps).astype("<i2")
    payload = zlib.compress(whole.tobytes() + rest.astype("<f4").tobytes(), 9)
    header = {
        "version": VERSION,
        "sha256": hashlib.sha256(payload).hexdigest(),
        "bits": features.BITS,
        "heads": list(model.HEADS),
        "steps": steps.tolist(),
        "weights": list(data.TASK_WEIGHTS),
        "facts": list(features.FACTS),
        "mean": heads.scale[0].tolist(),
        "deviation": heads.scale[1].tolist(),
        "words": vocabulary(),
        "report": report,
    }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    return model.MAGIC + struct.pack("<I", len(text)) + text + payload


def train(root: Path) -> tuple[Heads, dict[str, Any]]:
    """Train every head on everything but what is held out, and say on what."""
    examples = sources.task_examples(root)
    held = {e.prompt for e in sources.intents("held_out")}
    examples = [e for e in examples if e.prompt not in held]
    tasks = train_tasks(examples)
    tiers = tier_rows(root)
    tier = tiers.fit(np.arange(len(tiers.prompts)), tasks)
    graded = sources.outcomes(root)
    outcome = [
        train_outcome(graded.prompts, solved, graded.sets, tasks.scale) for solved in (graded.weak, graded.strong)
    ]
    report = {
        "task_examples": {t: sum(e.task == t for e in examples) for t in model.TASKS},
        "tier_examples": len(tiers.prompts),
        "outcome_examples": len(graded.prompts),
        "sources": sources.LICENCES,
        "penalties": [TASK_PENALTY, TIER_PENALTY, OUTCOME_PENALTY],
        "steps": STEPS,
        "temperature": TEMPERATURE,
        "weights": list(data.TASK_WEIGHTS),
        "phrases_sha256": hashlib.sha256(phrases.SOURCE.read_bytes() + sources.TIER_PHRASES.read_bytes()).hexdigest(),
        "intents_sha256": hashlib.sha256(data.INTENTS.read_bytes()).hexdigest(),
    }
    return Heads(np.column_stack((tasks.weights, tier, *outcome)), tasks.scale), report


def main() -> None:
    """Train, write the artefact and its report beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=model.ARTEFACT)
    options = parser.parse_args()
    root = data.find(options.data)
    if root is None:
        raise SystemExit("no routing labels found: give their folder with --data")
    began = time.perf_counter()
    heads, report = train(root)
    raw = pack(heads, report)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(raw)
    shown = {"version": VERSION, "file_sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw), **report}
    options.out.with_name("training_report.json").write_text(
        json.dumps(shown, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    print(f"{options.out}: {len(raw)} bytes, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
