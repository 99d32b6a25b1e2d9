"""A teacher that is a function from crops of people to embeddings, and its targets.

What it computes is kept in `<folder>/targets-<split>.npy` and mapped from there.

Legend: B crops of a batch, n boxes, h w rows and columns of a crop, D embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from psdiff_jax import parallel
from psdiff_jax.data.records import Annotations, Images
from psdiff_jax.errors import InputError
from psdiff_jax.ops.normalize import first_off_unit
from psdiff_jax.progress import progress
from psdiff_jax.teacher.crops import CROP_RULE, row_starts
from psdiff_jax.teacher.embed import Embed, batch_size, cut_ahead
from psdiff_jax.teacher.projection import Projection, kept_projection
from psdiff_jax.teacher.target_cache import cached_rows, rows_of_all_processes
from psdiff_jax.teacher.targets import Targets, Wanted, boxes_hash, dataset_name

UNPROJECTED = "unprojected"  # folder for what a network gives before it is projected to another width
PROJECTED_AT_ONCE = 8192


@dataclass(frozen=True)
class CropTeacher:
    """Whatever turns crops of people into embeddings: trained here, converted from PyTorch, an exported file.

    Attributes:
      embed: crops uint8 [B,h,w,3] RGB -> float32 [B,D], rows of length one. It scales pixels as its network needs.
      dim: D. hash: digest of the weights and of whatever else decides an embedding.
      crop_size: (h, w) of the crops it takes. title: one phrase for reports.
      base, projection: where this is another teacher with its embeddings projected (`project`), that teacher, and the
        projection.
      interpolation: how crops are resized, a name in `crops.INTERPOLATION`.
    """

    embed: Embed
    dim: int
    hash: str
    crop_size: tuple[int, int]
    title: str
    base: CropTeacher | None = None
    projection: Projection | None = None
    interpolation: str = "bicubic"

    def targets(self, dataset: Images, splits: Sequence[str], wanted: Wanted) -> Targets:
        """See `kinds.open_targets`."""
        dim, folder, workers = wanted.embedding_dim, wanted.folder, wanted.workers
        if dim is None:  # kept where the PCA to another width looks for them
            return network_targets(self, dataset, splits, folder=folder / UNPROJECTED, workers=workers)
        teacher = teacher_of_width(self, wanted.train_set, dim, folder=folder, whiten=wanted.whiten, workers=workers)
        return network_targets(teacher, dataset, splits, folder=folder, workers=workers)


def network_targets(
    teacher: CropTeacher,
    dataset: Images,
    splits: Sequence[str] = ("train",),
    *,
    folder: str | Path,
    batch: int = 256,
    workers: int = 1,
) -> Targets:
    """Targets from a network, computed once for each split and kept in `folder` (see `teacher.target_cache`).

    A kept file is used when dataset, boxes, teacher, projection and the way crops are cut are those it was made from;
    otherwise a line says what differs and it is computed again. A run that was stopped goes on where it was. Of several
    processes each computes a share.

    Args:
      batch: crops that go through the network at once. workers: threads that decode images.

    Raises:
      InputError: an embedding that is zero or not finite, by image and box; a folder that cannot be written to.
    """
    rows, starts, base = {}, {}, None
    if teacher.base is not None:  # another projection does not read the images again
        base = network_targets(
            teacher.base, dataset, splits, folder=Path(folder) / UNPROJECTED, batch=batch, workers=workers
        )
    for split in splits:
        annotations = dataset.annotations(split)
        starts[split] = row_starts(annotations)
        key = {
            "dataset": dataset_name(dataset),
            "boxes": boxes_hash(annotations),
            "teacher": (teacher.base or teacher).hash,
            "projection": teacher.projection.hash if teacher.projection else "",
            "crop size": teacher.crop_size,
            "crop rule": CROP_RULE,
        }
        if teacher.interpolation != "bicubic":  # what targets of earlier versions were made with
            key["interpolation"] = teacher.interpolation
        path, shape = Path(folder) / f"targets-{split}.npy", (int(starts[split][-1]), teacher.dim)
        if base is not None and teacher.projection is not None:
            compute = partial(_projected, teacher, teacher.projection, annotations, base.all(split))
            rows[split] = parallel.first_alone(partial(cached_rows, path, key, shape, compute))
        else:
            embed = partial(embed_split, teacher, dataset, split, batch, workers)
            rows[split] = rows_of_all_processes(path, key, shape, embed)
    return Targets(rows, starts, f"{teacher.title} ({teacher.hash})")


def embed_split(
    teacher: CropTeacher, dataset: Images, split: str, batch: int, workers: int, start: int, end: int
) -> Iterator[np.ndarray]:
    """float32 [n,D]: embeddings of the boxes `start` to `end` of a split, a batch at a time.

    Every batch has the same size, so that one is compiled: the last is filled up with crops it already has.
    """
    annotations = dataset.annotations(split)
    batch = batch_size(batch, int(row_starts(annotations)[-1]))
    ranges = [range(row, min(row + batch, end)) for row in range(start, end, batch)]
    crops = cut_ahead(dataset, split, teacher.crop_size, ranges, workers, teacher.interpolation)
    batches = zip(ranges, crops, strict=True)
    for rows, part in progress(batches, f"teacher targets of {split}", "boxes", end - start, lambda b: len(b[0])):
        embeddings = np.asarray(teacher.embed(part[np.resize(np.arange(len(rows)), batch)]), np.float32)[: len(rows)]
        check_embeddings(embeddings, teacher, annotations, rows)
        yield embeddings


def _projected(
    teacher: CropTeacher, projection: Projection, annotations: Annotations, base: np.ndarray, start: int
) -> Iterator[np.ndarray]:
    """float32 [n,D]: the projected embeddings of the boxes of a split from box `start` on, some at a time."""
    for row in range(start, len(base), PROJECTED_AT_ONCE):
        embeddings = projection(base[row : row + PROJECTED_AT_ONCE])
        check_embeddings(embeddings, teacher, annotations, range(row, row + len(embeddings)))
        yield embeddings


def check_embeddings(embeddings: np.ndarray, teacher: CropTeacher, annotations: Annotations, rows: range) -> None:
    """Raises InputError for embeddings of the boxes `rows` of a split that are not [n,D] of length one, by image."""
    if embeddings.shape[1:] != (teacher.dim,):
        raise InputError(f"{teacher.title}: gives embeddings of shape {embeddings.shape[1:]}, not {teacher.dim}-d")
    if (off := first_off_unit(embeddings)) is not None:
        row, starts = rows[off], row_starts(annotations)
        image = int(np.searchsorted(starts, row, "right")) - 1
        box = annotations.boxes[image][row - starts[image]].tolist()
        raise InputError(
            f"{teacher.title}: the embedding of {annotations.image_names[image]} box {box} (xyxy) has length"
            f" {np.linalg.norm(embeddings[off]):.3g}, not 1; use another teacher or leave that box out"
        )


def project(teacher: CropTeacher, projection: Projection) -> CropTeacher:
    """`teacher` with embeddings that are projected, and of length one again."""
    width, dim = projection.basis.shape
    if width != teacher.dim:
        raise InputError(f"{teacher.title}: gives {teacher.dim}-d embeddings, the projection takes {width}-d ones")
    return replace(
        teacher,
        embed=lambda crops: projection(np.asarray(teacher.embed(crops))),
        dim=dim,
        hash=f"{teacher.hash}-{projection.hash}",
        title=f"{teacher.title}, {projection.describe()}",
        base=teacher,
        projection=projection,
    )


def teacher_of_width(
    teacher: CropTeacher,
    dataset: Images,
    dim: int,
    *,
    folder: str | Path,
    whiten: bool = False,
    batch: int = 256,
    workers: int = 1,
) -> CropTeacher:
    """`teacher` itself where it is `dim` wide, otherwise projected by the PCA of the train split's crops.

    What the network gives is kept in `<folder>/unprojected`, where `network_targets` in `folder` finds it again.
    """
    if teacher.dim == dim:
        return teacher
    before = Path(folder) / UNPROJECTED
    targets = network_targets(teacher, dataset, ("train",), folder=before, batch=batch, workers=workers)
    return project(teacher, kept_projection(targets.all("train"), dim, whiten, Path(folder), teacher.title))
