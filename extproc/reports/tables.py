"""Tables and their forms: text, CSV, JSON, Parquet. Money is exact in all of them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from extproc.reports.periods import moment

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from extproc.reports.fitting import Shown

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
    upright: bool = False
    """Whether text shows each column on a line of its own."""


def without(table: Table, name: str) -> Table:
    """Return the table without one of its columns."""
    keep = [index for index, column in enumerate(table.columns) if column.name != name]
    return msgspec.structs.replace(
        table, columns=tuple(table.columns[index] for index in keep),
        rows=[tuple(row[index] for index in keep) for row in table.rows],
        total=None if table.total is None else tuple(table.total[index] for index in keep))


# ---------------------------------------------------------------------------------------- numbers and names


def dollars(nano: int, places: int = 2) -> str:
    """Return nano-dollars as a decimal number of dollars: exact, with at least so many places, no zeros beyond."""
    whole, part = divmod(abs(nano), NANO)
    decimals = f"{part:09d}".rstrip("0").ljust(places, "0")
    return f"{'-' if nano < 0 else ''}{whole}.{decimals}"


def printable(text: str) -> str:
    """Return the text without what a terminal would obey: names may come from a client."""
    return "".join([sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text])


def _grouped_dollars(nano: int, places: int) -> str:
    whole, _, decimals = dollars(abs(nano), places).partition(".")
    return f"{'-' if nano < 0 else ''}${int(whole):,}.{decimals}"


def _nano(column: Column, cell: Cell) -> int | None:
    """Return a cell's money; None: it is none."""
    if isinstance(cell, Amount):
        return cell.number if cell.unit == "usd" else None
    return cell if column.kind == "usd" and isinstance(cell, int) else None


def _texts(column: Column, cells: Sequence[Cell]) -> list[str]:
    """Return what people read, all money of the column with as many places as its longest amount needs."""
    money = [nano for cell in cells if (nano := _nano(column, cell)) is not None]
    places = max((len(dollars(nano).partition(".")[2]) for nano in money), default=2)
    return [_text(column, cell, places) for cell in cells]


def _text(column: Column, cell: Cell, places: int) -> str:
    if (nano := _nano(column, cell)) is not None:
        return _grouped_dollars(nano, places)
    if isinstance(cell, tuple):
        return printable(", ".join(cell))
    if isinstance(cell, str):
        return printable(cell)
    if cell is None or (column.kind == "moment" and cell == 0):
        return "-"
    number = cell.number if isinstance(cell, Amount) else cell
    if column.kind == "permille":
        return f"{number / 10:,.1f} %"
    return moment(number) if column.kind == "moment" else f"{number:,}"


# ---------------------------------------------------------------------------------------- text


def as_text(table: Table, width: int | None = None) -> str:
    """Return the table for a terminal of that many columns; None: as wide as it needs to be. Numbers are never cut."""
    from rich.cells import cell_len
    from rich.table import Table as RichTable
    from rich.text import Text

    from extproc.reports import fitting

    every = [*table.rows, *([] if table.total is None else [table.total])]
    columns = [
        fitting.Shown(column.heading, _texts(column, [row[index] for row in every]),
                      number=column.kind not in ("text", "list"))
        for index, column in enumerate(table.columns)]
    if table.upright:
        made = RichTable(box=None, show_header=False, pad_edge=False)
        for column in columns:
            made.add_row(Text(column.heading), *[Text(cell, justify="right") for cell in column.cells])
        lines = _lines(made)
    else:
        lines = _lines(_side_by_side(table, columns, [(index, 0) for index in range(len(columns))]))
        if width is not None and max(map(cell_len, lines), default=0) > width:
            made = [_lines(_side_by_side(table, columns, block)) for block in fitting.blocks(columns, width)]
            lines = [line for block in made for line in ["", *block]][1:]
    return "\n".join([*([table.title] if table.title else []), *lines]) + "\n"


def _side_by_side(table: Table, columns: Sequence[Shown], block: Sequence[tuple[int, int]]) -> RichTable:
    """Return some columns as a table. A width of 0: as wide as the column needs to be."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    from extproc.reports.fitting import broken

    fitted = any(width for _, width in block)
    made = RichTable(box=SIMPLE_HEAD, pad_edge=False, show_footer=table.total is not None, show_edge=False,
                     padding=(0, 1, 0, 0) if fitted else (0, 1))
    for index, width in block:
        column = columns[index]
        made.add_column(
            Text(column.heading), Text(column.cells[-1] if table.total is not None else ""), width=width or None,
            no_wrap=not fitted,
            justify="right" if column.number and table.columns[index].kind != "moment" else "left")
    for row in range(len(table.rows)):
        cells = [(columns[index], width) for index, width in block]
        made.add_row(*[
            Text(broken(column.cells[row], width) if width and not column.number else column.cells[row])
            for column, width in cells])
    return made


def _lines(made: RichTable) -> list[str]:
    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, width=100_000, color_system=None, force_terminal=False, legacy_windows=False)
    console.print(made, crop=False)
    return [line.rstrip() for line in out.getvalue().splitlines()]


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


class Pages:
    """Writes rows as `as_csv` and `as_json` do, a page at a time: memory does not grow with them."""

    def __init__(self, form: Literal["csv", "json"], put: Callable[[str], None]) -> None:
        self._form, self._put, self._rows, self._begun = form, put, 0, False

    def add(self, page: Table) -> None:
        """Write its rows; all pages have the same columns."""
        if self._form == "csv":
            self._put(as_csv(page, header=not self._begun))
        else:
            rows = [json.dumps(row, ensure_ascii=False, indent=2).replace("\n", "\n    ") for row in as_data(page)]
            head = "" if self._begun else '{\n  "rows": ['
            self._put(head + "".join(f"{',' if self._rows + at else ''}\n    {row}" for at, row in enumerate(rows)))
        self._begun, self._rows = True, self._rows + len(page.rows)

    def close(self) -> None:
        """Write the end; there must have been a page, be it an empty one."""
        if self._form == "json":
            self._put("\n  ]\n}\n" if self._rows else "]\n}\n")


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
