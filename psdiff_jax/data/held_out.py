"""Training photographs that are kept out of training, to choose the search threshold on.

Whole people are held out: every photograph that shows one of them, so that the model meets them as it meets a test
gallery's people, for the first time. Who they are depends on the dataset alone, so that all runs hold out the same.
"""

from __future__ import annotations

import hashlib
import math
from functools import cached_property
from pathlib import Path

import numpy as np

from psdiff_jax.data.prepared import PreparedDataset, Source
from psdiff_jax.data.schema import Annotations, Queries, images_of_identities
from psdiff_jax.errors import InputError

MOST_QUERIES = 300  # thinned evenly beyond: a threshold needs no more


def held_out_people(annotations: Annotations, share: float) -> tuple[np.ndarray, np.ndarray]:
    """(positions int64 rising of the photographs, person ids int64) of at most `share` of the photographs.

    People who stand in two photographs or more are gone through in an order drawn from their ids, and each is held out
    if all his photographs still fit.

    Raises:
      InputError: not even one person fits, or nobody stands in two photographs.
    """
    shown = {person: set(positions.tolist()) for person, positions in images_of_identities(annotations).items()}
    order = sorted((person for person, where in shown.items() if len(where) > 1), key=_drawn)
    limit, held, people = share * len(annotations), set(), []
    for person in order:
        if len(held | shown[person]) <= limit:
            held |= shown[person]
            people.append(person)
    if not people:
        fewest = min((len(shown[person]) for person in order), default=0)
        least = math.ceil(1000 * fewest / max(len(annotations), 1)) / 1000
        hint = f"the smallest share that holds somebody is {least:.3f}" if order else "nobody stands in two photographs"
        raise InputError(f"config.data.held_out={share}: nobody's photographs fit into that share; {hint}")
    return np.asarray(sorted(held), np.int64), np.asarray(sorted(people), np.int64)


def training_positions(annotations: Annotations, share: float) -> np.ndarray:
    """int64, rising: the photographs to train on."""
    everything = np.arange(len(annotations))
    return np.setdiff1d(everything, held_out_people(annotations, share)[0]) if share else everything


def _drawn(person: int) -> bytes:
    return hashlib.sha256(str(person).encode()).digest()


class HeldOut:
    """The held-out photographs of a dataset as a gallery with queries: stands where a PreparedDataset does in
    evaluation. Every appearance of a held-out person is a query (see MOST_QUERIES)."""

    def __init__(self, dataset: PreparedDataset, share: float):
        self.name = f"{dataset.name}, held out of training"
        self.folder: Path = dataset.folder
        self._dataset = dataset
        self._positions, self._people = held_out_people(dataset.annotations("train"), share)

    @cached_property
    def _gallery(self) -> Annotations:
        return _some(self._dataset.annotations("train"), self._positions)

    @cached_property
    def _rows(self) -> list[tuple[int, int]]:
        """(photograph, box) of each query."""
        rows = [
            (image, int(np.flatnonzero(ids == person)[0]))
            for image, ids in enumerate(self._gallery.person_ids)
            for person in np.intersect1d(ids, self._people)
        ]
        chosen = np.linspace(0, len(rows) - 1, min(len(rows), MOST_QUERIES)).round().astype(int)
        return [rows[i] for i in chosen]

    def annotations(self, split: str) -> Annotations:
        """Of `gallery`; of `query`, the query's scene with the query's box alone."""
        if split == "gallery":
            return self._gallery
        scenes = _some(self._gallery, np.asarray([image for image, _ in self._rows]))
        boxes, ids = scenes.boxes, scenes.person_ids
        return Annotations(
            scenes.image_names,
            scenes.sizes,
            scenes.cameras,
            scenes.frames,
            boxes=tuple(b[row : row + 1] for b, (_, row) in zip(boxes, self._rows, strict=True)),
            person_ids=tuple(i[row : row + 1] for i, (_, row) in zip(ids, self._rows, strict=True)),
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
            positions = positions[[image for image, _ in self._rows]]
        return self._dataset.train_source.at(positions)


def _some(annotations: Annotations, positions: np.ndarray) -> Annotations:
    return Annotations(
        image_names=tuple(annotations.image_names[i] for i in positions),
        sizes=annotations.sizes[positions],
        cameras=annotations.cameras[positions],
        frames=annotations.frames[positions],
        boxes=tuple(annotations.boxes[i] for i in positions),
        person_ids=tuple(annotations.person_ids[i] for i in positions),
    )
