"""Lists as CSV: a header, then one person a line.

    image,x,y,width,height,person_id,split,camera,frame,query

x, y, width and height are empty for a photograph without people; split, camera, frame and query may be missing. Columns
stand in any order and are parted by commas, semicolons (then 12,5 is a number as well) or tabs.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path

from psdiff_jax.datasets.common.records import ERROR, WARNING, Contents
from psdiff_jax.datasets.custom.listing import (
    SPLITS,
    Listing,
    Person,
    Photograph,
    as_text,
    frame_number,
    plain_name,
    rectangle,
)
from psdiff_jax.errors import InputError

BOX = ("x", "y", "width", "height")
NEEDED = ("image", *BOX)
_YES, _NO = ("1", "true", "yes"), ("", "0", "false", "no")


def read_table(path: Path, split: str | None, listing: Listing, contents: Contents) -> None:
    """Adds a file to the listing. split: of all its photographs; "query": its lines are queries in photographs of the
    gallery; None: each line says its own.

    Raises:
      InputError: the file is no text, or a needed column is missing.
    """
    table = _load(path)
    if split is None and "split" not in table.columns:
        contents.note(WARNING, "no split", path, "has no column split: all photographs are taken for the gallery")
        split = "gallery"
    for number, values in table.lines:
        where = f"{path} line {number}"
        try:
            _add_line(where, table.record(values), split, listing)
        except ValueError as error:
            contents.note(ERROR, "wrong line", where, f"{error}; correct the line")


@dataclasses.dataclass(frozen=True)
class _Table:
    """lines: (number in the file, values) of those that are not empty; mark: what parts the columns."""

    columns: list[str]
    lines: list[tuple[int, list[str]]]
    mark: str

    def record(self, values: list[str]) -> dict[str, str]:
        """Column -> value; ValueError for more values than columns."""
        if any(values[len(self.columns) :]):
            raise ValueError(f"it has {len(values)} values for {len(self.columns)} columns")
        found = dict(zip(self.columns, values, strict=False))
        decimal = "." if self.mark == "," else ","  # 12,5 where commas do not part the columns
        return {key: value.replace(decimal, ".") if key in BOX else value for key, value in found.items()}


def _load(path: Path) -> _Table:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8 (byte {error.start}); save it as UTF-8") from error
    mark = max(",;\t", key=text.split("\n", 1)[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark)
    try:
        columns = [" ".join(name.split()).lower() for name in next(reader, [])]
        lines, begin = [], reader.line_num + 1
        for values in reader:
            lines.append((begin, [value.strip() for value in values]))
            begin = reader.line_num + 1  # quoted values may hold line breaks
    except csv.Error as error:
        raise InputError(f"{path} line {reader.line_num}: {error}; export it again") from error
    missing = [name for name in NEEDED if name not in columns]
    if missing:
        raise InputError(
            f"{path} line 1: the header has no column {', '.join(missing)}; it has"
            f" {', '.join([name for name in columns if name][:20]) or 'none'}"
        )
    return _Table(columns, [(number, values) for number, values in lines if any(values)], mark)


def _add_line(where: str, line: dict[str, str], split: str | None, listing: Listing) -> None:
    if not line["image"]:
        raise ValueError("it names no image")
    name = plain_name(line["image"])
    if split != "query":
        _add_photograph(where, name, line, split, listing)
    values = [line.get(key, "") for key in BOX]
    if not any(values):
        if split == "query":
            raise ValueError("a query needs a box")
        return
    asked = line.get("query", "").lower()
    if asked not in (*_YES, *_NO):
        raise ValueError(f"query is {asked!r}, expected 1 or 0")
    person = Person(where, name, rectangle(values), as_text(line.get("person_id")), asked in _YES)
    (listing.queries if split == "query" else listing.people).append(person)


def _add_photograph(where: str, name: str, line: dict[str, str], split: str | None, listing: Listing) -> None:
    own = split if split is not None else line.get("split", "").lower()
    if own not in SPLITS:
        raise ValueError(f"{name} has the split {own!r}, expected train or gallery")
    found = Photograph(where, name, own, None, as_text(line.get("camera")), frame_number(line.get("frame")))
    first = listing.photographs.setdefault(name, found)
    if dataclasses.replace(found, where=first.where) != first:
        raise ValueError(f"{name} has another split, camera or frame than in {first.where}")
