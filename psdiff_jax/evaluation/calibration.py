"""The search threshold, chosen on held-out training images and never on the gallery that is reported on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from psdiff_jax.data.detections import Detections
from psdiff_jax.data.schema import Annotations, Queries
from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.matches import matches_by_annotations
from psdiff_jax.evaluation.person_search import counts_from, precision_and_rank, true_positives
from psdiff_jax.evaluation.protocols import query_images
from psdiff_jax.evaluation.similarity import OUTSIDE, Progress, kept_detections, similarities, unreported

THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))  # 0.05, 0.1, ..., 0.95


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The chosen threshold, the thresholds that were tried, rising, and the mAP (fraction) of each."""

    threshold: float
    thresholds: tuple[float, ...]
    mAP: tuple[float, ...]


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
    Similarities are computed once for all thresholds.

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
    return Calibration(rising[best], tuple(rising), tuple(mean.tolist()))


def _precisions(
    gallery: Detections,
    query: Detections,
    annotations: Annotations,
    queries: Queries,
    thresholds: Sequence[float],
    progress: Progress,
) -> np.ndarray:
    """float64 [queries, thresholds]: AP of each query, all zero for one without positives."""
    kept = kept_detections(gallery, query, annotations, queries, thresholds[0])
    by_person = matches_by_annotations(annotations, np.unique(queries.person_ids), kept.boxes, kept.by_image)
    own_Q = query_images(annotations, queries)
    above = [kept.scores >= threshold for threshold in thresholds]
    precisions = np.zeros((max(len(own_Q), 1), len(thresholds)))
    for q, similarity_K in similarities(query.embeddings, kept.embeddings, "calibration", progress):
        matches, elsewhere_K = by_person[int(queries.person_ids[q])], kept.image != own_Q[q]
        positives = int((matches.images != own_Q[q]).sum())
        for i, above_K in enumerate(above if positives else []):
            scored_K = np.where(elsewhere_K & above_K, similarity_K, OUTSIDE)
            true_P = true_positives(scored_K, matches)
            if len(true_P):
                precision, _ = precision_and_rank(*counts_from(scored_K, scored_K[true_P]))
                precisions[q, i] = precision * len(true_P) / positives
    return precisions
