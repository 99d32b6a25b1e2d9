"""Kind "file": embeddings of the boxes of one dataset that another program has computed.

Legend: n boxes of an image, R rows of a file, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from psdiff_jax.data.records import Images
from psdiff_jax.errors import InputError
from psdiff_jax.models.weights import read_npz
from psdiff_jax.ops.normalize import first_off_unit, unit_rows
from psdiff_jax.teacher.crops import row_starts
from psdiff_jax.teacher.projection import targets_of_width
from psdiff_jax.teacher.targets import Targets, Wanted
from psdiff_jax.training.progress import say

TOLERANCE = 0.51  # pixels by which a box in a file may differ: annotations are rounded differently
QUERY_TOLERANCE = 2.01  # PRW's query list differs from its annotations by more


@dataclass(frozen=True)
class EmbeddingFile:
    """A teacher of which only the embeddings are there (see `kinds.Teacher`)."""

    path: Path

    @property
    def title(self) -> str:
        return str(self.path)

    def embed(self, crops: np.ndarray) -> np.ndarray:
        """Raises InputError: embeddings alone are no network."""
        del crops
        raise InputError(f"config.teacher.kind=file: {self.path} holds embeddings, not a network for other crops")

    def targets(self, dataset: Images, splits: Sequence[str], wanted: Wanted) -> Targets:
        """See `kinds.open_targets`; a PCA is fitted on the train split of `dataset`, for the file is of one dataset."""
        targets, dim = file_targets(self.path, dataset, splits), wanted.embedding_dim
        if dim not in (None, targets.dim) and "train" not in splits:
            try:
                targets = file_targets(self.path, dataset, (*splits, "train"))
            except InputError as error:
                raise InputError(
                    f"{error}, for the PCA to {dim}-d is fitted on the train split; or set "
                    f"config.model.embedding_dim={targets.dim}"
                ) from error
        for note in targets.notes:
            say(note)
        return targets_of_width(targets, dim or targets.dim, folder=wanted.folder, whiten=wanted.whiten)


def file_targets(path: str | Path, dataset: Images, splits: Sequence[str] = ("train",)) -> Targets:
    """Targets from a `.npz` with `image_name` [R], `box_xywh` [R,4] (pixels) and `embedding` [R,D].

    A row belongs to the ground-truth box of the same image whose edges differ by at most `TOLERANCE` pixels once both
    are clipped to the image. Rows that belong to no box are counted in `notes`.

    Raises:
      InputError: the file lacks something, or a box of `splits` has no row.
    """
    path = Path(path)
    names, boxes, embeddings = _read_file(path)
    by_image: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        by_image.setdefault(name, []).append(row)
    used, seen = np.zeros(len(names), bool), set()
    found, starts = {}, {}
    for split in splits:
        annotations = dataset.annotations(split)
        chosen = []
        tolerance = QUERY_TOLERANCE if split == "query" else TOLERANCE
        for name, size, gt_boxes in zip(annotations.image_names, annotations.sizes, annotations.boxes, strict=True):
            seen.add(name)
            candidates = np.asarray(by_image.get(name, []), np.int64)
            chosen.append(_match(gt_boxes, boxes[candidates], candidates, size, tolerance, f"{path}", name))
        rows = np.concatenate([np.zeros(0, np.int64), *chosen])
        used[rows] = True
        found[split], starts[split] = embeddings[rows], row_starts(annotations)
    elsewhere = sum(name not in seen for name in names)
    notes = [f"{path}: {int(used.sum())} of {len(names)} rows are ground-truth boxes of {', '.join(splits)}"]
    if used.sum() < len(names):
        unmatched = len(names) - int(used.sum()) - elsewhere
        notes[0] += f"; unused: {elsewhere} in images outside of these splits, {unmatched} that no box needs"
    return Targets(found, starts, str(path), notes)


def _read_file(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Image names, boxes [R,4] (xyxy) and unit embeddings [R,D] of the rows."""
    arrays = read_npz(path)
    for key in ("image_name", "box_xywh", "embedding"):
        if key not in arrays:
            raise InputError(f"{path}: has no array {key!r}; teacher files hold image_name, box_xywh and embedding")
    for key, kinds, what in (("image_name", "SU", "text"), ("box_xywh", "iuf", "numbers"),
                             ("embedding", "biuf", "numbers")):  # fmt: skip
        if arrays[key].dtype.kind not in kinds:
            raise InputError(f"{path}: array {key!r} is of type {arrays[key].dtype}; it must hold {what}")
    names, boxes = arrays["image_name"], np.asarray(arrays["box_xywh"], np.float64)
    embeddings = np.asarray(arrays["embedding"], np.float32)
    if names.ndim != 1 or boxes.shape != (len(names), 4) or embeddings.ndim != 2 or len(embeddings) != len(names):
        shapes = f"image_name {names.shape}, box_xywh {boxes.shape}, embedding {embeddings.shape}"
        raise InputError(f"{path}: arrays do not fit together ({shapes}); they are [R], [R,4] and [R,D]")
    names = (np.char.decode(names, "utf-8", "replace") if names.dtype.kind == "S" else names).tolist()
    bad = np.flatnonzero(~np.isfinite(boxes).all(axis=1))
    if bad.size:
        raise InputError(f"{path}: row {bad[0]}, a box of {names[bad[0]]}, is {boxes[bad[0]].tolist()}: not finite")
    embeddings = unit_rows(embeddings)
    if (off := first_off_unit(embeddings)) is not None:
        raise InputError(f"{path}: the embedding of {names[off]} box {boxes[off].tolist()} is zero or not finite")
    boxes[:, 2:] += boxes[:, :2]
    return names, boxes, embeddings


def _match(
    gt_boxes: np.ndarray, boxes: np.ndarray, rows: np.ndarray, size: np.ndarray, tolerance: float, path: str, name: str
) -> np.ndarray:
    """The row of each ground-truth box [n,4] among the file's `boxes` [R,4] (xyxy) of that image: int [n].

    Two people with the same box (PRW has such) get a row each, if there are two.
    """
    limits = np.asarray([size[1], size[0]] * 2, np.float64)
    gt_boxes, boxes = (np.clip(np.asarray(b, np.float64).reshape(-1, 4), 0, limits) for b in (gt_boxes, boxes))
    chosen, taken = np.empty(len(gt_boxes), np.int64), np.zeros(len(boxes), bool)
    for i, box in enumerate(gt_boxes):
        apart = np.abs(boxes - box).max(axis=1) if len(boxes) else np.asarray([np.inf])
        if apart.min() > tolerance:
            xywh = [round(float(v), 2) for v in (*box[:2], *(box[2:] - box[:2]))]
            closest = "; it has no row there"
            if len(boxes):
                closest = f"; its closest row is {apart.min():.2f} pixels off (x, y, width, height are in pixels)"
            raise InputError(f"{path}: no embedding for {name} box {xywh} (xywh){closest}; add it to the file")
        best = np.where(taken & (apart[~taken].min(initial=np.inf) <= tolerance), np.inf, apart).argmin()
        chosen[i], taken[best] = rows[best], True
    return chosen
