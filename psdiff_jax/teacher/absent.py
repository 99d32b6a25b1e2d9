"""Kind "none": no teacher. Every target is zero, which no loss looks at: only boxes are learned.

Legend: B crops, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from psdiff_jax.data.records import Images
from psdiff_jax.errors import InputError
from psdiff_jax.teacher.crops import row_starts
from psdiff_jax.teacher.targets import Targets, Wanted


@dataclass(frozen=True)
class NoTeacher:
    """See `kinds.Teacher`."""

    title: str = "no teacher"

    def embed(self, crops: np.ndarray) -> np.ndarray:
        """Raises InputError: there is nothing to embed with."""
        del crops
        raise InputError("config.teacher.kind=none: there is no teacher to embed crops with; choose another kind")

    def targets(self, dataset: Images, splits: Sequence[str], wanted: Wanted) -> Targets:
        """Zeros [K,D], of a width that only the model decides."""
        if wanted.embedding_dim is None:
            raise InputError("config.teacher.kind=none: there is no teacher to evaluate; choose another kind")
        starts = {split: row_starts(dataset.annotations(split)) for split in splits}
        rows = {split: np.zeros((int(ends[-1]), wanted.embedding_dim), np.float32) for split, ends in starts.items()}
        return Targets(rows, starts, self.title)
