"""How long a provider asks to be left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.core.retry_after import LONGEST_MS, told_ms

NOW = 1_790_000_000_000
"""2026-09-21T14:13:20Z."""
RESET, LEFT = "anthropic-ratelimit-{}-reset", "anthropic-ratelimit-{}-remaining"


@pytest.mark.parametrize(("headers", "wait"), [
    ({"retry-after-ms": "1500"}, 1500),
    ({"retry-after-ms": "0"}, 0),
    ({"retry-after-ms": "12.6"}, 13),
    ({"retry-after-ms": " 20 ", "retry-after": "9"}, 20),
    ({"retry-after-ms": "soon", "retry-after": "9"}, 9000),
    ({"retry-after-ms": "-1", "retry-after": "9"}, 9000),
    ({"retry-after": "0"}, 0),
    ({"retry-after": "2"}, 2000),
    ({"retry-after": "0.25"}, 250),
    ({"retry-after": "007"}, 7000),
    ({"retry-after": "600"}, 600_000),
    ({"retry-after": "601"}, LONGEST_MS),
    ({"retry-after": "9" * 18}, LONGEST_MS),
    ({"retry-after": "Mon, 21 Sep 2026 14:13:50 GMT"}, 30_000),
    ({"retry-after": "Monday, 21-Sep-26 14:13:50 GMT"}, 30_000),
    ({"retry-after": "Mon Sep 21 14:13:50 2026"}, 30_000),
    ({"retry-after": "Thu Oct  1 14:13:50 2026"}, LONGEST_MS),
    ({"retry-after": "Mon, 21 Sep 2026 14:13:60 GMT"}, 39_000),
    ({"retry-after": "Mon, 21 Sep 2026 14:13:19 GMT"}, 0),
    ({"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"}, 0),
    ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, LONGEST_MS),
])
def test_said(headers: dict[str, str], wait: int) -> None:
    """Milliseconds go before seconds and dates in all three forms; never less than nothing, never over ten minutes."""
    assert told_ms(headers, NOW, limited=False) == wait


NONSENSE = [
    "", " ", "-5", "+5", "1e3", "0x10", "inf", "nan", "five", "5 s", "5s", "1,1", "1.2.3", ".5", "٣", "\ud800", "5\ud800",
    "9" * 19, "9" * 5000, "Mon, 21 Sep 2026", "Mon, 21 Sep 2026 14:13:50", "Mon, 21 Sep 2026 14:13:50 CET",
    "Mon, 31 Feb 2026 14:13:50 GMT", "Mon, 21 Xyz 2026 14:13:50 GMT", "Mon, 21 Sep 2026 24:13:50 GMT",
    "Mon, 21 Sep 0000 14:13:50 GMT", "2026-09-21T14:13:50Z", "Mon Sep    14:13:50 2026",
]


@pytest.mark.parametrize("text", NONSENSE)
@pytest.mark.parametrize("name", ["retry-after-ms", "retry-after"])
def test_nonsense(name: str, text: str) -> None:
    """What is no such number and no date counts as not said."""
    assert told_ms({name: text}, NOW, limited=True) is None


@pytest.mark.parametrize(("text", "wait"), [
    ("1s", 1000), ("120ms", 120), ("6m0s", 360_000), ("1m30s", 90_000), ("2m59.56s", 179_560), ("7.66s", 7660),
    ("0s", 0), ("8h", LONGEST_MS), ("1d2h3m4s5ms", LONGEST_MS), ("999999999h", LONGEST_MS),
    ("", None), ("s", None), ("12", None), ("-1s", None), ("1m 30s", None), ("1.s", None), ("1x", None), ("1s" * 6, None),
    ("1s" * 3000, None), ("\ud800s", None), ("1٣s", None), ("1790000030", None),
])
def test_durations(text: str, wait: int | None) -> None:
    """OpenAI's durations of any mix of units."""
    assert told_ms({"x-ratelimit-reset-tokens": text}, NOW, limited=True) == wait


@pytest.mark.parametrize(("text", "wait"), [
    ("2026-09-21T14:13:50Z", 30_000), ("2026-09-21t14:13:50.5z", 30_500), ("2026-09-21T16:13:50+02:00", 30_000),
    ("2026-09-21T14:13:20Z", 0), ("2020-01-01T00:00:00Z", 0), ("9999-12-31T23:59:59-23:59", LONGEST_MS),
    ("0001-01-01T00:00:00+23:59", 0),
    ("2026-09-21T14:13:50", None), ("2026-09-21", None), ("2026-13-21T14:13:50Z", None), ("0000-01-01T00:00:00Z", None),
    ("2026-09-21T14:13:50+99:00", None), ("2026-W39-1T14:13:50Z", None), ("1790000030", None), ("", None),
    ("2026-09-21T14:13:5\ud800Z", None), ("x" * 9000, None),
])
def test_moments(text: str, wait: int | None) -> None:
    """Anthropic's moments, with the offset that RFC 3339 demands."""
    headers = {RESET.format("tokens"): text, LEFT.format("tokens"): "0"}
    assert told_ms(headers, NOW, limited=True) == wait


def test_used_up() -> None:
    """Of several limits those count that are used up, and of them the one that is filled last."""
    headers = {
        "x-ratelimit-reset-requests": "120ms", "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-tokens": "50s", "x-ratelimit-remaining-tokens": "17",
    }
    assert told_ms(headers, NOW, limited=True) == 120
    assert told_ms({**headers, "x-ratelimit-remaining-tokens": "0"}, NOW, limited=True) == 50_000
    assert told_ms({**headers, "x-ratelimit-remaining-requests": "3"}, NOW, limited=True) is None
    assert told_ms({**headers, "x-ratelimit-remaining-tokens": "-4"}, NOW, limited=True) == 50_000
    both = {RESET.format("requests"): "2026-09-21T14:14:20Z", LEFT.format("requests"): "0",
            RESET.format("input-tokens"): "2026-09-21T14:13:21Z", LEFT.format("input-tokens"): "0",
            RESET.format("output-tokens"): "2026-09-21T14:20:21Z", LEFT.format("output-tokens"): "16000"}
    assert told_ms(both, NOW, limited=True) == 60_000


def test_only_where_a_limit_was_the_cause() -> None:
    """The limits' state stands on every answer: of an overload it says nothing, and a word on the wait goes first."""
    headers = {"x-ratelimit-reset-requests": "120ms", "x-ratelimit-remaining-requests": "0"}
    assert told_ms(headers, NOW, limited=False) is None
    assert told_ms({**headers, "retry-after": "7"}, NOW, limited=True) == 7000
    assert told_ms({}, NOW, limited=True) is None


@given(st.dictionaries(st.sampled_from([
    "retry-after-ms", "retry-after", "x-ratelimit-reset-tokens", "x-ratelimit-remaining-tokens",
    RESET.format("tokens"), LEFT.format("tokens"),
]), st.one_of(st.text(), st.from_regex(r"[0-9.]{1,20}[smhd]*"), st.datetimes().map(lambda t: f"{t.isoformat()}Z"))),
    st.integers(0, 4_000_000_000_000), st.booleans())
def test_anything(headers: dict[str, str], now: int, limited: bool) -> None:
    """Whatever the headers hold, nothing is raised and the wait is within its bounds."""
    assert (told_ms(headers, now, limited=limited) or 0) in range(LONGEST_MS + 1)
