"""Tables of numbers, the best of them marked; as text here, as HTML by the templates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from psdiff_jax.evaluation.protocols.base import size_words
from psdiff_jax.report.naming import option_name, split_name


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
SEARCH = ("mAP", "top-1", "top-5", "top-10")
DETECTION = {  # name of a column -> its place in evaluation.json's numbers of detection
    "AP": ("all", "AP"),
    "recall": ("all", "recall"),
    "AP labelled": ("labelled", "AP"),
    "recall labelled": ("labelled", "recall"),
    "COCO AP": ("coco", "AP"),
    "AP50": ("coco", "AP50"),
    "AP75": ("coco", "AP75"),
}


def rate(numbers: Mapping[str, Any] | None, key: str) -> Cell:
    """A fraction in percent, with its standard deviation where `numbers` has one; a dash where there is none."""
    if numbers is None or key not in numbers:
        return MISSING
    sd = numbers.get("sd", {}).get(key)
    return Cell(f"{100 * numbers[key]:.1f}" + (f" ± {100 * sd:.1f}" if sd is not None else ""), float(numbers[key]))


def detection_rates(kinds: Mapping[str, Any]) -> list[Cell]:
    """The cells of `DETECTION` at one number of steps."""
    return [rate(kinds.get(kind), key) for kind, key in DETECTION.values()]


def search_rows(
    results: Sequence[Mapping[str, Any]], base: str
) -> tuple[list[str], list[tuple[list[Cell], str, str, str]]]:
    """The rows of a table of one protocol: (heads of the label columns, [(labels, name, gallery size, steps)]).

    results: contents of evaluation.json. A row a size, in order, re-ranking and number of steps that one of them has;
    a column that would be the same in every row is left out.
    """
    leaves = dict.fromkeys(
        (size, name, steps)
        for numbers in results
        for name, sizes in numbers["search"].items()
        if split_name(name)[0] == base
        for size, by_steps in sizes.items()
        for steps in by_steps
    )
    order = list(dict.fromkeys(size for size, *_ in leaves))
    has_sizes, has_options = len(order) > 1, any(split_name(name)[1] for _, name, _ in leaves)
    rows = []
    for size, name, steps in sorted(leaves, key=lambda leaf: order.index(leaf[0])):
        labels = [size_words(size)] * has_sizes + [option_name(split_name(name)[1])] * has_options + [steps]
        rows.append(([Cell(label) for label in labels], name, size, steps))
    return ["gallery"] * has_sizes + ["re-ranking"] * has_options + ["steps"], rows


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
