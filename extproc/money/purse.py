"""What one worker may dispatch while the store is away: a bounded purse. Pure; the caller brings the time.

Real spend above the budgets is at most what the purses of all workers hold: an attempt takes its upper bound before it
is sent, and nothing but the difference to what it used comes back until the store is back and has everything.
"""

from __future__ import annotations

import msgspec

from extproc.money.amounts import LARGEST, Need, Option, check_amount


class Allowance(msgspec.Struct, frozen=True):
    """How much without the store: nano-dollars, dispatches, and for how long (ms)."""

    nano_usd: int
    requests: int
    for_ms: int

    def __post_init__(self) -> None:
        check_amount("the dollars of the purse (n$)", self.nano_usd)
        check_amount("the requests of the purse", self.requests)


class Purse:
    """One per worker. `since`: when the first was taken after the store was last in order (ms); None: nothing is."""

    def __init__(self) -> None:
        self._held = self._spent = self._taken = self._running = 0
        self.since: int | None = None

    def room(self, allowance: Allowance, now: int) -> int | None:
        """Return the nano-dollars that may still be taken; None: nothing may be dispatched, not even for free."""
        if self._taken >= allowance.requests:
            return None
        if self.since is not None and not 0 <= now - self.since < allowance.for_ms:
            return None  # a clock that was set back must not open it again
        return max(allowance.nano_usd - self._held - self._spent, 0)

    def choose(self, options: tuple[Option, ...], allowance: Allowance, now: int) -> tuple[int, int] | None:
        """Return the first option that fits, from 1, and its output tokens; None: none does. Nothing is taken."""
        room = self.room(allowance, now)
        for number, option in enumerate(() if room is None else options, 1):
            assert room is not None
            if option.fixed_nano_usd > room:
                continue
            each = option.token_nano_usd
            output = option.want if each == 0 else min(option.want, (room - option.fixed_nano_usd) // each)
            if output >= option.least:
                return number, output
        return None

    def take(self, need: Need, allowance: Allowance, now: int) -> bool:
        """Take an attempt's upper bound and one dispatch, or nothing."""
        room = self.room(allowance, now)
        if room is None or need.nano_usd > room:
            return False
        self._held += need.nano_usd
        self._taken += 1
        self._running += 1
        if self.since is None:
            self.since = now
        return True

    def end(self, need: Need, cost: int | None) -> None:
        """An attempt that took `need` has ended. Its cost stays taken; one that nobody knows is its whole bound."""
        self._held -= need.nano_usd
        self._running -= 1
        self._spent = min(self._spent + (need.nano_usd if cost is None else max(cost, 0)), LARGEST)

    def inherit(self, dispatched: int, nano_usd: int, now: int) -> None:
        """Another worker died with this taken from its purse; the store does not have it yet."""
        self._taken += dispatched
        self._spent = min(self._spent + nano_usd, LARGEST)
        if self.since is None:
            self.since = now

    def refill(self) -> None:
        """The store is back and has all that ended. What still runs stays taken."""
        self._spent, self._taken, self.since = 0, self._running, None
