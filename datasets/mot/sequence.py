"""One sequence in MOTChallenge's on-disk format.

    SEQ/img1/000001.jpg   images; the number in the name is the frame number
    SEQ/gt/gt.txt         one box a line, in any order, columns separated by commas:
                            MOT15:  frame, id, x, y, width, height, flag, X, Y, Z           (10 columns)
                            others: frame, id, x, y, width, height, flag, class, visibility (9 columns)
    SEQ/seqinfo.ini       [Sequence] imDir, imExt, imWidth, imHeight, seqLength

Boxes with flag 0 are ignored. Frames, ids and boxes are 1-based (motchallenge.net/instructions): the corner of the
image is (1, 1) there and (0, 0) here. Classes are those of the MOT16 paper (arXiv 1603.00831): 1 is a pedestrian.
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
from psdiff_jax.datasets.common.records import ERROR, KNOWN, WARNING, RawDataset
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
FILES_WIN = "the image files are used as they are"
_LAST_NUMBER = re.compile(r"(\d+)$")


@dataclass(frozen=True)
class Row:
    """One pedestrian box. line: its number in gt.txt; track: -1 unlabelled; xywh: the image's corner is (0, 0);
    visibility: 0 to 1, None if the file has no such column."""

    line: int
    frame: int
    track: int
    xywh: tuple[float, float, float, float]
    visibility: float | None


class MotSequence:
    """The files of one sequence."""

    def __init__(self, folder: Path):
        self.folder, self.name = folder, folder.resolve().name
        self.ground_truth = self.folder / "gt" / "gt.txt"
        self.info_file = self.folder / "seqinfo.ini"

    @cached_property
    def info(self) -> dict[str, str]:
        """The keys of seqinfo.ini, in lower case; empty if it is missing or unreadable."""
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read_string(self.info_file.read_text(encoding="utf-8-sig"))
            return dict(parser["Sequence"])
        except (OSError, UnicodeDecodeError, configparser.Error, KeyError):
            return {}

    @cached_property
    def image_folder(self) -> Path:
        """The folder that imDir names, or img1 if there is none of that name."""
        named = self.folder / self.info.get("imdir", "img1").strip().replace("\\", "/")
        return named if named.is_dir() else self.folder / "img1"

    @cached_property
    def frames(self) -> list[tuple[int, Path]]:
        """(frame number, file), rising; files without a number in their name are no frames."""
        numbers = [(_LAST_NUMBER.search(path.stem), path) for path in self.image_files]
        return sorted((int(number[1]), path) for number, path in numbers if number)

    @cached_property
    def image_files(self) -> list[Path]:
        """Every image file in the image folder."""
        files = sorted(self.image_folder.iterdir()) if self.image_folder.is_dir() else []
        return [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")]


def read_rows(sequence: MotSequence, dataset: RawDataset) -> list[Row]:
    """The pedestrian boxes of gt.txt, in the order of the file; what is left out is noted.

    Raises:
      InputError: the file is no text.
    """
    path, left_out = sequence.ground_truth, Counter[int]()
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
            dataset.note(ERROR, "unreadable row", f"{path} line {number}", row)
    _note_left_out(dataset, path, left_out, len(rows))
    return rows


def _row(number: int, columns: list[str]) -> Row | int | str:
    """A pedestrian's row; of an ignored one 0 (flag) or the class; or what is wrong with the row."""
    if not 7 <= len(columns) <= 10:
        return f"expected 7 to 10 columns (frame,id,x,y,width,height,flag,...), found {len(columns)}; correct the line"
    try:
        values = [float(column) for column in columns]
    except ValueError:
        return f"{next(c for c in columns if not _is_number(c))!r} is not a number; correct the line"
    frame, track, x, y, width, height, flag = values[:7]
    # MOT15's columns 8 to 10 are world coordinates; 8 and 9 of the others are class and visibility.
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


def _note_left_out(dataset: RawDataset, path: Path, left_out: Counter[int], kept: int) -> None:
    flagged = left_out.pop(0, 0)
    if flagged:
        dataset.note(KNOWN, "ignored boxes", path, f"{flagged} rows with flag 0 are left out")
    if left_out:
        named = ", ".join(f"{CLASSES.get(key, f'class {key}')} {count}" for key, count in sorted(left_out.items()))
        dataset.note(KNOWN, "boxes of other classes", path, f"{left_out.total()} rows are no pedestrians: {named}")
    if not kept:
        what = "has no row of a pedestrian (class 1) with a flag other than 0: the sequence's images have no boxes"
        dataset.note(WARNING, "no pedestrians", path, what)


def check_images(sequence: MotSequence, dataset: RawDataset) -> None:
    """Notes faults of the image files, and where seqinfo.ini is missing or contradicts them. The files win."""
    frames = sequence.frames
    if not frames:
        dataset.note(ERROR, "no images", sequence.image_folder, "holds no numbered images; restore them")
    unnumbered = [path for path in sequence.image_files if not _LAST_NUMBER.search(path.stem)]
    if unnumbered:
        what = f"has no frame number at the end of its name and is left out ({len(unnumbered)} such)"
        dataset.note(WARNING, "image without number", unnumbered[0], what)
    _check_info(sequence, dataset)
    for (first, one), (second, other) in itertools.pairwise(frames):
        if first == second:
            dataset.note(ERROR, "frame twice", other, f"is frame {second}, and so is {one.name}; remove one")


def _check_info(sequence: MotSequence, dataset: RawDataset) -> None:
    info, frames = sequence.info, sequence.frames
    if not info:
        state = "has no readable [Sequence]" if sequence.info_file.is_file() else "is missing"
        dataset.note(WARNING, "no seqinfo.ini", sequence.info_file, f"{state}; {FILES_WIN}")
    if "imdir" in info and sequence.image_folder != sequence.folder / info["imdir"].strip().replace("\\", "/"):
        _note_differs(sequence, f"imDir is {info['imdir']!r}, which is no folder of the sequence", dataset)
    if "imext" in info and frames and all(path.suffix.lower() != info["imext"].strip().lower() for _, path in frames):
        _note_differs(sequence, f"imExt is {info['imext']!r}, the first image {frames[0][1].name}", dataset)
    if "seqlength" in info and info["seqlength"].strip() != str(len(frames)):
        _note_differs(sequence, f"seqLength is {info['seqlength']}, there are {len(frames)} images", dataset)


def check_sizes(sequence: MotSequence, sizes: dict[str, tuple[int, int]], dataset: RawDataset) -> None:
    """Notes the first image whose size is not that of seqinfo.ini. sizes: file name -> (height, width)."""
    stated = (sequence.info.get("imheight", "").strip(), sequence.info.get("imwidth", "").strip())
    other = [(name, size) for name, size in sizes.items() if "" not in stated and tuple(map(str, size)) != stated]
    if other:
        name, (height, width) = other[0]
        count = f"({len(other)} of {len(sizes)} images differ)"
        what = f"imWidth x imHeight is {stated[1]} x {stated[0]}, {name} is {width} x {height} {count}"
        _note_differs(sequence, what, dataset)


def _note_differs(sequence: MotSequence, what: str, dataset: RawDataset) -> None:
    dataset.note(WARNING, "seqinfo.ini differs", sequence.info_file, f"{what}; {FILES_WIN}")
