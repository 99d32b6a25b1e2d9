"""One sequence in MOTChallenge's on-disk format.

    SEQ/img1/000001.jpg   photographs; the number in the name is the frame number
    SEQ/gt/gt.txt         one box a line, in any order, columns parted by commas:
                            MOT15:  frame, id, x, y, width, height, flag, X, Y, Z           (10 columns)
                            others: frame, id, x, y, width, height, flag, class, visibility (9 columns)
    SEQ/seqinfo.ini       [Sequence] imDir, imExt, imWidth, imHeight, seqLength

A flag of 0 means that the box does not count, anything else that it does; frames, ids and boxes are 1-based
(motchallenge.net/instructions), so the corner of the photograph is (1, 1) there and (0, 0) here. Classes are those of
the MOT16 paper (arXiv 1603.00831): 1 is a pedestrian.
"""

from __future__ import annotations

import configparser
import itertools
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from psdiff_jax.datasets.common.images import IMAGE_SUFFIXES
from psdiff_jax.datasets.common.records import ERROR, KNOWN, WARNING, Contents
from psdiff_jax.errors import InputError

PEDESTRIAN = 1
CLASSES = {
    2: "person on vehicle",
    3: "car",
    4: "bicycle",
    5: "motorbike",
    6: "non-motorised vehicle",
    7: "static person",
    8: "distractor",
    9: "occluder",
    10: "occluder on the ground",
    11: "full occluder",
    12: "reflection",
    13: "crowd",
}
_LAST_NUMBER = re.compile(r"(\d+)$")


@dataclass(frozen=True)
class Row:
    """One box that counts. line: its number in gt.txt; rectangle: x, y, width, height, the photograph's corner at
    (0, 0); track: -1 where nobody says who it is; visibility: 0 to 1, None where the file has no such column."""

    line: int
    frame: int
    track: int
    rectangle: tuple[float, float, float, float]
    visibility: float | None


class MotSequence:
    """The files of one sequence."""

    def __init__(self, folder: Path):
        self.folder, self.name = folder, folder.resolve().name
        self.ground_truth = self.folder / "gt" / "gt.txt"
        self.info_file = self.folder / "seqinfo.ini"

    @cached_property
    def info(self) -> dict[str, str]:
        """The keys of seqinfo.ini, in lower letters; empty when it is missing or unreadable."""
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read_string(self.info_file.read_text(encoding="utf-8-sig"))
            return dict(parser["Sequence"])
        except (OSError, UnicodeDecodeError, configparser.Error, KeyError):
            return {}

    @cached_property
    def image_folder(self) -> Path:
        """The folder that imDir names, or img1 where there is none of that name."""
        named = self.folder / self.info.get("imdir", "img1").strip().replace("\\", "/")
        return named if named.is_dir() else self.folder / "img1"

    @cached_property
    def photographs(self) -> list[tuple[int, Path]]:
        """(frame number, file), rising; files without a number in their name are no frames."""
        numbers = [(_LAST_NUMBER.search(path.stem), path) for path in self.images]
        return sorted((int(number[1]), path) for number, path in numbers if number)

    @cached_property
    def images(self) -> list[Path]:
        """Every image file in the image folder."""
        files = sorted(self.image_folder.iterdir()) if self.image_folder.is_dir() else []
        return [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")]


def read_rows(sequence: MotSequence, contents: Contents) -> list[Row]:
    """The pedestrians of gt.txt that count, in the order of the file; everything else is noted.

    Raises:
      InputError: the file is no text.
    """
    path, left_out = sequence.ground_truth, Counter()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text file ({error.reason}); restore it from the release") from error
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        columns = [column.strip() for column in line.strip().rstrip(",").split(",")]
        if columns == [""]:
            continue
        row = _row(number, columns)
        if isinstance(row, Row):
            rows.append(row)
        elif isinstance(row, int):
            left_out[row] += 1
        else:
            contents.note(ERROR, "unreadable row", f"{path} line {number}", row)
    _note_left_out(contents, path, left_out, len(rows))
    return rows


def _row(number: int, columns: list[str]) -> Row | int | str:
    """A row that counts; 0 (flag) or the class of one that does not; or what is wrong with it."""
    if not 7 <= len(columns) <= 10:
        return f"expected 7 to 10 columns (frame,id,x,y,width,height,flag,...), found {len(columns)}; correct the line"
    try:
        values = [float(column) for column in columns]
    except ValueError:
        return f"{next(c for c in columns if not _is_number(c))!r} is not a number; correct the line"
    frame, track, x, y, width, height, flag = values[:7]
    # MOT15's columns 8 to 10 are a place in the world; 8 and 9 of the others are class and visibility.
    newer = len(columns) in (8, 9)
    used = values if newer else values[:7]
    if not all(abs(value) < 1e9 for value in used) or frame % 1 or track % 1:
        return f"frame and id are whole numbers and the others finite, found {','.join(columns)}; correct the line"
    if flag == 0:
        return 0
    if newer and values[7] != PEDESTRIAN:
        return int(values[7]) or -1
    visibility = values[8] if len(columns) == 9 else None
    return Row(number, int(frame), max(int(track), -1), (x - 1, y - 1, width, height), visibility)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _note_left_out(contents: Contents, path: Path, left_out: Counter, kept: int) -> None:
    flagged = left_out.pop(0, 0)
    if flagged:
        contents.note(KNOWN, "boxes that do not count", path, f"{flagged} rows with flag 0 are left out")
    if left_out:
        named = ", ".join(f"{CLASSES.get(key, f'class {key}')} {count}" for key, count in sorted(left_out.items()))
        contents.note(KNOWN, "boxes of other classes", path, f"{left_out.total()} rows are no pedestrians: {named}")
    if not kept:
        contents.note(
            WARNING,
            "nobody",
            path,
            "no row is a pedestrian (class 1) that counts (flag not 0): all"
            " photographs of the sequence are taken to show nobody",
        )


def check_photographs(sequence: MotSequence, contents: Contents) -> None:
    """Notes where seqinfo.ini is missing or differs from the photographs, which win."""
    info, found, where = sequence.info, sequence.photographs, sequence.info_file
    if not found:
        contents.note(ERROR, "no photographs", sequence.image_folder, "holds no numbered photographs; restore them")
    unnumbered = [path for path in sequence.images if not _LAST_NUMBER.search(path.stem)]
    if unnumbered:
        contents.note(
            WARNING,
            "photograph without number",
            unnumbered[0],
            f"has no frame number at the end of its name and is left out ({len(unnumbered)} such)",
        )

    def differs(what: str) -> None:
        contents.note(WARNING, "seqinfo.ini differs", where, f"{what}; the photographs are taken as they are")

    if not info:
        state = "has no readable [Sequence]" if where.is_file() else "is missing"
        contents.note(WARNING, "no seqinfo.ini", where, f"{state}; the photographs are taken as they are")
    if "imdir" in info and sequence.image_folder != sequence.folder / info["imdir"].strip().replace("\\", "/"):
        differs(f"imDir is {info['imdir']!r}, which is no folder of the sequence")
    if "imext" in info and found and all(path.suffix.lower() != info["imext"].strip().lower() for _, path in found):
        differs(f"imExt is {info['imext']!r}, the first photograph {found[0][1].name}")
    if "seqlength" in info and info["seqlength"].strip() != str(len(found)):
        differs(f"seqLength is {info['seqlength']}, there are {len(found)} photographs")
    for (first, one), (second, other) in itertools.pairwise(found):
        if first == second:
            contents.note(ERROR, "frame twice", other, f"is frame {second}, and so is {one.name}; remove one")


def check_sizes(sequence: MotSequence, sizes: dict[str, tuple[int, int]], contents: Contents) -> None:
    """Notes the first photograph whose size is not that of seqinfo.ini. sizes: file name -> (height, width)."""
    stated = (sequence.info.get("imheight", "").strip(), sequence.info.get("imwidth", "").strip())
    other = [(name, size) for name, size in sizes.items() if "" not in stated and tuple(map(str, size)) != stated]
    if other:
        name, (height, width) = other[0]
        contents.note(
            WARNING,
            "seqinfo.ini differs",
            sequence.info_file,
            f"imWidth x imHeight is {stated[1]} x {stated[0]}, {name} is {width} x {height} ({len(other)} of"
            f" {len(sizes)} photographs differ); the photographs are taken as they are",
        )
