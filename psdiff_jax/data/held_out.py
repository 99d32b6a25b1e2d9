"""Training images that are held out of training, to choose the search threshold on.

Whole identities are held out: every image that shows one of them, so that they are as new to the model as those of a
test gallery. The choice depends on the dataset alone, so that all runs hold out the same images.
"""

from __future__ import annotations

import hashlib
import math
from functools import cached_property
from pathlib import Path

import numpy as np

from psdiff_jax.data.prepared import Images, Source
from psdiff_jax.data.schema import Annotations, Queries, images_of_identities
from psdiff_jax.errors import InputError

MAX_QUERIES = 300  # thinned evenly beyond: more do not change the threshold


def held_out_identities(annotations: Annotations, share: float) -> tuple[np.ndarray, np.ndarray]:
    """(positions of the images, int64 rising; person ids, int64) of at most `share` of the images.

    Goes through the identities with two images or more in an order given by a hash of their ids, and holds out each
    whose images all still fit.

    Raises:
      InputError: no identity fits, or none has two images.
    """
    shown = {i: set(images.tolist()) for i, images in images_of_identities(annotations.person_ids).items()}
    order = sorted((person_id for person_id, images in shown.items() if len(images) > 1), key=_hash)
    limit, held, person_ids = share * len(annotations), set(), []
    for person_id in order:
        if len(held | shown[person_id]) <= limit:
            held |= shown[person_id]
            person_ids.append(person_id)
    if not person_ids:
        fewest = min((len(shown[person_id]) for person_id in order), default=0)
        least = math.ceil(1000 * fewest / max(len(annotations), 1)) / 1000
        hint = f"the smallest share that holds one is {least:.3f}" if order else "no identity has two images"
        raise InputError(f"config.data.held_out={share}: no identity's images fit into that share; {hint}")
    return np.asarray(sorted(held), np.int64), np.asarray(sorted(person_ids), np.int64)


def training_positions(annotations: Annotations, share: float) -> np.ndarray:
    """int64, rising: the images to train on."""
    everything = np.arange(len(annotations))
    return np.setdiff1d(everything, held_out_identities(annotations, share)[0]) if share else everything


def _hash(person_id: int) -> bytes:
    return hashlib.sha256(str(person_id).encode()).digest()


class HeldOut:
    """The held-out images of a dataset as a gallery with queries, with the interface that evaluation uses of a
    PreparedDataset. Every box of a held-out identity is a query (up to MAX_QUERIES)."""

    def __init__(self, dataset: Images, share: float):
        self.name = f"{dataset.name}, held out of training"
        self.folder: Path = dataset.folder
        self._dataset = dataset
        self._positions, self._person_ids = held_out_identities(dataset.annotations("train"), share)

    @cached_property
    def _gallery(self) -> Annotations:
        return _subset(self._dataset.annotations("train"), self._positions)

    @cached_property
    def _query_boxes(self) -> list[tuple[int, int]]:
        """(image, row of the box) of each query."""
        rows = [
            (image, int(np.flatnonzero(ids == person_id)[0]))
            for image, ids in enumerate(self._gallery.person_ids)
            for person_id in np.intersect1d(ids, self._person_ids)
        ]
        chosen = np.linspace(0, len(rows) - 1, min(len(rows), MAX_QUERIES)).round().astype(int)
        return [rows[i] for i in chosen]

    def annotations(self, split: str) -> Annotations:
        """Of `gallery`; of `query`, each query's image with the query's box alone."""
        if split == "gallery":
            return self._gallery
        images = _subset(self._gallery, np.asarray([image for image, _ in self._query_boxes]))
        rows = [row for _, row in self._query_boxes]
        return Annotations(
            images.image_names,
            images.sizes,
            images.cameras,
            images.frames,
            boxes=tuple(boxes[row : row + 1] for boxes, row in zip(images.boxes, rows, strict=True)),
            person_ids=tuple(ids[row : row + 1] for ids, row in zip(images.person_ids, rows, strict=True)),
        )

    def queries(self) -> Queries:
        found = self.annotations("query")
        return Queries(
            found.image_names,
            np.concatenate(found.boxes),
            np.concatenate(found.person_ids),
            found.cameras,
            found.frames,
        )

    def source(self, split: str) -> Source:
        positions = self._positions
        if split == "query":
            positions = positions[[image for image, _ in self._query_boxes]]
        return self._dataset.source("train").at(positions)


def _subset(annotations: Annotations, positions: np.ndarray) -> Annotations:
    return Annotations(
        image_names=tuple(annotations.image_names[i] for i in positions),
        sizes=annotations.sizes[positions],
        cameras=annotations.cameras[positions],
        frames=annotations.frames[positions],
        boxes=tuple(annotations.boxes[i] for i in positions),
        person_ids=tuple(annotations.person_ids[i] for i in positions),
    )
