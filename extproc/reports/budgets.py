"""The state of every budget's window, named as in the configuration. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from extproc.core.admission import Identity, entries_for
from extproc.money.amounts import Audit, Budget, WindowState
from extproc.money.tables import END_OF_TIME_MS, Entry, Table
from extproc.reports import tables
from extproc.reports.periods import remaining
from extproc.reports.tables import Amount, Column

WHOM = ("org", "team", "project", "user", "key")
COLUMNS = (
    Column("whom"), Column("name"), Column("per"), Column("unit"), Column("spent", "amount"),
    Column("reserved", "amount"), Column("debt", "amount"), Column("limit", "amount"), Column("free", "amount"),
    Column("used", "permille"), Column("resets", "moment", "resets (UTC)"), Column("resets_in"), Column("budget"),
)


class Line(msgspec.Struct, frozen=True):
    """One window. `entry`: the budget of the table in force; None: the budget is in no table any more."""

    state: WindowState
    window: Budget | None
    entry: Entry | None


def lines(table: Table, audit: Audit, *, everything: bool = False) -> list[Line]:
    """Return the windows of this moment, in the table's order; those of budgets for each one where they have begun.

    `everything`: also windows that are over but still take corrections, and those of budgets that were taken away.
    """
    by_id = {entry.id: entry for entry in table.entries}
    order = {entry.id: index for index, entry in enumerate(table.entries)}
    found: list[tuple[int, Line]] = []
    seen: set[str] = set()
    for state in audit.windows:
        entry = by_id.get(state.budget) or by_id.get(state.budget.rpartition(".")[0])
        start = int(state.window.rpartition(":")[2])
        window = None if entry is None else msgspec.structs.replace(entry.at(start), id=state.budget)
        current = window is not None and window.start_ms == start and window.end_ms > audit.time_ms
        if current or everything:
            seen.add(state.window)
            found.append((order[entry.id] if entry else len(order), Line(state, window, entry)))
    for entry in table.entries:
        window = entry.at(audit.time_ms)
        if _whose(entry)[1] != "all" and window.window not in seen:
            found.append((order[entry.id], Line(WindowState(window.window, 0, 0, 0, entry.limit), window, entry)))
    return [line for _, line in sorted(found, key=lambda item: (item[0], item[1].state.window))]


def _whose(entry: Entry) -> tuple[str, str]:
    dimension, whom, *_ = [*entry.id.split("."), ""]
    return dimension, whom


class Names:
    """Finds out whose a budget is: ids hold hashes of names only, so names are tried until all are known."""

    def __init__(self, table: Table, wanted: Iterable[Line]) -> None:
        # An id that was not made of a configuration tells nothing of whose it is.
        self._table = Table(table.generation, tuple(e for e in table.entries if e.id.count(".") >= 2))
        self._names: dict[str, str] = {}
        self._tried: set[tuple[str, str]] = set()
        self.missing = {line.state.budget for line in wanted}

    def offer(self, dimension: str, name: str) -> None:
        """Try one name of an org, team, project, user or key."""
        if not name or not self.missing or (dimension, name) in self._tried:
            return
        self._tried.add((dimension, name))
        who = Identity(**({"org": "", "team": ""} | {dimension: name}))
        for entry in entries_for(self._table, who):
            self._names[entry.id] = name
            self.missing.discard(entry.id)

    def of(self, line: Line) -> str:
        """Return the name, or the hash in brackets where none of those offered fits."""
        parts = line.state.budget.split(".")
        hashed = parts[-1] if len(parts) > 1 and parts[1] == "all" else parts[1] if len(parts) > 1 else ""
        return self._names.get(line.state.budget, f"({hashed})" if hashed else "")


def table_of(found: Iterable[Line], names: Names, now_ms: int) -> tables.Table:
    """Return the windows as a table; the limit is the one in force, not the one last reserved under."""
    rows: list[tables.Row] = []
    for line in found:
        state, entry = line.state, line.entry
        limit = state.limit if entry is None else entry.limit
        unit = [*state.budget.split("."), "", ""][2] if entry is None else entry.unit.name.lower()
        used = state.spent + state.debt + (state.reserved if unit == "concurrent" else 0)
        end = 0 if line.window is None or line.window.end_ms == END_OF_TIME_MS else line.window.end_ms
        over = end != 0 and end <= now_ms
        resets = "over" if over else remaining(end - now_ms) if end else "removed" if entry is None else "never"
        numbers = (state.spent, state.reserved, state.debt, limit, limit - state.spent - state.reserved - state.debt)
        rows.append((
            state.budget.split(".")[0], names.of(line), "" if entry is None else entry.per, unit,
            *[Amount(unit, number) for number in numbers], used * 1000 // limit if limit else None,
            end, resets, state.window,
        ))
    return tables.Table(COLUMNS, rows)
