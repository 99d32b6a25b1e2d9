"""What the figures of a report draw and evaluation.json does not hold: `report/curves.json`.

    {"detection": {steps: {"recall": [...], "precision": [...], "score": [...]}},
     "search": {protocol: {gallery size: {steps: {"recall": [...], "precision": [...], "queries": n}}}},
     "scores": {steps: {"edges": [...], "right": [counts], "wrong": [counts]}},
     "similarities": {protocol: {gallery size: {steps: {"edges": [...], "right": [counts], "others": [counts]}}}}}

Detection: every threshold on the score is a point, right and wrong as `detection_metrics` judges them.
Search: one ranking a query, as mAP has it. Precision at a level of recall is, for a query, the highest precision from
that level on (0 where the level is never reached); the curve is its mean over the queries that mAP is a mean over:
TREC's interpolated precision at fixed recall levels (Manning, Raghavan, Schuetze, Introduction to Information
Retrieval, 8.4), at 101 of them. A pool of all (query, detection) pairs would ask similarities of different queries to
be comparable, which mAP does not. Similarities are the plain ones, before any re-ranking.

Legend: K kept detections, M photographs, G photographs of one gallery, P right detections of a query, B bins.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from psdiff_jax.data.detections import Detections
from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.detection import judged_detections
from psdiff_jax.evaluation.evaluate import threshold_at
from psdiff_jax.evaluation.matches import stand_by_annotations, stand_by_list
from psdiff_jax.evaluation.person_search import inside_gallery, right_detections
from psdiff_jax.evaluation.protocols import Protocol
from psdiff_jax.evaluation.similarity import NOWHERE, kept_detections, similarities
from psdiff_jax.files import write_atomically
from psdiff_jax.report.naming import size_order

if TYPE_CHECKING:
    from psdiff_jax.data.records import Annotations, Queries

MAX_POINTS = 200
RECALLS = np.linspace(0.0, 1.0, 101)
SCORE_EDGES = np.linspace(0.0, 1.0, 51)
SIMILARITY_EDGES = np.linspace(-1.0, 1.0, 101)
_DECIMALS = 5


def make_curves(
    detections_by_steps: Mapping[int | str, tuple[Detections, Detections]],
    annotations: Annotations,
    queries: Queries,
    protocols: Sequence[Protocol],
    *,
    detection_threshold: float = 0.01,
    search_threshold: float | Mapping[Any, float] = 0.5,
) -> dict[str, Any]:
    """The content of curves.json, from (gallery, query) Detections by number of steps, as `evaluate` takes them.

    Of each protocol the largest gallery is drawn: the first protocol at every number of steps, the others at the last.
    Similarities are those of the first protocol.
    """
    curves: dict[str, Any] = {"detection": {}, "search": {}, "scores": {}, "similarities": {}}
    drawn = largest_galleries(protocols)
    for i, (steps, (gallery, query)) in enumerate(detections_by_steps.items()):
        right, score, truths = judged_detections(gallery, annotations, detection_threshold)
        curves["detection"][str(steps)] = precision_recall(right, score, truths)
        curves["scores"][str(steps)] = {
            "edges": _rounded(SCORE_EDGES),
            "right": np.histogram(score[right], SCORE_EDGES)[0].tolist(),
            "wrong": np.histogram(score[~right], SCORE_EDGES)[0].tolist(),
        }
        chosen = drawn if i == len(detections_by_steps) - 1 else drawn[:1]
        threshold = threshold_at(search_threshold, steps)
        found = search_curves(gallery, query, annotations, queries, chosen, threshold)
        for protocol, curve in zip(chosen, found[0], strict=True):
            _put(curves["search"], protocol, steps, curve)
        if chosen:
            _put(curves["similarities"], chosen[0], steps, found[1])
    return curves


def _put(into: dict[str, Any], protocol: Protocol, steps: int | str, value: Any) -> None:
    into.setdefault(protocol.name, {}).setdefault(str(protocol.size), {})[str(steps)] = value


def largest_galleries(protocols: Sequence[Protocol]) -> list[Protocol]:
    """One protocol a name: the one of the largest gallery ("all" is above every number), else the first."""
    by_name: dict[str, Protocol] = {}
    for protocol in protocols:
        known = by_name.setdefault(protocol.name, protocol)
        if size_order(str(protocol.size)) > size_order(str(known.size)):
            by_name[protocol.name] = protocol
    return list(by_name.values())


def precision_recall(right_K: np.ndarray, score_K: np.ndarray, truths: int) -> dict[str, list[float]]:
    """{"recall", "precision", "score"}: a point for every distinct score, falling; at most `MAX_POINTS` of them.

    Of too many, those are kept that first reach evenly spaced recalls, and the last.
    """
    order = np.argsort(-np.asarray(score_K, np.float64), kind="stable")
    score, right = np.asarray(score_K)[order], np.asarray(right_K, bool)[order]
    last_of_ties = np.append(np.flatnonzero(np.diff(score)), len(score) - 1) if len(score) else np.zeros(0, np.int64)
    hits = np.cumsum(right)[last_of_ties]
    recall, precision = hits / max(truths, 1), hits / (last_of_ties + 1.0)
    keep = np.arange(len(hits))
    if len(hits) > MAX_POINTS:
        levels = np.linspace(recall[0], recall[-1], MAX_POINTS - 1)
        keep = np.unique(np.append(np.searchsorted(recall, levels), len(hits) - 1))
    return {
        "recall": _rounded(recall[keep]),
        "precision": _rounded(precision[keep]),
        "score": _rounded(score[last_of_ties][keep]),
    }


def search_curves(
    gallery: Detections,
    query: Detections,
    annotations: Annotations,
    queries: Queries,
    protocols: Sequence[Protocol],
    threshold: float = 0.5,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(the curve of each protocol, the histogram of similarities of the first), over the gallery detections above
    `threshold`.

    "right" of a histogram are the detections that the rule of search counts as the person; "others" all others of the
    gallery. Memory: one block of similarities beside the embeddings.
    """
    kept = kept_detections(gallery, query, annotations, queries, threshold)
    people = stand_by_annotations(annotations, np.unique(queries.person_ids), kept.boxes, kept.rows)
    lists = [None if p.official is None else stand_by_list(p.official, kept.boxes, kept.rows) for p in protocols]
    asked = [set(protocol.queries(len(query)).tolist()) for protocol in protocols]
    precision = np.zeros((len(protocols), len(RECALLS)))
    counted = [0] * len(protocols)
    all_B, right_B = (np.zeros(len(SIMILARITY_EDGES) - 1, np.int64) for _ in range(2))
    for q, similarity_K in similarities(kept, query, "curves"):
        for i, protocol in enumerate(protocols):
            if q not in asked[i]:
                continue
            person = people[int(queries.person_ids[q])] if lists[i] is None else lists[i][q]
            inside_M, truths = inside_gallery(protocol.gallery(q), person, kept.images)
            scored_K = np.where(inside_M[kept.image], similarity_K, NOWHERE)
            right_P = scored_K[right_detections(scored_K, person)]
            if truths or not protocol.leaves_out_hopeless:
                counted[i] += 1
                precision[i] += interpolated(scored_K, right_P, truths)
            if i == 0:
                all_B += _counts(scored_K[scored_K > NOWHERE])
                right_B += _counts(right_P)
    curves = [
        {"recall": _rounded(RECALLS), "precision": _rounded(row / max(n, 1)), "queries": n}
        for row, n in zip(precision, counted, strict=True)
    ]
    return curves, {
        "edges": _rounded(SIMILARITY_EDGES),
        "right": right_B.tolist(),
        "others": (all_B - right_B).tolist(),
    }


def interpolated(similarity_K: np.ndarray, right_P: np.ndarray, truths: int) -> np.ndarray:
    """float64 [101]: the highest precision at each level of `RECALLS` or beyond, of one query.

    similarity_K: of all detections in its gallery; right_P: of the right ones among them; truths: photographs that show
    the person. Equal similarities are one threshold.
    """
    if not len(right_P):
        return np.zeros(len(RECALLS))
    levels, at_level = np.unique(right_P, return_counts=True)
    reached = similarity_K[similarity_K >= levels[0]]
    above = np.array([np.count_nonzero(reached >= level) for level in levels])
    right_above = np.cumsum(at_level[::-1])[::-1]
    recall, precision = (right_above / truths)[::-1], (right_above / above)[::-1]  # recall rises
    best_from_here = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return best_from_here[np.searchsorted(recall, RECALLS - 1e-12)]


def _counts(similarities: np.ndarray) -> np.ndarray:
    """int64 [B]: how many fall into each bin of `SIMILARITY_EDGES`; rounding beyond -1 and 1 goes to the outer bins."""
    bins = len(SIMILARITY_EDGES) - 1
    numbers = np.floor((similarities + np.float32(1.0)) * np.float32(bins / 2)).astype(np.int64)
    return np.bincount(np.clip(numbers, 0, bins - 1), minlength=bins)


def _rounded(values: np.ndarray) -> list[float]:
    return np.round(np.asarray(values, np.float64), _DECIMALS).tolist()


def write_curves(path: Path, curves: Mapping[str, Any]) -> None:
    """Writes curves.json whole or not at all."""
    write_atomically(path, json.dumps(curves, allow_nan=False) + "\n")


def read_curves(path: Path) -> dict[str, Any] | None:
    """curves.json, None where there is none; InputError for a damaged one."""
    if not path.is_file():
        return None
    try:
        curves = json.loads(path.read_text(encoding="utf-8"))
        for kind in ("detection", "search", "scores", "similarities"):
            curves[kind].keys()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}): evaluate the run again") from error
    return curves
