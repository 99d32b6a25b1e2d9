"""The dual noise generator (paper section IV-B2): ground truth boxes and embeddings -> noisy states, Eq. 10.

Legend: B image, M ground truth (padded), N proposal, D embedding.

A state is the pair (box, embedding) that is diffused. Boxes are normalised cxcywh mapped to [-s1, s1]; embeddings
are unit vectors times s2.
"""

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from psdiff_jax.diffusion.schedule import cosine_alpha_bar
from psdiff_jax.ops import boxes as box_ops
from psdiff_jax.ops.normalize import normalize
from psdiff_jax.options import AT_LEAST_1, POSITIVE


class State(NamedTuple):
    """What is diffused: box [B,N,4] in [-s1, s1], embedding [B,N,D]."""

    box: jax.Array
    embedding: jax.Array


@dataclass(frozen=True)
class DiffusionOptions:
    """config.diffusion: constants of the process."""

    timesteps: Annotated[int, AT_LEAST_1, "T, times of the forward process"] = 1000
    box_snr_scale: Annotated[float, POSITIVE, "signal scale of boxes (s1)"] = 2.0
    embedding_snr_scale: Annotated[float, POSITIVE, "signal scale of embeddings (s2)"] = 3.0


@dataclass(frozen=True, kw_only=True)
class Diffusion(DiffusionOptions):
    """The process for embeddings of a width."""

    embedding_dim: int

    def alpha_bar(self, t: jax.Array) -> jax.Array:
        """Cumulative signal power at integer times t in 0..T, float32, shaped as t."""
        table = cosine_alpha_bar(self.timesteps)
        return jnp.asarray(table.astype(np.float32))[t]

    def encode_boxes(self, boxes: jax.Array, image_size: jax.Array) -> jax.Array:
        """xyxy pixels [B,N,4], image_size [B,2] (h, w) -> diffused form in [-s1, s1]."""
        wh = image_size[:, ::-1].astype(jnp.float32)
        unit = box_ops.to_cxcywh(boxes / jnp.concatenate([wh, wh], axis=-1)[:, None])
        return (unit * 2 - 1) * self.box_snr_scale

    def decode_boxes(self, box_state: jax.Array, image_size: jax.Array) -> jax.Array:
        """Diffused form [B,N,4] (clamped to +-s1) -> xyxy pixels."""
        wh = image_size[:, ::-1].astype(jnp.float32)
        unit = (jnp.clip(box_state, -self.box_snr_scale, self.box_snr_scale) / self.box_snr_scale + 1) / 2
        return box_ops.to_xyxy(unit) * jnp.concatenate([wh, wh], axis=-1)[:, None]

    def encode_embeddings(self, embeddings: jax.Array) -> jax.Array:
        """[...,D] -> s2 Norm(e)."""
        return normalize(embeddings) * self.embedding_snr_scale

    def clean(self, boxes: jax.Array, embeddings: jax.Array, image_size: jax.Array) -> State:
        """The clean state of boxes (xyxy pixels) and embeddings; boxes clamped, embeddings renormalised."""
        box = jnp.clip(self.encode_boxes(boxes, image_size), -self.box_snr_scale, self.box_snr_scale)
        return State(box, self.encode_embeddings(embeddings))

    def add_noise(self, state: State, noise: State, t: jax.Array) -> State:
        """Eq. 10: sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps. t: [B], the same for both halves of the state."""
        a = self.alpha_bar(t)[:, None, None]
        return State(*(jnp.sqrt(a) * x + jnp.sqrt(1 - a) * eps for x, eps in zip(state, noise, strict=True)))

    def gaussian(self, key: jax.Array, num_proposals: int) -> State:
        """Standard normal state of one image: box [N,4], embedding [N,D]."""
        box_key, embedding_key = jax.random.split(key)
        return State(
            jax.random.normal(box_key, (num_proposals, 4)),
            jax.random.normal(embedding_key, (num_proposals, self.embedding_dim)),
        )


def repeat_gt(key: jax.Array, mask: jax.Array, num_proposals: int) -> jax.Array:
    """Which ground truth each proposal starts from: int32 [N] into the M ground truths of one image.

    The valid ground truths (mask [M]) are shuffled and repeated evenly: their counts differ by at most one. An image
    without a person gives index 0 everywhere; the caller replaces those proposals by noise.
    """
    order = jnp.argsort(jnp.where(mask, 0.0, 2.0) + jax.random.uniform(key, mask.shape))
    return order[jnp.arange(num_proposals) % jnp.maximum(mask.sum(), 1)]
