"""A prepared dataset on disk: random access to its records, its annotations and its query list.

Opened by `records.open_dataset`. Annotations are read from the records once, which means reading every image, and then
cached in a small file beside them.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from psdiff_jax.data.galleries import GalleryList, load_galleries
from psdiff_jax.data.schema import Annotations, Queries, read_record
from psdiff_jax.errors import InputError, one_line
from psdiff_jax.files import write_atomically

SPLITS = ("train", "gallery", "query")
GALLERIES_FILE = "galleries.npz"
PERSON_NAMES_FILE = "people.json"
INFO_FILE = "dataset_info.json"


class Source:
    """Random access to the records of a split: `source[i]` is a dict as in `record_features`, with the image encoded.

    Reads the ArrayRecord files `paths` itself: TFDS takes its time to import, and its own source holds the builder,
    which cannot be pickled for a worker process. With `positions` [K], record i is record `positions[i]` of the files.
    """

    def __init__(self, paths: Sequence[str], positions: np.ndarray | None = None):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self._paths, self._positions = list(paths), positions
        with self._reading("its index"):
            self._records = ArrayRecordDataSource(self._paths) if self._paths else ()  # a split without records

    def __len__(self) -> int:
        return len(self._records) if self._positions is None else len(self._positions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = int(index) if self._positions is None else int(self._positions[index])
        if not 0 <= position < len(self._records):
            raise IndexError(position)
        with self._reading(f"record {position}"):
            return read_record(self._records[position])

    @contextlib.contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a damaged file fails in every way there is
            raise InputError(damaged(Path(self._paths[0]).parent, f"{what}: {one_line(error)[:200]}")) from error

    def at(self, positions: np.ndarray) -> Source:
        """The records of the files at `positions` [K], in that order."""
        return Source(self._paths, np.asarray(positions, int))

    def __reduce__(self) -> tuple:
        return Source, (self._paths, self._positions)


class Images(Protocol):
    """What training needs of a dataset: also `joined.JoinedDataset` has it."""

    name: str
    folder: Path

    def source(self, split: str) -> Any: ...
    def annotations(self, split: str) -> Annotations: ...


class Dataset(Images, Protocol):
    """What inference needs of a dataset: `PreparedDataset` and `held_out.HeldOut` have it."""

    def queries(self) -> Queries: ...


class PreparedDataset:
    """A prepared dataset on disk. `folder`: of its ArrayRecord files; `report`: of its builder."""

    def __init__(self, name: str, folder: Path, report: Mapping[str, Any] | None = None):
        self.name = name
        self.folder = folder
        self.report = dict(report or {})
        self._annotations: dict[str, Annotations] = {}

    @property
    def title(self) -> str:
        """The name that results use: with the part of the dataset, if it is not the whole."""
        return f"{self.name} ({self.report['part']})" if self.report.get("part") else self.name

    @cached_property
    def train_source(self) -> Source:
        return Source(self._paths("train"))

    @cached_property
    def gallery_source(self) -> Source:
        return Source(self._paths("gallery"))

    @cached_property
    def query_source(self) -> Source:
        """The image of each query, in the order of `queries()`."""
        positions = {name: i for i, name in enumerate(self.annotations("gallery").image_names)}
        return self.gallery_source.at(np.asarray([positions[name] for name in self.queries().image_names]))

    def source(self, split: str) -> Source:
        """The source of `train`, `gallery` or `query`."""
        if split not in SPLITS:
            raise InputError(f"dataset {self.name} has no split {split!r}: choose one of {', '.join(SPLITS)}")
        return getattr(self, f"{split}_source")

    def annotations(self, split: str) -> Annotations:
        """A split without its pixels. For `query`: each query's image, with the query's box as the only one."""
        if split not in self._annotations:
            read = self._query_annotations if split == "query" else self._read_annotations
            self._annotations[split] = read(split)
        return self._annotations[split]

    def queries(self) -> Queries:
        """The query list.

        Raises:
          InputError: a query in an image that the gallery does not hold.
        """
        raw = self._read_annotations("query")
        missing = sorted(set(raw.image_names) - set(self.annotations("gallery").image_names))
        if missing:
            raise InputError(
                f"dataset {self.name}: query image {missing[0]} is not in its gallery; add it or drop the query"
            )
        return Queries(
            image_names=raw.image_names,
            boxes=np.concatenate([np.zeros((0, 4), np.float32), *raw.boxes]),
            person_ids=np.concatenate([np.zeros(0, np.int64), *raw.person_ids]),
            cameras=raw.cameras,
            frames=raw.frames,
        )

    @cached_property
    def person_names(self) -> dict[int, str]:
        """Person id -> the identity's name in the user's folder; empty if the ids are the folder's own numbers."""
        path = self.folder / PERSON_NAMES_FILE
        names = read_json(path) if path.is_file() else {}
        if not all(number.isdecimal() and isinstance(name, str) for number, name in names.items()):
            raise InputError(damaged(self.folder, f"{path.name} holds other than numbers and names"))
        return {int(number): name for number, name in names.items()}

    @cached_property
    def galleries(self) -> dict[str, GalleryList]:
        """The dataset's own galleries for its queries, by name; most datasets have none."""
        return load_galleries(self.folder / GALLERIES_FILE)

    def _query_annotations(self, split: str) -> Annotations:
        raw, gallery = self._read_annotations(split), self.annotations("gallery")
        sizes = dict(zip(gallery.image_names, gallery.sizes, strict=True))
        self.queries()  # refuses a query without an image
        found = np.asarray([sizes[name] for name in raw.image_names], np.int32).reshape(-1, 2)
        return Annotations(raw.image_names, found, raw.cameras, raw.frames, raw.boxes, raw.person_ids)

    def _paths(self, split: str) -> list[str]:
        sizes = shard_sizes(self.folder)
        if split not in sizes:
            if split != "gallery":
                return []  # no training images or no queries: TFDS writes no empty split
            raise InputError(f"{self.folder} has no split {split!r}: delete this folder, it is then built again")
        count, name = len(sizes[split]), self.folder.parent.name
        paths = [self.folder / f"{name}-{split}.array_record-{i:05d}-of-{count:05d}" for i in range(count)]
        for path in paths:
            if not path.is_file():
                raise InputError(f"{path} is missing: delete the folder {self.folder}, it is then built again")
        return [str(path) for path in paths]

    def _read_annotations(self, split: str) -> Annotations:
        path = self.folder / f"annotations-{split}.npz"
        with contextlib.suppress(Exception):  # not there, or damaged in one of many ways: it is made again
            return _load_annotations(path)
        source = Source(self._paths(split))
        rows = [{key: value for key, value in source[i].items() if key != "image"} for i in range(len(source))]
        found = Annotations(
            image_names=tuple(row["image_name"] for row in rows),
            sizes=np.asarray([(row["height"], row["width"]) for row in rows], np.int32).reshape(-1, 2),
            cameras=np.asarray([row["camera"] for row in rows], np.int32),
            frames=np.asarray([row["frame"] for row in rows], np.int64),
            boxes=tuple(np.asarray(row["boxes"], np.float32).reshape(-1, 4) for row in rows),
            person_ids=tuple(np.asarray(row["person_ids"], np.int64).reshape(-1) for row in rows),
        )
        with contextlib.suppress(InputError):  # in a read-only folder they are read from the records each time
            _save_annotations(path, found)
        return found


def folder_of_records(prepared: Path) -> Path:
    """Where TFDS has put the files of a dataset prepared in the folder `prepared`: NAME/VERSION/ there.

    Raises:
      InputError: they are gone.
    """
    for path in prepared.glob(f"*/*/{INFO_FILE}"):
        return path.parent
    raise InputError(f"{prepared} holds no dataset: delete this folder, it is then built again")


def shard_sizes(folder: Path) -> dict[str, list[int]]:
    """How many records each ArrayRecord file of each split holds, as TFDS wrote it down."""
    path = folder / INFO_FILE
    try:
        return {split["name"]: [int(size) for size in split["shardLengths"]] for split in read_json(path)["splits"]}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(damaged(folder, f"{path.name}: {one_line(error)[:200]}")) from error


def read_json(path: Path) -> dict[str, Any]:
    """A file that belongs to a prepared dataset; InputError where it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(damaged(path.parent, f"{path.name}: {one_line(error)[:200]}")) from error
    if not isinstance(found, dict):
        raise InputError(damaged(path.parent, f"{path.name} holds no object"))
    return found


def damaged(folder: Path, why: str) -> str:
    return f"{folder} is damaged ({why}): delete this folder, it is then built again"


def _save_annotations(path: Path, annotations: Annotations) -> None:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        image_names=np.asarray(annotations.image_names, str),
        sizes=annotations.sizes,
        cameras=annotations.cameras,
        frames=annotations.frames,
        counts=np.asarray([len(boxes) for boxes in annotations.boxes], np.int64),
        boxes=np.concatenate([np.zeros((0, 4), np.float32), *annotations.boxes]),
        person_ids=np.concatenate([np.zeros(0, np.int64), *annotations.person_ids]),
    )
    write_atomically(path, buffer.getvalue())


def _load_annotations(path: Path) -> Annotations:
    with np.load(path) as stored:
        ends = np.cumsum(stored["counts"])[:-1]
        has_images = len(stored["counts"]) > 0
        return Annotations(
            image_names=tuple(str(name) for name in stored["image_names"]),
            sizes=stored["sizes"],
            cameras=stored["cameras"],
            frames=stored["frames"],
            boxes=tuple(np.split(stored["boxes"], ends)) if has_images else (),
            person_ids=tuple(np.split(stored["person_ids"], ends)) if has_images else (),
        )
