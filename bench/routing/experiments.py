"""The measurements behind docs/routing.md: each takes the folder of labels and returns figures. Nothing is tuned
here."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.routing import data, sources
from bench.routing.linear import Sparse, Vector, logistic, sigmoid
from bench.routing.metrics import Gain, auc, calibration_error, gain, macro_f1
from bench.routing.train import Heads, tier_rows
from extproc.core.routing.aims import ByShare
from extproc.core.routing.objective import MILLION, Weighed
from extproc.textmodel import CLOUD_PRIOR, LOCAL_PRIOR, Prior, TextModel, model

Rows = npt.NDArray[np.intp]
PENALTY = 10.0
SEEDS = 5
MIXTRAL = Prior(
    complete=0.40,
    generate=0.40,
    edit=0.40,
    review=0.40,
    debug=0.40,
    explain=0.68,
    design=0.68,
    math=0.64,
    knowledge=0.68,
    chat=0.85,
)
GPT_4 = Prior(
    complete=0.84,
    generate=0.84,
    edit=0.84,
    review=0.84,
    debug=0.84,
    explain=0.80,
    design=0.80,
    math=0.86,
    knowledge=0.80,
    chat=0.90,
)
"""What RouteLLM's pair scores elsewhere: code on HumanEval as published, mathematics on GSM8K, the rest on MMLU, chat
by belief."""


class Graded(NamedTuple):
    """Prompts that a weak and a strong model answered, and the group each belongs to."""

    prompts: list[str]
    weak: Vector
    strong: Vector
    groups: npt.NDArray[np.str_]


class Spread(NamedTuple):
    """A mean gain over repetitions and the deviation of its APGR."""

    mean: Gain
    deviation: float


def mmlu(root: Path) -> Graded:
    """Return MMLU as RouteLLM graded it, grouped by subject."""
    rows = [r for r in data.load(root / "routellm_mmlu.jsonl") if not r["contaminated"]]
    return _graded(rows, [r["domain"] for r in rows])


def gsm8k(root: Path) -> Graded:
    """Return GSM8K as RouteLLM graded it."""
    rows = [r for r in data.load(root / "routellm_gsm8k.jsonl") if not r["contaminated"]]
    return _graded(rows, ["gsm8k"] * len(rows))


def mtbench(root: Path) -> Graded:
    """Return MT-Bench first turns with the mean score of both turns."""
    rows = [r for r in data.load(root / "routellm_mtbench.jsonl") if not r["contaminated"]]
    return Graded(
        [r["turn1"] for r in rows],
        np.array([np.mean(r["weak_scores"]) for r in rows]),
        np.array([np.mean(r["strong_scores"]) for r in rows]),
        np.array([r["category"] for r in rows]),
    )


def coding(root: Path) -> dict[str, Graded]:
    """Sets of coding tasks with graded outcomes."""
    rows = data.load(root / "swebench_verified_qwen3coder_opus4.jsonl")
    found = {"SWE-bench Verified": _graded(rows, [r["repo"] for r in rows])}
    weak, strong = sources.SMALL[0], sources.LARGE[0]
    for name, task in (("MBPP (LLMRouter)", "mbpp"), ("HumanEval (LLMRouter)", "human_eval")):
        rows = [
            r
            for r in data.load(root / "llmrouter_9models.jsonl")
            if r["task"] == task and weak in r["scores"] and strong in r["scores"]
        ]
        found[name] = Graded(
            [r["prompt"] for r in rows],
            np.array([r["scores"][weak] for r in rows], dtype=float),
            np.array([r["scores"][strong] for r in rows], dtype=float),
            np.array([task] * len(rows)),
        )
    return found


def _graded(rows: list[dict[str, Any]], groups: list[str]) -> Graded:
    return Graded(
        [r["prompt"] for r in rows],
        np.array([r["weak"] for r in rows], dtype=float),
        np.array([r["strong"] for r in rows], dtype=float),
        np.array(groups),
    )


class Learner:
    """Two logistic heads, will the weak and will the strong model be right, learned from labels of some rows."""

    def __init__(self, graded: Graded) -> None:
        """Read all prompts once; the scale of the facts uses no labels."""
        self.graded = graded
        self.rows: Sparse = data.matrix(graded.prompts, data.fact_scale(graded.prompts))

    def predict(self, train: Rows, test: Rows) -> tuple[Vector, Vector]:
        """Fit on some rows and return both probabilities for others."""
        known, new = self.rows.take(train), self.rows.take(test)
        weak, strong = (
            sigmoid(new.dot(logistic(known, y[train], PENALTY))) for y in (self.graded.weak, self.graded.strong)
        )
        return weak, strong

    def gain(self, train: Rows, test: Rows) -> Gain:
        """Fit on some rows and route others."""
        weak, strong = self.predict(train, test)
        return gain(strong - weak, self.graded.weak[test], self.graded.strong[test])


def few_labels(learner: Learner, labels: int) -> Spread:
    """Learn from a random draw of labels, route the rest; five seeds."""
    found = []
    for seed in range(SEEDS):
        order = np.random.default_rng(seed).permutation(len(learner.graded.prompts))
        found.append(learner.gain(order[:labels], order[labels:]))
    return spread(found)


def folds(learner: Learner, repeats: int) -> Spread:
    """Five-fold cross-validation, repeated; each fold is routed by itself."""
    found = []
    for seed in range(repeats):
        order = np.random.default_rng(seed).permutation(len(learner.graded.prompts))
        for test in np.array_split(order, 5):
            found.append(learner.gain(np.setdiff1d(order, test), test))
    return spread(found)


def held_out_groups(learner: Learner) -> Spread:
    """Five folds over whole groups: no subject of the test is in training."""
    names = np.unique(learner.graded.groups)
    found = []
    for part in np.array_split(np.random.default_rng(0).permutation(len(names)), 5):
        mask = np.isin(learner.graded.groups, names[part])
        found.append(learner.gain(np.flatnonzero(~mask), np.flatnonzero(mask)))
    return spread(found)


def spread(found: list[Gain]) -> Spread:
    """Average over repetitions."""
    return Spread(Gain(*np.mean(found, axis=0).tolist()), float(np.std([f.apgr for f in found])))


def random_band(graded: Graded, draws: int = 400) -> tuple[float, float]:
    """Where 95 per cent of random routers lie."""
    chance = np.random.default_rng(5)
    values = [gain(chance.random(len(graded.weak)), graded.weak, graded.strong).apgr for _ in range(draws)]
    return float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975))


def interval(score: Vector, graded: Graded, draws: int = 400) -> tuple[float, float]:
    """Bootstrap 95 per cent interval of an APGR."""
    chance, count = np.random.default_rng(6), len(score)
    values = [
        gain(score[i], graded.weak[i], graded.strong[i]).apgr
        for i in (chance.integers(0, count, count) for _ in range(draws))
    ]
    return float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975))


def task_shares(text_model: TextModel, prompts: list[str]) -> Vector:
    """Task probabilities, one row per prompt."""
    heads = [text_model.logits(prompt) for prompt in prompts]
    logits = np.array([[found[task] for task in model.TASKS] for found in heads])
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def prior_gain(
    text_model: TextModel, prompts: list[str], weak: Prior = LOCAL_PRIOR, strong: Prior = CLOUD_PRIOR
) -> Vector:
    """Task probabilities times what the stronger backend is believed to add per task: no routing label is in it."""
    return task_shares(text_model, prompts) @ np.subtract(strong.rates(), weak.rates())


def random_priors(text_model: TextModel, graded: Graded, draws: int = 200) -> tuple[float, float, float]:
    """APGR at the 5th, 50th and 95th of 100 random priors in which code and mathematics gain more than the rest."""
    chance, shares = np.random.default_rng(0), task_shares(text_model, graded.prompts)
    high = np.array([task not in ("explain", "design", "knowledge", "chat") for task in model.TASKS])
    found = [
        gain(shares @ (0.5 * chance.random(len(high)) + 0.5 * high), graded.weak, graded.strong).apgr
        for _ in range(draws)
    ]
    return float(np.quantile(found, 0.05)), float(np.median(found)), float(np.quantile(found, 0.95))


def tiers(root: Path, task_heads: Heads, own: bool) -> tuple[float, sources.Tiers]:
    """AUC of easy against hard probes; each recipe is scored by a head that saw none of its prompts."""
    probes, rows = sources.tiers(root), tier_rows(root)
    score = np.zeros(len(probes.prompts))
    for recipe in sorted(set(probes.recipes)):
        test = np.flatnonzero(rows.origin == recipe)
        asked = [rows.prompts[i] for i in test]
        known = (rows.origin != recipe) & ~np.isin(rows.prompts, asked)
        column = rows.fit(np.flatnonzero(known if own else known & (rows.origin != "own")), task_heads)
        score[test] = data.matrix(asked, task_heads.scale, data.TASK_WEIGHTS).dot(column)
    return auc(score, probes.hard), probes


def shipped_heads(text_model: TextModel) -> Heads:
    """Return the task heads of the artefact as a trainer sees them."""
    table = np.concatenate((text_model._table, text_model._fact_weights, text_model._bias[None]))
    deviation = 1.0 / (text_model._scale.astype(np.float64) * np.sqrt(len(text_model._scale)))
    return Heads(table[:, : len(model.TASKS)].astype(np.float64), (text_model._mean.astype(np.float64), deviation))


def paraphrases(text_model: TextModel, root: Path) -> dict[str, float]:
    """Share of question pairs with the same decision, by share of cloud calls; the threshold is a quantile of the
    originals."""
    rows = data.load(root / "routerarena_robustness_pairs.jsonl")
    first, second = (np.array([text_model.read(r[side]).gain for r in rows]) for side in ("original", "paraphrase"))
    found = {}
    for share in (0.5, 0.3, 0.2, 0.1):
        level = float(np.quantile(first, 1.0 - share))
        found[f"{share:.0%} cloud"] = float(np.mean((first >= level) == (second >= level)))
    return found


def own_intents(text_model: TextModel) -> tuple[float, float, dict[str, float], float]:
    """Top-1, macro F1, top-1 by language or tag, and calibration error on the held-out half of the own intents."""
    rows = [r for r in data.load(data.INTENTS) if r["half"] == "held_out"]
    readings = [text_model.read(r["prompt"]) for r in rows]
    hits = np.array([got.task == r["task"] for got, r in zip(readings, rows, strict=True)], dtype=float)
    parts = {
        kind: np.array([kind == r["language"] or kind in r["tags"] for r in rows])
        for kind in ("en", "de", "fr", "es", "zh", "typo", "agent")
    }
    by_part = {kind: float(hits[mask].mean()) for kind, mask in parts.items()}
    return (
        float(hits.mean()),
        macro_f1([r["task"] for r in rows], [got.task for got in readings]),
        by_part,
        calibration_error(np.array([got.task_probability for got in readings]), hits, 5),
    )


def calibration(learner: Learner) -> tuple[float, float]:
    """Calibration errors of P(weak right) and P(strong right), five-fold."""
    order = np.random.default_rng(0).permutation(len(learner.graded.prompts))
    weak, strong = np.zeros(len(order)), np.zeros(len(order))
    for test in np.array_split(order, 5):
        weak[test], strong[test] = learner.predict(np.setdiff1d(order, test), test)
    return calibration_error(weak, learner.graded.weak), calibration_error(strong, learner.graded.strong)


def shares(scores: Vector) -> dict[float, float]:
    """Greatest distance between target and realised share, in points, from the 500th request on: requests in this
    order, decided by the aim that the gateway itself uses."""
    found = {}
    gaps = [round(score * MILLION) for score in scores.tolist()]
    for target in (0.05, 0.1, 0.2, 0.3, 0.5, 0.8):
        aim, sent, worst = ByShare(target), 0, 0.0
        for i, gap in enumerate(gaps, start=1):
            sent += aim.decide(Weighed(gap, gap, gap, 0, 0, 0, MILLION), 0).complex
            worst = max(worst, abs(sent / i - target)) if i >= 500 else 0.0
        found[target] = 100.0 * worst
    return found


def timings(text_model: TextModel, prompts: list[str]) -> list[tuple[int, float, float]]:
    """Thread CPU time of one reading, microseconds: length, median, 99th percentile."""
    found = []
    for prompt in prompts:
        for _ in range(50):
            text_model.read(prompt)
        times = []
        for _ in range(2000):
            began = time.thread_time_ns()
            text_model.read(prompt)
            times.append((time.thread_time_ns() - began) / 1000.0)
        found.append((len(prompt), float(np.quantile(times, 0.5)), float(np.quantile(times, 0.99))))
    return found


_LOAD = """
import resource, time, json
import numpy, msgspec
def size():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1e6
before, began = size(), time.perf_counter()
from extproc.textmodel import load
load().read("warm up")
print(json.dumps([1000 * (time.perf_counter() - began), size() - before]))
"""


def loading() -> tuple[float, float]:
    """Milliseconds to import and load the model in a fresh process, best of three, and the megabytes it adds to
    numpy's."""
    runs = [
        subprocess.run([sys.executable, "-c", _LOAD], capture_output=True, text=True, check=True, cwd=data.ROOT).stdout
        for _ in range(3)
    ]
    times, sizes = zip(*(json.loads(run) for run in runs), strict=True)
    return min(times), max(sizes)
