"""Teacher targets: one embedding for every truth box, from a file of embeddings or from a teacher network.

    targets = file_targets("teacher.npz", dataset, splits=("train",))
    targets = network_targets(teacher, dataset, splits=("train",), folder=...)
    targets.lookup("train", 17)        float32 [n, D] unit norm, in the order of the image's boxes

`teacher` is a `CropTeacher`: whatever turns crops into embeddings, so that nothing here needs a model. What a network
computes is kept in `<folder>/targets-<split>.npy` and mapped from there.

Legend: n boxes of an image, K boxes of a split, D embedding, R rows of a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from psdiff_jax.errors import InputError
from psdiff_jax.teacher.crop_teacher import CropTeacher, check_embeddings, embed_crops, embed_split
from psdiff_jax.teacher.crops import CROP_RULE, row_starts
from psdiff_jax.teacher.target_cache import cached_rows

if TYPE_CHECKING:
    from psdiff_jax.data.detections import Detections
    from psdiff_jax.data.records import Annotations

__all__ = [  # this module is where the rest of the program finds them
    "CropTeacher",
    "Targets",
    "boxes_hash",
    "dataset_name",
    "embed_crops",
    "file_targets",
    "network_targets",
    "teacher_detections",
]

TOLERANCE = 0.51  # pixels by which a box in a file may differ: annotations are rounded differently
QUERY_TOLERANCE = 2.01  # PRW's query list differs from its annotations by more
UNPROJECTED = "unprojected"  # folder for what a network gives before it is projected to another width
PROJECTED_AT_ONCE = 8192


class Targets:
    """Embeddings of the truth boxes of some splits.

    Attributes:
      dim: D. source: one phrase, where they come from. notes: lines for the user (rows of a file that nothing used).
    """

    def __init__(
        self, rows: Mapping[str, np.ndarray], starts: Mapping[str, np.ndarray], source: str, notes: Sequence[str] = ()
    ):
        self._rows, self._starts = dict(rows), dict(starts)
        self.source, self.notes = source, tuple(notes)
        self.dim = int(next(iter(self._rows.values())).shape[1])

    def lookup(self, split: str, image_index: int) -> np.ndarray:
        """float32 [n,D], unit norm, of image `image_index` of `split` (its position in the annotations)."""
        start, end = self._starts[split][image_index : image_index + 2]
        return np.asarray(self._rows[split][start:end], np.float32)

    def all(self, split: str) -> np.ndarray:
        """float32 [K,D] of the whole split, image by image; possibly memory-mapped."""
        return self._rows[split]

    def map(self, change: Callable[[np.ndarray], np.ndarray], how: str) -> Targets:
        """Targets whose embeddings are `change`d, [K,D] -> [K,D']; `how` is put behind `source`.

        Raises:
          InputError: an embedding has no length after it.
        """
        rows = {split: change(rows) for split, rows in self._rows.items()}
        for split, changed in rows.items():
            bad = np.flatnonzero(~(np.abs(np.linalg.norm(changed, axis=1) - 1) < 1e-2))
            if bad.size:
                raise InputError(f"{self.source}: {split} box {bad[0]} has no length after {how}; take another teacher")
        return Targets(rows, self._starts, f"{self.source}, {how}", self.notes)

    def check_dim(self, embedding_dim: int) -> None:
        """Raises InputError when the model denoises embeddings of another width."""
        if embedding_dim != self.dim:
            raise InputError(
                f"config.model.embedding_dim is {embedding_dim}, but {self.source} gives {self.dim}-d embeddings:"
                f" set config.model.embedding_dim={self.dim} or choose another teacher"
            )


def teacher_detections(targets: Targets, dataset: Any, split: str) -> Detections:
    """The truth boxes of `gallery` or `query` with the teacher's embeddings and score 1.

    Scored by the ordinary evaluator they give the teacher's own mAP: what PSDiff could reach with perfect boxes and
    perfectly denoised embeddings.
    """
    from psdiff_jax.data.detections import Detections

    annotations = dataset.annotations(split)
    rows = np.asarray(targets.all(split), np.float32)
    names, person = tuple(annotations.image_names), None
    index = np.repeat(np.arange(len(names), dtype=np.int32), [len(boxes) for boxes in annotations.boxes])
    if split == "query":  # many queries may lie in one photograph
        names = tuple(dict.fromkeys(annotations.image_names))
        position = {name: i for i, name in enumerate(names)}
        index = np.asarray([position[annotations.image_names[i]] for i in index], np.int32)
        person = np.concatenate([np.zeros(0, np.int64), *annotations.person_ids])
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *annotations.boxes])
    return Detections(names, boxes, np.ones(len(boxes), np.float32), rows, index, person)


def file_targets(path: str | Path, dataset: Any, splits: Sequence[str] = ("train",)) -> Targets:
    """Targets from a `.npz` with `image_name` [R], `box_xywh` [R,4] (pixels) and `embedding` [R,D].

    A row belongs to the truth box of the same image whose edges differ by at most `TOLERANCE` pixels once both are
    clipped to the photograph. Rows that no box wanted are counted in `notes`.

    Raises:
      InputError: the file lacks something, or a box of `splits` has no row.
    """
    names, boxes, embeddings = _read_file(Path(path))
    by_image: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        by_image.setdefault(name, []).append(row)
    used, seen = np.zeros(len(names), bool), set()
    found, starts = {}, {}
    for split in splits:
        annotations = dataset.annotations(split)
        chosen = []
        for name, size, truth in zip(annotations.image_names, annotations.sizes, annotations.boxes, strict=True):
            seen.add(name)
            candidates = np.asarray(by_image.get(name, []), np.int64)
            tolerance = QUERY_TOLERANCE if split == "query" else TOLERANCE
            chosen.append(_match(truth, boxes[candidates], candidates, size, tolerance, name, path))
        rows = np.concatenate([np.zeros(0, np.int64), *chosen])
        used[rows] = True
        found[split], starts[split] = embeddings[rows], row_starts(annotations)
    elsewhere = sum(name not in seen for name in names)
    notes = [f"{path}: {int(used.sum())} of {len(names)} rows are truth boxes of {', '.join(splits)}"]
    if used.sum() < len(names):
        unmatched = len(names) - int(used.sum()) - elsewhere
        notes[0] += f"; unused: {elsewhere} in images outside of these splits, {unmatched} that no box needs"
    return Targets(found, starts, str(path), notes)


def _read_file(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    from psdiff_jax.models.weights import read_npz

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
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 1e-6)))
    if bad.size:
        raise InputError(f"{path}: the embedding of {names[bad[0]]} box {boxes[bad[0]].tolist()} is zero or not finite")
    boxes[:, 2:] += boxes[:, :2]
    return names, boxes, embeddings / norms


def _match(
    truth: np.ndarray, boxes: np.ndarray, rows: np.ndarray, size: np.ndarray, tolerance: float, name: str, path: Any
) -> np.ndarray:
    """The row of each truth box [n,4] among the file's `boxes` [R,4] (xyxy) of that image: int [n].

    Two people with the same box (PRW has such) get a row each, if there are two.
    """
    limits = np.asarray([size[1], size[0]] * 2, np.float64)
    truth, boxes = (np.clip(np.asarray(b, np.float64).reshape(-1, 4), 0, limits) for b in (truth, boxes))
    chosen, taken = np.empty(len(truth), np.int64), np.zeros(len(boxes), bool)
    for i, box in enumerate(truth):
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


def network_targets(
    teacher: CropTeacher, dataset: Any, splits: Sequence[str] = ("train",), *, folder: str | Path, batch: int = 256,
    workers: int = 1,
) -> Targets:  # fmt: skip
    """Targets from a network, computed once for each split and kept in `folder` (see `teacher.target_cache`).

    A kept file is used when dataset, boxes, teacher, projection and the way crops are cut are those it was made from;
    otherwise a line says what differs and it is computed again. A run that was stopped goes on where it was.

    Args:
      batch: crops that go through the network at once. workers: threads that decode photographs.

    Raises:
      InputError: an embedding that is zero or not finite, by image and box; a folder that cannot be written to.
    """
    rows, starts, base = {}, {}, None
    if teacher.base is not None:  # the photographs are not read again for another projection
        base = network_targets(
            teacher.base, dataset, splits, folder=Path(folder) / UNPROJECTED, batch=batch, workers=workers
        )
    for split in splits:
        annotations = dataset.annotations(split)
        starts[split] = row_starts(annotations)
        key = {
            "dataset": dataset_name(dataset), "boxes": boxes_hash(annotations),
            "teacher": (teacher.base or teacher).hash, "projection": teacher.projection.hash if teacher.base else "",
            "crop size": teacher.crop_size, "crop rule": CROP_RULE,
        }  # fmt: skip
        if base is not None:
            compute = partial(_projected, teacher, annotations, base.all(split))
        else:
            compute = partial(embed_split, teacher, dataset, split, batch, workers)
        shape = (int(starts[split][-1]), teacher.dim)
        rows[split] = cached_rows(Path(folder) / f"targets-{split}.npy", key, shape, compute)
    return Targets(rows, starts, f"{teacher.title} ({teacher.hash})")


def _projected(teacher: CropTeacher, annotations: Annotations, base: np.ndarray, start: int) -> Iterator[np.ndarray]:
    """float32 [n,D]: the projected embeddings of the boxes of a split from box `start` on, some at a time."""
    for row in range(start, len(base), PROJECTED_AT_ONCE):
        embeddings = teacher.projection(base[row : row + PROJECTED_AT_ONCE])
        check_embeddings(embeddings, teacher, annotations, range(row, row + len(embeddings)))
        yield embeddings


def boxes_hash(annotations: Annotations) -> str:
    """Digest of image names and truth boxes, in order."""
    digest = hashlib.sha256("\0".join(annotations.image_names).encode())
    for boxes in annotations.boxes:
        digest.update(np.asarray([len(boxes)], "<i8").tobytes() + np.ascontiguousarray(boxes, "<f4").tobytes())
    return digest.hexdigest()[:16]


def dataset_name(dataset: Any) -> str:
    """Name of a prepared dataset with the fingerprint of its options and files (its folder's name holds it)."""
    folder = getattr(dataset, "folder", None)
    return "/".join(Path(folder).parts[-3:]) if folder is not None else str(dataset.name)
