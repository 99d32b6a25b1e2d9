"""Which detections are searched, and how similar each is to each query.

Legend: K kept detections, Q queries, M photographs.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from psdiff_jax.data.detections import Detections
from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.detection import image_rows
from psdiff_jax.evaluation.matches import Rows

if TYPE_CHECKING:
    from psdiff_jax.data.records import Annotations, Queries

AT_ONCE = 2**25  # float32 entries of one block of the similarity matrix: 128 MiB
SECONDS_BETWEEN_LINES = 10.0  # of progress
NOWHERE = np.float32(-np.inf)  # the similarity of a detection that is not in the gallery


def check_queries(query: Detections, queries: Queries) -> None:
    """Raises InputError unless row i of `query` is query i of the dataset."""
    if query.person_id is None:
        raise InputError("query embeddings: person_id.npy is missing")
    if len(query) != len(queries.image_names):
        raise InputError(f"query embeddings: {len(query)} rows, but the dataset has {len(queries.image_names)} queries")
    for q, (name, person) in enumerate(zip(queries.image_names, queries.person_ids, strict=True)):
        given = query.images[query.image_index[q]], int(query.person_id[q])
        if given != (name, int(person)):
            raise InputError(
                f"query embeddings: row {q} is person {given[1]} in {given[0]!r}, but query {q} of the dataset is "
                f"person {person} in {name!r}"
            )


@dataclasses.dataclass(frozen=True)
class Kept:
    """The gallery's detections above the search threshold, K of them: `numbers` are their rows in the Detections,
    `image` their photographs as indices into the annotations, `rows` the same by photograph; `images` = M."""

    numbers: np.ndarray
    image: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    embeddings: np.ndarray
    rows: Rows
    images: int


def kept_detections(
    gallery: Detections, query: Detections, annotations: Annotations, queries: Queries, threshold: float
) -> Kept:
    """The detections that are searched; InputError when embeddings and dataset do not belong together."""
    check_queries(query, queries)
    if gallery.embeddings.shape[1] != query.embeddings.shape[1]:
        raise InputError(
            f"gallery embeddings are {gallery.embeddings.shape[1]} wide, query embeddings {query.embeddings.shape[1]}: "
            "not of one model"
        )
    scores = np.asarray(gallery.scores)
    numbers = np.flatnonzero(scores >= threshold)
    image = image_rows(gallery, annotations.image_names)[numbers]
    embeddings = np.asarray(gallery.embeddings)
    if len(numbers) < len(embeddings):
        embeddings = embeddings[numbers]
    images = len(annotations.image_names)
    boxes = np.asarray(gallery.boxes)[numbers]
    return Kept(numbers, image, boxes, scores[numbers], embeddings, Rows.by_image(image, images), images)


def similarities(kept: Kept, query: Detections, label: str) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (query number, float32 [K] similarities), computed in blocks of queries, with a line of progress."""
    block = max(1, AT_ONCE // max(len(kept.numbers), 1))
    begin = shown = time.perf_counter()
    for start in range(0, len(query), block):
        similarity_QK = np.asarray(query.embeddings[start : start + block]) @ kept.embeddings.T
        for q, similarity_K in enumerate(similarity_QK, start):
            now = time.perf_counter()
            if now - shown > SECONDS_BETWEEN_LINES and q:
                shown, speed = now, q / (now - begin)
                line = f"{label} {q}/{len(query)}  {speed:.1f} queries/s  ETA {(len(query) - q) / speed:.0f} s"
                print(line, file=sys.stderr, flush=True)
            yield q, similarity_K
