"""Lists as CSV: a header, then one box a line.

    image,x,y,width,height,person_id,split,camera,frame,query

x, y, width and height are empty for an image without people; split, camera, frame and query are optional. Columns are
in any order, separated by commas, semicolons (then 12,5 is a number as well) or tabs.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
from pathlib import Path

from psdiff_jax.datasets.common.records import ERROR, WARNING, RawDataset
from psdiff_jax.datasets.custom.listing import (
    SPLITS,
    BoxEntry,
    ImageEntry,
    Listing,
    normalized_name,
    parse_frame,
    parse_id,
    parse_xywh,
)
from psdiff_jax.errors import InputError

BOX = ("x", "y", "width", "height")
REQUIRED = ("image", *BOX)
_YES, _NO = ("1", "true", "yes"), ("", "0", "false", "no")


def read_table(path: Path, split: str | None, listing: Listing, dataset: RawDataset) -> None:
    """Adds a file to the listing.

    split: of all its images; "query": its lines are queries in gallery images; None: each line names its own.

    Raises:
      InputError: the file is no text, or a required column is missing.
    """
    table = _load(path)
    if split is None and "split" not in table.columns:
        dataset.note(WARNING, "no split", path, "has no column split: all images become the gallery")
        split = "gallery"
    for number, values in table.lines:
        where = f"{path} line {number}"
        try:
            _add_line(where, table.record(values), split, listing)
        except ValueError as error:
            dataset.note(ERROR, "wrong line", where, f"{error}; correct the line")


@dataclasses.dataclass(frozen=True)
class _Table:
    """lines: (number in the file, values) of those that are not empty; separator: of the columns."""

    columns: list[str]
    lines: list[tuple[int, list[str]]]
    separator: str

    def record(self, values: list[str]) -> dict[str, str]:
        """Column -> value; ValueError for more values than columns."""
        if any(values[len(self.columns) :]):
            raise ValueError(f"it has {len(values)} values for {len(self.columns)} columns")
        found = dict(itertools.zip_longest(self.columns, values[: len(self.columns)], fillvalue=""))
        decimal = "." if self.separator == "," else ","  # 12,5 where commas do not separate the columns
        return {key: value.replace(decimal, ".") if key in BOX else value for key, value in found.items()}


def _load(path: Path) -> _Table:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8 (byte {error.start}); save it as UTF-8") from error
    separator = max(",;\t", key=text.split("\n", 1)[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        columns = [" ".join(name.split()).lower() for name in next(reader, [])]
        lines, begin = [], reader.line_num + 1
        for values in reader:
            lines.append((begin, [value.strip() for value in values]))
            begin = reader.line_num + 1  # quoted values may hold line breaks
    except csv.Error as error:
        raise InputError(f"{path} line {reader.line_num}: {error}; export it again") from error
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise InputError(
            f"{path} line 1: the header has no column {', '.join(missing)}; it has"
            f" {', '.join([name for name in columns if name][:20]) or 'none'}"
        )
    return _Table(columns, [(number, values) for number, values in lines if any(values)], separator)


def _add_line(where: str, line: dict[str, str], split: str | None, listing: Listing) -> None:
    if not line["image"]:
        raise ValueError("it names no image")
    name = normalized_name(line["image"])
    if split != "query":
        _add_image(where, name, line, split, listing)
    values = [line.get(key, "") for key in BOX]
    if not any(values):
        if split == "query":
            raise ValueError("a query needs a box")
        return
    mark = line.get("query", "").lower()
    if mark not in (*_YES, *_NO):
        raise ValueError(f"query is {mark!r}, expected 1 or 0")
    box = BoxEntry(where, name, parse_xywh(values), parse_id(line.get("person_id")), mark in _YES)
    (listing.queries if split == "query" else listing.boxes).append(box)


def _add_image(where: str, name: str, line: dict[str, str], split: str | None, listing: Listing) -> None:
    own = split if split is not None else line.get("split", "").lower()
    if own not in SPLITS:
        raise ValueError(f"{name} has the split {own!r}, expected train or gallery")
    found = ImageEntry(where, name, own, None, parse_id(line.get("camera")), parse_frame(line.get("frame")))
    first = listing.images.setdefault(name, found)
    if dataclasses.replace(found, where=first.where) != first:
        raise ValueError(f"{name} has another split, camera or frame than in {first.where}")
