"""Collaborative denoising layer (paper section IV-B3, Fig. 3): noisy boxes and embeddings -> people.

Legend: B image, N proposal, K cell of a box (S*S), C channel, H head, D embedding, E width of the dynamic kernels.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from psdiff_jax.options import AT_LEAST_1, NOT_NEGATIVE, Need


@dataclass(frozen=True)
class CDLOptions:
    """Sizes and switches of the layer (a part of config.model)."""

    dim: Annotated[int, AT_LEAST_1, "C, channels of the features (the FPN's)"] = 256
    embedding_dim: Annotated[int, AT_LEAST_1, "D, width of a re-ID embedding"] = 256
    side: Annotated[int, AT_LEAST_1, "S of RoIAlign's S x S cells"] = 7
    heads: Annotated[int, AT_LEAST_1, "attention heads"] = 8
    dynamic_width: Annotated[int, AT_LEAST_1, "E, width of the dynamic convolution"] = 8
    self_attention: Annotated[bool, "self-attention over the cells of a box (Table IV b)"] = True
    dynamic_conv: Annotated[bool, "dynamic convolution (Table IV b)"] = True
    cross_attention: Annotated[bool, "cross-attention from the embedding to the cells (Table IV b)"] = True
    cascade: Annotated[
        Literal["paper", "residual", "parallel"],
        "boxes from e0_hat (paper), e0_hat + W F_c (residual) or F_c (parallel) (Table IV c); e0_hat without what "
        "a row read-out adds",
    ] = "residual"
    head_init: Annotated[
        Literal["small", "xavier"], "initialisation of the embedding, score and delta heads: small normal, or Xavier"
    ] = "small"
    pool: Annotated[Literal["mean", "flatten"], "mean over the cells, or a linear layer over all of them"] = "mean"
    proposal_attention: Annotated[bool, "self-attention across the proposals of an image"] = False
    time_dim: Annotated[int, AT_LEAST_1, "width of the time MLP"] = 768
    towers: Annotated[int, NOT_NEGATIVE, "hidden layers of the box tower"] = 1

    def check(self, need: Need) -> None:
        need(self.dim % self.heads == 0, "heads", "must divide config.model.dim")


class Prediction(NamedTuple):
    """What one denoising step says: logits [B,N], box deltas [B,N,4], embeddings [B,N,D] (not normalised).

    hidden [B,N,2C]: what the embeddings were made from.
    """

    logits: jax.Array
    deltas: jax.Array
    embeddings: jax.Array
    hidden: jax.Array


def linear(cin: int, cout: int, *, rngs: nnx.Rngs, bias: bool = True) -> nnx.Linear:
    return nnx.Linear(cin, cout, use_bias=bias, kernel_init=nnx.initializers.xavier_uniform(), rngs=rngs)


class Attention(nnx.Module):
    """Multi-head attention with float32 softmax: query [...,Q,C], memory [...,K,C] -> [...,Q,C].

    `read` is the same for one query, [...,C], with far less arithmetic.
    """

    def __init__(self, dim: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.query, self.key, self.value, self.out = (linear(dim, dim, rngs=rngs) for _ in range(4))

    def __call__(self, query: jax.Array, memory: jax.Array) -> jax.Array:
        q, k, v = (
            rearrange(project(x), "... k (h c) -> ... k h c", h=self.heads)
            for project, x in ((self.query, query), (self.key, memory), (self.value, memory))
        )
        logits = jnp.einsum("...qhc,...khc->...hqk", q, k).astype(jnp.float32) * q.shape[-1] ** -0.5
        weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
        return self.out(rearrange(jnp.einsum("...hqk,...khc->...qhc", weights, v), "... q h c -> ... q (h c)"))

    def read(self, query: jax.Array, memory: jax.Array) -> jax.Array:
        """`self(query[..., None, :], memory)[..., 0, :]`: query [...,C], memory [...,K,C] -> [...,C].

        With a single query the projections of keys and values may be moved to its side, q (W x) = (q W) x, so that
        they cost 2 C^2 a box and not 2 K C^2. The bias of the keys adds the same to every logit of a head: left out.
        """
        heads = partial(rearrange, pattern="... (h c) -> ... h c", h=self.heads)
        keys, values, bias = (
            heads(cast(nnx.Param, v)[...]) for v in (self.key.kernel, self.value.kernel, self.value.bias)
        )
        q = heads(self.query(query))
        logits = jnp.einsum("...hi,...ki->...hk", jnp.einsum("...hc,ihc->...hi", q, keys), memory)
        weights = jax.nn.softmax(logits.astype(jnp.float32) * q.shape[-1] ** -0.5, axis=-1).astype(memory.dtype)
        seen = jnp.einsum("...hk,...ki->...hi", weights, memory)
        return self.out(rearrange(jnp.einsum("...hi,ihc->...hc", seen, values) + bias, "... h c -> ... (h c)"))


class DynamicConv(nnx.Module):
    """Two 1x1 convolutions whose kernels F_r produces (Sparse R-CNN's interaction): [..,K,C], [..,C] -> [..,K,C]."""

    def __init__(self, dim: int, width: int, *, rngs: nnx.Rngs):
        self.width = width
        self.kernels = linear(dim, 2 * dim * width, rngs=rngs)
        self.norm1, self.norm2 = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(dim, rngs=rngs)

    def __call__(self, cells: jax.Array, query: jax.Array) -> jax.Array:
        first, second = jnp.split(self.kernels(query), 2, axis=-1)
        first = rearrange(first, "... (c e) -> ... c e", e=self.width)
        second = rearrange(second, "... (e c) -> ... e c", e=self.width)
        hidden = nnx.relu(self.norm1(jnp.einsum("...kc,...ce->...ke", cells, first)))
        return nnx.relu(self.norm2(jnp.einsum("...ke,...ec->...kc", hidden, second)))


class ScaleShift(nnx.Module):
    """Time conditioning: x (1 + scale(t)) + shift(t). x [B,N,C], time [B,T] -> [B,N,C]."""

    def __init__(self, time_dim: int, dim: int, *, rngs: nnx.Rngs):
        self.project = linear(time_dim, 2 * dim, rngs=rngs)

    def __call__(self, x: jax.Array, time: jax.Array) -> jax.Array:
        scale, shift = jnp.split(self.project(nnx.silu(time))[:, None], 2, axis=-1)
        return x * (1 + scale) + shift


def sinusoid(t: jax.Array, dim: int = 256) -> jax.Array:
    """Sinusoidal code of integer times [B] -> [B,dim] (Vaswani et al. 2017, section 3.5)."""
    frequencies = jnp.exp(-jnp.log(10000.0) * jnp.arange(dim // 2) / (dim // 2))
    angles = t.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class CDL(nnx.Module):
    """One collaborative denoising layer.

    Call: cells [B,N,K,C] (F_d from RoIAlign), embedding state e_t / s2 [B,N,D], t int [B] -> Prediction.
    """

    def __init__(self, options: CDLOptions, *, rngs: nnx.Rngs):
        self.options = options
        c, d = options.dim, options.embedding_dim
        norm = partial(nnx.LayerNorm, rngs=rngs)

        def head(cin: int, cout: int, deviation: float, **given: Any) -> nnx.Linear:
            xavier = options.head_init == "xavier"
            init = nnx.initializers.xavier_uniform() if xavier else nnx.initializers.normal(deviation)
            return nnx.Linear(cin, cout, kernel_init=init, rngs=rngs, **given)

        # Without it attention and 1x1 dynamic kernels cannot tell where in the box a cell lies.
        self.position = nnx.Param(jax.random.normal(rngs.params(), (options.side**2, c)) * 0.02)
        self.embed = linear(d, c, rngs=rngs)
        self.embed_norm = norm(c)
        self.self_attention = Attention(c, options.heads, rngs=rngs) if options.self_attention else None
        self.self_norm: Any = norm(c) if options.self_attention else None
        self.dynamic_conv = DynamicConv(c, options.dynamic_width, rngs=rngs) if options.dynamic_conv else None
        self.dynamic_norm: Any = norm(c) if options.dynamic_conv else None
        self.cross_attention = Attention(c, options.heads, rngs=rngs) if options.cross_attention else None
        self.cross_norm: Any = norm(c) if options.cross_attention else None
        self.flatten = linear(options.side**2 * c, c, rngs=rngs) if options.pool == "flatten" else None
        self.pool_norm = norm(c)
        self.proposal_attention = Attention(2 * c, options.heads, rngs=rngs) if options.proposal_attention else None
        self.proposal_norm: Any = norm(2 * c) if options.proposal_attention else None
        self.time1, self.time2 = (
            linear(256, options.time_dim, rngs=rngs),
            linear(options.time_dim, options.time_dim, rngs=rngs),
        )
        self.collaborate_time = ScaleShift(options.time_dim, 2 * c, rngs=rngs)
        self.embedding_hidden = linear(2 * c, 2 * c, rngs=rngs)
        self.embedding_norm = norm(2 * c)
        # Small, so that e0_hat starts near the length of its target (1) and Eq. 14 does not dominate the loss.
        self.embedding_head = head(2 * c, d, 0.01)
        self.skip: Any = linear(2 * c, d, rngs=rngs) if options.cascade != "paper" else None
        self.object_time = ScaleShift(options.time_dim, d, rngs=rngs)
        self.tower = nnx.List([linear(d, d, rngs=rngs) for _ in range(options.towers)])
        self.tower_norm = nnx.List([norm(d) for _ in range(options.towers)])
        self.score = head(d, 1, 0.01, bias_init=nnx.initializers.constant(-4.595))  # prior 0.01 (focal loss)
        self.delta = head(d, 4, 0.001)

    def leave_embeddings_to_readout(self) -> None:
        """What the layer adds to a read-out's embeddings becomes zero: it was learned beside another read-out, or as a
        feature of the detection head where there is no teacher."""
        nnx.update(self.embedding_head, jax.tree.map(jnp.zeros_like, nnx.state(self.embedding_head)))

    def interact(self, cells: jax.Array, query: jax.Array) -> jax.Array:
        """Collaborative interaction (Fig. 3): F_d [B,N,K,C], F_r [B,N,C] -> F_c [B,N,2C]."""
        cells = cells + self.position[...].astype(cells.dtype)
        if self.self_attention is not None:
            cells = self.self_norm(cells + self.self_attention(cells, cells))
        enhanced = cells
        if self.dynamic_conv is not None:
            enhanced = self.dynamic_norm(cells + self.dynamic_conv(cells, query))
        if self.cross_attention is not None:
            query = self.cross_norm(query + self.cross_attention.read(query, cells))
        if self.flatten is not None:
            pooled = self.flatten(rearrange(enhanced, "b n k c -> b n (k c)"))
        else:
            pooled = enhanced.mean(axis=-2)
        return jnp.concatenate([self.pool_norm(pooled), query], axis=-1)

    def __call__(self, cells: jax.Array, embedding: jax.Array, t: jax.Array) -> Prediction:
        dtype = cells.dtype
        time = self.time2(nnx.silu(self.time1(sinusoid(t)))).astype(dtype)
        query = self.embed_norm(self.embed(embedding.astype(dtype)))
        joint = self.interact(cells, query)
        if self.proposal_attention is not None:
            joint = self.proposal_norm(joint + self.proposal_attention(joint, joint))
        joint = self.collaborate_time(joint, time)

        hidden = nnx.relu(self.embedding_norm(self.embedding_hidden(joint)))
        e0 = self.embedding_head(hidden)
        objects = e0 if self.options.cascade == "paper" else self.skip(joint)
        if self.options.cascade == "residual":
            objects = objects + e0
        objects = self.object_time(objects, time)
        for layer, layer_norm in zip(self.tower, self.tower_norm, strict=True):
            objects = nnx.relu(layer_norm(layer(objects)))
        logits, deltas = self.score(objects)[..., 0], self.delta(objects)
        logits, deltas, e0 = (v.astype(jnp.float32) for v in (logits, deltas, e0))
        return Prediction(logits, deltas, e0, hidden)
