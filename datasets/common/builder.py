"""Builders of records: TFDS, which writes them, is imported when they build and not before, for it takes its time.

`FolderBuilder` is for a dataset in a user's folder: read, check, then write the records. It takes a reader and a class
with its options:

    class Prw(FolderBuilder):
        description = "..."
        def __init__(self, *, data_dir: str, root: str):
            super().__init__(data_dir, reader.read, root)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2

from psdiff_jax.data.schema import image_example, query_example, record_features
from psdiff_jax.data.stored_image import shrink_to
from psdiff_jax.data.transforms import decode_image
from psdiff_jax.datasets.common.ahead import map_ahead
from psdiff_jax.datasets.common.checks import check
from psdiff_jax.datasets.common.records import AnnotatedImage, Query, RawDataset
from psdiff_jax.errors import InputError

STORED_UNCHANGED = (".jpg", ".jpeg", ".png")


Examples = Iterator[tuple[int, dict[str, Any]]]  # (key, record)


class RecordBuilder:
    """What builds the records of a dataset in the folder `data_dir`; `data.records` says what else it may have.

    VERSION: to be raised with every change of the records. `description` is kept beside them.
    """

    VERSION = "1.0.0"
    description = ""

    def __init__(self, data_dir: str):
        self._data_dir = data_dir

    def splits(self) -> dict[str, Examples]:
        """The records of each split that is not empty (TFDS writes no empty one), in their order."""
        raise NotImplementedError

    def download_and_prepare(self, file_format: str) -> None:
        """Writes all splits."""
        self.tfds_builder().download_and_prepare(file_format=file_format)

    def tfds_builder(self) -> Any:
        """The `tfds.core.GeneratorBasedBuilder` of these records, also for `as_data_source` once they are written."""
        import tensorflow_datasets as tfds

        def info(builder: Any) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(
                builder=builder,
                description=self.description,
                features=record_features(),
                disable_shuffling=True,  # records keep their order
            )

        members = {
            "VERSION": tfds.core.Version(self.VERSION),
            "_info": info,
            "_split_generators": lambda builder, dl_manager: self.splits(),
            "_generate_examples": None,  # TFDS wants it; the splits are generators already
        }
        builder_class = type(type(self).__name__, (tfds.core.GeneratorBasedBuilder,), members, skip_registration=True)
        return builder_class(data_dir=self._data_dir)


class FolderBuilder(RecordBuilder):
    """Builds the splits `train`, `gallery` and `query` from what a reader finds.

    Args:
      data_dir: folder for the records.
      read: (root, **options) -> RawDataset.
      root: the user's folder.
      stored_size: (height, width) that larger images are shrunk into when they are stored, so that they are read
        faster; None stores the files as they are.
      options: passed on to `read`.

    `report`, `galleries`, `person_names`: as in `RawDataset`, set by building.

    Raises:
      InputError: a `stored_size` that is not two numbers of at least 32; when building, the first error that reading or
        checking found, and how many more there are.
    """

    over_the_border = False  # whether boxes may reach over the right and the lower border

    def __init__(
        self,
        data_dir: str,
        read: Callable[..., RawDataset],
        root: str,
        stored_size: tuple[int, int] | None = None,
        **options: Any,
    ):
        self.root = Path(root).expanduser()
        self.report: dict[str, Any] = {}
        self.galleries: dict[str, Any] = {}
        self.person_names: dict[int, str] = {}
        self._read, self._options = read, options
        self._stored_size = _checked(stored_size)
        super().__init__(data_dir=data_dir)

    def read(self) -> RawDataset:
        """The folder's dataset, with the findings of the reader and of the checks."""
        dataset = self._read(self.root, **self._options)
        check(dataset)
        return dataset

    def splits(self) -> dict[str, Examples]:
        # Lists, annotations and image headers are quick to read: errors are reported before any record is written.
        dataset = self.read()
        raise_on_errors(dataset)
        self.report, self.galleries = dataset.report(), dataset.galleries
        self.person_names = dict(dataset.person_names)
        splits = {split: self._examples(images) for split, images in dataset.splits.items() if images}
        return splits | ({"query": query_examples(dataset.queries)} if dataset.queries else {})

    def _examples(self, images: Iterable[AnnotatedImage]) -> Examples:
        yield from enumerate(map_ahead(self._example, images))

    def _example(self, image: AnnotatedImage) -> dict[str, Any]:
        data, scale = encoded_image(image.path, (image.height, image.width), self._stored_size)
        return image_example(
            image=data,
            scale=scale,
            image_name=image.name,
            height=image.height,
            width=image.width,
            boxes=image.boxes,
            person_ids=image.person_ids,
            camera=image.camera,
            frame=image.frame,
            over_the_border=self.over_the_border,
        )


def query_examples(queries: Iterable[Query]) -> Examples:
    """(key, record) of the split `query`."""
    for key, query in enumerate(queries):
        yield key, query_example(**vars(query))


def raise_on_errors(dataset: RawDataset) -> None:
    """Raises InputError if there are errors among the findings: the first, and how many more."""
    errors = dataset.errors()
    if errors:
        more = f" (and {len(errors) - 1} more: scripts/validate_dataset.py lists all)" if len(errors) > 1 else ""
        raise InputError(f"{errors[0]}{more}")


def _checked(stored_size: Any) -> tuple[int, int] | None:
    if stored_size is None:
        return None
    sides = tuple(stored_size) if isinstance(stored_size, Sequence) and not isinstance(stored_size, str) else ()
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 32 for side in sides):
        raise InputError(
            f"config.data.builder.stored_size is {stored_size!r}: give (height, width) in pixels, at least 32 each"
        )
    return sides


def encoded_image(path: Path, size: tuple[int, int], stored_size: tuple[int, int] | None = None) -> tuple[bytes, float]:
    """What is stored of an image file, and its scale: the bytes of a JPEG or PNG unchanged, any other image as PNG, and
    shrunk what does not fit into `stored_size`. Decoded in any case, so that a damaged file is reported now, by name,
    and so is one that no longer has the `size` (height, width) its header had."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read any more ({error.strerror}); restore it and run again") from error
    image = decode_image(data, str(path))
    if image.shape[:2] != tuple(size):
        raise InputError(
            f"{path}: was {size[1]} x {size[0]} pixels a moment ago and is {image.shape[1]} x {image.shape[0]} now; "
            "let nothing change the images meanwhile, and run again"
        )
    if stored_size is not None and (shrunk := shrink_to(image, stored_size)) is not None:
        return shrunk
    if path.suffix.lower() in STORED_UNCHANGED:
        return data, 1.0
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes(), 1.0
