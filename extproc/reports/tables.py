"""Tables and their forms: text, CSV, JSON, Parquet. Money is exact in all of them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from decimal import Decimal
from importlib import import_module
from typing import Any, Literal

import msgspec

from extproc.reports.periods import moment

NANO = 10**9
Kind = Literal["text", "count", "usd", "permille", "moment", "amount", "list"]
Format = Literal["table", "csv", "json", "parquet"]


class ParquetMissing(Exception):  # noqa: N818 - a state of the installation
    """pyarrow is not installed; the text says how to get it."""


class Amount(msgspec.Struct, frozen=True):
    """A number in a unit of its own: `usd` is in nano-dollars."""

    unit: str
    number: int


class Column(msgspec.Struct, frozen=True):
    """One column. `usd` cells are nano-dollars, `permille` ones tenths of a per cent, `moment` ones ms since the epoch
    (0: none). A cell None is unknown."""

    name: str
    kind: Kind = "text"
    title: str = ""

    @property
    def heading(self) -> str:
        """What stands above it in a text table."""
        return self.title or self.name.replace("_", " ")


Cell = str | int | Amount | tuple[str, ...] | None
Row = tuple[Cell, ...]


class Table(msgspec.Struct, frozen=True):
    """Columns, rows, and perhaps a last row with their sum, which only text and JSON have."""

    columns: tuple[Column, ...]
    rows: Sequence[Row]
    total: Row | None = None
    title: str = ""


# ---------------------------------------------------------------------------------------- numbers and names


def dollars(nano: int) -> str:
    """Return nano-dollars as a decimal number of dollars: exact, at least cents, no zeros beyond."""
    whole, part = divmod(abs(nano), NANO)
    decimals = f"{part:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if nano < 0 else ''}{whole}.{decimals}"


def printable(text: str) -> str:
    """Return the text without what a terminal would obey: names may come from a client."""
    return "".join([sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text])


def _grouped_dollars(nano: int) -> str:
    whole, _, decimals = dollars(abs(nano)).partition(".")
    return f"{'-' if nano < 0 else ''}${int(whole):,}.{decimals}"


def _text(kind: Kind, cell: Cell) -> str:
    """Return what people read."""
    if isinstance(cell, Amount):
        return _grouped_dollars(cell.number) if cell.unit == "usd" else f"{cell.number:,}"
    if isinstance(cell, tuple):
        return printable(", ".join(cell))
    if cell is None:
        return "-"
    if isinstance(cell, str):
        return printable(cell)
    match kind:
        case "usd":
            return _grouped_dollars(cell)
        case "permille":
            return f"{cell / 10:,.1f} %"
        case "moment":
            return moment(cell) if cell else "-"
        case _:
            return f"{cell:,}"


# ---------------------------------------------------------------------------------------- text


def as_text(table: Table, width: int | None = None) -> str:
    """Return the table for a terminal of that many columns; None: as wide as it needs to be."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    made = RichTable(box=SIMPLE_HEAD, pad_edge=False, show_footer=table.total is not None, show_edge=False)
    for index, column in enumerate(table.columns):
        footer = "" if table.total is None else _text(column.kind, table.total[index])
        right = column.kind not in ("text", "moment", "list")
        made.add_column(Text(column.heading), Text(footer), justify="right" if right else "left",
                        no_wrap=right or width is None, overflow="fold")
    for row in table.rows:
        made.add_row(*[Text(_text(column.kind, cell)) for column, cell in zip(table.columns, row, strict=True)])
    out = io.StringIO()
    console = Console(file=out, width=width or 100_000, color_system=None, force_terminal=False, legacy_windows=False)
    console.print(made, crop=False)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    return "\n".join([*([table.title] if table.title else []), *lines]) + "\n"


# ---------------------------------------------------------------------------------------- data


def _fields(column: Column) -> list[str]:
    if column.kind == "usd":
        return [f"{column.name}_nano_usd", f"{column.name}_usd"]
    if column.kind == "permille":
        return [f"{column.name}_percent"]
    return [f"{column.name}_unix_ms"] if column.kind == "moment" else [column.name]


def _values(column: Column, cell: Cell) -> list[Any]:
    """Return a cell as data, one value per field."""
    if isinstance(cell, Amount):
        return [cell.number]
    if isinstance(cell, tuple):
        return [list(cell)]
    if column.kind == "usd":
        return [None, None] if cell is None else [cell, dollars(int(cell))]
    if column.kind == "permille" and cell is not None:
        return [int(cell) / 10]
    return [None] if column.kind == "moment" and cell == 0 else [cell]


def _flat(table: Table, row: Row) -> list[Any]:
    return [value for column, cell in zip(table.columns, row, strict=True) for value in _values(column, cell)]


def _names(table: Table) -> list[str]:
    return [name for column in table.columns for name in _fields(column)]


def as_csv(table: Table, *, header: bool = True) -> str:
    """Return the rows as CSV, without the sum; unknown is empty, lists are separated by blanks."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if header:
        writer.writerow(_names(table))
    for row in table.rows:
        writer.writerow([" ".join(value) if isinstance(value, list) else value for value in _flat(table, row)])
    return out.getvalue()


def as_data(table: Table) -> list[dict[str, Any]]:
    """Return the rows as JSON objects."""
    names = _names(table)
    return [dict(zip(names, _flat(table, row), strict=True)) for row in table.rows]


def as_json(table: Table, **more: Any) -> str:
    """Return `more`, the rows and their sum as one JSON object."""
    content = {**more, "rows": as_data(table)}
    if table.total is not None:
        sums = [(column, cell) for column, cell in zip(table.columns, table.total, strict=True)
                if column.kind != "text"]
        content["total"] = as_data(Table(tuple(c for c, _ in sums), [tuple(cell for _, cell in sums)]))[0]
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def as_parquet(table: Table) -> bytes:
    """Return the rows as a Parquet file: dollars as decimals, counters as 64-bit integers. Raises ParquetMissing."""
    try:
        arrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError as error:
        raise ParquetMissing("Parquet needs pyarrow; install it with: pip install 'extproc[parquet]'") from error
    kinds = {"text": arrow.string(), "count": arrow.int64(), "amount": arrow.int64(), "permille": arrow.float64(),
             "moment": arrow.int64(), "list": arrow.list_(arrow.string())}
    fields: list[tuple[str, Any]] = []
    for column in table.columns:
        if column.kind == "usd":
            fields += zip(_fields(column), (arrow.int64(), arrow.decimal128(38, 9)), strict=True)
        else:
            fields.append((_fields(column)[0], kinds[column.kind]))
    exact = {name for name, kind in fields if arrow.types.is_decimal(kind)}
    rows = [{name: Decimal(value) if name in exact and value is not None else value for name, value in row.items()}
            for row in as_data(table)]
    out = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist(rows, schema=arrow.schema(fields)), out)
    return out.getvalue()
