"""The detections of a split while they are made: shards on disk, for all numbers of steps at once.

    FIRST-LAST/STEPS/           of the images (or queries) FIRST to LAST, renamed into place when it is whole
        embeddings.npy          float32 [K,D], unit norm
        boxes.npy               float32 [K,4], xyxy pixels of the original image
        scores.npy              float32 [K], detection confidence
        source.npy              int32 [K], the image (or query)
        checksums.json          of these

The names sort as the images do: shards of any number of processes are one sequence of detections, without copying.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from psdiff_jax.data.blocks import Blocks
from psdiff_jax.errors import InputError
from psdiff_jax.files import adding_folder, is_as_written, write_checksums, writing
from psdiff_jax.inference.embed import People


class Found(NamedTuple):
    """The detections of all images: as `data.detections.Detections`, with `source` the image (or query) of each."""

    embeddings: Blocks
    boxes: np.ndarray
    scores: np.ndarray
    source: np.ndarray


class ShardWriter:
    """Collects the people of images in rising order, and writes them as shards of at least `rows` detections (of all
    numbers of steps) or images."""

    def __init__(self, folder: Path, steps: Sequence[int], embedding_dim: int, rows: int):
        self._folder, self._steps, self._rows = folder, steps, rows
        self._nobody = People(*(np.zeros((0, *shape), np.float32) for shape in ((4,), (), (embedding_dim,))))
        self._images: list[tuple[int, Mapping[int, People]]] = []
        self._count = 0

    def add(self, image: int, people: Mapping[int, People]) -> None:
        """Takes {steps: people} of an image."""
        if self._images and image != self._images[-1][0] + 1:
            self.write()  # others are in between: a shard's images are those from its first to its last
        self._images.append((image, people))
        self._count += sum(len(found.scores) for found in people.values())

    def write_if_full(self) -> None:
        """Ends a shard. Between two batches only, so that a run that goes on makes the batches it would have made."""
        if max(self._count, len(self._images)) >= self._rows:
            self.write()

    def write(self) -> None:
        """Writes what there is as a shard."""
        if not self._images:
            return
        images = [image for image, _ in self._images]
        with writing(self._folder), adding_folder(self._folder / f"{images[0]:010}-{images[-1]:010}") as unfinished:
            for k in self._steps:
                people = [found[k] for _, found in self._images]
                boxes, scores, embeddings = (np.concatenate(part) for part in zip(self._nobody, *people, strict=True))
                source = np.repeat(images, [len(found.scores) for found in people])
                arrays = {"boxes": boxes, "scores": scores, "embeddings": embeddings}
                (unfinished / str(k)).mkdir()
                for name, array in arrays.items():
                    np.save(unfinished / str(k) / f"{name}.npy", np.asarray(array, np.float32))
                np.save(unfinished / str(k) / "source.npy", source.astype(np.int32))
                write_checksums(unfinished / str(k))
        self._images, self._count = [], 0


def missing_images(folder: Path, count: int) -> np.ndarray:
    """The images, of `count`, that no shard holds, rising."""
    missing = np.ones(count, bool)
    for shard in _shards(folder):
        first, last = (int(number) for number in shard.name.split("-"))
        missing[first : last + 1] = False
    return np.flatnonzero(missing)


def read_shards(folder: Path, steps: int, embedding_dim: int) -> Found:
    """Everybody in all shards for a number of steps, the embeddings memory-mapped.

    Raises:
      InputError: naming a shard that cannot be read.
    """
    embeddings: list[Callable[[], np.ndarray]] = []
    boxes, scores = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.float32)]
    source = [np.zeros(0, np.int32)]
    for shard in _shards(folder):
        load = partial(np.load, shard / str(steps) / "embeddings.npy", mmap_mode="r")
        try:
            rows = load()  # here, so that damage is noticed before anything is scored
            parts = [np.load(shard / str(steps) / f"{name}.npy") for name in ("boxes", "scores", "source")]
            shapes = [array.shape for array in (rows, *parts)]
        except Exception as error:  # a damaged file fails in every way there is
            raise InputError(f"{shard}: damaged shard ({error}); delete it and run again") from error
        count = len(rows)
        fit = shapes == [(count, embedding_dim), (count, 4), (count,), (count,)]
        if not fit or not is_as_written(shard / str(steps)):
            raise InputError(f"{shard}: damaged shard (its files are not what was written); delete it and run again")
        embeddings.append(load)
        for into, part in zip((boxes, scores, source), parts, strict=True):
            into.append(part)
    blocks = Blocks(embeddings, [len(part) for part in scores[1:]], embedding_dim)
    return Found(blocks, *(np.concatenate(part) for part in (boxes, scores, source)))


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*-[0-9]*"))
