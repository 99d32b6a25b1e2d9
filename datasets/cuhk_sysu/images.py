"""The photographs of CUHK-SYSU with their boxes, and how a box becomes a person's.

Images.mat knows boxes and no people; the lists know people by name and where each stands. A box is a person's when its
x, y, width and height are exactly those of the list.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from psdiff_jax.data.schema import UNLABELLED
from psdiff_jax.datasets.common import checks
from psdiff_jax.datasets.common.boxes import place_box
from psdiff_jax.datasets.common.images import read_header
from psdiff_jax.datasets.common.records import ERROR, KNOWN, WARNING, Contents, Scene
from psdiff_jax.datasets.cuhk_sysu.annotations import RESTORE, read_images

NO_SUCH_BOX = "list's box is no box of Images.mat"
TWO_PEOPLE = "one box, two people"
DAMAGED = "damaged record"


@dataclass
class Photograph:
    """One record of Images.mat. Boxes without area are not in it."""

    name: str
    path: Path
    size: tuple[int, int]  # height, width
    rectangles: np.ndarray  # float64 [n, 4] x, y, width, height as annotated
    boxes: np.ndarray  # float32 [n, 4] xyxy, inside the photograph
    person_ids: np.ndarray  # int64 [n]

    def scene(self) -> Scene:
        return Scene(self.name, self.path, *self.size, self.boxes, self.person_ids)

    def find(self, rectangle: np.ndarray) -> int | None:
        """The first of its boxes with exactly these x, y, width, height."""
        rows = np.flatnonzero((self.rectangles == rectangle).all(1))
        return int(rows[0]) if len(rows) else None


def read_photographs(contents: Contents, root: Path) -> dict[str, Photograph | None]:
    """The photographs of Images.mat by name, in its order; None for one whose file is missing or no image."""
    path, found = root / "annotation" / "Images.mat", {}
    for name, rectangles in read_images(path):
        where = f"{path} {name}"
        if name in found:
            contents.note(ERROR, checks.TWICE_IN_SPLIT, where, "has two records; remove one", name)
            continue
        found[name] = _photograph(contents, where, name, root / "Image" / "SSM" / name, rectangles)
    return found


def _photograph(contents: Contents, where: str, name: str, path: Path, rectangles: np.ndarray) -> Photograph | None:
    header = read_header(path)
    if header is None:
        fault = "is not a readable image" if path.is_file() else "is missing, though Images.mat names it"
        contents.note(ERROR, checks.NO_PHOTOGRAPH, path, f"{fault}; {RESTORE}", name)
        return None
    size, kept, boxes = (header.height, header.width), [], []
    for row, rectangle in enumerate(rectangles, start=1):
        box = _box(contents, f"{where} box {row}", name, rectangle, size)
        if box is not None:
            kept.append(rectangle)
            boxes.append(box)
    return Photograph(
        name,
        path,
        size,
        np.asarray(kept, np.float64).reshape(-1, 4),
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.full(len(boxes), UNLABELLED, np.int64),
    )


def _box(contents: Contents, where: str, name: str, rectangle: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
    if not np.isfinite(rectangle).all():
        contents.note(ERROR, DAMAGED, where, f"its idlocate is not four finite numbers; {RESTORE}", name)
    elif (rectangle[2:] <= 0).any():
        contents.note(KNOWN, checks.BOX_WITHOUT_AREA, where, f"{as_text(rectangle)} is left out", name)
    else:
        return place_box(contents, where, rectangle.tolist(), size, name, outside=WARNING)
    return None


def label(
    contents: Contents, photograph: Photograph, rectangle: np.ndarray, person_id: int, where: str, level: str = WARNING
) -> None:
    """Gives the box with this rectangle to a person; the last to claim it has it, as in the loaders of the field.

    Args:
      where: the record that says so; level: of the finding when there is no such box.
    """
    row, name = photograph.find(rectangle), photograph.name
    if row is None and (rectangle[2:] <= 0).any():
        contents.note(KNOWN, checks.BOX_WITHOUT_AREA, where, f"{as_text(rectangle)} in {name} is left out", name)
        return
    if row is None:
        contents.note(
            level, NO_SUCH_BOX, where, f"Images.mat has no box {as_text(rectangle)} in {name}; {RESTORE}", name
        )
        return
    if photograph.person_ids[row] not in (UNLABELLED, person_id):
        contents.note(
            WARNING,
            TWO_PEOPLE,
            where,
            f"box {as_text(rectangle)} in {name} is person"
            f" {photograph.person_ids[row]} elsewhere; it becomes person {person_id}",
            name,
        )
    photograph.person_ids[row] = person_id


def as_text(rectangle: np.ndarray) -> str:
    return f"[{', '.join(f'{value:g}' for value in rectangle.tolist())}] (x y width height)"
