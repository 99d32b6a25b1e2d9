"""Augmented views of the training images on the disk, as arrays that training reads instead of images.

A folder of view V holds one `NAME.npy` [N,...] for each array of a batch, row i for the i-th training image, and their
checksums. A view is written whole or not at all.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from psdiff_jax.data.image_reader import Batch
from psdiff_jax.errors import InputError
from psdiff_jax.files import is_as_written, replacing_folder, write_checksums, write_npy_header


def has_view(folder: Path, view: int) -> bool:
    """Whether a view is there, and as it was written. Reads all of it: a second for each gigabyte."""
    return is_as_written(folder / str(view))


def write_view(folder: Path, view: int, batches: Iterable[Batch], images: int) -> None:
    """Writes a view of so many images from its batches, in order; `valid` marks their rows, and is not written.

    Raises:
      InputError: the disk is full, ...
    """
    with replacing_folder(folder / str(view)) as unfinished:
        files: dict[str, BinaryIO] = {}
        try:
            for batch in batches:
                for name, rows in batch.items():
                    if name == "valid":
                        continue
                    if name not in files:
                        files[name] = (unfinished / f"{name}.npy").open("wb")
                        write_npy_header(files[name], (images, *rows.shape[1:]), rows.dtype)
                    files[name].write(np.ascontiguousarray(rows[batch["valid"]]).data)
        finally:
            for file in files.values():
                file.close()
        write_checksums(unfinished)


class StoredViews:
    """Views that `write_view` wrote: the views 0 to `count` - 1 of `folder`."""

    def __init__(self, folder: Path, count: int):
        """Raises InputError: a file is missing or damaged."""
        self._views: list[Batch] = []
        for view in range(count):
            try:
                paths = sorted((folder / str(view)).glob("*.npy"))
                self._views.append({path.stem: np.load(path, mmap_mode="r") for path in paths})
            except Exception as error:  # a damaged file fails in every way there is
                raise InputError(f"{folder}: not readable ({error}); delete it, and it is made again") from error
        kinds = [{name: (array.shape, array.dtype) for name, array in arrays.items()} for arrays in self._views]
        if "image_index" not in kinds[0] or kinds.count(kinds[0]) < count:
            raise InputError(f"{folder}: its files do not belong together; delete it, and it is made again")
        self.count, self.images = count, len(self._views[0]["image_index"])

    def batch(self, views: Sequence[int] | np.ndarray, rows: Sequence[int] | np.ndarray) -> Batch:
        """Row `rows[i]` of view `views[i]` for each i."""
        names = self._views[0]
        return {
            name: np.stack([self._views[view][name][row] for view, row in zip(views, rows, strict=True)])
            for name in names
        }
