"""Which detections are searched, and how similar each is to each query.

Legend: K kept detections, Q queries, M images, D embedding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from psdiff_jax.data.blocks import Blocks
from psdiff_jax.data.detections import Detections
from psdiff_jax.data.schema import Annotations, Queries
from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.detection import image_rows
from psdiff_jax.evaluation.matches import ByImage

AT_ONCE = 2**25  # float32 entries of one block of the similarity matrix: 128 MiB
OUTSIDE = np.float32(-np.inf)  # the similarity of a detection that is not in the gallery
Progress = Callable[[range, str, str], Iterable[int]]  # passes query numbers on; `progress.progress` prints them


def unreported(queries: range, what: str, unit: str) -> Iterable[int]:
    """The `Progress` that reports nothing."""
    return queries


def check_queries(query: Detections, queries: Queries) -> None:
    """Raises InputError unless row i of `query` is query i of the dataset."""
    if query.person_id is None:
        raise InputError("query embeddings: person_id.npy is missing")
    if len(query) != len(queries):
        raise InputError(f"query embeddings: {len(query)} rows, but the dataset has {len(queries)} queries")
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
    `image` their images as indices into the annotations, `by_image` the same grouped; `images` = M."""

    numbers: np.ndarray
    image: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    embeddings: np.ndarray
    by_image: ByImage
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
    everyone = len(numbers) == len(gallery.embeddings)
    embeddings = np.asarray(gallery.embeddings) if everyone else gallery.embeddings[numbers]
    boxes, images = np.asarray(gallery.boxes)[numbers], len(annotations)
    return Kept(numbers, image, boxes, scores[numbers], embeddings, ByImage.sort(image, images), images)


def similarities(
    query_QD: np.ndarray | Blocks, gallery_KD: np.ndarray, what: str = "search", progress: Progress = unreported
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (query number, float32 [K] similarities) of unit embeddings, computed in blocks of queries."""
    block = max(1, AT_ONCE // max(len(gallery_KD), 1))
    similarity_QK = np.zeros((0, 0), np.float32)
    for q in progress(range(len(query_QD)), what, "queries"):
        if q % block == 0:
            similarity_QK = np.asarray(query_QD[q : q + block]) @ gallery_KD.T
        yield q, similarity_QK[q % block]
