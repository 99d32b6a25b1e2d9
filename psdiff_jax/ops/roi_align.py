"""Multi-level bilinear RoIAlign (He et al. 2017; detectron2's aligned "V2" with torchvision's border rule).

Legend: B image, N box, S side of the grid of cells, R samples per cell and axis, H W rows and columns of a level,
C channel, L level.

A sample at coordinate c reads the feature map bilinearly; c is clamped to the map while it lies within one cell of
it, and reads zero beyond. Sampling positions are treated as constants: no gradient flows to the boxes (the box head
learns through its own output, as in detectron2).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from einops import rearrange


def assign_levels(boxes: jax.Array, num_levels: int, canonical_size: float = 224.0) -> jax.Array:
    """Pyramid level of each box, 0 = finest: clamp(floor(4 + log2(sqrt(area) / canonical)), 2, 5) - 2.

    boxes: [...,4] xyxy pixels -> int32 [...]. Source: FPN Eq. 1, with detectron2's 1e-8.
    """
    size = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    scale = jnp.sqrt(size[..., 0] * size[..., 1])
    level = jnp.floor(4 + jnp.log2(scale / canonical_size + 1e-8))
    return (jnp.clip(level, 2, num_levels + 1) - 2).astype(jnp.int32)


def sample_positions(
    start: jax.Array, end: jax.Array, stride: jax.Array, size: jax.Array, side: int, ratio: int
) -> tuple[jax.Array, jax.Array]:
    """Sampling coordinates along one axis: ([...,S*R] clamped to the map, [...,S*R] bool whether inside).

    start, end: [...] pixels of the image; stride: pixels a cell; size: cells of the map along this axis.
    """
    low, high = start / stride - 0.5, end / stride - 0.5
    offsets = (jnp.arange(side * ratio) + 0.5) / (side * ratio)
    position = low[..., None] + (high - low)[..., None] * offsets
    limit = jnp.asarray(size, position.dtype)[..., None]
    inside = (position >= -1) & (position <= limit)
    return jnp.clip(position, 0, limit - 1), inside


def _matmul_level(features: jax.Array, boxes: jax.Array, stride: int, side: int, ratio: int, chosen: jax.Array):
    """One level by two interpolation matmuls: [B,H,W,C], [B,N,4], chosen [B,N] -> [B,N,S,S,C]."""
    def weights(start: jax.Array, end: jax.Array, size: int) -> jax.Array:
        position, inside = sample_positions(start, end, stride, size, side, ratio)
        hat = jnp.maximum(1 - jnp.abs(position[..., None] - jnp.arange(size)), 0) * inside[..., None]
        return rearrange(hat, "b n (s r) k -> b n s r k", r=ratio).mean(axis=3)

    height, width = features.shape[1:3]
    rows = (weights(boxes[..., 1], boxes[..., 3], height) * chosen[..., None, None]).astype(features.dtype)
    columns = weights(boxes[..., 0], boxes[..., 2], width).astype(features.dtype)
    strips = jnp.einsum("bnyh,bhwc->bnywc", rows, features)
    return jnp.einsum("bnxw,bnywc->bnyxc", columns, strips)


def _matmul(pyramid, boxes, levels, strides, side, ratio):
    return sum(
        _matmul_level(features, boxes, stride, side, ratio, levels == i)
        for i, (features, stride) in enumerate(zip(pyramid, strides, strict=True))
    )


def _gather(pyramid, boxes, levels, strides, side, ratio):
    """All levels with one gather of the 2x2 neighbours of every sample, weighted row- and column-wise."""
    flat = jnp.concatenate([rearrange(p, "b h w c -> b (h w) c") for p in pyramid], axis=1)
    heights, widths = (jnp.array([p.shape[axis] for p in pyramid])[levels] for axis in (1, 2))
    starts = jnp.cumsum(jnp.array([0] + [p.shape[1] * p.shape[2] for p in pyramid[:-1]]))[levels]
    stride = jnp.array(strides, boxes.dtype)[levels]

    def neighbours(start: jax.Array, end: jax.Array, size: jax.Array) -> tuple[jax.Array, jax.Array]:
        position, inside = sample_positions(start, end, stride, size, side, ratio)
        low = jnp.floor(position)
        high = jnp.minimum(low + 1, size[..., None] - 1)
        fraction = position - low
        weight = jnp.stack([1 - fraction, fraction], axis=-1) * inside[..., None] / ratio
        index = jnp.stack([low, high], axis=-1).astype(jnp.int32)
        return tuple(rearrange(v, "b n (s r) k -> b n s (r k)", r=ratio) for v in (index, weight))

    rows, row_weights = neighbours(boxes[..., 1], boxes[..., 3], heights)
    columns, column_weights = neighbours(boxes[..., 0], boxes[..., 2], widths)
    index = (
        starts[..., None, None, None, None]
        + rows[..., :, :, None, None] * widths[..., None, None, None, None]
        + columns[..., None, None, :, :]
    )  # [B,N,S,2R,S,2R]
    values = jax.vmap(lambda f, i: f[i])(flat, index)
    return jnp.einsum("bnyjxkc,bnyj,bnxk->bnyxc", values, row_weights.astype(flat.dtype),
                      column_weights.astype(flat.dtype))


_BACKENDS = {"matmul": _matmul, "gather": _gather}


def roi_align(
    pyramid: Sequence[jax.Array],
    boxes: jax.Array,
    *,
    strides: Sequence[int] = (4, 8, 16, 32),
    side: int = 7,
    sampling_ratio: int = 2,
    canonical_size: float = 224.0,
    backend: str = "auto",
) -> jax.Array:
    """Features of boxes: [B,N,S,S,C].

    Args:
      pyramid: levels [B,H/s,W/s,C], finest first.
      boxes: [B,N,4] xyxy pixels of the network image; empty boxes read one point, boxes outside read zero.
      strides: pixels a cell, level by level.
      side: S, cells along each axis.
      sampling_ratio: R, samples along each axis of a cell.
      canonical_size: the box size (pixels) that belongs to level 4 (see `assign_levels`).
      backend: "gather" (CPU and GPU at full size), "matmul" (TPU and small maps; its backward pass needs no scatter),
        "auto" = matmul on TPUs and where the finest map has at most 4,096 cells, else gather.
    """
    boxes = jax.lax.stop_gradient(boxes)
    levels = assign_levels(boxes, len(pyramid), canonical_size)
    if backend == "auto":
        small = pyramid[0].shape[1] * pyramid[0].shape[2] <= 4096
        backend = "matmul" if small or jax.default_backend() == "tpu" else "gather"
    return _BACKENDS[backend](tuple(pyramid), boxes, levels, tuple(strides), side, sampling_ratio)
