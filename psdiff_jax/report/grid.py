"""A table of numbers as data, the best of them marked; written as text here, as HTML by `page`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from psdiff_jax.report.table import align


@dataclasses.dataclass(frozen=True)
class Cell:
    """text: what is shown; exact: the number behind it, as it is measured; best: whether it is marked."""

    text: str
    exact: float | None = None
    best: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """heads: one a column; rows: as wide; labels: columns, from the left, that name the row (text, to the left).

    groups: a key a row; where it changes, a new block of rows begins.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    labels: int = 1
    groups: Sequence[Any] = ()


MISSING = Cell("–")


def rate(numbers: Mapping[str, Any] | None, key: str) -> Cell:
    """A fraction in percent, with its standard deviation where `numbers` has one; a dash where there is none."""
    if numbers is None or key not in numbers:
        return MISSING
    spread = numbers.get("sd", {}).get(key)
    text = f"{100 * numbers[key]:.1f}" + (f" ± {100 * spread:.1f}" if spread is not None else "")
    return Cell(text, float(numbers[key]))


def amount(numbers: Mapping[str, Any], key: str) -> Cell:
    """A count, or a mean of counts."""
    if key not in numbers:
        return MISSING
    value = float(numbers[key])
    return Cell(f"{value:,.0f}" if value == round(value) else f"{value:,.1f}", value)


def mark_best(cells: Sequence[Cell]) -> list[Cell]:
    """The cells, the highest marked, and with it all that show the same number; none where all show the same."""
    shown = [None if cell.exact is None else round(cell.exact, 3) for cell in cells]
    there = [value for value in shown if value is not None]
    if len(set(there)) < 2:
        return list(cells)
    return [dataclasses.replace(cell, best=value == max(there)) for cell, value in zip(cells, shown, strict=True)]


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
    lines = [list(table.heads), *([cell.text + "*" * cell.best for cell in row] for row in table.rows)]
    starred = [any(row[i].best for row in table.rows) for i in range(len(table.heads))]
    lines = [
        [text if text.endswith("*") or not star else text + " " for text, star in zip(line, starred, strict=True)]
        for line in lines
    ]  # so that numbers stay below each other
    return "\n".join(align(lines, left=range(table.labels)))
