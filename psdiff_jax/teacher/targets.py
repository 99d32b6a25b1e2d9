"""Targets: one embedding for every ground-truth box, which PSDiff learns to denoise.

    targets.lookup("train", 17)        float32 [n, D] unit norm, in the order of the image's boxes

Legend: n boxes of an image, K boxes of a split, D embedding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from psdiff_jax.data.detections import Detections
from psdiff_jax.data.records import Annotations, Images
from psdiff_jax.errors import InputError
from psdiff_jax.ops.normalize import first_off_unit


@dataclass(frozen=True)
class Wanted:
    """What a teacher is asked for its targets with; see `kinds.open_targets`.

    folder: where they are kept, and a PCA. train_set: on whose train split that is fitted.
    """

    folder: Path
    embedding_dim: int | None
    train_set: Images
    whiten: bool = False
    workers: int = 1


class Targets:
    """Embeddings of the ground-truth boxes of some splits.

    Attributes:
      dim: D. source: one phrase, where they come from. notes: lines for the user (unused rows of a file).
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
        """Targets whose embeddings are changed, [K,D] -> [K,D']; `how` is put behind `source`.

        Raises:
          InputError: a changed embedding is zero or not finite.
        """
        rows = {split: change(rows) for split, rows in self._rows.items()}
        for split, changed in rows.items():
            if (bad := first_off_unit(changed)) is not None:
                raise InputError(
                    f"{self.source}: the embedding of {split} box {bad} is zero or not finite after {how}; use another"
                    " teacher"
                )
        return Targets(rows, self._starts, f"{self.source}, {how}", self.notes)


def teacher_detections(targets: Targets, dataset: Images, split: str) -> Detections:
    """The ground-truth boxes of `gallery` or `query` with the teacher's embeddings and score 1.

    Scored by the ordinary evaluator they give the teacher's own mAP: what PSDiff could reach with perfect boxes and
    perfectly denoised embeddings.
    """
    annotations = dataset.annotations(split)
    rows = np.asarray(targets.all(split), np.float32)
    names, person = tuple(annotations.image_names), None
    index = np.repeat(np.arange(len(names), dtype=np.int32), [len(boxes) for boxes in annotations.boxes])
    if split == "query":  # an image may have many queries
        names = tuple(dict.fromkeys(annotations.image_names))
        position = {name: i for i, name in enumerate(names)}
        index = np.asarray([position[annotations.image_names[i]] for i in index], np.int32)
        person = np.concatenate([np.zeros(0, np.int64), *annotations.person_ids])
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *annotations.boxes])
    return Detections(names, boxes, np.ones(len(boxes), np.float32), rows, index, person)


def boxes_hash(annotations: Annotations) -> str:
    """Digest of image names and ground-truth boxes, in order."""
    digest = hashlib.sha256("\0".join(annotations.image_names).encode())
    for boxes in annotations.boxes:
        digest.update(np.asarray([len(boxes)], "<i8").tobytes() + np.ascontiguousarray(boxes, "<f4").tobytes())
    return digest.hexdigest()[:16]


def arrays_hash(*arrays: np.ndarray) -> str:
    """Digest of shapes and of values as float32, in order."""
    digest = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array, "<f4")
        digest.update(f"{array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()[:16]


def dataset_name(dataset: Images) -> str:
    """Name of a prepared dataset with the fingerprint of its options and files (its folder's name holds it)."""
    folder = getattr(dataset, "folder", None)
    return "/".join(Path(folder).parts[-3:]) if folder is not None else str(dataset.name)
