"""The set loss (paper Eq. 13 and 14).

Legend: B image, N proposal, M ground truth (padded), D embedding.
"""

import jax
import jax.numpy as jnp

from psdiff_jax.models.psdiff import Estimate
from psdiff_jax.ops import boxes as box_ops
from psdiff_jax.training.matcher import MatchOptions, cost_matrix, match


def sigmoid_focal(logits: jax.Array, targets: jax.Array, alpha: float = 0.25, gamma: float = 2.0) -> jax.Array:
    """Focal loss of Lin et al. 2017 (Eq. 5) on logits, elementwise; targets are 0 or 1."""
    p = jax.nn.sigmoid(logits)
    cross_entropy = -targets * jax.nn.log_sigmoid(logits) - (1 - targets) * jax.nn.log_sigmoid(-logits)
    p_t = p * targets + (1 - p) * (1 - targets)
    alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
    return alpha_t * (1 - p_t) ** gamma * cross_entropy


def quality_focal(logits: jax.Array, targets: jax.Array, beta: float = 2.0) -> jax.Array:
    """Quality focal loss (Li et al. 2020, "Generalized Focal Loss", Eq. 4), elementwise; targets lie in [0, 1]."""
    cross_entropy = -targets * jax.nn.log_sigmoid(logits) - (1 - targets) * jax.nn.log_sigmoid(-logits)
    return jnp.abs(targets - jax.nn.sigmoid(logits)) ** beta * cross_entropy


def score_loss(logits: jax.Array, matched: jax.Array, gt: jax.Array, ious: jax.Array, spec: MatchOptions) -> jax.Array:
    """Elementwise [B,N] loss of the scores, by `spec.score`. matched: bool [B,N]; gt: int [B,N]; ious: [B,N,M]."""
    if spec.score == "matched":
        return sigmoid_focal(logits, matched.astype(jnp.float32), spec.alpha, spec.gamma)
    best = ious.max(-1)
    if spec.score == "matched_iou":
        best = matched * jnp.take_along_axis(ious, gt[..., None], axis=-1)[..., 0]
    return quality_focal(logits, best, spec.gamma)


def set_loss(estimate: Estimate, batch: dict[str, jax.Array], spec: MatchOptions) -> dict[str, jax.Array]:
    """Loss terms of one layer, each weighted as in Eq. 13; their sum is the loss.

    batch: boxes [B,M,4] xyxy pixels, boxes_mask [B,M], embeddings [B,M,D] unit norm, image_size [B,2].
    Terms are divided by the number of matched predictions of the whole (global) batch, at least one. Under `jit` with
    a sharded batch that sum crosses the devices by itself. Ground truths without an embedding (all zeros) are left out
    of the embedding term, which `spec.reid_reduction` divides by their number, or by the number of images.
    """

    def one(logits, boxes, embeddings, gt_boxes, gt_embeddings, mask, image_size):
        cost, ious = cost_matrix(logits, boxes, embeddings, gt_boxes, gt_embeddings, mask, image_size, spec)
        return match(cost, ious, mask, spec), ious

    frozen = jax.lax.stop_gradient(estimate)
    (matched, gt), ious = jax.vmap(one)(
        frozen.logits,
        frozen.boxes,
        frozen.embeddings,
        batch["boxes"],
        batch["embeddings"],
        batch["boxes_mask"],
        batch["image_size"],
    )
    weight = matched.astype(jnp.float32)
    count = jnp.maximum(weight.sum(), 1.0)

    target_boxes = jnp.take_along_axis(batch["boxes"], gt[..., None], axis=1)
    target_embeddings = jnp.take_along_axis(batch["embeddings"], gt[..., None], axis=1)
    wh = jnp.concatenate([batch["image_size"][:, ::-1]] * 2, axis=-1)[:, None].astype(jnp.float32)
    l1 = jnp.abs(estimate.boxes / wh - target_boxes / wh).sum(-1)
    giou = box_ops.giou(estimate.boxes, target_boxes)
    squared = jnp.sum((estimate.embeddings - target_embeddings) ** 2, axis=-1)
    known = weight * jnp.any(target_embeddings != 0, axis=-1)
    embeddings = jnp.maximum(known.sum(), 1.0) if spec.reid_reduction == "mean" else known.shape[0]
    return {
        "cls": spec.cls * score_loss(estimate.logits, matched, gt, ious, spec).sum() / count,
        "l1": spec.l1 * (weight * l1).sum() / count,
        "giou": spec.giou * (weight * (1 - giou)).sum() / count,
        "reid": spec.reid * (known * jnp.sqrt(squared + 1e-12)).sum() / embeddings,
    }


def embedding_loss(embeddings: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
    """Eq. 14 for embeddings [B,M,D] of the ground truths themselves: mean distance to those that are known."""
    squared = jnp.sum((embeddings - batch["embeddings"]) ** 2, axis=-1)
    known = batch["boxes_mask"] & jnp.any(batch["embeddings"] != 0, axis=-1)
    return jnp.sum(known * jnp.sqrt(squared + 1e-12)) / jnp.maximum(known.sum(), 1)
