"""The search threshold and what a similarity is worth, measured on held-out training images and never on the gallery
that is reported on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from psdiff_jax.data.detections import Detections
from psdiff_jax.data.schema import Annotations, Queries
from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.matches import Matches, matches_by_annotations
from psdiff_jax.evaluation.person_search import counts_from, precision_and_rank, true_positives
from psdiff_jax.evaluation.protocols import query_images
from psdiff_jax.evaluation.similarity import OUTSIDE, Progress, kept_detections, similarities, unreported

THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))  # 0.05, 0.1, ..., 0.95
SIMILARITIES = tuple(round(0.05 * i, 2) for i in range(20))  # 0.0, 0.05, ..., 0.95


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The chosen threshold, the thresholds that were tried, rising, and the mAP (fraction) of each.

    similarities, rising, and the precision at each: the share of true positives among the detections at least as
    similar, over all queries, at the chosen threshold; None where there are none.
    """

    threshold: float
    thresholds: tuple[float, ...]
    mAP: tuple[float, ...]
    similarities: tuple[float, ...] = ()
    precision: tuple[float | None, ...] = ()


def choose_threshold(
    gallery: Detections,
    query: Detections,
    annotations: Annotations,
    queries: Queries,
    thresholds: Sequence[float] = THRESHOLDS,
    progress: Progress = unreported,
) -> Calibration:
    """The threshold of highest mAP of the "whole" protocol; of equal ones the highest, which leaves fewest boxes.

    All arguments are of images that are not reported on; `query` holds one row a query in the order of `queries`.
    Similarities are computed once for all thresholds, and once for the precision at the chosen one.

    Raises:
      InputError: no query is ever found, so that no threshold is better than another; or embeddings and annotations do
        not belong together.
    """
    rising = sorted({float(t) for t in thresholds})
    if not rising:
        raise InputError("calibration: no search threshold to try; give at least one")
    mean = _precisions(gallery, query, annotations, queries, rising, progress).mean(axis=0)
    if not mean.any():
        raise InputError(
            f"calibration: none of {len(queries)} held-out queries is found in another image at a search threshold of "
            f"{rising[0]:g}; hold out more images, or set config.evaluate.search_threshold"
        )
    best = len(mean) - 1 - int(mean[::-1].argmax())
    precision = precision_by_similarity(gallery, query, annotations, queries, rising[best])
    return Calibration(rising[best], tuple(rising), tuple(mean.tolist()), SIMILARITIES, precision)


def precision_by_similarity(
    gallery: Detections, query: Detections, annotations: Annotations, queries: Queries, threshold: float
) -> tuple[float | None, ...]:
    """The precision (fraction) at each of `SIMILARITIES`, see `Calibration`."""
    true_S, all_S = np.zeros(len(SIMILARITIES), np.int64), np.zeros(len(SIMILARITIES), np.int64)
    for _, similarity_K, matches in _Searches(gallery, query, annotations, queries, threshold):
        for counts_S, values in ((all_S, similarity_K), (true_S, similarity_K[true_positives(similarity_K, matches)])):
            counts_S += len(values) - np.sort(values).searchsorted(np.asarray(SIMILARITIES, np.float32))
    return tuple(t / n if n else None for t, n in zip(true_S.tolist(), all_S.tolist(), strict=True))


def _precisions(
    gallery: Detections,
    query: Detections,
    annotations: Annotations,
    queries: Queries,
    thresholds: Sequence[float],
    progress: Progress,
) -> np.ndarray:
    """float64 [queries, thresholds]: AP of each query, all zero for one without positives."""
    searches = _Searches(gallery, query, annotations, queries, thresholds[0], progress)
    above = [searches.kept.scores >= threshold for threshold in thresholds]
    precisions = np.zeros((max(len(queries), 1), len(thresholds)))
    for q, similarity_K, matches in searches:
        for i, above_K in enumerate(above):
            scored_K = np.where(above_K, similarity_K, OUTSIDE)
            true_P = true_positives(scored_K, matches)
            if len(true_P):
                precision, _ = precision_and_rank(*counts_from(scored_K, scored_K[true_P]))
                precisions[q, i] = precision * len(true_P) / len(matches.images)
    return precisions


class _Searches:
    """Yields (query number, float32 [K] similarities, matches) of each query that another image shows. Detections in
    the query's own image are `OUTSIDE`, and the matches are those in other images."""

    def __init__(
        self,
        gallery: Detections,
        query: Detections,
        annotations: Annotations,
        queries: Queries,
        threshold: float,
        progress: Progress = unreported,
    ):
        self.kept = kept_detections(gallery, query, annotations, queries, threshold)
        self._embeddings, self._person_ids, self._progress = query.embeddings, queries.person_ids, progress
        self._own_Q = query_images(annotations, queries)
        persons = np.unique(queries.person_ids)
        self._matches = matches_by_annotations(annotations, persons, self.kept.boxes, self.kept.by_image)

    def __iter__(self) -> Iterator[tuple[int, np.ndarray, Matches]]:
        kept = self.kept
        for q, similarity_K in similarities(self._embeddings, kept.embeddings, "calibration", self._progress):
            own, matches = self._own_Q[q], self._matches[int(self._person_ids[q])]
            matches = dataclasses.replace(matches, images=matches.images[matches.images != own])
            if len(matches.images):
                yield q, np.where(kept.image != own, similarity_K, OUTSIDE), matches
