"""Greedy non-maximum suppression with static shapes."""

import jax
import jax.numpy as jnp

from psdiff_jax.ops import boxes as box_ops


def nms(boxes: jax.Array, scores: jax.Array, threshold: float) -> jax.Array:
    """Which boxes stay: bool [...,N], in the order of the input.

    Args:
      boxes: [...,N,4] xyxy.
      scores: [...,N]; ties go to the lower index; -inf marks a proposal that holds nothing.
      threshold: a box is dropped when its IoU with a kept box of higher score exceeds this.
    """
    return best_of_rivals(box_ops.pairwise(box_ops.iou, boxes, boxes) > threshold, scores)


def best_of_rivals(rivals: jax.Array, scores: jax.Array) -> jax.Array:
    """Who stays, bool [...,N], where of two `rivals` (bool [...,N,N]) only the one with the higher score can.

    Each stays unless one that stays and comes before it is its rival. Starting with all, that rule is applied to all
    at once until nothing changes: the best k are settled after k rounds, most of them after a few. scores: as in `nms`.
    """
    index = jnp.arange(scores.shape[-1])
    mine, other = scores[..., :, None], scores[..., None, :]
    before = (other > mine) | ((other == mine) & (index < index[:, None]))
    drops = before & rivals  # [...,N,N]: row by column
    candidates = jnp.isfinite(scores)

    def settle(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        keep, _ = state
        after = candidates & ~(drops & keep[..., None, :]).any(axis=-1)
        return after, (after != keep).any()

    return jax.lax.while_loop(lambda state: state[1], settle, (candidates, jnp.asarray(True)))[0]
