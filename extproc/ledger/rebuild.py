"""What the windows of an org had, by its records: for a store that lost its data. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from extproc.money.amounts import Budget, Unit
from extproc.money.tables import Table
from extproc.pb import usage_pb2 as pb

_SPENT_A_REQUEST = ("done", "closed", "expired", "orphan")


class Charged(msgspec.Struct):
    """What records charged to one window."""

    nano_usd: int = 0
    tokens: int = 0
    requests: int = 0

    def of(self, unit: Unit) -> int:
        """Return the sum in a budget's unit; concurrent requests are never spent."""
        match unit:
            case Unit.USD:
                return self.nano_usd
            case Unit.TOKENS:
                return self.tokens
            case Unit.REQUESTS:
                return self.requests
            case Unit.CONCURRENT:
                return 0


def charged(records: Iterable[pb.UsageRecord]) -> dict[str, Charged]:
    """Return the sums by window. Each record must come once, though export and stream may overlap."""
    sums: dict[str, Charged] = {}
    for record in records:
        for window in record.budgets:
            entry = sums.setdefault(window, Charged())
            entry.nano_usd += record.delta_nano_usd
            entry.tokens += record.delta_tokens
            entry.requests += record.state in _SPENT_A_REQUEST
    return sums


def seeds(table: Table, sums: dict[str, Charged]) -> tuple[tuple[Budget, int], ...]:
    """Return the windows to make again under a table, with what each has spent.

    A budget for each one (`team: "*"`) has windows under ids of their own, which begin with that of its entry. Windows
    of budgets that the table no longer has, or has in other periods, are left out.
    """
    entries = {entry.id: entry for entry in table.entries}
    found: list[tuple[Budget, int]] = []
    for window, sum_ in sums.items():
        name, _, start = window.rpartition(":")
        entry = entries.get(name) or entries.get(name.rpartition(".")[0])
        if entry is not None:
            budget = msgspec.structs.replace(entry, id=name).at(int(start))
            if budget.window == window:
                found.append((budget, sum_.of(budget.unit)))
    return tuple(found)
