"""Matching predictions to ground truths: SimOTA's dynamic k (as DiffusionDet has it) or one to one.

Legend: N proposal, M ground truth (padded). All functions are for one image; vmap them over a batch.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp

from psdiff_jax.ops import boxes as box_ops
from psdiff_jax.ops.assignment import assign
from psdiff_jax.options import AT_LEAST_1, FRACTION, NOT_NEGATIVE, POSITIVE

OUTSIDE = 100.0  # the prediction's centre is not both inside the box and near its centre
FOREIGN = 1e4  # the prediction's centre is in no ground-truth box at all
FORBIDDEN = 1e6  # padding


@dataclass(frozen=True)
class MatchOptions:
    """config.matching: the matching rule, and the weights of cost and loss (paper Eq. 13)."""

    rule: Annotated[Literal["simota", "hungarian"], "SimOTA's dynamic k, or one to one"] = "simota"
    score: Annotated[
        Literal["matched", "matched_iou", "iou"],
        "what a score learns: whether the proposal is matched; its IoU if it is; or its IoU with any ground truth",
    ] = "matched"
    cls: Annotated[float, NOT_NEGATIVE, "weight of the focal loss"] = 2.0
    l1: Annotated[float, NOT_NEGATIVE, "weight of the L1 loss of boxes"] = 5.0
    giou: Annotated[float, NOT_NEGATIVE, "weight of the GIoU loss"] = 2.0
    reid: Annotated[float, NOT_NEGATIVE, "weight of the embedding loss (Eq. 14)"] = 5.0
    reid_reduction: Annotated[
        Literal["mean", "sum"], "Eq. 14 over the matched predictions: their mean, or the sum of each image's"
    ] = "mean"
    candidates: Annotated[int, AT_LEAST_1, "IoUs that are summed to a ground truth's number of matches (simota)"] = 5
    centre_radius: Annotated[
        float, POSITIVE, "half side of the centre region, in sides of the ground truth (simota)"
    ] = 2.5
    alpha: Annotated[float, FRACTION, "alpha of the focal loss"] = 0.25
    gamma: Annotated[float, NOT_NEGATIVE, "gamma of the focal loss"] = 2.0


class Match(NamedTuple):
    """matched: bool [N]; gt: int32 [N], the ground truth of each proposal (0 where unmatched)."""

    matched: jax.Array
    gt: jax.Array


def focal_cost(logits: jax.Array, alpha: float, gamma: float) -> jax.Array:
    """What calling a proposal a person costs: focal(1) - focal(0), [N] (Lin et al. 2017; DETR-style matching)."""
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
    """Cost [N,M] and IoU [N,M] of every pair; padded ground truths cost FORBIDDEN and have IoU 0.

    boxes, gt_boxes: xyxy pixels; image_size: [2] (h, w); embeddings as predicted; gt_embeddings unit norm,
    or zero where none is known: of such pairs the embedding costs nothing.
    """
    wh = jnp.concatenate([image_size[::-1]] * 2).astype(jnp.float32)
    ious = box_ops.pairwise(box_ops.iou, boxes, gt_boxes) * mask
    cost = spec.cls * focal_cost(logits, spec.alpha, spec.gamma)[:, None]
    cost += spec.l1 * jnp.abs(boxes[:, None] / wh - gt_boxes[None] / wh).sum(-1)
    cost -= spec.giou * box_ops.pairwise(box_ops.giou, boxes, gt_boxes)
    squared = jnp.sum((embeddings[:, None] - gt_embeddings[None]) ** 2, axis=-1)
    cost += spec.reid * jnp.sqrt(squared + 1e-12) * jnp.any(gt_embeddings != 0, axis=-1)

    centre = box_ops.to_cxcywh(boxes)[:, None, :2]
    gt = box_ops.to_cxcywh(gt_boxes)[None]
    offset = jnp.abs(centre - gt[..., :2])
    in_box = jnp.all(offset < gt[..., 2:] / 2, axis=-1) & mask
    in_centre = jnp.all(offset < gt[..., 2:] * spec.centre_radius, axis=-1) & mask
    if spec.rule == "simota":
        cost += OUTSIDE * ~(in_box & in_centre)
        cost += FOREIGN * ~(in_box | in_centre).any(axis=1, keepdims=True)
    return jnp.where(mask, cost, FORBIDDEN), ious


def largest(values: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """As `jax.lax.top_k` of [M,N]: values and columns [M,count]. For `top_k` XLA gathers the batch of all devices."""

    def take(left: jax.Array, _: None) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        best = jnp.argmax(left, axis=1).astype(jnp.int32)
        found = jnp.take_along_axis(left, best[:, None], axis=1)[:, 0]
        return jnp.where(jnp.arange(values.shape[1]) == best[:, None], -jnp.inf, left), (found, best)

    found, columns = jax.lax.scan(take, values, None, length=count)[1]
    return found.T, columns.T


def simota(cost: jax.Array, ious: jax.Array, mask: jax.Array, candidates: int) -> Match:
    """Each ground truth takes its k cheapest predictions, k = the sum of its `candidates` largest IoUs, at least 1.

    A prediction that several ground truths take goes to the cheapest of them. A ground truth that is left without one
    takes its cheapest prediction that is still free (none, if none is), until nothing changes.
    """
    num_proposals, gts = cost.shape
    most = min(candidates, num_proposals)  # an IoU is at most 1, so no ground truth wants more
    wanted = jnp.maximum(largest(ious.T, most)[0].sum(-1).astype(jnp.int32), 1)
    cheap = largest(-cost.T, most)[1]  # [M, most]; among equals the lower proposal
    cheap = jnp.where((jnp.arange(most) < wanted[:, None]) & mask[:, None], cheap, num_proposals)
    taken = jnp.zeros(cost.shape, bool).at[cheap, jnp.arange(gts)[:, None]].set(True, mode="drop")
    cheapest = jax.nn.one_hot(jnp.argmin(jnp.where(taken, cost, jnp.inf), axis=1), gts, dtype=bool)
    taken &= cheapest

    def unmet(carry: tuple[jax.Array, jax.Array]) -> jax.Array:
        taken, rounds = carry
        return jnp.any(mask & ~taken.any(axis=0)) & (rounds < gts)

    def serve(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        taken, rounds = carry
        free = ~taken.any(axis=1)
        hungry = mask & ~taken.any(axis=0)
        choice = jnp.where(free[:, None] & hungry, cost, jnp.inf)
        best = jax.nn.one_hot(jnp.argmin(choice, axis=0), num_proposals, axis=0, dtype=bool) & jnp.isfinite(choice)
        winner = jax.nn.one_hot(jnp.argmin(jnp.where(best, cost, jnp.inf), axis=1), gts, dtype=bool)
        return taken | (best & winner), rounds + 1

    taken, _ = jax.lax.while_loop(unmet, serve, (taken, jnp.int32(0)))
    return Match(taken.any(axis=1), jnp.argmax(taken, axis=1).astype(jnp.int32))


def hungarian(cost: jax.Array, mask: jax.Array) -> Match:
    """The paper's bipartite matching: each ground truth gets one prediction, at minimum total cost.

    cost: [N,M] (padded columns may hold anything), mask: [M]. With more ground truths than predictions every prediction
    gets a ground truth.
    """
    num_proposals, gts = cost.shape
    known = mask & jnp.isfinite(cost)  # a diverged model's NaNs must not make the search endless
    dearest = jnp.maximum(jnp.max(cost, initial=-jnp.inf, where=known), -FORBIDDEN)
    table = jnp.where(known, cost, dearest + 1).T
    # Dummy rows, dearer than any proposal, for the ground truths that get none: used only when all are taken.
    table = jnp.pad(table, ((0, 0), (0, max(gts - num_proposals, 0))), constant_values=dearest + 2)
    seat = assign(table, mask)
    seat = jnp.where(mask & (seat < num_proposals), seat, num_proposals)
    matched = jnp.zeros(num_proposals, bool).at[seat].set(True, mode="drop")
    gt = jnp.zeros(num_proposals, jnp.int32).at[seat].set(jnp.arange(gts, dtype=jnp.int32), mode="drop")
    return Match(matched, gt)


def match(cost: jax.Array, ious: jax.Array, mask: jax.Array, spec: MatchOptions) -> Match:
    """Matches one image: cost and ious [N,M], mask [M] of real ground truths -> Match."""
    if spec.rule == "hungarian":
        return hungarian(cost, mask)
    return simota(cost, ious, mask, spec.candidates)
