"""One official list of CUHK-SYSU (TestG50.mat ... TestG4000.mat, Occlusion.mat, Resolution.mat), read in one pass.

Each list is a struct array with one element for each query: `Query` (imname, idlocate, ishard, idname) and `Gallery`, a
struct array with one entry for each image (imname, idlocate, ishard). idlocate is x, y, width, height in pixels, empty
in images that do not show the person. Occlusion.mat has one more field, `occlusion`, which is not used.

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

UNKNOWN_NAME = -1  # position of a name that is not known

# Of a gallery: the positions of its images, int32 [G]; entry -> idlocate where it is not empty; entry -> its name.
Columns = tuple[np.ndarray, dict[int, np.ndarray], Callable[[int], str]]

# Nearly every matrix in a list begins with the same 48 bytes: tag, flags, two dimensions, no name.
# Words of four bytes: 0 type, 1 size, 8 rows, 9 columns, 12 type of the data, 13 its size; the data begin at byte 56.
ROWS, DATA_TYPE, DATA = 8, 12, 56
USUAL = ((6, 5), (7, 8), (10, 1), (11, 0))


@dataclass
class RawList:
    """A list as it was read, in its own order.

    query_images, id_names: P texts; query_boxes: float64 [P, 4] xywh, NaN where the file gives no box.
    images: P times int32 [G], positions in the names that the reader was given, -1 for any other name (see `unknown`).
    gt_places, gt_boxes: P times int32 [T] and float64 [T, 4] xywh.
    unknown: row of the list -> (the first name, how many) of the unknown names in its gallery.
    damaged: (row, entry) of each idlocate that is neither empty nor four numbers.
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
      names: the images that a gallery may name -> their positions.

    Raises:
      InputError: the file cannot be read, or lacks a field; faults of single records are stored in the list.
    """
    found, position_of = RawList(path), _Positions(names)
    try:
        for element in matlab.stream(path, variable):
            query = _only(element["Query"])
            found.query_images.append(query["imname"].text())
            found.query_boxes.append(_box(query["idlocate"]))
            found.id_names.append(query["idname"].text() if "idname" in query else "")
            _read_gallery(found, element["Gallery"], position_of)
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


def _read_gallery(found: RawList, gallery: matlab.Matrix, position_of: _Positions) -> None:
    row = len(found.query_images) - 1
    images, boxes, names = (_by_column if gallery.kind == matlab.STRUCT else _by_record)(gallery, position_of)
    unknown = np.flatnonzero(images == UNKNOWN_NAME)
    if len(unknown):
        found.unknown[row] = names(int(unknown[0])), len(unknown)
    kept = {entry: box for entry, box in boxes.items() if len(box) == 4 and np.isfinite(box).all()}
    found.damaged.extend((row, entry) for entry in boxes if entry not in kept)
    found.images.append(images)
    found.gt_places.append(np.asarray(list(kept), np.int32))
    found.gt_boxes.append(np.asarray(list(kept.values()), np.float64).reshape(-1, 4))


def _by_record(gallery: matlab.Matrix, position_of: _Positions) -> Columns:
    """Entries in cells, one by one."""
    records = gallery.records()
    names = [record["imname"].text() for record in records]
    boxes = {entry: record["idlocate"].numbers() for entry, record in enumerate(records)}
    images = np.asarray([position_of.name(name) for name in names], np.int32)
    return images, {entry: box for entry, box in boxes.items() if len(box)}, names.__getitem__


def _by_column(gallery: matlab.Matrix, position_of: _Positions) -> Columns:
    """Entries in a struct array, all at once."""
    offsets = dict(zip(gallery.fields, gallery.offsets().T, strict=True))
    names, boxes = offsets["imname"], offsets["idlocate"]
    sizes = _words(gallery, boxes, ROWS), _words(gallery, boxes, ROWS + 1)
    empty = (_words(gallery, boxes, 1) == 0) | (_is_usual(gallery, boxes) & ((sizes[0] == 0) | (sizes[1] == 0)))
    shown = {int(entry): gallery.at(int(boxes[entry])).numbers() for entry in np.flatnonzero(~empty)}
    return (
        _positions(gallery, names, position_of),
        {entry: box for entry, box in shown.items() if len(box)},
        lambda entry: gallery.at(int(names[entry])).text(),
    )


def _positions(gallery: matlab.Matrix, offsets: np.ndarray, position_of: _Positions) -> np.ndarray:
    """int32 [G], computed for all names of the same type and length at once, as rows of a table of bytes."""
    found = np.full(len(offsets), UNKNOWN_NAME, np.int32)
    data = np.frombuffer(gallery.body, np.uint8)
    kinds, sizes = _words(gallery, offsets, DATA_TYPE), _words(gallery, offsets, DATA_TYPE + 1)
    usual = _is_usual(gallery, offsets) & (kinds < 1 << 16) & (sizes > 0) & (sizes < _words(gallery, offsets, 1))
    for kind in np.unique(kinds[usual]).tolist():
        for size in np.unique(sizes[usual & (kinds == kind)]).tolist():
            rows = np.flatnonzero(usual & (kinds == kind) & (sizes == size))
            table = data[offsets[rows, None] + (DATA + np.arange(size))]
            found[rows] = position_of.encoded(table.view(f"V{size}")[:, 0].tolist(), kind)
    for row in np.flatnonzero(~usual).tolist():
        found[row] = position_of.name(gallery.at(int(offsets[row])).text())
    return found


def _words(gallery: matlab.Matrix, offsets: np.ndarray, number: int) -> np.ndarray:
    return gallery.words.take(offsets // 4 + number, mode="clip")


def _is_usual(gallery: matlab.Matrix, offsets: np.ndarray) -> np.ndarray:
    usual = _words(gallery, offsets, 1) >= DATA - 8
    for number, value in USUAL:
        usual &= _words(gallery, offsets, number) == value
    return usual


class _Positions:
    """Names -> positions. Caches the encoded names, so that a name is decoded once a list and not once an entry."""

    def __init__(self, names: Mapping[str, int]):
        self._names = names
        self._encoded: dict[int, dict[bytes, int]] = {}

    def name(self, name: str) -> int:
        return self._names.get(name, UNKNOWN_NAME)

    def encoded(self, names: list[bytes], kind: int) -> list[int]:
        """The positions of names stored as element type `kind`."""
        known = self._encoded.setdefault(kind, {})
        try:
            return [known[name] for name in names]
        except KeyError:
            known |= {name: self.name(matlab.decode(name, kind)) for name in set(names) - known.keys()}
            return [known[name] for name in names]
