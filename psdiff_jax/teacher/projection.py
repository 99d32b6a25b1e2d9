"""Embeddings of another width: principal components (PCA), fitted on the boxes of the train split.

    projection = kept_projection(targets.all("train"), 256, folder=folder, ...)
    projection(embeddings), projection.kept          256-d ones; the share of the variance that they keep

The projection is kept in `<folder>/projection.npz`, beside the targets, and is fitted again when what it was fitted on
changes.

Legend: N embeddings, E their width, D the width wanted.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from psdiff_jax import parallel
from psdiff_jax.errors import InputError
from psdiff_jax.files import locked
from psdiff_jax.models.weights import read_npz, save_npz
from psdiff_jax.ops.normalize import unit_rows
from psdiff_jax.teacher.targets import Targets, arrays_hash

ROWS_AT_ONCE = 8192
FILE = "projection.npz"


@dataclass(frozen=True)
class Projection:
    """(x - mean) @ basis, scaled to length one.

    Attributes:
      mean: float32 [E]. basis: float32 [E,D], a direction a column by falling variance; divided by the standard
        deviation along it when `whiten`. Directions that the embeddings it was fitted on do not span are zero.
      kept: share of their variance that lies in these directions, 0..1.
      fitted_on: digest of them.
    """

    mean: np.ndarray
    basis: np.ndarray
    kept: float
    whiten: bool
    fitted_on: str

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        """[N,E] -> float32 [N,D] of length one; a row without any part in these directions stays zero."""
        return unit_rows((np.asarray(embeddings, np.float64) - self.mean) @ self.basis).astype(np.float32)

    @cached_property
    def hash(self) -> str:
        """Digest of mean and basis: all that decides an embedding."""
        return arrays_hash(self.mean, self.basis)

    def describe(self) -> str:
        """One phrase: `PCA of 512-d embeddings to 256-d, 97.3% of the variance kept`."""
        width, dim = self.basis.shape
        how = " and whitening" if self.whiten else ""
        return f"PCA{how} of {width}-d embeddings to {dim}-d, {100 * self.kept:.1f}% of the variance kept"

    def save(self, path: str | Path) -> None:
        """Writes the `.npz` whole or not at all; InputError where it cannot be written."""
        save_npz(path, {name: np.asarray(getattr(self, name)) for name in _FIELDS})

    @classmethod
    def load(cls, path: str | Path) -> Projection:
        """Raises InputError naming what the file lacks."""
        arrays = read_npz(path)
        missing = [name for name in _FIELDS if name not in arrays]
        if missing:
            raise InputError(f"{path}: not a projection, it has no array {missing[0]!r}; delete it to fit another")
        kept, whiten, fitted_on = (arrays[name].item() for name in _FIELDS[2:])
        return cls(arrays["mean"], arrays["basis"], float(kept), bool(whiten), str(fitted_on))


_FIELDS = ("mean", "basis", "kept", "whiten", "fitted_on")


def fit_pca(embeddings: np.ndarray, dim: int, whiten: bool = False) -> Projection:
    """The `dim` directions of largest variance of `embeddings` [N,E], exact, in float64.

    Of each direction the sign is chosen that makes its largest entry positive. Where N or E is too small to give `dim`
    directions the rest are zero: no distance is lost.

    Raises:
      InputError: embeddings that are all the same, or not finite.
    """
    if dim < 1:
        raise InputError(f"config.model.embedding_dim is {dim}: embeddings need a width of 1 or more")
    mean, covariance = _moments(embeddings)
    if not np.isfinite(covariance).all():
        raise InputError("PCA: some embeddings of the train split are not finite; repair the teacher")
    directions, variances, _ = np.linalg.svd(covariance, hermitian=True)
    rank = _rank(variances, len(embeddings))
    if rank == 0:
        raise InputError(
            f"PCA: the {len(embeddings)} embeddings of the train split are all the same; it needs crops that differ"
        )
    count = min(dim, rank)
    basis = np.zeros((len(mean), dim))
    basis[:, :count] = directions[:, :count]
    basis *= np.where(basis[np.abs(basis).argmax(axis=0), np.arange(dim)] < 0, -1, 1)
    if whiten:
        basis[:, :count] /= np.sqrt(variances[:count])
    kept = float(variances[:count].sum() / variances.sum())
    return Projection(mean.astype(np.float32), basis.astype(np.float32), kept, whiten, arrays_hash(embeddings))


def _moments(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 mean [E] and covariance [E,E] (divided by N-1) of rows that may be memory-mapped."""
    count, width = embeddings.shape
    parts = [slice(start, start + ROWS_AT_ONCE) for start in range(0, count, ROWS_AT_ONCE)]
    mean = sum((np.asarray(embeddings[part], np.float64).sum(axis=0) for part in parts), np.zeros(width))
    mean /= max(count, 1)
    covariance = np.zeros((width, width))
    for part in parts:
        centred = np.asarray(embeddings[part], np.float64) - mean
        covariance += centred.T @ centred
    return mean, covariance / max(count - 1, 1)


def _rank(variances: np.ndarray, count: int) -> int:
    """How many directions N rows span: N-1 at most, without those of rounding errors (the rows are float32)."""
    floor = max(variances[0], 0.0) * len(variances) * np.finfo(np.float32).eps ** 2
    return min(int((variances > max(floor, 1e-14)).sum()), max(count - 1, 0))


def targets_of_width(targets: Targets, dim: int, *, folder: str | Path, whiten: bool = False) -> Targets:
    """`targets` themselves where they are `dim` wide, otherwise projected; those of `train` must be among them."""
    if targets.dim == dim:
        return targets
    projection = kept_projection(targets.all("train"), dim, whiten, Path(folder), targets.source)
    return targets.map(projection, projection.describe())


def kept_projection(embeddings: np.ndarray, dim: int, whiten: bool, folder: Path, title: str) -> Projection:
    """The projection in `folder` where it is of these embeddings and of this kind; otherwise it is fitted."""
    return parallel.first_alone(partial(_kept_projection, embeddings, dim, whiten, folder, title))


def _kept_projection(embeddings: np.ndarray, dim: int, whiten: bool, folder: Path, title: str) -> Projection:
    path = folder / FILE
    wanted = {"embeddings": arrays_hash(embeddings), "width": dim, "whitening": whiten}
    kept, _ = _load_fresh(path, wanted)
    if kept is None:
        with locked(path.with_suffix(".lock"), f"fits {path}"):
            kept, differs = _load_fresh(path, wanted)  # another process may have fitted it meanwhile
            if differs:
                print(f"{path} is stale ({', '.join(differs)} changed): fitting it again", file=sys.stderr, flush=True)
            if kept is None:
                kept = fit_pca(embeddings, dim, whiten)
                kept.save(path)
                print(f"{title}: {kept.describe()}", file=sys.stderr, flush=True)
    return kept


def _load_fresh(path: Path, wanted: dict[str, Any]) -> tuple[Projection | None, list[str]]:
    """(the projection, or None; what makes the file unusable)."""
    if not path.is_file():
        return None, []
    try:
        kept = Projection.load(path)
        has = {"embeddings": kept.fitted_on, "width": kept.basis.shape[1], "whitening": kept.whiten}
    except (InputError, ValueError, IndexError):
        return None, ["its format"]
    differs = [name for name, value in wanted.items() if has[name] != value]
    return (None if differs else kept), differs
