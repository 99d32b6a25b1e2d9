"""The images of a split as network inputs: position -> sample, positions -> batch. No order, no randomness."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from psdiff_jax.data import transforms
from psdiff_jax.data.options import DataOptions
from psdiff_jax.data.prepared import Images
from psdiff_jax.data.stored_image import stored_image
from psdiff_jax.errors import InputError

Batch = dict[str, np.ndarray]
CACHE_LIMIT = 16 * 2**30  # bytes of resized images that config.data.cache may keep


class Targets(Protocol):
    """The teacher's embeddings of the ground-truth boxes."""

    def lookup(self, split: str, image_index: int) -> np.ndarray:
        """float32 [n, D], unit norm, in the order of the annotation's boxes."""
        ...


class ImageReader:
    """The images of a split, resized and with their boxes: position -> sample, and positions -> batch."""

    def __init__(
        self,
        dataset: Images,
        split: str,
        options: DataOptions,
        targets: Targets | None,
        embedding_dim: int,
        zoom: float = 1.0,
        max_boxes: int | None = None,
    ):
        """`zoom`: images are read at this multiple of the fitting size, for augmentation to shrink or crop.

        `max_boxes`: room for boxes in a batch; None: the largest number of boxes of an image in the split.
        """
        self.split = split
        self.image_size = options.image_size
        self.annotations = dataset.annotations(split)
        self._turned = transforms.turned(self.annotations.sizes, options.image_size)
        self.max_boxes = max_boxes or max((len(boxes) for boxes in self.annotations.boxes), default=1) or 1
        self.targets, self.zoom = targets, zoom
        self.embedding_dim = getattr(targets, "dim", embedding_dim)
        self._source, self._folder = dataset.source(split), dataset.folder
        self._cache: list[np.ndarray | None] | None = None
        self._check(dataset.name)
        if options.cache:
            self._check_memory()
            self._cache = [None for _ in range(len(self))]

    def __len__(self) -> int:
        return len(self.annotations)

    def batch(
        self,
        positions: Sequence[int] | np.ndarray,
        canvas: tuple[int, int],
        change: Callable[[dict, int], dict] | None = None,
    ) -> Batch:
        """The samples at `positions`, whose canvas it is, as one batch of len(positions) images, each changed by
        `change(sample, row)`."""
        rows, (height, width), count = len(positions), canvas, self.max_boxes
        batch = {
            "image": np.zeros((rows, height, width, 3), np.uint8),
            "image_size": np.zeros((rows, 2), np.int32),
            "scale": np.ones(rows, np.float32),
            "boxes": np.zeros((rows, count, 4), np.float32),
            "boxes_mask": np.zeros((rows, count), bool),
            "embeddings": np.zeros((rows, count, self.embedding_dim), np.float32),
            "person_ids": np.full((rows, count), -1, np.int32),
            "image_index": np.asarray(positions, np.int32).reshape(rows),
        }
        for row, position in enumerate(positions):
            sample = self.sample(int(position))
            if change is not None:
                sample = change(sample, row)
            image, boxes = sample["image"], sample["boxes"]
            h, w = image.shape[:2]
            batch["image"][row, :h, :w] = image
            batch["image_size"][row] = h, w
            batch["scale"][row] = sample["scale"]
            batch["boxes"][row, : len(boxes)] = boxes
            batch["boxes_mask"][row, : len(boxes)] = True
            batch["embeddings"][row, : len(boxes)] = sample["embeddings"]
            batch["person_ids"][row, : len(boxes)] = sample["person_ids"]
        return batch

    def by_orientation(self, positions: np.ndarray) -> list[np.ndarray]:
        """Positions [n], apart where their canvases are: those of config.data.image_size first, no empty group."""
        turned = self._turned[positions]
        return [group for group in (positions[~turned], positions[turned]) if len(group)]

    def canvas(self, position: int) -> tuple[int, int]:
        """(H, W) of the network image of the image at `position`."""
        return transforms.canvas(self.annotations.sizes[position], self.image_size)

    def _scale(self, position: int) -> float:
        """Of the image that is read / the original."""
        return self.zoom * transforms.fit_scale(self.annotations.sizes[position], self.canvas(position))

    def sample(self, position: int) -> dict[str, Any]:
        """One image at `zoom` times the fitting scale, with its boxes in its own pixels."""
        image, scale = self._image(position), self._scale(position)
        boxes = self.annotations.boxes[position]
        return {
            "image": image,
            "scale": scale,
            "fit": (self.canvas(position), scale / self.zoom),
            "boxes": transforms.to_network(boxes, scale, image.shape[:2]),
            "person_ids": self.annotations.person_ids[position],
            "embeddings": self._embeddings(position, len(boxes)),
        }

    def _image(self, position: int) -> np.ndarray:
        if self._cache is not None and (cached := self._cache[position]) is not None:
            return cached
        record, name = self._source[position], self.annotations.image_names[position]
        image = stored_image(record, f"record {position} ({name}) of split {self.split} in {self._folder}")
        scale = self._scale(position)
        if scale > record["scale"] * (1 + 1e-6) and record["scale"] < 1:
            height, width = (math.ceil(self.zoom * side) for side in self.image_size)
            raise InputError(
                f"{name} is stored at {record['scale']:.2f} of its size and is needed at {scale:.2f}: give"
                f" config.data.builder.stored_size=({height},{width}), or make config.data.image_size smaller"
            )
        image = transforms.resize(image, scale / record["scale"])
        if self._cache is not None:
            self._cache[position] = image
        return image

    def _embeddings(self, position: int, count: int) -> np.ndarray:
        if self.targets is None:
            return np.zeros((count, self.embedding_dim), np.float32)
        found = np.asarray(self.targets.lookup(self.split, position), np.float32)
        if found.shape != (count, self.embedding_dim):
            raise InputError(
                f"the teacher's embeddings of {self.annotations.image_names[position]} have shape {found.shape},"
                f" expected {(count, self.embedding_dim)}: boxes x embedding size; make them again"
            )
        return found

    def _check(self, dataset_name: str) -> None:
        if len(self) == 0:
            raise InputError(f"split {self.split} of dataset {dataset_name} is empty: check config.data")
        most = max(range(len(self)), key=lambda i: len(self.annotations.boxes[i]))
        if len(self.annotations.boxes[most]) > self.max_boxes:
            name, count = self.annotations.image_names[most], len(self.annotations.boxes[most])
            limit = f"config.data.max_boxes={self.max_boxes}"
            raise InputError(f"image {name} of split {self.split} has {count} boxes, more than {limit}: raise it")

    def _check_memory(self) -> None:
        scales = [self._scale(position) for position in range(len(self))]
        total = sum(3 * int(h * s) * int(w * s) for (h, w), s in zip(self.annotations.sizes, scales, strict=True))
        if total > CACHE_LIMIT:
            raise InputError(
                f"config.data.cache: the images of split {self.split} need {total / 2**30:.0f} GiB in memory, more than"
                f" {CACHE_LIMIT // 2**30}: turn it off"
            )


def image_batch(image: np.ndarray, box: np.ndarray, image_size: tuple[int, int], copies: int = 1) -> Batch:
    """An image with one box [4] (xyxy pixels) as a batch of `copies` equal rows, one per device, as large as
    `image_size` or with its sides exchanged."""
    size = transforms.canvas(image.shape[:2], image_size)
    scale = transforms.fit_scale(image.shape[:2], size)
    small = transforms.resize(image, scale)
    h, w = small.shape[:2]
    padded = np.zeros((*size, 3), np.uint8)
    padded[:h, :w] = small
    row = {
        "image": padded,
        "image_size": np.asarray([h, w], np.int32),
        "scale": np.float32(scale),
        "boxes": transforms.to_network(np.asarray(box, np.float32)[None], scale, (h, w)),
        "image_index": np.int32(0),
    }
    return {key: np.stack([value] * copies) for key, value in row.items()}
