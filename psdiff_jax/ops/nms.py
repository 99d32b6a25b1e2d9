"""Greedy non-maximum suppression with static shapes."""

import jax
import jax.numpy as jnp

from psdiff_jax.ops import boxes as box_ops


def nms(boxes: jax.Array, scores: jax.Array, threshold: float) -> jax.Array:
    """Which boxes stay: bool [N], in the order of the input.

    Args:
      boxes: [N,4] xyxy.
      scores: [N]; ties go to the lower index; -inf marks a proposal that holds nothing.
      threshold: a box is dropped when its IoU with a kept box of higher score exceeds this.
    """
    order = jnp.argsort(-scores, stable=True)
    ranked = boxes[order]
    overlaps = box_ops.pairwise(box_ops.iou, ranked, ranked) > threshold
    later = jnp.arange(len(scores))

    def visit(i: int, keep: jax.Array) -> jax.Array:
        return keep & ~(overlaps[i] & keep[i] & (later > i))

    keep = jax.lax.fori_loop(0, len(scores), visit, jnp.isfinite(scores[order]))
    return jnp.zeros_like(keep).at[order].set(keep)
