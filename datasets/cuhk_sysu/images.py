"""The images of CUHK-SYSU with their boxes, and the assignment of boxes to identities.

Images.mat holds boxes without identities; the lists hold identities by name, and a box of each in an image. A box
belongs to an identity when its x, y, width and height equal those of the list exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from psdiff_jax.data.schema import UNLABELLED
from psdiff_jax.datasets.common import checks
from psdiff_jax.datasets.common.boxes import BOX_WITHOUT_AREA, box_text, clip_xywh
from psdiff_jax.datasets.common.images import OUTSIDE, climbs_out, find_header
from psdiff_jax.datasets.common.records import ERROR, KNOWN, WARNING, AnnotatedImage, RawDataset
from psdiff_jax.datasets.cuhk_sysu.annotations import RESTORE, read_images

NO_SUCH_BOX = "list's box is no box of Images.mat"
TWO_IDENTITIES = "one box, two identities"


@dataclass
class ImageRecord:
    """One record of Images.mat, without the boxes that cannot be used."""

    name: str
    path: Path
    size: tuple[int, int]  # height, width
    xywh: np.ndarray  # float64 [n, 4], as annotated
    boxes: np.ndarray  # float32 [n, 4] xyxy, clipped to the image
    person_ids: np.ndarray  # int64 [n], set by `label`

    def annotated(self) -> AnnotatedImage:
        return AnnotatedImage(self.name, self.path, *self.size, self.boxes, self.person_ids)

    def find(self, xywh: np.ndarray) -> int | None:
        """The row of the first box with exactly these x, y, width, height."""
        rows = np.flatnonzero((self.xywh == xywh).all(1))
        return int(rows[0]) if len(rows) else None


def read_records(dataset: RawDataset, root: Path) -> dict[str, ImageRecord | None]:
    """The records of Images.mat by image name, in its order; None where the file is missing or not an image."""
    path, found = root / "annotation" / "Images.mat", {}
    for name, xywh in read_images(path):
        where = f"{path} {name}"
        if name in found:
            dataset.note(ERROR, checks.TWICE_IN_SPLIT, where, "has two records; remove one", name)
            continue
        found[name] = _record(dataset, where, name, root / "Image" / "SSM" / name, xywh)
    return found


def _record(dataset: RawDataset, where: str, name: str, path: Path, xywh: np.ndarray) -> ImageRecord | None:
    if climbs_out(name):
        dataset.note(ERROR, OUTSIDE, where, f"{name} leads out of {path.parent}; {RESTORE}", name)
        return None
    header = find_header(dataset, path, name, RESTORE)
    if header is None:
        return None
    boxes = [
        clip_xywh(dataset, f"{where} box {row}", box, header.size, name, outside=WARNING, empty=KNOWN, advice=RESTORE)
        for row, box in enumerate(xywh, start=1)
    ]
    kept = [box for box in boxes if box is not None]
    return ImageRecord(
        name,
        path,
        header.size,
        xywh[[box is not None for box in boxes]],
        np.asarray(kept, np.float32).reshape(-1, 4),
        np.full(len(kept), UNLABELLED, np.int64),
    )


def label(
    dataset: RawDataset, record: ImageRecord, xywh: np.ndarray, person_id: int, where: str, level: str = WARNING
) -> None:
    """Assigns the box `xywh` to an identity. The last assignment holds, as in the published loaders.

    Args:
      where: the record of the list that says so; level: of the finding if there is no such box.
    """
    row, box = record.find(xywh), f"box {box_text(xywh, 'xywh')} in {record.name}"
    if row is None and (xywh[2:] <= 0).any():
        dataset.note(KNOWN, BOX_WITHOUT_AREA, where, f"{box} is left out", record.name)
        return
    if row is None:
        dataset.note(level, NO_SUCH_BOX, where, f"Images.mat has no {box}; {RESTORE}", record.name)
        return
    before = record.person_ids[row]
    if before not in (UNLABELLED, person_id):
        what = f"{box} is person {before} elsewhere; it becomes person {person_id}"
        dataset.note(WARNING, TWO_IDENTITIES, where, what, record.name)
    record.person_ids[row] = person_id
