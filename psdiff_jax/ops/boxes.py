"""Box arithmetic. Formats: xyxy = left, top, right, bottom; cxcywh = centre, width, height. The last axis is 4."""

import jax
import jax.numpy as jnp


def to_cxcywh(boxes: jax.Array) -> jax.Array:
    """xyxy -> cxcywh, [...,4]."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return jnp.concatenate([(low + high) / 2, high - low], axis=-1)


def to_xyxy(boxes: jax.Array) -> jax.Array:
    """cxcywh -> xyxy, [...,4]."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return jnp.concatenate([centre - size / 2, centre + size / 2], axis=-1)


def area(boxes: jax.Array) -> jax.Array:
    """Area of xyxy boxes [...,4] -> [...]; boxes turned inside out have none."""
    return jnp.prod(jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0), axis=-1)


def _intersection_union(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    overlap = jnp.maximum(jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2]), 0)
    intersection = overlap[..., 0] * overlap[..., 1]
    return intersection, area(a) + area(b) - intersection


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Intersection over union of xyxy boxes, broadcasting the leading axes; 0 where both are empty."""
    intersection, union = _intersection_union(a, b)
    return intersection / jnp.maximum(union, 1e-9)


def giou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Generalised IoU (Rezatofighi et al. 2019, Eq. 3) of xyxy boxes, in [-1, 1], broadcasting the leading axes."""
    intersection, union = _intersection_union(a, b)
    hull_size = jnp.maximum(a[..., 2:], b[..., 2:]) - jnp.minimum(a[..., :2], b[..., :2])
    hull = hull_size[..., 0] * hull_size[..., 1]
    return intersection / jnp.maximum(union, 1e-9) - (hull - union) / jnp.maximum(hull, 1e-9)


def pairwise(metric, a: jax.Array, b: jax.Array) -> jax.Array:
    """`metric` (iou or giou) of every pair: [...,N,4], [...,M,4] -> [...,N,M]."""
    return metric(a[..., :, None, :], b[..., None, :, :])


def clip(boxes: jax.Array, size: jax.Array) -> jax.Array:
    """Clips xyxy boxes [...,N,4] to photographs of `size` [...,2] = (height, width), in pixels."""
    limits = jnp.stack([size[..., 1], size[..., 0]] * 2, axis=-1).astype(boxes.dtype)
    return jnp.clip(boxes, 0, limits[..., None, :])
