"""Swin Transformer (Liu et al. 2021) as a backbone: four maps of strides 4 to 32.

Any image size: maps are padded to whole windows with zeros after norm1, which are attended to, as every published
implementation does. Windows of every second block are shifted, also where one window covers the map (as in detectors;
classifiers leave the shift out there). No stochastic depth: it would need a random key in the feature extractor.

Legend: B image, H W rows and columns, C channels, W window, T token of a window (window * window), A attention head.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from psdiff_jax.models.backbone import BackboneSpec, Path
from psdiff_jax.models.padding import clear_outside, valid_size

MASKED = -1e9  # a finite logit: exp gives exactly zero
INIT = nnx.initializers.truncated_normal(0.02)


@dataclass(frozen=True)
class SwinSpec(BackboneSpec):
    """What distinguishes one Swin from another.

    Attributes:
      embed_dim: channels of the first stage; each later stage has twice as many.
      depths: blocks in the stages; heads: attention heads in the stages.
      window: rows (and columns) of an attention window. mlp_ratio: hidden width of the MLP, relative.
      patch: pixels of a side of the first patches. epsilon: LayerNorm's.
    """

    embed_dim: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int = 7
    mlp_ratio: float = 4.0
    patch: int = 4
    epsilon: float = 1e-5

    @property
    def channels(self) -> tuple[int, ...]:
        """Output channels of the stages."""
        return tuple(self.embed_dim * 2**i for i in range(len(self.depths)))

    def make(self, *, rngs: nnx.Rngs) -> "Swin":
        return Swin(self, rngs=rngs)

    def is_decayed(self, path: Path) -> bool:
        """All but the tables of relative positions, which are biases (Liu et al. 2021 do not decay them)."""
        return "bias_table" not in path


SPECS = {
    "swin_t": SwinSpec(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "swin_s": SwinSpec(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "swin_b": SwinSpec(128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "swin_b_384": SwinSpec(128, (2, 2, 18, 2), (4, 8, 16, 32), window=12),
    "swin_toy": SwinSpec(8, (2, 1, 2, 2), (1, 2, 2, 4), window=3),
}


def split_windows(x: jax.Array, window: int) -> jax.Array:
    """[B,H,W,...] -> [B,W,T,...] windows."""
    return rearrange(x, "b (i y) (j x) ... -> b (i j) (y x) ...", y=window, x=window)


def join_windows(x: jax.Array, window: int, columns: int) -> jax.Array:
    """[B,W,T,C] -> [B,H,W,C]; `columns` is the width of the map."""
    return rearrange(x, "b (i j) (y x) c -> b (i y) (j x) c", y=window, x=window, j=columns // window)


def relative_index(window: int) -> np.ndarray:
    """Row of the bias table for each (query, key) of a window, [T,T]: offsets -(window-1)..window-1, rows first."""
    rows, columns = (axis.ravel() for axis in np.indices((window, window)))
    offset = [axis[:, None] - axis + window - 1 for axis in (rows, columns)]
    return offset[0] * (2 * window - 1) + offset[1]


def shift_mask(height: int, width: int, window: int, shift: int, valid: jax.Array | None) -> jax.Array:
    """Who may see whom in shifted windows: bool [B,W,T,T] for `valid` [B,2] rows and columns, [1,W,T,T] for None.

    The map is rolled up and left by `shift`, so its first rows stand beside its last and must not see them, nor (in an
    image smaller than the batch) beside what follows the image's own last window. An image alone would have its first
    rows in its own last window: they stand at the same places there, so the answer is the same.
    """
    regions = []
    for axis, length in enumerate((height, width)):
        places = np.roll(np.arange(length), -shift)
        end = np.full(1, length) if valid is None else -(-valid[:, axis] // window) * window
        regions.append(np.where(places < shift, 0, 1) + (places >= end[:, None]))
    token = split_windows(3 * regions[0][:, :, None] + regions[1][:, None, :], window)
    return token[..., :, None] == token[..., None, :]


class Attention(nnx.Module):
    """Self-attention within windows with a learned bias for each relative position: [B,W,T,C] -> the same."""

    def __init__(self, dim: int, heads: int, window: int, *, rngs: nnx.Rngs):
        self.heads, self.window = heads, window
        self.qkv = nnx.Linear(dim, 3 * dim, kernel_init=INIT, rngs=rngs)
        self.proj = nnx.Linear(dim, dim, kernel_init=INIT, rngs=rngs)
        self.bias_table = nnx.Param(INIT(rngs.params(), ((2 * window - 1) ** 2, heads), jnp.float32))

    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        q, k, v = rearrange(self.qkv(x), "b w t (three a c) -> three b w a t c", three=3, a=self.heads)
        logits = jnp.einsum("bwaqc,bwakc->bwaqk", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
        bias = self.bias_table[...][relative_index(self.window)].astype(jnp.float32)
        logits = logits + rearrange(bias, "q k a -> a q k")
        if mask is not None:
            logits = jnp.where(mask[:, :, None], logits, MASKED)
        weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
        return self.proj(rearrange(jnp.einsum("bwaqk,bwakc->bwaqc", weights, v), "b w a t c -> b w t (a c)"))


class MLP(nnx.Module):
    """Two linear layers with an exact GELU between."""

    def __init__(self, dim: int, hidden: int, *, rngs: nnx.Rngs):
        self.fc1 = nnx.Linear(dim, hidden, kernel_init=INIT, rngs=rngs)
        self.fc2 = nnx.Linear(hidden, dim, kernel_init=INIT, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(nnx.gelu(self.fc1(x), approximate=False))


class LayerNorm(nnx.LayerNorm):
    """LayerNorm over channels whose result has the dtype of its input; the variance as torch computes it."""

    def __init__(self, dim: int, epsilon: float, *, rngs: nnx.Rngs):
        super().__init__(dim, epsilon=epsilon, use_fast_variance=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(x).astype(x.dtype)


class Block(nnx.Module):
    """x + attention(norm1(x)), then x + mlp(norm2(x)) (Eq. 3)."""

    def __init__(self, dim: int, heads: int, shift: int, spec: SwinSpec, *, rngs: nnx.Rngs):
        self.window, self.shift = spec.window, shift
        self.norm1 = LayerNorm(dim, spec.epsilon, rngs=rngs)
        self.attn = Attention(dim, heads, spec.window, rngs=rngs)
        self.norm2 = LayerNorm(dim, spec.epsilon, rngs=rngs)
        self.mlp = MLP(dim, int(dim * spec.mlp_ratio), rngs=rngs)

    def __call__(self, x: jax.Array, image_size: jax.Array | None, stride: int) -> jax.Array:
        """`stride` is that of `x` [B,H,W,C]."""
        x = x + self.attend(clear_outside(self.norm1(x), image_size, stride), image_size, stride)
        return x + self.mlp(self.norm2(x))

    def attend(self, x: jax.Array, image_size: jax.Array | None, stride: int) -> jax.Array:
        """Attention within the windows, shifted or not, of a map that is zero outside the images."""
        height, width = x.shape[1:3]
        x = jnp.pad(x, ((0, 0), (0, -height % self.window), (0, -width % self.window), (0, 0)))
        rows, columns = x.shape[1:3]
        mask = None
        if self.shift:
            valid = None if image_size is None else valid_size(image_size, stride)
            mask = shift_mask(rows, columns, self.window, self.shift, valid)
            x = jnp.roll(x, (-self.shift, -self.shift), (1, 2))
        x = join_windows(self.attn(split_windows(x, self.window), mask), self.window, columns)
        if self.shift:
            x = jnp.roll(x, (self.shift, self.shift), (1, 2))
        return x[:, :height, :width]


class Merging(nnx.Module):
    """Four neighbours side by side (a column of two first, then the next), reduced to twice the channels of one."""

    def __init__(self, dim: int, epsilon: float, *, rngs: nnx.Rngs):
        self.norm = LayerNorm(4 * dim, epsilon, rngs=rngs)
        self.reduction = nnx.Linear(4 * dim, 2 * dim, use_bias=False, kernel_init=INIT, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        return self.reduction(self.norm(rearrange(x, "b (h y) (w x) c -> b h w (x y c)", y=2, x=2)))


class PatchEmbedding(nnx.Module):
    """A linear map of each patch of pixels, and LayerNorm."""

    def __init__(self, spec: SwinSpec, *, rngs: nnx.Rngs):
        side = (spec.patch, spec.patch)
        self.patch = spec.patch
        self.proj = nnx.Conv(3, spec.embed_dim, side, strides=side, padding="VALID", rngs=rngs)
        self.norm = LayerNorm(spec.embed_dim, spec.epsilon, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % self.patch), (0, -x.shape[2] % self.patch), (0, 0)))
        return self.norm(self.proj(x))


class Stage(nnx.Module):
    """Blocks, every second one with shifted windows; `merge` leads to the next stage (None in the last)."""

    def __init__(self, i: int, spec: SwinSpec, *, rngs: nnx.Rngs):
        dim = spec.channels[i]
        self.blocks = nnx.List(
            [Block(dim, spec.heads[i], j % 2 * (spec.window // 2), spec, rngs=rngs) for j in range(spec.depths[i])]
        )
        self.merge = Merging(dim, spec.epsilon, rngs=rngs) if i + 1 < len(spec.depths) else None


class Swin(nnx.Module):
    """The four stages of a Swin Transformer, each put out through a LayerNorm of its own.

    Call: images [B,H,W,3] float, 0..255 RGB -> four maps of strides 4, 8, 16 and 32, [B,ceil(H/s),ceil(W/s),C].
    `image_size` [B,2]: (h, w) of the valid pixels (None: all are). What is inside ceil(h/s) x ceil(w/s) does then not
    depend on how far the batch is padded to the right and below, nor on what it holds there; outside it means nothing.
    """

    def __init__(self, spec: SwinSpec, *, rngs: nnx.Rngs):
        self.spec = spec
        self.patch_embed = PatchEmbedding(spec, rngs=rngs)
        self.stages = nnx.List([Stage(i, spec, rngs=rngs) for i in range(len(spec.depths))])
        self.norms = nnx.List([LayerNorm(dim, spec.epsilon, rngs=rngs) for dim in spec.channels])

    def __call__(
        self,
        images: jax.Array,
        train: bool = False,
        dtype: Any = jnp.float32,
        image_size: jax.Array | None = None,
    ) -> tuple[jax.Array, ...]:
        del train  # there are no statistics: it is the same network in training
        x = self.patch_embed(clear_outside(self.spec.normalize(images, dtype), image_size))
        stride, outputs = self.spec.patch, []
        for stage, norm in zip(self.stages, self.norms, strict=True):
            for block in stage.blocks:
                x = checkpoint_name(block(x, image_size, stride), "block")
            outputs.append(norm(x))
            if stage.merge is not None:
                x = checkpoint_name(stage.merge(clear_outside(x, image_size, stride)), "block")
                stride *= 2
        return tuple(outputs)
