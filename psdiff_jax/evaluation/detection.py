"""How well people are detected: recall and AP as person-search papers count them, and COCO's AP.

Legend: N truth boxes and K detections of one image; boxes are xyxy in pixels.
Person search: a detection is right when its IoU with a truth is at least 0.5 and the largest of that truth's row and
of the detection's column; AP is multiplied by recall. COCO: greedy matching by falling score at IoU 0.50:0.05:0.95,
101 recall points, area "all", 100 detections an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from psdiff_jax.data.detections import Detections
from psdiff_jax.errors import InputError

if TYPE_CHECKING:
    from psdiff_jax.data.records import Annotations

COCO_THRESHOLDS = np.linspace(0.5, 0.95, 10)
COCO_RECALLS = np.linspace(0.0, 1.0, 101)
COCO_MAX_DETECTIONS = 100


def box_iou(truth_N4: np.ndarray, boxes_K4: np.ndarray) -> np.ndarray:
    """IoU float64 [N,K] of xyxy boxes of continuous extent (no +1); 0 where both areas are empty."""
    truth = np.asarray(truth_N4, np.float64)[:, None]
    boxes = np.asarray(boxes_K4, np.float64)[None]
    size = np.maximum(np.minimum(truth[..., 2:], boxes[..., 2:]) - np.maximum(truth[..., :2], boxes[..., :2]), 0.0)
    overlap = size[..., 0] * size[..., 1]
    union = _area(truth) + _area(boxes) - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def average_precision(labels_K: np.ndarray, scores_K: np.ndarray) -> float:
    """Sum over falling thresholds of (R_n - R_{n-1}) P_n, equal scores being one threshold; 0.0 without a positive.

    The definition of sklearn.metrics.average_precision_score: no interpolation.
    """
    labels = np.asarray(labels_K, bool)
    if not labels.any():
        return 0.0
    order = np.argsort(-np.asarray(scores_K, np.float64), kind="stable")
    scores, labels = np.asarray(scores_K)[order], labels[order]
    last_of_ties = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    hits = np.cumsum(labels)[last_of_ties]
    return float(np.sum(np.diff(hits, prepend=0) * hits / (last_of_ties + 1.0)) / hits[-1])


def image_rows(detections: Detections, image_names: tuple[str, ...]) -> np.ndarray:
    """int64 [K]: each detection's image as an index into `image_names`; InputError for a photograph that is not
    there."""
    position = {name: i for i, name in enumerate(image_names)}
    if len(position) != len(image_names):
        twice = next(name for i, name in enumerate(image_names) if position[name] != i)
        raise InputError(f"image {twice!r} stands twice among the annotations of the gallery")
    unknown = next((name for name in detections.images if name not in position), None)
    if unknown is not None:
        raise InputError(f"detections are given for image {unknown!r}, which the dataset's gallery does not hold")
    lookup = np.array([position[name] for name in detections.images], np.int64)
    return lookup[detections.image_index] if len(detections) else np.zeros(0, np.int64)


def rows_by_image(rows_K: np.ndarray, images: int) -> list[np.ndarray]:
    """Splits detection numbers 0..K-1 by image, each in rising order: a list of `images` int64 arrays."""
    order = np.argsort(rows_K, kind="stable")
    return np.split(order, np.searchsorted(rows_K[order], np.arange(1, images)))


def detection_metrics(
    detections: Detections,
    annotations: Annotations,
    threshold: float = 0.01,
    labelled_only: bool = False,
    iou_threshold: float = 0.5,
) -> dict[str, float | int]:
    """Recall and AP x recall over a split: {"recall", "AP", "truths", "detections"}.

    See `judged_detections` for `threshold` and `labelled_only`.
    """
    label, score, truths = judged_detections(detections, annotations, threshold, labelled_only, iou_threshold)
    recall = float(label.sum() / truths) if truths else 0.0
    return {
        "recall": recall,
        "AP": average_precision(label, score) * recall,
        "truths": truths,
        "detections": len(score),
    }


def judged_detections(
    detections: Detections,
    annotations: Annotations,
    threshold: float = 0.01,
    labelled_only: bool = False,
    iou_threshold: float = 0.5,
) -> tuple[np.ndarray, np.ndarray, int]:
    """(right bool [K], score float32 [K], number of truths) of a split, image by image.

    Detections with a score below `threshold` are dropped. `labelled_only` takes the boxes with a person id for truth
    and, as the de facto evaluator does, leaves images without such a box out altogether; unlabelled people then count
    as mistakes.
    """
    labels, scores, truths = [np.zeros(0, bool)], [np.zeros(0, np.float32)], 0
    for truth, boxes, image_scores in _by_image(detections, annotations, threshold, labelled_only):
        truths += len(truth)
        labels.append(_mutual_best(box_iou(truth, boxes), iou_threshold))
        scores.append(image_scores)
    return np.concatenate(labels), np.concatenate(scores), truths


def _mutual_best(iou_NK: np.ndarray, threshold: float) -> np.ndarray:
    """bool [K]: the detection's best truth reaches the threshold and has this detection as its own best."""
    if not iou_NK.size:
        return np.zeros(iou_NK.shape[1], bool)
    columns = np.arange(iou_NK.shape[1])
    best_truth = iou_NK.argmax(0)
    return (iou_NK[best_truth, columns] >= threshold) & (iou_NK.argmax(1)[best_truth] == columns)


def coco_metrics(detections: Detections, annotations: Annotations) -> dict[str, float]:
    """COCO's {"AP", "AP50", "AP75"} of one class, fractions; every detection counts, however low its score."""
    matched, scores, truths = [], [], 0
    for truth, boxes, image_scores in _by_image(detections, annotations, -np.inf, False):
        best = np.argsort(-image_scores, kind="stable")[:COCO_MAX_DETECTIONS]
        truths += len(truth)
        matched.append(_greedy_matches(box_iou(truth, boxes[best])))
        scores.append(image_scores[best])
    if not truths:
        return {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}
    order = np.argsort(-np.concatenate(scores), kind="stable")
    right_TK = np.concatenate(matched, axis=1)[:, order]
    by_threshold = np.array([_interpolated_precision(right, truths) for right in right_TK])
    return {"AP": float(by_threshold.mean()), "AP50": float(by_threshold[0]), "AP75": float(by_threshold[5])}


def _greedy_matches(iou_NK: np.ndarray) -> np.ndarray:
    """bool [T,K]: detections, in the order given, take the free truth of highest IoU, at each threshold apart."""
    matched = np.zeros((len(COCO_THRESHOLDS), iou_NK.shape[1]), bool)
    if not iou_NK.size:
        return matched
    free_TN = np.ones((len(COCO_THRESHOLDS), len(iou_NK)), bool)
    rows = np.arange(len(COCO_THRESHOLDS))
    for k in np.flatnonzero(iou_NK.max(0) >= COCO_THRESHOLDS[0]):  # the others match nothing
        reach = np.where(free_TN & (iou_NK[:, k] >= COCO_THRESHOLDS[:, None]), iou_NK[:, k], -1.0)
        best = reach.shape[1] - 1 - reach[:, ::-1].argmax(1)  # of equal truths COCO takes the last
        matched[:, k] = reach[rows, best] >= 0
        free_TN[rows[matched[:, k]], best[matched[:, k]]] = False
    return matched


def _interpolated_precision(right_K: np.ndarray, truths: int) -> float:
    if not len(right_K):
        return 0.0
    hits = np.cumsum(right_K)
    precision = np.maximum.accumulate((hits / np.arange(1.0, len(hits) + 1))[::-1])[::-1]
    at = np.searchsorted(hits / truths, COCO_RECALLS, side="left")
    return float(np.append(precision, 0.0)[np.minimum(at, len(precision))].mean())


def _by_image(
    detections: Detections, annotations: Annotations, threshold: float, labelled_only: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields (truth boxes [N,4], detected boxes [K,4], scores [K]) of each image in the annotations' order."""
    members = rows_by_image(image_rows(detections, annotations.image_names), len(annotations.image_names))
    boxes, scores = np.asarray(detections.boxes), np.asarray(detections.scores)
    for truth, person_ids, rows in zip(annotations.boxes, annotations.person_ids, members, strict=True):
        if labelled_only:
            truth = truth[person_ids >= 0]
            if not len(truth):
                continue
        rows = rows[scores[rows] >= threshold]
        yield np.reshape(truth, (-1, 4)), boxes[rows], scores[rows]
