"""Running the model on images: boxes, scores and unit embeddings for several numbers of steps.

Legend: B image, N proposal, M known person (padded), D embedding, K number of steps.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from psdiff_jax.diffusion.noise import State
from psdiff_jax.diffusion.samplers import Known, Noise, QueryBox, SamplerOptions, sample
from psdiff_jax.models.psdiff import Condition, Estimate, PSDiff, merge
from psdiff_jax.ops import boxes as box_ops
from psdiff_jax.ops.nms import best_of_rivals, nms
from psdiff_jax.ops.normalize import normalize

OVERLAP = 0.25  # IoU; boxes that overlap less are of two people, however alike


class Predictions(NamedTuple):
    """boxes [B,N,4] xyxy pixels of the network image; scores [B,N]; embeddings [B,N,D] unit norm; keep bool [B,N].

    `keep` marks what survives non-maximum suppression and `sampler.same_person`, and with `model.reid_crops` who was
    embedded as well. A held query is proposal 0. With an
    ensemble over K steps N is K times the sampler's proposals, those of the last step first.
    """

    boxes: Any  # jax.Array; np.ndarray once fetched, the others too
    scores: Any
    embeddings: Any
    keep: Any


class KnownPeople(NamedTuple):
    """People to begin from: boxes [B,M,4] xyxy pixels of the network image; embeddings [B,M,D]; valid bool [B,M]."""

    boxes: Any
    embeddings: Any
    valid: Any


def pool(trajectory: Estimate) -> Estimate:
    """The estimates of all K steps [K,B,N,..] as one set of proposals [B,K*N,..], those of the last step first."""
    return jax.tree.map(lambda v: rearrange(v[::-1], "k b n ... -> b (k n) ..."), trajectory)


@dataclass(frozen=True)
class Predictor:
    """The model with a sampler. Make one, then call it with the parameters: each number of steps compiles once."""

    graphdef: nnx.GraphDef
    sampler: SamplerOptions

    @partial(jax.jit, static_argnums=(0, 5))
    def __call__(
        self,
        params: Any,
        rest: Any,
        batch: dict[str, jax.Array],
        key: jax.Array,
        steps: tuple[int, ...],
        query_boxes: jax.Array | None = None,
        has_query: jax.Array | None = None,
        known_people: KnownPeople | None = None,
    ) -> dict[int, Predictions]:
        """One batch -> {K: Predictions} for every K in `steps`. Image features are computed once.

        batch: image uint8 [B,H,W,3], image_size [B,2], image_index [B] (noise is drawn from it, so that the result
        does not depend on the batch). query_boxes: [B,4] xyxy pixels to hold in proposal 0, in the images that
        `has_query` [B] names (None: in all). known_people: sampling begins from them (a warm start).
        """
        model = merge(self.graphdef, params, rest, folded=True)
        condition = model.features(batch["image"], batch["image_size"])
        keys = jax.vmap(partial(jax.random.fold_in, key))(batch["image_index"])
        known = query = None
        if known_people is not None:
            boxes, embeddings, valid = known_people
            known = Known(model.diffusion.clean(boxes, embeddings, batch["image_size"]), valid)
        if query_boxes is not None:
            active = jnp.ones(query_boxes.shape[0], bool) if has_query is None else has_query
            query = pixel_query(model, condition, query_boxes, active)
        return {k: predict(model, condition, self.sampler, keys, k, query, known) for k in steps}


def pixel_query(model: PSDiff, condition: Condition, boxes: jax.Array, active: jax.Array) -> QueryBox:
    """Boxes [B,4] (xyxy pixels) to hold where `active` bool [B] says so."""
    return QueryBox(model.diffusion.encode_boxes(boxes[:, None], condition.image_size)[:, 0], active)


def predict(
    model: PSDiff,
    condition: Condition,
    sampler: SamplerOptions,
    keys: Noise,
    steps: int,
    query: QueryBox | None = None,
    known: Known | None = None,
) -> Predictions:
    """Samples people in `steps` steps from what `model.features` made of the images.

    keys, query, known: as `sample` takes them.
    """
    held = None if query is None else query.held(sampler.num_proposals)

    def denoise(state: State, t: jax.Array) -> tuple[State, jax.Array, Estimate]:
        estimate = model.denoise(condition, state, t, held)[-1]
        return *model.clean(condition, estimate), estimate

    trajectory = sample(denoise, model.diffusion, sampler, keys, steps, query, known)
    estimate = pool(trajectory) if sampler.ensemble else jax.tree.map(lambda v: v[-1], trajectory)
    boxes = box_ops.clip(estimate.boxes, condition.image_size)
    scores, embeddings = jax.nn.sigmoid(estimate.logits), normalize(estimate.embeddings)
    if sampler.average_threshold < 1:
        boxes, embeddings = averaged(boxes, embeddings, scores, sampler.average_threshold)
    found = Predictions(boxes, scores, embeddings, nms(boxes, scores, sampler.nms_threshold))
    if model.options.reid_crops:
        found = embedded_by_crops(model, condition, found, sampler.renewal_threshold, query)
    if sampler.same_person < 1:
        found = one_box_a_person(found, sampler.same_person)
    return found


def embedded_by_crops(
    model: PSDiff, condition: Condition, found: Predictions, threshold: float, query: QueryBox | None = None
) -> Predictions:
    """The reid_crops best people that NMS keeps and that score `threshold` or more, at least one, with what a crop says
    in the place of their denoised embedding; nobody else is kept. Where a query is held, it alone, with the box that is
    given."""
    boxes, rank = found.boxes, jnp.where(found.keep, found.scores, -1)
    if query is not None:
        held = query.held(boxes.shape[1])
        given = model.diffusion.decode_boxes(query.box[:, None], condition.image_size)
        boxes = jnp.where(held[..., None], given, boxes)
        rank = jnp.where(query.active[:, None], jnp.where(held, jnp.inf, -1), rank)
    top, best = jax.lax.top_k(rank, min(model.options.reid_crops, boxes.shape[1]))
    wanted = (top >= threshold) | (jnp.arange(top.shape[1]) == 0)  # as NMS, they leave somebody
    embeddings = model.embed_crops(condition, jnp.take_along_axis(boxes, best[..., None], axis=1), wanted)
    is_best = (best[..., None] == jnp.arange(boxes.shape[1])) & wanted[..., None]  # [B,K,N]
    placed = jnp.einsum("bkn,bkd->bnd", is_best.astype(embeddings.dtype), embeddings)
    embedded = is_best.any(axis=1)
    return found._replace(
        embeddings=jnp.where(embedded[..., None], placed, found.embeddings), keep=found.keep & embedded
    )


def averaged(
    boxes: jax.Array, embeddings: jax.Array, scores: jax.Array, threshold: float
) -> tuple[jax.Array, jax.Array]:
    """Boxes [B,N,4] and unit embeddings [B,N,D], each the mean of its own and of those whose boxes overlap its box by
    an IoU of at least `threshold`, weighted by IoU and score: several proposals of one person have seen slightly
    different cells. For boxes this is the vote of Gidaris and Komodakis 2015 (section 5), by all proposals on all.
    """
    overlap = box_ops.pairwise(box_ops.iou, boxes, boxes)
    weight = jnp.where(overlap >= threshold, overlap, 0) * scores[:, None]
    weight = jnp.where(jnp.eye(boxes.shape[1], dtype=bool), jnp.maximum(scores, 1e-6)[:, None], weight)
    weight /= weight.sum(axis=-1, keepdims=True)
    voted = jnp.einsum("bnm,bmx->bnx", weight, boxes, precision=jax.lax.Precision.HIGHEST)
    return voted, normalize(jnp.einsum("bnm,bmd->bnd", weight, embeddings))


def one_box_a_person(found: Predictions, threshold: float) -> Predictions:
    """Of kept boxes with an IoU above `OVERLAP` and embeddings with a cosine above `threshold`, the best alone is kept:
    a second box of a person, which NMS lets pass, would rank among that person's true hits."""
    overlap = box_ops.pairwise(box_ops.iou, found.boxes, found.boxes) > OVERLAP
    cosine = jnp.einsum("bnd,bmd->bnm", found.embeddings, found.embeddings, precision=jax.lax.Precision.HIGHEST)
    scores = jnp.where(found.keep, found.scores, -jnp.inf)
    return found._replace(keep=best_of_rivals(overlap & (cosine > threshold), scores))
