"""Galleries that a dataset lists for each query, such as CUHK-SYSU's TestG50 to TestG4000 and its subsets.

Legend: P queries of a list, G images in the gallery of one query, T of those that show the person.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from psdiff_jax.errors import InputError, one_line
from psdiff_jax.files import write_atomically


@dataclass(frozen=True)
class GalleryList:
    """One official list: for some queries, the images to search and the person's ground-truth boxes in them.

    queries: int64 [P], numbers into the dataset's `Queries`, rising.
    images: P times int32 [G], indices into the gallery's `Annotations`, in the order of the list; it may repeat one.
    gt_places: P times int32 [T], the positions in `images` of those that show the person, rising.
    gt_boxes: P times float32 [T, 4] xyxy pixels, the person's boxes in the list.
    """

    queries: np.ndarray
    images: tuple[np.ndarray, ...]
    gt_places: tuple[np.ndarray, ...]
    gt_boxes: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.queries)


def save_galleries(path: Path, galleries: Mapping[str, GalleryList]) -> None:
    """Writes all lists of a dataset as one .npz."""
    arrays: dict[str, Any] = {"names": np.asarray(list(galleries), str)}
    for i, gallery in enumerate(galleries.values()):
        arrays[f"{i}_queries"] = np.asarray(gallery.queries, np.int64)
        for field, dtype, shape in (
            ("images", np.int32, (0,)),
            ("gt_places", np.int32, (0,)),
            ("gt_boxes", np.float32, (0, 4)),
        ):
            rows = getattr(gallery, field)
            arrays[f"{i}_{field}"] = np.concatenate([np.zeros(shape, dtype), *rows]).astype(dtype)
            arrays[f"{i}_{field}_counts"] = np.asarray([len(row) for row in rows], np.int64)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def load_galleries(path: Path) -> dict[str, GalleryList]:
    """The lists of a dataset by name, in the order they were saved; none if there is no such file.

    Raises:
      InputError: the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        with np.load(path) as stored:
            return {str(name): _read(stored, i) for i, name in enumerate(stored["names"])}
    except Exception as error:  # a damaged file fails in every way there is
        why = one_line(error)[:200]
        raise InputError(f"{path} is damaged ({why}): delete its folder, it is then built again") from error


def _read(stored: Mapping[str, np.ndarray], i: int) -> GalleryList:
    queries = stored[f"{i}_queries"]

    def rows(field: str) -> tuple[np.ndarray, ...]:
        ends = np.cumsum(stored[f"{i}_{field}_counts"])[:-1]
        return tuple(np.split(stored[f"{i}_{field}"], ends)) if len(queries) else ()

    return GalleryList(queries, rows("images"), rows("gt_places"), rows("gt_boxes"))
