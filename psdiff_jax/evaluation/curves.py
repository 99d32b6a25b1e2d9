"""Curves and histograms that a report draws beside evaluation.json: `report/curves.json`.

    {"detection": {steps: {"recall": [...], "precision": [...], "score": [...]}},
     "search": {protocol: {gallery size: {steps: {"recall": [...], "precision": [...], "queries": n}}}},
     "scores": {steps: {"edges": [...], "right": [counts], "wrong": [counts]}},
     "similarities": {protocol: {gallery size: {steps: {"edges": [...], "right": [counts], "others": [counts]}}}}}

"right" and "wrong" are true and false positives. Detection: every threshold on the score is a point, labelled as by
`detection_metrics`.
Search: one ranking a query, as for mAP. Precision at a level of recall is, for a query, the highest precision at that
level or beyond (0 where the level is never reached); the curve is its mean over the queries that mAP is a mean of:
TREC's interpolated precision at fixed recall levels (Manning, Raghavan, Schuetze, Introduction to Information
Retrieval, 8.4), at 101 of them. A pool of all (query, detection) pairs would need similarities that are comparable
across queries, which mAP does not. Similarities are the plain ones, before any re-ranking.

Legend: K detections, P true positives of a query, B bins.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.person_search import Ranking
from psdiff_jax.evaluation.similarity import OUTSIDE
from psdiff_jax.files import write_atomically

MAX_POINTS = 200
RECALLS = np.linspace(0.0, 1.0, 101)
SCORE_EDGES = np.linspace(0.0, 1.0, 51)
SIMILARITY_EDGES = np.linspace(-1.0, 1.0, 101)
_DECIMALS = 5


def precision_recall(true_positive_K: np.ndarray, score_K: np.ndarray, gt_boxes: int) -> dict[str, list[float]]:
    """{"recall", "precision", "score"}: a point for every distinct score, falling; at most `MAX_POINTS` of them.

    Of too many, those are kept that first reach evenly spaced recalls, and the last.
    """
    order = np.argsort(-np.asarray(score_K, np.float64), kind="stable")
    score, true_positive = np.asarray(score_K)[order], np.asarray(true_positive_K, bool)[order]
    last_of_ties = np.append(np.flatnonzero(np.diff(score)), len(score) - 1) if len(score) else np.zeros(0, np.int64)
    hits = np.cumsum(true_positive)[last_of_ties]
    recall, precision = hits / max(gt_boxes, 1), hits / (last_of_ties + 1.0)
    keep = np.arange(len(hits))
    if len(hits) > MAX_POINTS:
        levels = np.linspace(recall[0], recall[-1], MAX_POINTS - 1)
        keep = np.unique(np.append(np.searchsorted(recall, levels), len(hits) - 1))
    return {
        "recall": _rounded(recall[keep]),
        "precision": _rounded(precision[keep]),
        "score": _rounded(score[last_of_ties][keep]),
    }


def score_histogram(true_positive_K: np.ndarray, score_K: np.ndarray) -> dict[str, Any]:
    """{"edges", "right", "wrong"}: the scores of true and of false positives."""
    kinds = {"right": score_K[true_positive_K], "wrong": score_K[~true_positive_K]}
    counts = {name: np.histogram(scores, SCORE_EDGES)[0].tolist() for name, scores in kinds.items()}
    return {"edges": _rounded(SCORE_EDGES), **counts}


class SearchCurve:
    """Precision at the levels of `RECALLS`, and the similarities, of one protocol, gathered query by query."""

    def __init__(self, excludes_queries_without_positives: bool = False, similarities: bool = False) -> None:
        self._excludes, self._similarities = excludes_queries_without_positives, similarities
        self._precision, self._queries = np.zeros(len(RECALLS)), 0
        self._all_B, self._true_B = (np.zeros(len(SIMILARITY_EDGES) - 1, np.int64) for _ in range(2))

    def add(self, ranking: Ranking) -> None:
        """Adds the ranking of one more query."""
        if ranking.positives or not self._excludes:
            self._queries += 1
            self._precision += interpolated(ranking.true_from, ranking.all_from, ranking.positives)
        if self._similarities:
            self._all_B += _similarity_counts(ranking.values[ranking.values > OUTSIDE])
            self._true_B += _similarity_counts(ranking.similarity_K[ranking.true_P])

    def curve(self) -> dict[str, Any]:
        """{"recall", "precision", "queries"}."""
        precision = _rounded(self._precision / max(self._queries, 1))
        return {"recall": _rounded(RECALLS), "precision": precision, "queries": self._queries}

    def histogram(self) -> dict[str, Any]:
        """{"edges", "right", "others"}: the similarities of true positives, and of all other detections in the
        galleries."""
        others = (self._all_B - self._true_B).tolist()
        return {"edges": _rounded(SIMILARITY_EDGES), "right": self._true_B.tolist(), "others": others}


def interpolated(true_from: np.ndarray, all_from: np.ndarray, positives: int) -> np.ndarray:
    """float64 [101]: the highest precision at each level of `RECALLS` or beyond, of one query.

    true_from, all_from: as `counts_from` gives them; positives: images that show the person.
    """
    recall, precision = true_from[::-1] / max(positives, 1), true_from[::-1] / all_from[::-1]  # recall rises
    best_from_here = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return best_from_here[np.searchsorted(recall, RECALLS - 1e-12)]


def _similarity_counts(similarities: np.ndarray) -> np.ndarray:
    """int64 [B]: how many are in each bin of `SIMILARITY_EDGES`; rounding beyond -1 and 1 goes to the outer bins."""
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
