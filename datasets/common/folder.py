"""The TFDS builder of every dataset that is read from a user's folder: read, check, then write the records.

A dataset adds a reader and a class with its options:

    class Prw(FolderBuilder):
        DESCRIPTION = "..."
        def __init__(self, *, data_dir: str, root: str):
            super().__init__(data_dir, reader.read, root)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import tensorflow_datasets as tfds

from psdiff_jax.data.schema import query_example, scene_example, scene_features
from psdiff_jax.data.transforms import decode_image
from psdiff_jax.datasets.common.checks import check
from psdiff_jax.datasets.common.records import Contents, Query, Scene
from psdiff_jax.errors import InputError

STORED_AS_THEY_ARE = (".jpg", ".jpeg", ".png")


class FolderBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builds the splits `train`, `gallery` and `query` from what a reader finds.

    Args:
      data_dir: where TFDS keeps the prepared records.
      read: (root, **options) -> Contents.
      root: the user's folder.
      options: passed on to `read`.

    `report`: see `Contents.report`. `galleries`: the dataset's own galleries. `people`: see `Contents.people`.

    Raises:
      InputError: when building, the first error that reading or checking found, and how many more there are.
    """

    VERSION = tfds.core.Version("1.0.0")
    DESCRIPTION = ""

    def __init__(self, data_dir: str, read: Callable[..., Contents], root: str, **options: Any):
        self.root = Path(root).expanduser()
        self.report: dict[str, Any] = {}
        self.galleries: dict[str, Any] = {}
        self.people: dict[int, str] = {}
        self._read, self._options = read, options
        super().__init__(data_dir=data_dir)

    def contents(self) -> Contents:
        """The folder, read and checked."""
        found = self._read(self.root, **self._options)
        check(found)
        return found

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            features=scene_features(),
            disable_shuffling=True,  # records stand in the order of the official lists
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        # Lists, annotations and image headers are quick to read: a mistake is told before the first record is written.
        contents = self.contents()
        refuse(contents)
        self.report, self.galleries, self.people = contents.report(), contents.galleries, dict(contents.people)
        splits = {
            "train": (contents.train, self._generate_examples),
            "gallery": (contents.gallery, self._generate_examples),
            "query": (contents.queries, self._queries),
        }
        # TFDS writes no split without records; `PreparedDataset` takes one that is not there for an empty one.
        return {split: generate(found) for split, (found, generate) in splits.items() if found}

    def _generate_examples(self, scenes: Iterable[Scene]) -> Iterator[tuple[int, dict[str, Any]]]:
        for key, scene in enumerate(scenes):
            yield (
                key,
                scene_example(
                    image=encoded(scene.path),
                    image_name=scene.name,
                    height=scene.height,
                    width=scene.width,
                    boxes=scene.boxes,
                    person_ids=scene.person_ids,
                    camera=scene.camera,
                    frame=scene.frame,
                ),
            )

    def _queries(self, queries: Iterable[Query]) -> Iterator[tuple[int, dict[str, Any]]]:
        for key, query in enumerate(queries):
            yield (
                key,
                query_example(
                    image_name=query.image_name,
                    box=query.box,
                    person_id=query.person_id,
                    camera=query.camera,
                    frame=query.frame,
                ),
            )


def refuse(contents: Contents) -> None:
    """Raises InputError when there are errors among the findings: the first, and how many more."""
    errors = contents.errors()
    if errors:
        more = f" (and {len(errors) - 1} more: scripts/validate_dataset.py lists all)" if len(errors) > 1 else ""
        raise InputError(f"{errors[0]}{more}")


def encoded(path: Path) -> bytes:
    """A photograph's JPEG or PNG bytes as they are on disk, anything else encoded as PNG; decoded once in any case, so
    that a broken one is found now, by name."""
    data = path.read_bytes()
    image = decode_image(data, str(path))
    if path.suffix.lower() in STORED_AS_THEY_ARE:
        return data
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def digest(root: Path, annotations: Iterable[Path], photographs: Iterable[Path]) -> str:
    """What makes a folder the dataset that it is: the contents of its annotation files, names and sizes of its
    photographs. A copy elsewhere has the same digest, a changed one has not."""
    total = hashlib.sha256()
    for path in sorted(annotations):
        content = hashlib.sha256(path.read_bytes()).digest()
        total.update(path.relative_to(root).as_posix().encode() + b"\0" + content)
    for path in sorted(photographs):
        total.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
    return total.hexdigest()
