"""The search threshold, chosen on held-out training photographs and never on the gallery that is reported on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from psdiff_jax.data.detections import Detections
from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.matches import stand_by_annotations
from psdiff_jax.evaluation.person_search import precision_of, right_detections
from psdiff_jax.evaluation.protocols import query_images
from psdiff_jax.evaluation.similarity import NOWHERE, kept_detections, similarities

if TYPE_CHECKING:
    from psdiff_jax.data.records import Annotations, Queries

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
    label: str = "calibration",
) -> Calibration:
    """The threshold of highest mAP of the "whole" protocol; of equal ones the highest, which leaves fewest boxes.

    All arguments are of photographs that are not reported on; `query` holds one row a query in the order of `queries`.
    Similarities are computed once for all thresholds. InputError when nobody can be found again there, and so no
    threshold is better than another, or when embeddings and annotations do not belong together.
    """
    rising = sorted({float(t) for t in thresholds})
    if not rising:
        raise InputError("calibration: no search threshold to try; give at least one")
    mean = _precisions(gallery, query, annotations, queries, rising, label).mean(axis=0)
    if not mean.any():
        raise InputError(
            f"calibration: none of {len(queries.image_names)} held-out queries is found again in another photograph at "
            f"a search threshold of {rising[0]:g}; hold out more photographs, or set config.evaluate.search_threshold"
        )
    best = len(mean) - 1 - int(mean[::-1].argmax())
    return Calibration(rising[best], tuple(rising), tuple(mean.tolist()))


def _precisions(
    gallery: Detections,
    query: Detections,
    annotations: Annotations,
    queries: Queries,
    thresholds: Sequence[float],
    label: str,
) -> np.ndarray:
    """float64 [queries, thresholds]: AP of each query, all zero for one without another photograph."""
    kept = kept_detections(gallery, query, annotations, queries, thresholds[0])
    people = stand_by_annotations(annotations, np.unique(queries.person_ids), kept.boxes, kept.rows)
    own_Q = query_images(annotations, queries)
    above = [kept.scores >= threshold for threshold in thresholds]
    precisions = np.zeros((max(len(own_Q), 1), len(thresholds)))
    for q, similarity_K in similarities(kept, query, label):
        person, elsewhere_K = people[int(queries.person_ids[q])], kept.image != own_Q[q]
        truths = int((person.images != own_Q[q]).sum())
        for i, above_K in enumerate(above if truths else []):
            scored_K = np.where(elsewhere_K & above_K, similarity_K, NOWHERE)
            right = right_detections(scored_K, person)
            if len(right):
                precisions[q, i] = precision_of(scored_K, scored_K[right])[0] * len(right) / truths
    return precisions
