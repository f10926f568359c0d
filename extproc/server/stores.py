"""What the workers share beside the ledger: counters, sessions, explanations, answers."""

from __future__ import annotations

from typing import NamedTuple

from extproc.ledger.answers import Answers, MemoryAnswers, RedisAnswers
from extproc.ledger.cluster import Door
from extproc.ledger.explained import PER_SECOND, Explained, ExplainedStore, MemoryExplained
from extproc.ledger.memory_sessions import MemorySessions
from extproc.ledger.memory_tallies import MemoryTallies
from extproc.ledger.sessions import RedisSessions, Sessions
from extproc.ledger.tallies import RedisTallies, Tallies


class Stores(NamedTuple):
    """One of each."""

    tallies: Tallies
    sessions: Sessions
    explained: Explained
    answers: Answers


def at(door: Door, per_second: int = PER_SECOND) -> Stores:
    """All at one store. `per_second`: explanations that this worker keeps per second at most."""
    return Stores(RedisTallies(door), RedisSessions(door), ExplainedStore(door, per_second), RedisAnswers(door))


def in_memory() -> Stores:
    """All in this process: what one worker alone needs."""
    return Stores(MemoryTallies(), MemorySessions(), MemoryExplained(), MemoryAnswers())
