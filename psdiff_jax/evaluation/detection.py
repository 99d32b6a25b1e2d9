"""Person detection: recall and AP as person-search papers count them, and COCO's AP.

Person search: a detection is a true positive when its IoU with a ground-truth box is at least 0.5 and the largest of
that box's row and of the detection's column; AP is multiplied by recall. COCO: greedy matching by falling score at IoU
0.50:0.05:0.95, 101 recall points, area "all", 100 detections an image.

Legend: N ground-truth boxes and K detections of one image, xyxy in pixels; T IoU thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from psdiff_jax.data.detections import Detections
from psdiff_jax.data.schema import Annotations
from psdiff_jax.errors import InputError
from psdiff_jax.ops.boxes import box_iou

MIN_IOU = 0.5
COCO_THRESHOLDS = np.linspace(0.5, 0.95, 10)
COCO_RECALLS = np.linspace(0.0, 1.0, 101)
COCO_MAX_DETECTIONS = 100


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
    """int64 [K]: each detection's image as an index into `image_names`; InputError for an image that is not there."""
    position = {name: i for i, name in enumerate(image_names)}
    if len(position) != len(image_names):
        twice = next(name for i, name in enumerate(image_names) if position[name] != i)
        raise InputError(f"the gallery's annotations list image {twice!r} twice")
    unknown = next((name for name in detections.images if name not in position), None)
    if unknown is not None:
        raise InputError(f"detections are given for image {unknown!r}, which is not in the dataset's gallery")
    lookup = np.array([position[name] for name in detections.images], np.int64)
    return lookup[detections.image_index] if len(detections) else np.zeros(0, np.int64)


def rows_by_image(rows_K: np.ndarray, images: int) -> list[np.ndarray]:
    """Splits detection numbers 0..K-1 by image, each in rising order: a list of `images` int64 arrays."""
    order = np.argsort(rows_K, kind="stable")
    return np.split(order, np.searchsorted(rows_K[order], np.arange(1, images)))


def detection_metrics(
    detections: Detections, annotations: Annotations, threshold: float = 0.01, labelled_only: bool = False
) -> dict[str, float | int]:
    """Recall and AP x recall over a split: {"recall", "AP", "truths", "detections"}; arguments as of
    `label_detections`."""
    return metrics_of(*label_detections(detections, annotations, threshold, labelled_only))


def metrics_of(true_positive_K: np.ndarray, score_K: np.ndarray, gt_boxes: int) -> dict[str, float | int]:
    """The same, from what `label_detections` returns."""
    recall = float(true_positive_K.sum() / gt_boxes) if gt_boxes else 0.0
    return {
        "recall": recall,
        "AP": average_precision(true_positive_K, score_K) * recall,
        "truths": gt_boxes,
        "detections": len(score_K),
    }


def label_detections(
    detections: Detections,
    annotations: Annotations,
    threshold: float = 0.01,
    labelled_only: bool = False,
) -> tuple[np.ndarray, np.ndarray, int]:
    """(true positive bool [K], score float32 [K], number of ground-truth boxes) of a split, image by image.

    Detections with a score below `threshold` are dropped. `labelled_only` counts the boxes with a person id alone and,
    as the de facto evaluator does, leaves out images without such a box; detections of unlabelled persons are then
    false positives.
    """
    labels, scores, count = [np.zeros(0, bool)], [np.zeros(0, np.float32)], 0
    for gt_boxes, boxes, image_scores in _by_image(detections, annotations, threshold, labelled_only):
        count += len(gt_boxes)
        labels.append(_mutual_best(box_iou(gt_boxes, boxes)))
        scores.append(image_scores)
    return np.concatenate(labels), np.concatenate(scores), count


def _mutual_best(iou_NK: np.ndarray) -> np.ndarray:
    """bool [K]: the detection's best ground-truth box reaches `MIN_IOU` and has this detection as its own best."""
    if not iou_NK.size:
        return np.zeros(iou_NK.shape[1], bool)
    columns = np.arange(iou_NK.shape[1])
    best_gt = iou_NK.argmax(0)
    return (iou_NK[best_gt, columns] >= MIN_IOU) & (iou_NK.argmax(1)[best_gt] == columns)


def coco_metrics(detections: Detections, annotations: Annotations) -> dict[str, float]:
    """COCO's {"AP", "AP50", "AP75"} of one class, fractions; every detection counts, however low its score."""
    matched, scores, count = [], [], 0
    for gt_boxes, boxes, image_scores in _by_image(detections, annotations, -np.inf, False):
        best = np.argsort(-image_scores, kind="stable")[:COCO_MAX_DETECTIONS]
        count += len(gt_boxes)
        matched.append(_greedy_matches(box_iou(gt_boxes, boxes[best])))
        scores.append(image_scores[best])
    if not count:
        return {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}
    order = np.argsort(-np.concatenate(scores), kind="stable")
    true_positive_TK = np.concatenate(matched, axis=1)[:, order]
    by_threshold = np.array([_interpolated_precision(row_K, count) for row_K in true_positive_TK])
    return {"AP": float(by_threshold.mean()), "AP50": float(by_threshold[0]), "AP75": float(by_threshold[5])}


def _greedy_matches(iou_NK: np.ndarray) -> np.ndarray:
    """bool [T,K]: detections, in the order given, take the free ground-truth box of highest IoU, at each threshold
    separately."""
    matched = np.zeros((len(COCO_THRESHOLDS), iou_NK.shape[1]), bool)
    if not iou_NK.size:
        return matched
    free_TN = np.ones((len(COCO_THRESHOLDS), len(iou_NK)), bool)
    rows = np.arange(len(COCO_THRESHOLDS))
    for k in np.flatnonzero(iou_NK.max(0) >= COCO_THRESHOLDS[0]):  # the others match nothing
        reach = np.where(free_TN & (iou_NK[:, k] >= COCO_THRESHOLDS[:, None]), iou_NK[:, k], -1.0)
        best = reach.shape[1] - 1 - reach[:, ::-1].argmax(1)  # of equal boxes COCO takes the last
        matched[:, k] = reach[rows, best] >= 0
        free_TN[rows[matched[:, k]], best[matched[:, k]]] = False
    return matched


def _interpolated_precision(true_positive_K: np.ndarray, gt_boxes: int) -> float:
    if not len(true_positive_K):
        return 0.0
    hits = np.cumsum(true_positive_K)
    precision = np.maximum.accumulate((hits / np.arange(1.0, len(hits) + 1))[::-1])[::-1]
    at = np.searchsorted(hits / gt_boxes, COCO_RECALLS, side="left")
    return float(np.append(precision, 0.0)[np.minimum(at, len(precision))].mean())


def _by_image(
    detections: Detections, annotations: Annotations, threshold: float, labelled_only: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields (ground-truth boxes [N,4], detected boxes [K,4], scores [K]) of each image in the annotations' order."""
    members = rows_by_image(image_rows(detections, annotations.image_names), len(annotations.image_names))
    boxes, scores = np.asarray(detections.boxes), np.asarray(detections.scores)
    for gt_boxes, person_ids, rows in zip(annotations.boxes, annotations.person_ids, members, strict=True):
        if labelled_only:
            gt_boxes = gt_boxes[person_ids >= 0]
            if not len(gt_boxes):
                continue
        rows = rows[scores[rows] >= threshold]
        yield np.reshape(gt_boxes, (-1, 4)), boxes[rows], scores[rows]
