"""All numbers of one run: detection and search, each protocol x gallery size x number of denoising steps.

`evaluation.json` holds fractions from 0 to 1; its keys are text, so that reading the file gives the same dict:

    {"settings": {...}, "counts": {...}, "protocols": {name: description}, "steps": ["1", "2", ...],
     "detection": {steps: {"all": {recall, AP, truths, detections}, "labelled": {...}, "coco": {AP, AP50, AP75}}},
     "search": {protocol: {gallery size: {steps: {mAP, top-1, top-5, top-10, queries, queries_without_truth, ...}}}}}

A protocol under a scoring beside the plain one has the scoring's name behind its own: "whole+cws", "whole+cbgm:30,4".
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from psdiff_jax.data.detections import Detections
from psdiff_jax.data.schema import Annotations, Queries
from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.curves import SearchCurve, precision_recall, score_histogram
from psdiff_jax.evaluation.detection import coco_metrics, detection_metrics, label_detections, metrics_of
from psdiff_jax.evaluation.person_search import SearchResult, score_search
from psdiff_jax.evaluation.protocols import Protocol, largest_galleries
from psdiff_jax.evaluation.reranking import Reranking, parse_rerankings
from psdiff_jax.evaluation.similarity import Progress, unreported
from psdiff_jax.files import write_atomically

RANKS = 10  # hits of each query in `Evaluation.ranked`


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """numbers: the content of evaluation.json; curves: of curves.json. ranked: the search by the last protocol at the
    last number of steps, with the best `RANKS` hits of each query; None without a protocol."""

    numbers: dict[str, Any]
    curves: dict[str, Any]
    ranked: SearchResult | None


def evaluate(
    detections_by_steps: Mapping[Any, tuple[Detections, Detections]],
    annotations: Annotations,
    queries: Queries,
    protocols: Sequence[Protocol],
    *,
    detection_threshold: float = 0.01,
    search_threshold: float | Mapping[Any, float] = 0.5,
    query_embedding: str = "pin",
    reranking: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    progress: Progress = unreported,
) -> Evaluation:
    """Scores (gallery, query) Detections of each number of steps, in one pass over their similarities.

    Curves: of each protocol the largest gallery; the first protocol at every number of steps, the others at the last;
    similarities of the first protocol.

    Args:
      detections_by_steps: the key of a folder whose number of steps is unknown is any text, such as "given".
      search_threshold: one for all, or one for each number of steps.
      query_embedding: how the queries' embeddings were made ("pin": of the ground-truth box, "match": of the detection
        that overlaps it most, "crop", ...); recorded, not used.
      reranking: scorings beside the plain one, as in config.evaluate.reranking.
      settings: dataset, seed, checkpoint, ...; recorded, not used.
      progress: is told of the queries of each search.

    Raises:
      InputError: detections, queries and annotations do not belong together, or a threshold is missing.
    """
    rerankings, data = parse_rerankings(reranking), (annotations, queries)
    thresholds = {str(steps): threshold_at(search_threshold, steps) for steps in detections_by_steps}
    numbers: dict[str, Any] = {
        "settings": {
            **(settings or {}),
            "query_embedding": query_embedding,
            "detection_threshold": float(detection_threshold),
            "search_threshold": thresholds if isinstance(search_threshold, Mapping) else float(search_threshold),
        },
        "counts": count(annotations, queries),
        "protocols": _descriptions(protocols, rerankings),
        "steps": list(thresholds),
        "detection": {},
        "search": {},
    }
    curves: dict[str, Any] = {"detection": {}, "search": {}, "scores": {}, "similarities": {}}
    drawn, ranked = largest_galleries(protocols), None
    for (gallery, query), (steps, threshold) in zip(detections_by_steps.values(), thresholds.items(), strict=True):
        _detection(numbers, curves, steps, gallery, annotations, detection_threshold)
        is_last = steps == numbers["steps"][-1]
        search_curves = {
            protocol: SearchCurve(protocol.excludes_queries_without_positives, similarities=protocol is drawn[0])
            for protocol in (drawn if is_last else drawn[:1])
        }
        results = score_search(
            gallery, query, *data, protocols, threshold, RANKS * is_last, rerankings, f"search, steps {steps}",
            keep_for=protocols[-1] if protocols else None, curves=search_curves, progress=progress,
        )  # fmt: skip
        for result in results:
            _put(numbers["search"], result.name, result.protocol.size, steps, result.summary())
        for protocol, curve in search_curves.items():
            _put(curves["search"], protocol.name, protocol.size, steps, curve.curve())
            if protocol is drawn[0]:
                _put(curves["similarities"], protocol.name, protocol.size, steps, curve.histogram())
        ranked = results[len(protocols) - 1] if is_last and protocols else None
    return Evaluation(numbers, curves, ranked)


def _detection(
    numbers: dict[str, Any],
    curves: dict[str, Any],
    steps: str,
    gallery: Detections,
    annotations: Annotations,
    threshold: float,
) -> None:
    """Adds the numbers and curves of detection at one number of steps."""
    true_positive, score, gt_boxes = label_detections(gallery, annotations, threshold)
    numbers["detection"][steps] = {
        "all": metrics_of(true_positive, score, gt_boxes),
        "labelled": detection_metrics(gallery, annotations, threshold, labelled_only=True),
        "coco": coco_metrics(gallery, annotations),
    }
    curves["detection"][steps] = precision_recall(true_positive, score, gt_boxes)
    curves["scores"][steps] = score_histogram(true_positive, score)


def _put(into: dict[str, Any], protocol: str, size: int | str, steps: str, value: Any) -> None:
    into.setdefault(protocol, {}).setdefault(str(size), {})[steps] = value


def threshold_at(search_threshold: float | Mapping[Any, float], steps: int | str) -> float:
    """The search threshold at a number of steps, where it may be one for all or a dict by their number or text;
    InputError when that lacks it."""
    if not isinstance(search_threshold, Mapping):
        return float(search_threshold)
    given = {str(key): float(value) for key, value in search_threshold.items()}
    if str(steps) not in given:
        raise InputError(f"no search threshold is given for {steps} denoising steps, only for {', '.join(given)}")
    return given[str(steps)]


def _descriptions(protocols: Sequence[Protocol], rerankings: Sequence[Reranking]) -> dict[str, str]:
    """Name -> description; those of a protocol's gallery sizes that differ are joined."""
    described: dict[str, str] = {}
    for protocol in protocols:
        known = described.get(protocol.name)
        if known is None:
            described[protocol.name] = protocol.description
        elif protocol.description not in known.split("; "):
            described[protocol.name] = f"{known}; {protocol.description}"
    plain = dict(described)
    for reranking in rerankings:
        described.update({reranking.of(name): f"{name} with {reranking.describe()}" for name in plain})
    return described


def count(annotations: Annotations, queries: Queries) -> dict[str, int]:
    """How many images, boxes, labelled boxes, identities and queries the numbers are of."""
    ids = np.concatenate([np.zeros(0, np.int64), *annotations.person_ids])
    return {
        "gallery_images": len(annotations),
        "gallery_boxes": len(ids),
        "labelled_boxes": int((ids >= 0).sum()),
        "people": len(np.unique(ids[ids >= 0])),
        "queries": len(queries),
    }


def write_evaluation(path: str | Path, numbers: Mapping[str, Any]) -> None:
    """Writes `evaluation.json` whole or not at all."""
    write_atomically(Path(path), json.dumps(numbers, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
