"""A teacher as the rest of the program sees it: a function from crops of people to embeddings, and how it is applied.

Legend: B crops of a batch, N crops of a set, n boxes, h w rows and columns of a crop, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from psdiff_jax.errors import InputError
from psdiff_jax.teacher.crops import cut_crops, progress, row_starts

if TYPE_CHECKING:
    from psdiff_jax.data.records import Annotations
    from psdiff_jax.teacher.projection import Projection

Embed = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class CropTeacher:
    """Whatever turns crops of people into embeddings: trained here, converted from PyTorch, an ONNX file.

    Attributes:
      embed: crops uint8 [B,h,w,3] RGB -> float32 [B,D], rows of length one. How pixels are scaled is its own affair
        (an ONNX file's: `teacher.onnx.load_onnx`).
      dim: D. hash: digest of the weights and of whatever else decides an embedding.
      crop_size: (h, w) of the crops it takes. title: one phrase for reports.
      base, projection: where this is another teacher with its embeddings projected (`teacher.projection.project`), that
        teacher, and the projection.
    """

    embed: Embed
    dim: int
    hash: str
    crop_size: tuple[int, int]
    title: str
    base: CropTeacher | None = None
    projection: Projection | None = None


def embed_crops(
    embed: Embed, crops: np.ndarray, batch: int = 256, what: str = "crops", order: np.ndarray | None = None
) -> np.ndarray:
    """float32 [N,D] of `crops` uint8 [N,h,w,3], taken in `order` (int [N], a permutation) but returned in their own.

    Every batch has the same size, so that one is compiled: the last is filled up with the first crops, not with copies
    of its own. A network that normalises by the batch's statistics would see nothing in copies of one crop.
    """
    order = np.arange(len(crops)) if order is None else order
    batch = _batch_size(batch, len(crops))
    if not len(crops):  # one blank crop still tells D
        return np.asarray(embed(np.zeros((1, *crops.shape[1:]), np.uint8)), np.float32)[:0]
    chunks = [order[start : start + batch] for start in range(0, len(crops), batch)]
    embeddings: np.ndarray | None = None
    for rows in progress(iter(chunks), len(chunks), f"{what}, batches"):
        part = np.asarray(embed(crops[np.resize(np.concatenate([rows, order]), batch)]), np.float32)
        embeddings = np.empty((len(crops), part.shape[1]), np.float32) if embeddings is None else embeddings
        embeddings[rows] = part[: len(rows)]
    return embeddings


def embed_split(
    teacher: CropTeacher, dataset: Any, split: str, batch: int, workers: int, start: int
) -> Iterator[np.ndarray]:
    """float32 [n,D]: embeddings of the boxes of a split from box `start` on, a batch at a time.

    Every batch has the same size, so that one is compiled: the last is filled up with crops it already has.
    """
    annotations = dataset.annotations(split)
    count = int(row_starts(annotations)[-1])
    batch = _batch_size(batch, count)
    ranges = [range(row, min(row + batch, count)) for row in range(start, count, batch)]
    crops = _cut_ahead(dataset, split, teacher.crop_size, ranges, workers)
    for rows, part in progress(zip(ranges, crops, strict=True), len(ranges), f"teacher targets of {split}: batches"):
        embeddings = np.asarray(teacher.embed(part[np.resize(np.arange(len(rows)), batch)]), np.float32)[: len(rows)]
        check_embeddings(embeddings, teacher, annotations, rows)
        yield embeddings


def _cut_ahead(
    dataset: Any, split: str, size: tuple[int, int], ranges: Sequence[range], workers: int
) -> Iterator[np.ndarray]:
    """Crops uint8 [n,h,w,3] of each range of boxes; the next ones are cut out while these are worked on."""

    def cut(rows: range) -> np.ndarray:
        crops = np.empty((len(rows), *size, 3), np.uint8)
        for _ in cut_crops(dataset, split, rows.start, crops, workers):
            pass
        return crops

    with ThreadPoolExecutor(1) as thread:
        waiting = [thread.submit(cut, rows) for rows in ranges[:1]]
        for rows in [*ranges[1:], None][: len(ranges)]:
            crops = waiting.pop().result()
            if rows is not None:
                waiting.append(thread.submit(cut, rows))
            yield crops


def check_embeddings(embeddings: np.ndarray, teacher: CropTeacher, annotations: Annotations, rows: range) -> None:
    """Raises InputError for embeddings of the boxes `rows` of a split that are not [n,D] of length one, by image."""
    if embeddings.shape[1:] != (teacher.dim,):
        raise InputError(f"{teacher.title}: gives embeddings of shape {embeddings.shape[1:]}, not {teacher.dim}-d")
    norms = np.linalg.norm(embeddings, axis=1)
    bad = np.flatnonzero(~(np.abs(norms - 1) < 1e-2))  # NaN compares false
    if bad.size:
        row, starts = rows[bad[0]], row_starts(annotations)
        image = int(np.searchsorted(starts, row, "right")) - 1
        box = annotations.boxes[image][row - starts[image]].tolist()
        raise InputError(
            f"{teacher.title}: the embedding of {annotations.image_names[image]} box {box} (xyxy) has length"
            f" {norms[bad[0]]:.3g}, not 1: zero or not finite; use another teacher or leave that box out"
        )


def _batch_size(batch: int, count: int) -> int:
    return min(batch, -(-count // 16) * 16)  # small sets: a number that devices divide
