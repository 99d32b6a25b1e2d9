"""Box arithmetic for JAX and NumPy arrays alike. Formats: xyxy = left, top, right, bottom; cxcywh = centre, width,
height. The last axis is 4. A function computes in the library and the precision of the arrays it is given.
"""

from typing import Any

import numpy as np

Array = Any  # of either library, one and the same in each call


def to_cxcywh(boxes: Array) -> Array:
    """xyxy -> cxcywh, [...,4]."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return boxes.__array_namespace__().concatenate([(low + high) / 2, high - low], axis=-1)


def to_xyxy(boxes: Array) -> Array:
    """cxcywh -> xyxy, [...,4]."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return boxes.__array_namespace__().concatenate([centre - size / 2, centre + size / 2], axis=-1)


def area(boxes: Array) -> Array:
    """Area of xyxy boxes [...,4] -> [...]; boxes turned inside out have none."""
    xp = boxes.__array_namespace__()
    return xp.prod(xp.maximum(boxes[..., 2:] - boxes[..., :2], 0), axis=-1)


def _intersection_union(a: Array, b: Array) -> tuple[Array, Array]:
    xp = a.__array_namespace__()
    overlap = xp.maximum(xp.minimum(a[..., 2:], b[..., 2:]) - xp.maximum(a[..., :2], b[..., :2]), 0)
    intersection = overlap[..., 0] * overlap[..., 1]
    return intersection, area(a) + area(b) - intersection


def iou(a: Array, b: Array) -> Array:
    """Intersection over union of xyxy boxes, broadcasting the leading axes; 0 where both are empty."""
    intersection, union = _intersection_union(a, b)
    return intersection / a.__array_namespace__().maximum(union, 1e-9)


def giou(a: Array, b: Array) -> Array:
    """Generalised IoU (Rezatofighi et al. 2019, Eq. 3) of xyxy boxes, in [-1, 1], broadcasting the leading axes."""
    xp = a.__array_namespace__()
    intersection, union = _intersection_union(a, b)
    hull_size = xp.maximum(a[..., 2:], b[..., 2:]) - xp.minimum(a[..., :2], b[..., :2])
    hull = hull_size[..., 0] * hull_size[..., 1]
    return intersection / xp.maximum(union, 1e-9) - (hull - union) / xp.maximum(hull, 1e-9)


def pairwise(metric, a: Array, b: Array) -> Array:
    """`metric` (iou or giou) of every pair: [...,N,4], [...,M,4] -> [...,N,M]."""
    return metric(a[..., :, None, :], b[..., None, :, :])


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU float64 [N,M] of xyxy boxes [N,4] and [M,4] in NumPy, for annotations and evaluation."""
    return pairwise(iou, np.asarray(a, np.float64), np.asarray(b, np.float64))


def clip(boxes: Array, size: Array) -> Array:
    """Clips xyxy boxes [...,N,4] to images of `size` [...,2] = (height, width), in pixels."""
    xp = boxes.__array_namespace__()
    limits = xp.stack([size[..., 1], size[..., 0]] * 2, axis=-1).astype(boxes.dtype)
    return xp.clip(boxes, 0, limits[..., None, :])


def is_inside(box: Any, height: float, width: float) -> bool:
    """Whether an xyxy box [4] has an area and lies in an image of that size; NaN does not."""
    x1, y1, x2, y2 = box
    return bool(0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height)
