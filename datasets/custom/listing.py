"""The content of the user's lists, in one form for JSON and CSV: images, and boxes in them. No image is opened."""

from __future__ import annotations

import math
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from psdiff_jax.data.schema import UNKNOWN

SPLITS = ("train", "gallery")
_WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})")


@dataclass(frozen=True)
class ImageEntry:
    """An image of a list.

    where: file and record; name: file name with slashes; split: train or gallery; size: (height, width) as the list
    states it, None if it does not; camera: as text, None if unknown; frame: -1 if unknown.
    """

    where: str
    name: str
    split: str
    size: tuple[int, int] | None = None
    camera: str | None = None
    frame: int = UNKNOWN


@dataclass(frozen=True)
class BoxEntry:
    """A box of a list.

    where: file and record; image: name of the image; xywh: in its pixels; person_id: as text, None if unlabelled;
    query: whether it is marked as a query.
    """

    where: str
    image: str
    xywh: tuple[float, ...]
    person_id: str | None = None
    query: bool = False


@dataclass
class Listing:
    """images: by name, in the order of the lists; boxes: the boxes in them; queries: those of a separate query list;
    has_query_list: whether there is one."""

    images: dict[str, ImageEntry] = field(default_factory=dict)
    boxes: list[BoxEntry] = field(default_factory=list)
    queries: list[BoxEntry] = field(default_factory=list)
    has_query_list: bool = False

    @property
    def has_queries(self) -> bool:
        """The user chose the queries, by a list or by marks in the gallery."""
        return self.has_query_list or any(box.query for box in self.boxes)


def normalized_name(file_name: str) -> str:
    """A file name with slashes and without "." parts: "a\\\\b.jpg" and "./a/b.jpg" are "a/b.jpg".

    Raises:
      ValueError: a line break or another control character in it.
    """
    name = file_name.strip()
    if any(unicodedata.category(letter) == "Cc" for letter in name):
        raise ValueError(f"the file name {name[:40]!r} has a line break or another control character in it")
    return posixpath.normpath(name.replace("\\", "/"))


def parse_id(value: Any) -> str | None:
    """A person id or camera as text; None for an absent, null, empty, "nan" or negative one.

    Whole numbers are one id however they are written: 7, 7.0 (as spreadsheets write it) and "7".

    Raises:
      ValueError: something that is neither text nor a number.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"{value!r} is neither a number nor text")
    text = " ".join(str(value).split())
    if re.fullmatch(r"-?\d+\.0+", text):
        text = text.split(".")[0]
    if text.lower() in ("", "nan") or re.fullmatch(r"-\d+", text):
        return None
    return text


def parse_frame(value: Any) -> int:
    """A frame number; -1 if there is none.

    Raises:
      ValueError: something that is no whole number.
    """
    text = parse_id(value)
    if text is None:
        return UNKNOWN
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{value!r} is not a whole number")
    return int(text)


def parse_xywh(values: Any) -> tuple[float, ...]:
    """x, y, width, height.

    Raises:
      ValueError: not four finite numbers.
    """
    if isinstance(values, (str, Mapping)) or not isinstance(values, Iterable):
        raise ValueError(f"{values!r} is not four numbers x, y, width, height")
    given = list(values)
    try:
        found = tuple(float(value) for value in given)
    except (TypeError, ValueError):
        found = ()
    if len(found) != 4 or not all(math.isfinite(value) for value in found):
        raise ValueError(f"{given} is not four numbers x, y, width, height")
    return found


def numbered(texts: Iterable[str | None]) -> tuple[dict[str, int], bool]:
    """Numbers for ids, and whether they differ from the ids themselves.

    Whole numbers are kept; if any id is something else, or more than the int32 of a batch holds, all ids are numbered
    from 0 in sorted order.
    """
    distinct = sorted({text for text in texts if text is not None})
    if all(_WHOLE.fullmatch(text) and int(text) < 2**31 for text in distinct):
        return {text: int(text) for text in distinct}, False
    return {text: number for number, text in enumerate(distinct)}, True
