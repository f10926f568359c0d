"""How long a provider asks to be left alone, from the headers of its refusal. Pure; nonsense counts as not said.

In this order, as the SDKs of OpenAI and Anthropic read them: `retry-after-ms`, `retry-after` (seconds or an HTTP date,
RFC 9110, section 10.2.3). Without them, of limits that are used up, when they are filled again: Anthropic tells moments
(RFC 3339), OpenAI durations such as `1m30s`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

LONGEST_MS = 600_000
"""No pause is longer, whatever a provider says."""
_LONGEST_TEXT = 64

_NUMBER = re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,9})?")
_DURATION = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:ms|[smhd])){1,5}")
_PART = re.compile(r"([0-9.]+)(ms|[smhd])")
_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})")
_TIME = r"(?P<h>[0-9]{2}):(?P<m>[0-9]{2}):(?P<s>[0-9]{2})"
_DATES = (
    re.compile(rf"[A-Za-z]{{3,9}}, (?P<day>[0-9]{{2}})[ -](?P<month>[A-Za-z]{{3}})[ -](?P<year>[0-9]{{4}}|[0-9]{{2}}) "
               rf"{_TIME} GMT"),
    re.compile(rf"[A-Za-z]{{3}} (?P<month>[A-Za-z]{{3}}) (?P<day>[ 0-9][0-9]) {_TIME} (?P<year>[0-9]{{4}})"),
)
"""The three forms of an HTTP date (RFC 9110, section 5.6.7)."""
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_USED_UP = re.compile(r"0{1,18}(?:\.0{1,9})?|-[0-9]{1,18}(?:\.[0-9]{1,9})?")
_OPENAI = ("requests", "tokens")
_YEAR_MS = 31_556_952_000
_ANTHROPIC = ("requests", "tokens", "input-tokens", "output-tokens")


def told_ms(headers: Mapping[str, str], now: int, *, limited: bool) -> int | None:
    """The milliseconds to wait, at most LONGEST_MS; None: the provider does not say.

    `headers`: of the answer, lower-case names. `now`: in ms since the epoch. `limited`: whether a rate limit was the
    cause; else the state of the limits says nothing.
    """
    found = _number(headers.get("retry-after-ms", ""), 1)
    if found is None:
        after = headers.get("retry-after", "")
        found = _number(after, 1000)
        if found is None:
            found = _until(_http_date(after, now), now)
    if found is None and limited:
        found = _filled(headers, now)
    return None if found is None else min(max(found, 0), LONGEST_MS)


def _filled(headers: Mapping[str, str], now: int) -> int | None:
    """When the last of the limits that are used up is filled again."""
    def moment(text: str) -> int | None:
        return _until(_rfc3339(text), now)

    waits = [*_waits(headers, "anthropic-ratelimit-{}-reset", "anthropic-ratelimit-{}-remaining", _ANTHROPIC, moment),
             *_waits(headers, "x-ratelimit-reset-{}", "x-ratelimit-remaining-{}", _OPENAI, _duration)]
    return max(waits, default=None)


def _waits(headers: Mapping[str, str], reset: str, remaining: str, limits: tuple[str, ...],
           read: Callable[[str], int | None]) -> list[int]:
    """What is said of the limits of which nothing remains; a limit that does not tell what remains may be one."""
    return [wait for limit in limits
            if _USED_UP.fullmatch(headers.get(remaining.format(limit), "0").strip())
            and (wait := read(headers.get(reset.format(limit), ""))) is not None]


def _plain(text: str) -> str:
    return text.strip() if len(text) <= _LONGEST_TEXT else ""


def _number(text: str, unit_ms: int) -> int | None:
    text = _plain(text)
    return round(float(text) * unit_ms) if _NUMBER.fullmatch(text) else None


def _duration(text: str) -> int | None:
    """`1m30s`, `120ms`, `7.66s` in ms."""
    text = _plain(text)
    if not _DURATION.fullmatch(text):
        return None
    return round(sum(float(number) * _UNITS_MS[unit] for number, unit in _PART.findall(text)))


def _until(moment: datetime | None, now: int) -> int | None:
    """The milliseconds to a moment; 0 for one that is over."""
    return None if moment is None else max(round(moment.timestamp() * 1000) - now, 0)


def _rfc3339(text: str) -> datetime | None:
    text = _plain(text)
    if not _MOMENT.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text.upper())
    except ValueError:
        return None


def _http_date(text: str, now: int) -> datetime | None:
    text = _plain(text)
    found = next((match for form in _DATES if (match := form.fullmatch(text))), None)
    if found is None or found["month"].lower() not in _MONTHS:
        return None
    year = int(found["year"])
    if len(found["year"]) == 2:  # of the century that runs
        year += (1970 + now // _YEAR_MS) // 100 * 100
    try:
        return datetime(year, _MONTHS.index(found["month"].lower()) + 1, int(found["day"]), int(found["h"]),
                        int(found["m"]), min(int(found["s"]), 59), tzinfo=UTC)
    except ValueError:
        return None
