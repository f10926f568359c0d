"""Fit a table into a terminal: names are broken where they have joints, then columns go below each other in blocks."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
from rich.cells import cell_len, chop_cells

GAP = 2
"""Blanks between two columns of a table that had to be fitted."""
WHOLE = 32
"""A piece of a name up to this long is never broken: ids can be copied."""
_PIECE = re.compile(r"[^-/_.:,\s]*[-/_.:,\s]*")


class Shown(msgspec.Struct, frozen=True):
    """A column as text: what stands above it, its cells, and whether it holds numbers, which are never broken."""

    heading: str
    cells: Sequence[str]
    number: bool


def blocks(columns: Sequence[Shown], width: int) -> list[list[tuple[int, int]]]:
    """Return which columns stand beside each other, each by its index and width. A first column of names stands in
    front of every block. Columns without any content are left out."""
    shown = [index for index, column in enumerate(columns) if not index or not {"", "-"}.issuperset(column.cells)]
    least = {index: _least(columns[index], width) for index in shown}
    lead = [0] if not columns[0].number and least[0] <= width // 2 else []
    made: list[list[int]] = []
    for index in shown:
        if made and sum(least[i] + GAP for i in made[-1]) + least[index] <= width:
            made[-1].append(index)
        else:
            made.append([index] if index == 0 or not made else [*lead, index])
    return [_widths(columns, block, least, width) for block in made]


def broken(text: str, width: int) -> str:
    """Return the text in lines of at most that many cells, broken behind its joints where that is possible."""
    lines = [""]
    for piece in _PIECE.findall(text):
        if cell_len(lines[-1] + piece.rstrip()) <= width:
            lines[-1] += piece
            continue
        lines += chop_cells(piece, width) if cell_len(piece.rstrip()) > width else [piece]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _least(column: Shown, width: int) -> int:
    heading = max(map(cell_len, column.heading.split()), default=0)
    if column.number:
        return max(heading, *map(cell_len, column.cells), 0)
    pieces = [cell_len(piece.rstrip()) for cell in column.cells for piece in _PIECE.findall(cell)]
    return max(heading, min(max(pieces, default=0), WHOLE, 2 * width // 5))


def _widths(columns: Sequence[Shown], block: Sequence[int], least: dict[int, int], width: int) -> list[tuple[int, int]]:
    """Give each column what it likes to have, as far as there is room: the narrowest are served first."""
    given = {index: least[index] for index in block}
    room = width - sum(given.values()) - GAP * (len(block) - 1)
    for index in sorted(block, key=lambda i: max(map(cell_len, [columns[i].heading, *columns[i].cells])) - given[i]):
        more = min(max(map(cell_len, [columns[index].heading, *columns[index].cells])) - given[index], max(room, 0))
        given[index] += more
        room -= more
    return [(index, given[index]) for index in block]
