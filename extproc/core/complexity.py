"""A simple, honest complexity score: lengths and telltale words. A trained scorer replaces it behind `Scorer`."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from extproc.core.signals import Signals

HEAD = 2000
"""Characters of the ask that are read, so that the cost is bounded at any prompt size."""

_HARD = ("architect", "design", "refactor", "debug", "race condition", "deadlock", "concurren", "distributed", "prove",
         "proof", "algorithm", "optimi", "security", "vulnerab", "migrat", "trade-off", "why does", "root cause")
_EASY = ("rename", "typo", "docstring", "format", "comment", "hello", "thanks", "translate", "summar", "title",
         "commit message", "one line", "changelog")


class Complexity(msgspec.Struct, frozen=True):
    """0 (trivial) to 1 (hard), and the facts that made it."""

    score: float
    why: str


Scorer = Callable[[Signals], Complexity]


def score(signals: Signals) -> Complexity:
    """Score the last human ask. It promises a sensible order, not a forecast of who solves the task."""
    text = signals.ask[:HEAD].lower()
    hard = [word for word in _HARD if word in text]
    easy = [word for word in _EASY if word in text]
    length = min(len(signals.ask) / 4000, 0.3)
    value = 0.25 + length + 0.2 * min(len(hard), 3) - 0.15 * min(len(easy), 2)
    value += 0.1 if signals.turns > 8 else 0.0
    facts = [f"ask of {len(signals.ask)} characters", *[f"+{w}" for w in hard[:3]], *[f"-{w}" for w in easy[:2]]]
    return Complexity(round(min(max(value, 0.0), 1.0), 2), ", ".join(facts))
