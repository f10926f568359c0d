"""Budget tables, their windows, rate limits as configured, and what a refusal means: pure rules."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from extproc.money import tables
from extproc.money.amounts import LARGEST, Ask, Budget, Grant, GrantCode, Need, Option, RateLimit, Shortage, Unit
from extproc.money.limits import Refusal, rate_limit, refusal
from extproc.money.tables import Entry, Per, Table

HOUR = 3_600_000
DAY = 24 * HOUR


def at(text: str, zone: str = "UTC") -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


class TestWindows:
    """Where a window begins and ends."""

    @pytest.mark.parametrize(
        ("per", "zone", "moment", "start", "end"),
        [
            ("minute", "UTC", "2026-11-23T10:15:30", "2026-11-23T10:15:00", "2026-11-23T10:16:00"),
            ("hour", "UTC", "2026-11-23T10:15:30", "2026-11-23T10:00:00", "2026-11-23T11:00:00"),
            ("day", "UTC", "2026-11-23T23:59:59", "2026-11-23T00:00:00", "2026-11-24T00:00:00"),
            ("day", "Europe/Berlin", "2026-03-29T12:00:00", "2026-03-29T00:00:00", "2026-03-30T00:00:00"),
            ("day", "Europe/Berlin", "2026-10-25T00:00:00", "2026-10-25T00:00:00", "2026-10-26T00:00:00"),
            ("week", "UTC", "2026-11-29T23:00:00", "2026-11-23T00:00:00", "2026-11-30T00:00:00"),
            ("month", "America/New_York", "2026-12-31T23:00:00", "2026-12-01T00:00:00", "2027-01-01T00:00:00"),
            ("month", "UTC", "2028-02-29T23:00:00", "2028-02-01T00:00:00", "2028-03-01T00:00:00"),
        ],
    )
    def test_bounds(self, per: Per, zone: str, moment: str, start: str, end: str) -> None:
        """Windows follow the calendar of their time zone."""
        assert tables.window(per, zone, at(moment, zone)) == (at(start, zone), at(end, zone))

    def test_days_of_23_and_25_hours(self) -> None:
        """A day on which the clock changes is shorter or longer."""
        lengths = []
        for day in ("2026-03-29T12:00", "2026-10-25T12:00"):
            start, end = tables.window("day", "Europe/Berlin", at(day, "Europe/Berlin"))
            lengths.append((end - start) // HOUR)
        assert lengths == [23, 25]

    def test_total(self) -> None:
        """A total budget has one window for ever, with exact numbers."""
        entry = Entry("a", Unit.USD, 5, "total")
        assert entry.at(1) == entry.at(at("2099-01-01T00:00"))
        assert entry.at(1).until_ms <= LARGEST

    def test_keep(self) -> None:
        """A window takes corrections for its length, at least an hour, at most eight days."""
        assert [tables.keep(0, length) for length in (60_000, HOUR, DAY, 31 * DAY)] == [HOUR, HOUR, DAY, 8 * DAY]


class TestTables:
    """What is published, and by whom."""

    def test_round_trip(self) -> None:
        """A published table reads back as it was."""
        table = Table(7, (Entry("a", Unit.USD, LARGEST, "month", "Europe/Berlin"), Entry("b", Unit.TOKENS, 0, "day")))
        assert tables.decode(tables.encode(table)) == table

    def test_changed(self) -> None:
        """Only limits that differ are written into existing windows."""
        old = Table(1, (Entry("a", Unit.USD, 5, "day"), Entry("b", Unit.USD, 5, "day")))
        new = Table(2, (Entry("a", Unit.USD, 5, "day"), Entry("b", Unit.USD, 4, "day"), Entry("c", Unit.USD, 1, "day")))
        assert tables.changed(old, new) == {"b": 4, "c": 1}
        assert tables.changed(None, old) == {"a": 5, "b": 5}

    def test_generation(self) -> None:
        """A worker publishes only a higher generation than the stored one."""
        verdicts = [tables.supersedes(Table(2), stored) for stored in (None, Table(1), Table(2), Table(3))]
        assert verdicts == [True, True, False, False]

    def test_at(self) -> None:
        """A budget applies in the window of the moment."""
        found = Entry("b", Unit.TOKENS, 6, "hour").at(at("2026-11-23T10:15"))
        assert (found.id, found.unit, found.limit, found.window) == (
            "b", Unit.TOKENS, 6, f"b:{at('2026-11-23T10:00')}"
        )  # fmt: skip

    @pytest.mark.parametrize("limit", [-1, LARGEST + 1])
    def test_amounts_that_are_refused(self, limit: int) -> None:
        """Negative limits, and those whose sums would not be exact, are errors that say why."""
        with pytest.raises(ValueError, match="2\\^53"):
            Entry("a", Unit.USD, limit, "day")
        with pytest.raises(ValueError, match="2\\^53"):
            Budget("a", Unit.USD, limit, 0, 1, 1)
        with pytest.raises(ValueError, match="2\\^53"):
            Need(limit)
        with pytest.raises(ValueError, match="2\\^53"):
            Option(0, 1, limit if limit < 0 else 0, limit)

    @pytest.mark.parametrize("name", ["", "a:b", "a}b", "{", "ä", "a b"])
    def test_ids_that_are_refused(self, name: str) -> None:
        """Ids that would move the hash tag or hide a window's start are errors."""
        with pytest.raises(ValueError, match="budget id"):
            Budget(name, Unit.USD, 1, 0, 1, 1)

    def test_twins_are_refused(self) -> None:
        """Two budgets with one id are an error."""
        with pytest.raises(ValueError, match="same id"):
            Table(1, (Entry("a", Unit.USD, 5, "day"), Entry("a", Unit.USD, 6, "day")))


class TestRateLimits:
    """Defaults of rate limits."""

    def test_default_burst(self) -> None:
        """The burst is a fifth of the limit."""
        assert rate_limit("a", 100, 60_000, 3) == RateLimit("a", 60_000, 100, 20, 3)

    def test_strict(self) -> None:
        """A strict limit lets no period exceed it: rate + burst = limit."""
        limit = rate_limit("a", 100, 60_000, 3, burst=25, strict=True)
        assert limit.limit + limit.burst == 100
        with pytest.raises(ValueError, match="strict"):
            rate_limit("a", 100, 60_000, 3, burst=100, strict=True)


class TestRefusals:
    """What the client is told."""

    ASK = Ask(
        1,
        (
            Budget("min", Unit.USD, 100, 0 + DAY, DAY + 60_000, HOUR),
            Budget("day", Unit.USD, 100, DAY, 2 * DAY, HOUR),
            Budget("all", Unit.USD, 100, 0, 10 * DAY, HOUR),
        ),
    )

    def verdict(self, blocked: str, shortage: Shortage) -> Refusal | None:
        return refusal(Grant("BUDGET", DAY + 1000, blocked=blocked, shortage=shortage), self.ASK, 0.5)

    def test_limit(self) -> None:
        """A rate limit: 429 with its exact wait, rounded up to seconds."""
        assert refusal(Grant("LIMIT", 0, wait_ms=1001), self.ASK) == Refusal(429, 2, True)

    def test_in_flight(self) -> None:
        """Blocked by reservations in flight: a few seconds, jittered, retry."""
        assert self.verdict("day", Shortage(50, 10, 40, 100)) == Refusal(429, 3, True)

    def test_spent(self) -> None:
        """Spent: wait to the window's end; only a short window is worth a retry; `total` has no wait."""
        spent = Shortage(50, 10, 39, 100)
        assert self.verdict("min", spent) == Refusal(429, 59, True)
        assert self.verdict("day", spent) == Refusal(429, 86_399, False)
        assert self.verdict("all", spent) == Refusal(429, None, False)

    def test_larger_than_the_limit(self) -> None:
        """A request larger than the limit itself never fits."""
        assert self.verdict("day", Shortage(101, 100, 0, 100)) == Refusal(429, None, False)

    @pytest.mark.parametrize("code", ["EMPTY", "LOG_FULL"])
    def test_store(self, code: GrantCode) -> None:
        """A store that cannot account: 503, retry."""
        assert refusal(Grant(code, 0), self.ASK) == Refusal(503, 1, True)

    @pytest.mark.parametrize("code", ["OK", "GONE", "STALE", "WINDOW"])
    def test_no_refusal(self, code: GrantCode) -> None:
        """Codes that are to be asked again or are no refusal give none."""
        assert refusal(Grant(code, 0), self.ASK) is None
