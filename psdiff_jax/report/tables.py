"""Tables of numbers, the best of them marked; as text here, as HTML by the templates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any


@dataclasses.dataclass(frozen=True)
class Cell:
    """text: what is shown; exact: the number behind it, as it is measured; best: whether it is marked."""

    text: str
    exact: float | None = None
    best: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """heads: one a column; rows: as wide; labels: columns, from the left, that name the row (text, to the left).

    groups: a key a row; where it changes, a new block of rows begins. is_text: cells hold text, which may wrap.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    labels: int = 1
    groups: Sequence[Any] = ()
    is_text: bool = False

    @property
    def blocks(self) -> list[list[Sequence[Cell]]]:
        """The rows, block by block."""
        keys = self.groups or [None] * len(self.rows)
        pairs = zip(keys, self.rows, strict=True)
        return [[row for _, row in members] for _, members in groupby(pairs, key=lambda pair: pair[0])]


MISSING = Cell("–")


def rate(numbers: Mapping[str, Any] | None, key: str) -> Cell:
    """A fraction in percent, with its standard deviation where `numbers` has one; a dash where there is none."""
    if numbers is None or key not in numbers:
        return MISSING
    sd = numbers.get("sd", {}).get(key)
    return Cell(f"{100 * numbers[key]:.1f}" + (f" ± {100 * sd:.1f}" if sd is not None else ""), float(numbers[key]))


def amount(numbers: Mapping[str, Any], key: str) -> Cell:
    """A count, or a mean of counts."""
    if key not in numbers:
        return MISSING
    value = float(numbers[key])
    return Cell(f"{value:,.0f}" if value == round(value) else f"{value:,.1f}", value)


def mark_best(cells: Sequence[Cell]) -> list[Cell]:
    """The cells, the highest marked, and with it all that show the same number; none where all show the same."""
    shown = [None if cell.exact is None else round(cell.exact, 3) for cell in cells]
    known = [value for value in shown if value is not None]
    if len(set(known)) < 2:
        return list(cells)
    return [dataclasses.replace(cell, best=value == max(known)) for cell, value in zip(cells, shown, strict=True)]


def mark_columns(table: Table, columns: Sequence[int]) -> Table:
    """The table with the best of each of the columns marked, in every group of rows by itself."""
    rows = [list(row) for row in table.rows]
    keys = list(table.groups) or [None] * len(rows)
    for key in dict.fromkeys(keys):
        members = [i for i, other in enumerate(keys) if other == key]
        for column in columns:
            for i, cell in zip(members, mark_best([rows[i][column] for i in members]), strict=True):
                rows[i][column] = cell
    return dataclasses.replace(table, rows=rows)


def as_text(table: Table) -> str:
    """Columns lined up for a terminal; the best carry a star."""
    starred = [any(row[i].best for row in table.rows) for i in range(len(table.heads))]  # numbers stay below each other
    lines = [[head + " " * star for head, star in zip(table.heads, starred, strict=True)]]
    for row in table.rows:
        lines.append([cell.text + ("*" if cell.best else " " * star) for cell, star in zip(row, starred, strict=True)])
    return "\n".join(align(lines, left=range(table.labels)))


def align(rows: Sequence[Sequence[str]], left: Sequence[int] = ()) -> list[str]:
    """The lines of a table, its heads (the first of `rows`) underlined; columns flush right except those in `left`."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = zip(row, widths, strict=True)
        return "  ".join(c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(cells)).rstrip()

    return [line(rows[0]), "  ".join("-" * w for w in widths), *map(line, rows[1:])]
