"""Why an evaluation found nobody: one line beside a table of zeros."""

from __future__ import annotations

import numpy as np

from psdiff_jax.data.detections import Detections
from psdiff_jax.data.schema import Annotations
from psdiff_jax.evaluation.detection import label_detections

FEW = 0.01  # share of the ground-truth boxes
UNTRAINED = "the weights were not trained on such images, or hardly trained: train on them, or start from others"


def why_nobody(
    gallery: Detections, annotations: Annotations, detection_threshold: float, search_threshold: float
) -> str | None:
    """What is wrong where fewer than one in a hundred people are found; None where more are, or nobody is annotated."""
    found, scores, gt_boxes = label_detections(gallery, annotations, detection_threshold)
    if not gt_boxes:
        return None
    searched = np.asarray(scores) >= search_threshold
    if found.sum() >= FEW * gt_boxes:
        if (found & searched).sum() >= FEW * gt_boxes:
            return None
        return (
            f"nobody is searched: {found.sum()} of {gt_boxes} annotated people are found, but hardly one with a score "
            f"of config.evaluate.search_threshold={search_threshold:g} or more (the best has "
            f"{scores[found].max():.2g}); lower it, or let config.data.held_out choose it"
        )
    if not len(scores):
        return f"nobody is found: no box scores {detection_threshold:g} or more; {UNTRAINED}"
    kept = gallery.boxes[gallery.scores >= detection_threshold]
    annotated = np.concatenate(annotations.boxes)
    ours, theirs = (float(np.median(boxes[:, 3] - boxes[:, 1])) for boxes in (kept, annotated))
    why = (
        "the weights know people of another size: compare config.data.image_size with that of their training"
        if not 0.5 < ours / theirs < 2
        else UNTRAINED
    )
    return (
        f"nobody is found: {found.sum()} of {gt_boxes} annotated people have an IoU of 0.5 or more with one of "
        f"{len(scores)} boxes (median height {ours:.0f} pixels, annotated {theirs:.0f}); {why}"
    )
