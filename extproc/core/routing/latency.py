"""Times counted in classes that grow by the square root of two: cheap to add up over workers, good for medians."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isqrt

MOST_MS = 1 << 24


def index(ms: int) -> int:
    """The class of a time: 2 log2(ms), whole; 0 for up to a millisecond."""
    return (min(max(ms, 1), MOST_MS) ** 2).bit_length() - 1


def middle(number: int) -> int:
    """The (geometric) middle of a class, in ms."""
    return isqrt(isqrt(1 << (2 * number + 1)))


def sample(buckets: Iterable[Mapping[str, int]], letter: str = "f") -> dict[int, int]:
    """Add up how often each class was counted, from fields such as `f12`."""
    found: dict[int, int] = {}
    for counts in buckets:
        for field, count in counts.items():
            if field[:1] == letter and field[1:].isascii() and field[1:].isdigit() and len(field) <= 3:
                found[int(field[1:])] = found.get(int(field[1:]), 0) + count
    return found


def median(found: Mapping[int, int]) -> int | None:
    """The middle of the class that the median lies in, in ms; None of nothing."""
    half, seen = (sum(found.values()) + 1) // 2, 0
    for number in sorted(found):
        seen += found[number]
        if seen >= half > 0:
            return middle(number)
    return None
