"""Every number of one run: detection and search, each protocol x gallery size x number of denoising steps.

The result is what `evaluation.json` holds; fractions from 0 to 1, keys are text so that reading the file gives the
same dict:

    {"settings": {...}, "counts": {...}, "protocols": {name: description}, "steps": ["1", "2", ...],
     "detection": {steps: {"all": {recall, AP, truths, detections}, "labelled": {...}, "coco": {AP, AP50, AP75}}},
     "search": {protocol: {gallery size: {steps: {mAP, top-1, top-5, top-10, queries, queries_without_truth, ...}}}}}

A protocol under a scoring beside the plain one has the scoring behind its name: "whole+cws", "whole+cbgm:30,4".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from psdiff_jax.data.detections import Detections
from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.detection import coco_metrics, detection_metrics
from psdiff_jax.evaluation.person_search import score_search
from psdiff_jax.evaluation.protocols import Protocol
from psdiff_jax.evaluation.reranking import Reranking, parse_rerankings
from psdiff_jax.files import write_atomically

if TYPE_CHECKING:
    from psdiff_jax.data.records import Annotations, Queries


def evaluate(
    detections_by_steps: Mapping[int | str, tuple[Detections, Detections]],
    annotations: Annotations,
    queries: Queries,
    protocols: Sequence[Protocol],
    *,
    detection_threshold: float = 0.01,
    search_threshold: float | Mapping[int | str, float] = 0.5,
    query_embedding: str = "pin",
    reranking: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Scores (gallery, query) Detections of each number of steps; see the module's docstring for what comes back.

    The key of a folder whose number of steps nobody knows is any text, such as "given". `search_threshold`: one for
    all, or one for each number of steps. `reranking`: scorings beside the plain one, as in config.evaluate.reranking.
    `query_embedding` says how the queries' embeddings were made ("pin", "match", "crop", ...); it and `settings`
    (dataset, seed, checkpoint, ...) are recorded, not used. InputError when detections, queries and annotations do not
    belong together, or a threshold is missing.
    """
    rerankings = parse_rerankings(reranking)
    thresholds = {str(steps): threshold_at(search_threshold, steps) for steps in detections_by_steps}
    given = isinstance(search_threshold, Mapping)
    result: dict[str, Any] = {
        "settings": {
            **(settings or {}),
            "query_embedding": query_embedding,
            "detection_threshold": float(detection_threshold),
            "search_threshold": thresholds if given else float(search_threshold),
        },
        "counts": count(annotations, queries),
        "protocols": _descriptions(protocols, rerankings),
        "steps": [str(steps) for steps in detections_by_steps],
        "detection": {},
        "search": {},
    }
    for steps, (gallery, query) in detections_by_steps.items():
        result["detection"][str(steps)] = {
            "all": detection_metrics(gallery, annotations, detection_threshold),
            "labelled": detection_metrics(gallery, annotations, detection_threshold, labelled_only=True),
            "coco": coco_metrics(gallery, annotations),
        }
        for search in score_search(
            gallery,
            query,
            annotations,
            queries,
            protocols,
            thresholds[str(steps)],
            rerankings=rerankings,
            label=f"search, steps {steps}",
        ):
            sizes = result["search"].setdefault(search.name, {})
            sizes.setdefault(str(search.protocol.size), {})[str(steps)] = search.summary()
    return result


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
    """Name -> what it is. The sizes of a listed protocol are described one by one."""
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
    """How many photographs, boxes, labelled boxes, people and queries the numbers stand on."""
    ids = np.concatenate([np.zeros(0, np.int64), *annotations.person_ids])
    return {
        "gallery_images": len(annotations.image_names),
        "gallery_boxes": len(ids),
        "labelled_boxes": int((ids >= 0).sum()),
        "people": len(np.unique(ids[ids >= 0])),
        "queries": len(queries.image_names),
    }


def write_evaluation(path: str | Path, result: Mapping[str, Any]) -> None:
    """Writes `evaluation.json` whole or not at all."""
    write_atomically(Path(path), json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
