"""Request ids and the generations of the configuration."""

from __future__ import annotations

import time
import uuid

from extproc.server.performer import Runtimes, new_id
from tests.stage_kit import runtime


def test_request_ids() -> None:
    """An id is a UUIDv7 of 32 hex digits whose time is now, and no two are equal."""
    before = time.time_ns() // 1_000_000
    ids = [new_id() for _ in range(2000)]
    after = time.time_ns() // 1_000_000
    assert len(set(ids)) == len(ids)
    for text in ids:
        parsed = uuid.UUID(text)
        assert parsed.hex == text
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
        assert before <= parsed.int >> 80 <= after


def test_old_generations_are_kept() -> None:
    """A request decided under an old configuration finds it; one too old gets the current."""
    made = [runtime(f"max_body: {size}\n") for size in range(1, Runtimes.KEEP + 3)]
    runtimes = Runtimes(made[0])
    for one in made[1:]:
        runtimes.swap(one)
    assert runtimes.current is made[-1]
    for one in made[-Runtimes.KEEP:]:
        assert runtimes.of(one.generation) is one
    for generation in [made[0].generation, made[1].generation, "", "nonsense"]:
        assert runtimes.of(generation) is made[-1]


def test_swapping_back() -> None:
    """A generation that returns is the newest again, and is not kept twice."""
    made = [runtime(f"max_body: {size}\n") for size in range(1, Runtimes.KEEP + 1)]
    runtimes = Runtimes(made[0])
    for one in [*made[1:], made[0]]:
        runtimes.swap(one)
    assert runtimes.current is made[0]
    runtimes.swap(runtime("max_body: 99\n"))
    assert runtimes.of(made[0].generation) is made[0]
    assert runtimes.of(made[1].generation) is runtimes.current


def test_equal_configurations_have_one_generation() -> None:
    """The generation is made of the content: every worker calls it the same."""
    assert runtime().generation == runtime().generation
    assert runtime().generation != runtime("max_body: 1\n").generation
