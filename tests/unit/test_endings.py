"""What an attempt says of its backend's health, beyond its status: answers cut off, servers that are busy, waits."""

from __future__ import annotations

from typing import Any

import pytest

from extproc.core.conversation import Failure
from extproc.core.errors import Problem
from extproc.core.events import End, Outcome
from extproc.core.routing.endings import outcome_of
from extproc.core.usage import Tokens
from extproc.schemas._problems import read_failure, read_problem


def ended(outcome: Outcome = "estimated", problem: Problem | None = None, status: int = 200, **fields: Any) -> End:
    """An attempt of 900 ms."""
    return End(1, "qwen", "q", outcome, False, Tokens(), 0, status, 900, problem=problem, **fields)


def kind(settled: End) -> str:
    """What it counts as."""
    return outcome_of(settled, "qwen/q", 60_000, stream=True).kind


BUSY: list[tuple[int, bytes]] = [
    (503, b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'),
    (503, b'{"error":"server busy, please try again.  maximum pending requests exceeded"}'),
    (503, b'[{"error":{"code":503,"message":"The model is overloaded.","status":"UNAVAILABLE"}}]'),
    (503, b"<html><body>503 Service Temporarily Unavailable</body></html>"), (503, b""),
    (529, b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'), (529, b""),
    (500, b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'),
]


@pytest.mark.parametrize(("status", "body"), BUSY)
def test_busy(status: int, body: bytes) -> None:
    """A server that is loading its model or has too much to do is overloaded; what the client is told stays so."""
    problem = read_problem(status, body)
    assert kind(ended("failed", problem, status)) == "overloaded"
    assert problem.http_status == status


def test_busy_in_a_stream() -> None:
    """An error event of an answer that began with 200 counts by its own code."""
    def told(failure: Failure) -> End:
        return ended("failed", Problem("upstream", failure.message, status=failure.status))

    assert kind(told(read_failure({"error": {"code": 503, "message": "Loading model"}}, b""))) == "overloaded"
    assert kind(told(read_failure({"error": {"code": 500, "message": "oops"}}, b""))) == "failed"


@pytest.mark.parametrize("status", [500, 502, 504, 520])
def test_other_failures(status: int) -> None:
    """Other errors of a server are failures, or timeouts."""
    assert kind(ended("failed", read_problem(status, b""), status)) == ("timeout" if status == 504 else "failed")


def test_closed() -> None:
    """An answer that its provider cut off is a broken connection; one that nobody ended is the client's doing."""
    early = Problem("upstream", "the provider's stream ended early")
    assert kind(ended(problem=early, closed=True, first_event_ms=100)) == "broken"
    assert kind(ended("failed", early, closed=True)) == "broken"
    assert kind(ended(first_event_ms=100, closed=True, finish_reason="end")) == "broken"
    assert kind(ended(first_event_ms=100)) == "client"


def test_wait() -> None:
    """A wait that the provider asked for counts of busy servers too."""
    busy = ended("failed", read_problem(503, b""), 503, retry_after_ms=700)
    assert outcome_of(busy, "qwen/q", 60_000, stream=True, retry_after_ms=busy.retry_after_ms).retry_after_ms == 700
