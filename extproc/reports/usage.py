"""Sums over the daily rollup rows, by any of their dimensions. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from extproc.reports.tables import Cell, Column, Table

DIMENSIONS = ("day", "team", "project", "user", "key", "model", "backend")


class DimensionRefused(ValueError):  # noqa: N818 - the caller's mistake, said in words
    """There is nothing of this name to sum by; the text lists what there is."""


class Sums(msgspec.Struct):
    """What rows add up to. `cost` in nano-dollars, of attempts with a known price; the others are `unpriced`."""

    requests: int = 0
    input: int = 0
    output: int = 0
    unpriced: int = 0
    cost: int = 0

    def add(self, row: Mapping[str, str | int]) -> None:
        """Add a rollup row."""
        self.requests += int(row["requests"])
        self.input += int(row["input"])
        self.output += int(row["output"])
        self.unpriced += int(row["unpriced"])
        self.cost += int(row["cost"])


COLUMNS = (
    Column("requests", "count"), Column("input", "count", "input tokens"), Column("output", "count", "output tokens"),
    Column("unpriced", "count", "unpriced attempts"), Column("cost", "usd"),
)


def dimensions(text: str) -> tuple[str, ...]:
    """Read `team,model`. Raises DimensionRefused."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in DIMENSIONS:
            raise DimensionRefused(f"--by {name[:40]}: expected some of {', '.join(DIMENSIONS)}, joined by commas")
    return names


class Usage:
    """Takes rollup rows one by one; holds one sum per row of the result."""

    def __init__(self, by: tuple[str, ...], only: Mapping[str, frozenset[str]] | None = None) -> None:
        """`only`: dimension → the values that count; without one, all do."""
        self.by, self._only = by, only or {}
        self._sums: dict[tuple[str, ...], Sums] = {}
        self.total = Sums()

    def add(self, day: str, row: Mapping[str, str | int]) -> None:
        """Add the rollup row of a day."""
        named = {name: day if name == "day" else str(row.get(name, "")) for name in DIMENSIONS}
        if any(named[name] not in allowed for name, allowed in self._only.items()):
            return
        self._sums.setdefault(tuple(named[name] for name in self.by), Sums()).add(row)
        self.total.add(row)

    def table(self) -> Table:
        """Return the sums: days in their order, else dearest first."""
        def order(item: tuple[tuple[str, ...], Sums]) -> tuple[str, int, int, tuple[str, ...]]:
            values, sums = item
            return (values[0] if self.by[:1] == ("day",) else "", -sums.cost, -sums.requests, values)

        rows = [(*values, *msgspec.structs.astuple(sums)) for values, sums in sorted(self._sums.items(), key=order)]
        head: list[Cell] = ["total", *[""] * (len(self.by) - 1)] if self.by else []
        total = (*head, *msgspec.structs.astuple(self.total)) if self.by else None
        return Table((*[Column(name) for name in self.by], *COLUMNS), rows, total)
