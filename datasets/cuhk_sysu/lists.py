"""One official list of CUHK-SYSU (TestG50.mat ... TestG4000.mat, Occlusion.mat, Resolution.mat), read in one pass.

Each list is a struct array with an element a query: `Query` (imname, idlocate, ishard, idname) and `Gallery`, a struct
array with an entry a photograph (imname, idlocate, ishard). idlocate is x, y, w, h in pixels, empty in photographs that
do not show the person. Occlusion.mat has a field more, `occlusion`, that nothing here needs.

Legend: P queries of a list, G entries of one gallery, T of those that show the person.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from psdiff_jax.datasets.cuhk_sysu import matlab
from psdiff_jax.datasets.cuhk_sysu.annotations import RESTORE
from psdiff_jax.errors import InputError

UNKNOWN_NAME = -1

# Of a gallery: the places of its photographs, int32 [G]; entry -> idlocate where it is not empty; entry -> its name.
Columns = tuple[np.ndarray, dict[int, np.ndarray], Callable[[int], str]]

# The bytes of nearly every matrix that a list holds begin with the same 48: tag, flags, two dimensions, no name.
# Words of four bytes: 0 type, 1 size, 8 rows, 9 columns, 12 type of the data, 13 its size; the data begin at byte 56.
ROWS, DATA_TYPE, DATA = 8, 12, 56
USUAL = ((6, 5), (7, 8), (10, 1), (11, 0))


@dataclass
class RawList:
    """A list as it was read, in its own order.

    query_images, id_names: P texts; query_boxes: float64 [P, 4] x, y, w, h, NaN where the file gives no box.
    images: P times int32 [G], places in the names that the reader was given, -1 for any other name (see `unknown`).
    gt_places, gt_boxes: P times int32 [T] and float64 [T, 4] x, y, w, h.
    unknown: rows of the list -> (the first name, how many) in their galleries that nobody knows.
    damaged: (row, entry) of an idlocate that is neither empty nor four numbers.
    """

    path: Path
    query_images: list[str] = field(default_factory=list)
    query_boxes: list[np.ndarray] = field(default_factory=list)
    id_names: list[str] = field(default_factory=list)
    images: list[np.ndarray] = field(default_factory=list)
    gt_places: list[np.ndarray] = field(default_factory=list)
    gt_boxes: list[np.ndarray] = field(default_factory=list)
    unknown: dict[int, tuple[str, int]] = field(default_factory=dict)
    damaged: list[tuple[int, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.query_images)

    def where(self, row: int) -> str:
        """The record of a query, for findings."""
        return f"{self.path} query {row + 1}"


def read_list(path: Path, variable: str, names: Mapping[str, int]) -> RawList:
    """Reads a list.

    Args:
      variable: the name of the struct array in the file.
      names: the photographs that a gallery may name -> their places.

    Raises:
      InputError: the file cannot be read, or lacks a field; what is wrong with a single record is kept.
    """
    found, place_of = RawList(path), _Places(names)
    try:
        for element in matlab.stream(path, variable):
            query = _only(element["Query"])
            found.query_images.append(query["imname"].text())
            found.query_boxes.append(_box(query["idlocate"]))
            found.id_names.append(query["idname"].text() if "idname" in query else "")
            _read_gallery(found, element["Gallery"], place_of)
    except matlab.DAMAGE as error:
        what = f"it has no field {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{path}: query {len(found.images) + 1} cannot be read ({what}); {RESTORE}") from error
    return found


def _only(query: matlab.Matrix) -> dict[str, matlab.Matrix]:
    records = query.records()
    if len(records) != 1:
        raise ValueError(f"Query holds {len(records)} records where there should be one")
    return records[0]


def _box(matrix: matlab.Matrix) -> np.ndarray:
    """float64 [4]; NaN where there are not four numbers."""
    numbers = matrix.numbers()
    return numbers if len(numbers) == 4 else np.full(4, np.nan)


def _read_gallery(found: RawList, gallery: matlab.Matrix, place_of: _Places) -> None:
    row = len(found.query_images) - 1
    images, boxes, names = (_by_column if gallery.kind == matlab.STRUCT else _by_record)(gallery, place_of)
    unknown = np.flatnonzero(images == UNKNOWN_NAME)
    if len(unknown):
        found.unknown[row] = names(int(unknown[0])), len(unknown)
    kept = {entry: box for entry, box in boxes.items() if len(box) == 4 and np.isfinite(box).all()}
    found.damaged.extend((row, entry) for entry in boxes if entry not in kept)
    found.images.append(images)
    found.gt_places.append(np.asarray(list(kept), np.int32))
    found.gt_boxes.append(np.asarray(list(kept.values()), np.float64).reshape(-1, 4))


def _by_record(gallery: matlab.Matrix, place_of: _Places) -> Columns:
    """Entries in cells, one by one."""
    records = gallery.records()
    names = [record["imname"].text() for record in records]
    boxes = {entry: record["idlocate"].numbers() for entry, record in enumerate(records)}
    images = np.asarray([place_of.name(name) for name in names], np.int32)
    return images, {entry: box for entry, box in boxes.items() if len(box)}, names.__getitem__


def _by_column(gallery: matlab.Matrix, place_of: _Places) -> Columns:
    """Entries in a struct array, all at once."""
    offsets = dict(zip(gallery.fields, gallery.offsets().T, strict=True))
    names, boxes = offsets["imname"], offsets["idlocate"]
    sizes = _words(gallery, boxes, ROWS), _words(gallery, boxes, ROWS + 1)
    empty = (_words(gallery, boxes, 1) == 0) | (_is_usual(gallery, boxes) & ((sizes[0] == 0) | (sizes[1] == 0)))
    shown = {int(entry): gallery.at(int(boxes[entry])).numbers() for entry in np.flatnonzero(~empty)}
    return (
        _places(gallery, names, place_of),
        {entry: box for entry, box in shown.items() if len(box)},
        lambda entry: gallery.at(int(names[entry])).text(),
    )


def _places(gallery: matlab.Matrix, offsets: np.ndarray, place_of: _Places) -> np.ndarray:
    """int32 [G]: names of the same type and length at a time, as rows of a table of bytes."""
    found = np.full(len(offsets), UNKNOWN_NAME, np.int32)
    data = np.frombuffer(gallery.body, np.uint8)
    kinds, sizes = _words(gallery, offsets, DATA_TYPE), _words(gallery, offsets, DATA_TYPE + 1)
    usual = _is_usual(gallery, offsets) & (kinds < 1 << 16) & (sizes > 0) & (sizes < _words(gallery, offsets, 1))
    for kind in np.unique(kinds[usual]).tolist():
        for size in np.unique(sizes[usual & (kinds == kind)]).tolist():
            rows = np.flatnonzero(usual & (kinds == kind) & (sizes == size))
            table = data[offsets[rows, None] + (DATA + np.arange(size))]
            found[rows] = place_of.encoded(table.view(f"V{size}")[:, 0].tolist(), kind)
    for row in np.flatnonzero(~usual).tolist():
        found[row] = place_of.name(gallery.at(int(offsets[row])).text())
    return found


def _words(gallery: matlab.Matrix, offsets: np.ndarray, number: int) -> np.ndarray:
    return gallery.words.take(offsets // 4 + number, mode="clip")


def _is_usual(gallery: matlab.Matrix, offsets: np.ndarray) -> np.ndarray:
    usual = _words(gallery, offsets, 1) >= DATA - 8
    for number, value in USUAL:
        usual &= _words(gallery, offsets, number) == value
    return usual


class _Places:
    """Names -> places; remembers how a name is encoded, so that a name is decoded once a list and not once an entry."""

    def __init__(self, names: Mapping[str, int]):
        self._names = names
        self._encoded: dict[int, dict[bytes, int]] = {}

    def name(self, name: str) -> int:
        return self._names.get(name, UNKNOWN_NAME)

    def encoded(self, names: list[bytes], kind: int) -> list[int]:
        """The places of names as characters of a type of element `kind`."""
        known = self._encoded.setdefault(kind, {})
        found = list(map(known.get, names))
        if None in found:
            known |= {name: self.name(matlab.decode(name, kind)) for name in set(names) - known.keys()}
            found = [known[name] for name in names]
        return found
