"""Matching predictions to truths: SimOTA's dynamic k (as DiffusionDet has it) or one to one.

Legend: N slot, M truth (padded). All functions are for one image; vmap them over a batch.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from psdiff_jax.ops import boxes as box_ops
from psdiff_jax.ops.assignment import assign

OUTSIDE = 100.0  # prediction's centre is not both in the truth and near its centre
FOREIGN = 1e4  # prediction's centre is in no truth at all
FORBIDDEN = 1e6  # padding


@dataclass(frozen=True)
class MatchOptions:
    """Weights of the cost (paper Eq. 13) and the rule.

    rule: "simota" or "hungarian"; candidates: how many IoUs are summed to a truth's number of matches;
    centre_radius: half the side of the centre region, in units of the truth's sides.
    """

    rule: str = "simota"
    cls: float = 2.0
    l1: float = 5.0
    giou: float = 2.0
    reid: float = 5.0
    candidates: int = 5
    centre_radius: float = 2.5
    alpha: float = 0.25
    gamma: float = 2.0


class Match(NamedTuple):
    """matched: bool [N]; truth: int32 [N], the truth of each slot (0 where unmatched)."""

    matched: jax.Array
    truth: jax.Array


def focal_cost(logits: jax.Array, alpha: float, gamma: float) -> jax.Array:
    """What calling a slot a person costs: focal(1) - focal(0), [N] (Lin et al. 2017; DETR-style matching)."""
    p = jax.nn.sigmoid(logits)
    positive = alpha * (1 - p) ** gamma * -jax.nn.log_sigmoid(logits)
    negative = (1 - alpha) * p**gamma * -jax.nn.log_sigmoid(-logits)
    return positive - negative


def cost_matrix(
    logits: jax.Array,
    boxes: jax.Array,
    embeddings: jax.Array,
    gt_boxes: jax.Array,
    gt_embeddings: jax.Array,
    mask: jax.Array,
    image_size: jax.Array,
    spec: MatchOptions,
) -> tuple[jax.Array, jax.Array]:
    """Cost [N,M] and IoU [N,M] of every pair; padded truths cost FORBIDDEN and have IoU 0.

    boxes, gt_boxes: xyxy pixels; image_size: [2] (h, w); embeddings as predicted; gt_embeddings unit norm.
    """
    wh = jnp.concatenate([image_size[::-1]] * 2).astype(jnp.float32)
    ious = box_ops.pairwise(box_ops.iou, boxes, gt_boxes) * mask
    cost = spec.cls * focal_cost(logits, spec.alpha, spec.gamma)[:, None]
    cost += spec.l1 * jnp.abs(boxes[:, None] / wh - gt_boxes[None] / wh).sum(-1)
    cost -= spec.giou * box_ops.pairwise(box_ops.giou, boxes, gt_boxes)
    squared = jnp.sum((embeddings[:, None] - gt_embeddings[None]) ** 2, axis=-1)
    cost += spec.reid * jnp.sqrt(squared + 1e-12)

    centre = box_ops.to_cxcywh(boxes)[:, None, :2]
    truth = box_ops.to_cxcywh(gt_boxes)[None]
    offset = jnp.abs(centre - truth[..., :2])
    in_box = jnp.all(offset < truth[..., 2:] / 2, axis=-1) & mask
    in_centre = jnp.all(offset < truth[..., 2:] * spec.centre_radius, axis=-1) & mask
    if spec.rule == "simota":
        cost += OUTSIDE * ~(in_box & in_centre)
        cost += FOREIGN * ~(in_box | in_centre).any(axis=1, keepdims=True)
    return jnp.where(mask, cost, FORBIDDEN), ious


def simota(cost: jax.Array, ious: jax.Array, mask: jax.Array, candidates: int) -> Match:
    """Each truth takes its k cheapest predictions, k = the sum of its `candidates` largest IoUs, at least 1.

    A prediction that several truths take goes to the cheapest of them. A truth left with nothing by that takes its
    cheapest prediction that is still free (or, when none is, shares nothing): repeated until nothing changes.
    """
    slots, truths = cost.shape
    most = min(candidates, slots)  # an IoU is at most 1, so no truth wants more
    wanted = jnp.maximum(jax.lax.top_k(ious.T, most)[0].sum(-1).astype(jnp.int32), 1)
    cheap = jax.lax.top_k(-cost.T, most)[1]  # [M, most]; among equals the lower slot
    cheap = jnp.where((jnp.arange(most) < wanted[:, None]) & mask[:, None], cheap, slots)
    taken = jnp.zeros(cost.shape, bool).at[cheap, jnp.arange(truths)[:, None]].set(True, mode="drop")
    cheapest = jax.nn.one_hot(jnp.argmin(jnp.where(taken, cost, jnp.inf), axis=1), truths, dtype=bool)
    taken &= cheapest

    def unmet(carry: tuple[jax.Array, jax.Array]) -> jax.Array:
        taken, rounds = carry
        return jnp.any(mask & ~taken.any(axis=0)) & (rounds < truths)

    def serve(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        taken, rounds = carry
        free = ~taken.any(axis=1)
        hungry = mask & ~taken.any(axis=0)
        choice = jnp.where(free[:, None] & hungry, cost, jnp.inf)
        best = jax.nn.one_hot(jnp.argmin(choice, axis=0), slots, axis=0, dtype=bool) & jnp.isfinite(choice)
        winner = jax.nn.one_hot(jnp.argmin(jnp.where(best, cost, jnp.inf), axis=1), truths, dtype=bool)
        return taken | (best & winner), rounds + 1

    taken, _ = jax.lax.while_loop(unmet, serve, (taken, 0))
    return Match(taken.any(axis=1), jnp.argmax(taken, axis=1).astype(jnp.int32))


def hungarian(cost: jax.Array, mask: jax.Array) -> Match:
    """The paper's bipartite matching: each truth gets one prediction, at minimum total cost.

    cost: [N,M] (what stands in padded columns does not matter), mask: [M]. With more truths than predictions every
    prediction gets a truth.
    """
    slots, truths = cost.shape
    known = mask & jnp.isfinite(cost)  # a diverged model's NaNs must not make the search endless
    dearest = jnp.maximum(jnp.max(cost, initial=-jnp.inf, where=known), -FORBIDDEN)
    table = jnp.where(known, cost, dearest + 1).T
    # Benches for the truths that find no slot, dearer than any slot: a truth stands there only when all are taken.
    table = jnp.pad(table, ((0, 0), (0, max(truths - slots, 0))), constant_values=dearest + 2)
    seat = assign(table, mask)
    seat = jnp.where(mask & (seat < slots), seat, slots)
    matched = jnp.zeros(slots, bool).at[seat].set(True, mode="drop")
    truth = jnp.zeros(slots, jnp.int32).at[seat].set(jnp.arange(truths, dtype=jnp.int32), mode="drop")
    return Match(matched, truth)


def match(cost: jax.Array, ious: jax.Array, mask: jax.Array, spec: MatchOptions) -> Match:
    """Matches one image: cost and ious [N,M], mask [M] of real truths -> Match."""
    if spec.rule == "hungarian":
        return hungarian(cost, mask)
    return simota(cost, ious, mask, spec.candidates)
