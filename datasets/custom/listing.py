"""What the user's lists say, in one form for JSON and CSV: photographs, and people in them. No photograph is opened."""

from __future__ import annotations

import math
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

SPLITS = ("train", "gallery")
_WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})")


@dataclass(frozen=True)
class Photograph:
    """where: file and record; name: its file name with slashes; split: train or gallery; size: (height, width) as the
    list states it, None where it does not; camera: as text, None unknown; frame: -1 unknown."""

    where: str
    name: str
    split: str
    size: tuple[int, int] | None = None
    camera: str | None = None
    frame: int = -1


@dataclass(frozen=True)
class Person:
    """where: file and record; image: name of the photograph; rectangle: x, y, width, height in its pixels; person: the
    id as text, None unlabelled; query: somebody to look for."""

    where: str
    image: str
    rectangle: tuple[float, ...]
    person: str | None = None
    query: bool = False


@dataclass
class Listing:
    """photographs by name, in the order of the lists; people: the boxes in them; queries: a list of their own;
    has_queries: the user says who is looked for, in one way or the other."""

    photographs: dict[str, Photograph] = field(default_factory=dict)
    people: list[Person] = field(default_factory=list)
    queries: list[Person] = field(default_factory=list)
    has_query_list: bool = False

    @property
    def has_queries(self) -> bool:
        return self.has_query_list or any(person.query for person in self.people)


def plain_name(file_name: str) -> str:
    """A file name with slashes and without "." parts: "a\\\\b.jpg" and "./a/b.jpg" are "a/b.jpg".

    Raises:
      ValueError: a line break or another control character in it.
    """
    name = file_name.strip()
    if any(unicodedata.category(letter) == "Cc" for letter in name):
        raise ValueError(f"the file name {name[:40]!r} has a line break or another control character in it")
    return posixpath.normpath(name.replace("\\", "/"))


def as_text(value: Any) -> str | None:
    """A person or camera as text; None for nobody: absent, null, empty, "nan" or a negative number.

    Whole numbers are one person however they are written: 7, 7.0 (as spreadsheets make it) and "7".

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
    if text in ("", "nan") or re.fullmatch(r"-\d+", text):
        return None
    return text


def frame_number(value: Any) -> int:
    """A frame number; -1 where there is none.

    Raises:
      ValueError: something that is no whole number.
    """
    text = as_text(value)
    if text is None:
        return -1
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{value!r} is not a whole number")
    return int(text)


def numbered(texts: Iterable[str | None]) -> tuple[dict[str, int], bool]:
    """Numbers for ids, and whether they are others than the ids themselves.

    Whole numbers stay what they are; if any id is something else, all of them are numbered from 0 in sorted order.
    """
    distinct = sorted({text for text in texts if text is not None})
    if all(_WHOLE.fullmatch(text) for text in distinct):
        return {text: int(text) for text in distinct}, False
    return {text: number for number, text in enumerate(distinct)}, True


def rectangle(values: Iterable[Any]) -> tuple[float, ...]:
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
