"""Days and lengths of time as they are typed. Pure: `today` and `now` are given."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import msgspec

DAY_MS = 86_400_000
LONGEST_PERIOD = 4_000
"""Days; rollups live 400."""
_LENGTH = re.compile(r"^(\d{1,6})([smhdw])$", re.ASCII)
_UNITS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": DAY_MS, "w": 7 * DAY_MS}


class PeriodRefused(ValueError):  # noqa: N818 - the caller's mistake, said in words
    """A time cannot be read; the text says what is expected."""


class Period(msgspec.Struct, frozen=True):
    """Whole days (UTC), both included."""

    first: date
    last: date

    @property
    def start_ms(self) -> int:
        """The first moment, in ms since the epoch."""
        return _ms(self.first)

    @property
    def end_ms(self) -> int:
        """The first moment after it."""
        return _ms(self.last) + DAY_MS

    def days(self) -> Iterator[str]:
        """Every day, as rollups name it."""
        for number in range((self.last - self.first).days + 1):
            yield (self.first + timedelta(days=number)).isoformat()

    def __str__(self) -> str:
        return self.first.isoformat() if self.first == self.last else f"{self.first} to {self.last}"


def _ms(day: date) -> int:
    return (day.toordinal() - date(1970, 1, 1).toordinal()) * DAY_MS


def length_ms(option: str, text: str) -> int:
    """Read a length of time such as 90d, 24h, 30m or 2w. Raises PeriodRefused."""
    match = _LENGTH.match(text)
    if match is None:
        raise PeriodRefused(f"{option} {text[:40]}: expected a length of time such as 90d, 24h, 30m or 2w")
    return int(match[1]) * _UNITS[match[2]]


def period(since: str, until: str | None, today: date) -> Period:
    """Read --since (a date, or how many days up to the last one) and --until (a date). Raises PeriodRefused."""
    last = today if until is None else _date("--until", until)
    match = _LENGTH.match(since)
    if match is None:
        first = _date("--since", since)
    else:
        if match[2] not in "dw":
            raise PeriodRefused(f"--since {since}: usage is summed by day; give days or weeks such as 7d, or a date")
        days = int(match[1]) * (7 if match[2] == "w" else 1)
        if not 1 <= days <= LONGEST_PERIOD:
            raise PeriodRefused(f"--since {since}: expected 1d to {LONGEST_PERIOD}d")
        first = last - timedelta(days=days - 1)
    if not 0 <= (last - first).days < LONGEST_PERIOD or first.year < 1970:
        raise PeriodRefused(f"--since {first} is not within {LONGEST_PERIOD} days before --until {last}")
    return Period(first, last)


def _date(option: str, text: str) -> date:
    try:
        found = date.fromisoformat(text)
    except ValueError:
        raise PeriodRefused(f"{option} {text[:40]}: expected a date such as 2026-11-23, or 7d or 4w") from None
    if found.year < 1970 or found.year > 9998:
        raise PeriodRefused(f"{option} {text}: expected a date such as 2026-11-23")
    return found


def day_of(ms: int) -> str:
    """Return the day (UTC) of a moment in ms since the epoch."""
    return (date(1970, 1, 1) + timedelta(days=ms // DAY_MS)).isoformat()


def moment(ms: int) -> str:
    """Return a moment as text, to the second (UTC)."""
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def remaining(ms: int) -> str:
    """Return a length of time in its two largest units: 3d 4h, 59m 30s."""
    parts: list[str] = []
    rest = max(ms, 0)
    for unit in ("d", "h", "m", "s"):
        count, rest = divmod(rest, _UNITS[unit])
        if count or parts or unit == "s":
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])
