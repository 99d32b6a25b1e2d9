"""The training images of several datasets as those of one (config.data.also)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from psdiff_jax.data.options import DataOptions
from psdiff_jax.data.prepared import Images, PreparedDataset, Source
from psdiff_jax.data.records import open_dataset
from psdiff_jax.data.schema import Annotations
from psdiff_jax.errors import InputError


def open_training_set(options: DataOptions, first: PreparedDataset | None = None) -> Images:
    """The dataset that config.data describes (`first`, where it is open), joined with those of config.data.also.

    Raises:
      InputError: naming the entry, the key, or the file of the data, that is wrong.
    """
    first = first or open_dataset(options)
    others = [_open(entry, options) for entry in options.also]
    return JoinedDataset([first, *others]) if others else first


def _open(entry: str, options: DataOptions) -> PreparedDataset:
    name, _, root = entry.partition("=")
    try:
        opened = open_dataset(replace(options, name=name, root=root, builder={}))
        if not len(opened.train_source):
            raise InputError("it has no images to train on")
    except InputError as error:
        raise InputError(f"config.data.also, {entry!r} (NAME=FOLDER): {error}") from error
    return opened


class JoinedDataset:
    """The train splits of `parts`, one after the other.

    Person ids and cameras are counted on from part to part, so that no two parts share one. Image names of the k-th
    part, k > 1, begin with "k-NAME/".
    """

    def __init__(self, parts: Sequence[PreparedDataset]):
        self.name = " + ".join(part.name for part in parts)
        # No folder, but what tells sets of parts apart: PREPARED/NAME-FINGERPRINT/NAME/VERSION is that of a part.
        self.folder = Path("+".join(part.folder.parts[-3] for part in parts))
        self._source = JoinedSource([part.train_source for part in parts])
        self._train = _joined([part.annotations("train") for part in parts], [part.name for part in parts])

    def source(self, split: str) -> JoinedSource:
        self._check(split)
        return self._source

    def annotations(self, split: str) -> Annotations:
        self._check(split)
        return self._train

    def _check(self, split: str) -> None:
        if split != "train":
            raise InputError(f"{self.name}: datasets of config.data.also have no split {split!r} in common, only train")


class JoinedSource:
    """Random access to the records of several sources, one after the other; with `positions` [K], to those of all."""

    def __init__(self, sources: Sequence[Source], positions: np.ndarray | None = None):
        self._sources, self._positions = list(sources), positions
        self._ends = np.cumsum([len(source) for source in sources])

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._positions is None else len(self._positions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = int(index) if self._positions is None else int(self._positions[index])
        if not 0 <= position < self._ends[-1]:
            raise IndexError(position)
        part = int(np.searchsorted(self._ends, position, side="right"))
        return self._sources[part][position - int(self._ends[part]) + len(self._sources[part])]

    def at(self, positions: np.ndarray) -> JoinedSource:
        """The records at `positions` [K], in that order."""
        return JoinedSource(self._sources, np.asarray(positions, int))


def _joined(parts: Sequence[Annotations], names: Sequence[str]) -> Annotations:
    image_names: list[str] = []
    person_ids: list[np.ndarray] = []
    cameras: list[np.ndarray] = []
    first_person = first_camera = 0
    for number, (part, name) in enumerate(zip(parts, names, strict=True), 1):
        prefix = f"{number}-{name}/" if number > 1 else ""
        image_names += [prefix + image for image in part.image_names]
        person_ids += [_counted_on(ids, first_person) for ids in part.person_ids]
        cameras.append(_counted_on(part.cameras, first_camera))
        first_person = max((int(ids.max(initial=-1)) + 1 for ids in person_ids), default=0)
        first_camera = int(np.concatenate(cameras).max(initial=-1)) + 1
    return Annotations(
        image_names=tuple(image_names),
        sizes=np.concatenate([part.sizes for part in parts]),
        cameras=np.concatenate(cameras),
        frames=np.concatenate([part.frames for part in parts]),
        boxes=tuple(boxes for part in parts for boxes in part.boxes),
        person_ids=tuple(person_ids),
    )


def _counted_on(numbers: np.ndarray, first: int) -> np.ndarray:
    """Numbers from `first` on; negative ones (unknown, unlabelled) as they are."""
    return np.where(numbers >= 0, numbers + first, numbers).astype(numbers.dtype)
