"""The text model at run time: one table, one gather, one product. Linear, so every decision can be taken apart.

It reads the last human ask and says what kind of task it is, how hard it sounds, and how likely a local and a cloud
backend are to do it well. It cannot know whether a coding task will be solved: see `docs/routing.md`.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from functools import lru_cache
from operator import mul
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from extproc.textmodel.features import BITS, GROUPS, Features, Floats, extract

ARTEFACT = Path(__file__).parent / "data" / "model.bin"
MAGIC = b"EXTPTM01"
TASKS = ("complete", "generate", "edit", "review", "debug", "explain", "design", "math", "knowledge", "chat")
HEADS = (*TASKS, "hard", "local", "cloud")
HARD, LOCAL, CLOUD = (HEADS.index(name) for name in ("hard", "local", "cloud"))
FACT_LIMIT = 4.0
"""Deviations from the mean at which a counted fact is cut off: no text can push one further."""
HARD_LIMIT, HARD_LOCAL, HARD_CLOUD = 3.0, 0.2, 0.08
"""How far the tier may move the odds, and by how much per unit it moves those of local and of cloud backends."""
GRADED = (TASKS.index("math"), TASKS.index("knowledge"))
"""Tasks with graded answers in training. Only there may the outcome heads speak: on code they were at chance."""
OUTCOME_LIMIT = 1.0
NAMED = 3


class Prior(msgspec.Struct, frozen=True, kw_only=True):
    """How often a backend does each kind of task well, 0 to 1. An operator's belief, not a measurement."""

    complete: float
    generate: float
    edit: float
    review: float
    debug: float
    explain: float
    design: float
    math: float
    knowledge: float
    chat: float

    def rates(self) -> tuple[float, ...]:
        """Rates in the order of `TASKS`."""
        return _rates(self)


@lru_cache(maxsize=256)
def _rates(prior: Prior) -> tuple[float, ...]:
    return tuple(getattr(prior, task) for task in TASKS)


LOCAL_PRIOR = Prior(
    complete=0.93,
    generate=0.78,
    edit=0.85,
    review=0.76,
    debug=0.66,
    explain=0.90,
    design=0.65,
    math=0.70,
    knowledge=0.85,
    chat=0.95,
)
"""A capable coding model on one's own machine."""
CLOUD_PRIOR = Prior(
    complete=0.95,
    generate=0.91,
    edit=0.94,
    review=0.88,
    debug=0.82,
    explain=0.96,
    design=0.85,
    math=0.90,
    knowledge=0.92,
    chat=0.97,
)
"""A frontier model."""


class Part(NamedTuple):
    """One piece of a logit: a word of the prompt, `other words`, or a counted fact; the pieces add up exactly."""

    name: str
    weight: float


class Reading(NamedTuple):
    """What the model makes of an ask."""

    task: str
    task_probability: float
    p_local: float
    p_cloud: float
    gain: float
    """p_cloud - p_local: what a cloud backend is expected to add."""
    hard: float
    """Logit of the hard tier; 0 is even."""
    why: tuple[str, ...]
    """The task, then the words and facts that decided it. Only words of the model's own vocabulary are ever named."""
    tasks: tuple[float, ...]
    """Probability of each of `TASKS`."""
    shifts: tuple[float, float]
    """What the graded heads add to the odds of a local and of a cloud backend."""

    def chance(self, prior: Prior, *, cloud: bool) -> float:
        """How likely a backend with this prior does the ask well, 0 to 1."""
        return _chance(self.tasks, self.hard, self.shifts, prior, cloud=cloud)


class TextModel:
    """Weights and the way to apply them. Immutable after loading, safe to share."""

    def __init__(self, header: dict[str, Any], payload: bytes) -> None:
        """Take a decoded artefact; `load` and `parse` make one."""
        heads, facts = len(HEADS), len(header["facts"])
        steps = np.array(header["steps"], dtype=np.float32)
        size = (1 << BITS) * heads
        self._table: Floats = (
            np.frombuffer(payload, dtype="<i2", count=size).reshape(-1, heads).astype(np.float32) * steps
        )
        rest = np.frombuffer(payload, dtype="<f4", offset=size * 2)
        self._fact_weights: Floats = rest[: facts * heads].reshape(facts, heads)
        self._bias: Floats = rest[facts * heads : (facts + 1) * heads]
        self._mean = np.array(header["mean"], dtype=np.float32)
        self._scale = (1.0 / np.array(header["deviation"]) / math.sqrt(facts)).astype(np.float32)
        self._limit = FACT_LIMIT / math.sqrt(facts)
        self._group = np.array(header["weights"], dtype=np.float32)
        self._names: list[str] = header["facts"]
        self._words: frozenset[str] = frozenset(header["words"])
        self.version: str = header["version"]
        self.sha256: str = header["sha256"]
        self.report: dict[str, Any] = header["report"]

    def read(self, ask: str, local: Prior | None = None, cloud: Prior | None = None) -> Reading:
        """Read the last human ask; any string will do. Priors say what the two backends are good at."""
        seen = extract(ask)
        rows, shares, facts = self._values(seen)
        logits = (shares @ rows + facts @ self._fact_weights + self._bias).tolist()
        tasks = _softmax(logits[: len(TASKS)])
        first, second = sorted(range(len(TASKS)), key=tasks.__getitem__, reverse=True)[:2]
        graded = tasks[GRADED[0]] + tasks[GRADED[1]]
        shifts = graded * logits[LOCAL], graded * logits[CLOUD]
        contrast = shares * (rows[:, first] - rows[:, second])
        p_local = _chance(tasks, logits[HARD], shifts, local or LOCAL_PRIOR, cloud=False)
        p_cloud = _chance(tasks, logits[HARD], shifts, cloud or CLOUD_PRIOR, cloud=True)
        return Reading(
            TASKS[first],
            tasks[first],
            p_local,
            p_cloud,
            p_cloud - p_local,
            logits[HARD],
            (f"{TASKS[first]} {tasks[first]:.2f}", *self._telling(seen, contrast)),
            tasks,
            shifts,
        )

    def logits(self, ask: str) -> dict[str, float]:
        """Return all heads, before priors and limits."""
        rows, shares, facts = self._values(extract(ask))
        values = shares @ rows + facts @ self._fact_weights + self._bias
        return dict(zip(HEADS, values.tolist(), strict=True))

    def explain(self, ask: str, head: str) -> tuple[Part, ...]:
        """Take one logit apart, greatest pieces first. Their sum is the logit."""
        column, seen = HEADS.index(head), extract(ask)
        rows, shares, facts = self._values(seen)
        pieces: dict[str, float] = {"bias": float(self._bias[column])}
        by_word = np.bincount(seen.words, weights=shares * rows[:, column], minlength=len(seen.starts))
        for i, weight in enumerate(by_word.tolist()):
            name = self._name(seen, i) or "other words"
            pieces[name] = pieces.get(name, 0.0) + weight
        for name, weight in zip(self._names, (facts * self._fact_weights[:, column]).tolist(), strict=True):
            pieces[f"fact {name}"] = weight
        return tuple(sorted((Part(n, w) for n, w in pieces.items()), key=lambda part: -abs(part.weight)))

    def _values(self, seen: Features) -> tuple[Floats, Floats, Floats]:
        sizes = seen.marks[1:] - seen.marks[:-1]
        shares = (self._group / np.sqrt(np.maximum(sizes, 1))).astype(np.float32).repeat(sizes)
        # A text without a word says nothing: its punctuation must not make a confident guess.
        limit = self._limit if len(seen.starts) else 0.0
        facts = np.minimum(np.maximum((seen.facts - self._mean) * self._scale, -limit), limit)
        return self._table.take(seen.rows, axis=0), shares, facts

    def _telling(self, seen: Features, weights: npt.NDArray[np.floating[Any]]) -> list[str]:
        if not len(seen.starts):
            return []
        by_word = np.bincount(seen.words, weights=weights, minlength=len(seen.starts))
        names: list[str] = []
        for word in by_word.argsort()[: -3 * NAMED - 1 : -1].tolist():
            if len(names) == NAMED or by_word[word] <= 0:
                break
            if (name := f"+{self._name(seen, word)}") not in ("+", *names):
                names.append(name)
        return names

    def _name(self, seen: Features, word: int) -> str:
        """Name a word when the vocabulary has it: a secret in a prompt is never repeated."""
        text = seen.text[seen.starts[word] : seen.ends[word]].lower()
        return text if text in self._words else ""


def _softmax(logits: list[float]) -> tuple[float, ...]:
    top = max(logits)
    odds = [math.exp(logit - top) for logit in logits]
    total = sum(odds)
    return tuple([one / total for one in odds])


def _chance(tasks: tuple[float, ...], hard: float, shifts: tuple[float, float], prior: Prior, *, cloud: bool) -> float:
    hard = min(max(hard, -HARD_LIMIT), HARD_LIMIT)
    return _odds(sum(map(mul, tasks, prior.rates())), shifts[cloud], (HARD_CLOUD if cloud else HARD_LOCAL) * hard)


def _odds(rate: float, outcome: float, hard: float) -> float:
    rate = min(max(rate, 1e-3), 1.0 - 1e-3)
    logit = math.log(rate / (1.0 - rate)) + min(max(outcome, -OUTCOME_LIMIT), OUTCOME_LIMIT) - hard
    return 1.0 / (1.0 + math.exp(-logit))


def parse(raw: bytes) -> TextModel:
    """Decode an artefact.

    Raises:
        ValueError: it is not one, or its payload is not the one its header names.
    """
    if raw[: len(MAGIC)] != MAGIC:
        raise ValueError("not a text model artefact")
    (length,) = struct.unpack_from("<I", raw, len(MAGIC))
    start = len(MAGIC) + 4
    header: dict[str, Any] = msgspec.json.decode(raw[start : start + length])
    packed = raw[start + length :]
    if hashlib.sha256(packed).hexdigest() != header["sha256"]:
        raise ValueError("the text model artefact is damaged: its sha256 differs from its header's")
    if header["bits"] != BITS or header["heads"] != list(HEADS) or len(header["weights"]) != GROUPS:
        raise ValueError("the text model artefact was trained for other features")
    return TextModel(header, zlib.decompress(packed))


@lru_cache(maxsize=1)
def load() -> TextModel:
    """Load the shipped model once."""
    return parse(ARTEFACT.read_bytes())
