"""Multi-level bilinear RoIAlign (He et al. 2017; detectron2's aligned "V2" with torchvision's border rule).

Legend: B image, N box, Y X rows and columns of the grid of cells, R samples per cell and axis, H W rows and columns of
a level, C channel, L level.

A sample at coordinate c reads the feature map bilinearly; c is clamped to the map while it lies within one cell of
it, and reads zero beyond. The map ends where its image does, not where the padding of the batch does. Sampling
positions are treated as constants: no gradient flows to the boxes (the box head learns through its own output, as in
detectron2).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from einops import rearrange

from psdiff_jax.ops.ceil_div import ceil_div


def assign_levels(boxes: jax.Array, num_levels: int, canonical_size: float = 224.0) -> jax.Array:
    """Pyramid level of each box, 0 = finest: clamp(floor(4 + log2(sqrt(area) / canonical)), 2, 5) - 2.

    boxes: [...,4] xyxy pixels, float32 -> int32 [...]. Source: FPN Eq. 1. Written as comparisons of areas, which put a
    box that lies on a threshold into the upper level on every device; logarithms are not exact on all.
    """
    size = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0).astype(jnp.float32)
    area = size[..., 0] * size[..., 1]
    thresholds = [(canonical_size * 2.0 ** (level - 4)) ** 2 for level in range(3, num_levels + 2)]
    return sum(((area >= threshold).astype(jnp.int32) for threshold in thresholds), jnp.zeros(area.shape, jnp.int32))


def sample_positions(
    start: jax.Array, end: jax.Array, stride: jax.Array, size: jax.Array, side: int, ratio: int
) -> tuple[jax.Array, jax.Array]:
    """Sampling coordinates along an axis of S cells: ([...,S*R] clamped to the map, [...,S*R] bool whether inside).

    start, end: [...] pixels of the image; stride: pixels a cell; size: valid cells of the map along this axis.
    stride and size are broadcast to [...].
    """
    low, high = start / stride - 0.5, end / stride - 0.5
    offsets = (jnp.arange(side * ratio) + 0.5) / (side * ratio)
    position = low[..., None] + (high - low)[..., None] * offsets
    limit = jnp.asarray(size, position.dtype)[..., None]
    inside = (position >= -1) & (position <= limit)
    return jnp.clip(position, 0, limit - 1), inside


def valid_cells(pyramid: Sequence[jax.Array], strides: Sequence[int], image_size: jax.Array | None) -> jax.Array:
    """[L,B,2] int32: (rows, columns) of each level that belong to the image, ceil(size / stride)."""
    whole = jnp.array([p.shape[1:3] for p in pyramid], jnp.int32)[:, None]
    if image_size is None:
        return jnp.broadcast_to(whole, (len(pyramid), pyramid[0].shape[0], 2))
    return jnp.minimum(ceil_div(image_size[None].astype(jnp.int32), jnp.array(strides)[:, None, None]), whole)


def _matmul_level(features, boxes, stride, cells, sides, ratio, chosen):
    """One level by two interpolation matmuls: [B,H,W,C], [B,N,4], cells [B,2], chosen [B,N] -> [B,N,Y,X,C]."""

    def weights(start: jax.Array, end: jax.Array, axis: int) -> jax.Array:
        position, inside = sample_positions(start, end, stride, cells[:, axis, None], sides[axis], ratio)
        hat = jnp.maximum(1 - jnp.abs(position[..., None] - jnp.arange(features.shape[axis + 1])), 0)
        return rearrange(hat * inside[..., None], "b n (s r) k -> b n s r k", r=ratio).mean(axis=3)

    rows = (weights(boxes[..., 1], boxes[..., 3], 0) * chosen[..., None, None]).astype(features.dtype)
    columns = weights(boxes[..., 0], boxes[..., 2], 1).astype(features.dtype)
    bands = jnp.einsum("bnyh,bhwc->bnywc", rows, features)
    return jnp.einsum("bnxw,bnywc->bnyxc", columns, bands)


def _matmul(pyramid, boxes, levels, strides, cells, sides, ratio):
    return sum(
        _matmul_level(features, boxes, stride, cells[i], sides, ratio, levels == i)
        for i, (features, stride) in enumerate(zip(pyramid, strides, strict=True))
    )


@jax.custom_vjp
def _read(table: jax.Array, index: jax.Array, weight: jax.Array) -> jax.Array:
    """sum_k weight[..., k] table[index[..., k]]: [B,T,C], [B,I,K] int32, [B,I,K] -> [B,I,C], summed in float32.

    Written out term by term, XLA makes one loop of it that keeps no [B,I,K,C]. The indices lie in the table: without
    JAX's own check of each, a training step on CPUs is 7 % faster.
    """
    terms = (
        jnp.take_along_axis(table, index[..., k, None], axis=1, mode="promise_in_bounds") * weight[..., k, None]
        for k in range(index.shape[-1])
    )
    return jnp.asarray(sum(terms)).astype(table.dtype)


def _read_forward(table, index, weight):
    return _read(table, index, weight), (table, index, weight)


def _read_backward(kept, gradient):
    """Adds each term's gradient into the same float32 table; weights and indices are constants."""
    table, index, weight = kept
    gradient = gradient.astype(jnp.float32)
    add = jax.vmap(lambda total, where, what: total.at[where].add(what, mode="promise_in_bounds"))

    def term(k: int, total: jax.Array) -> jax.Array:
        where, share = (jax.lax.dynamic_index_in_dim(v, k, axis=2, keepdims=False) for v in (index, weight))
        return add(total, where, share[..., None] * gradient)

    total = jax.lax.fori_loop(0, index.shape[-1], term, jnp.zeros(table.shape, jnp.float32))
    return total.astype(table.dtype), None, None


_read.defvjp(_read_forward, _read_backward)


def _gather(pyramid, boxes, levels, strides, cells, sides, ratio):
    """All levels as one table; each cell is the weighted sum of the 2x2 neighbours of its samples.

    Reading level by level instead is quicker alone (docs/results.md), but a step of training then takes 11 % longer and
    sampling twice the memory: there XLA makes the table once an image, and not at every reading.
    """
    table = jnp.concatenate([rearrange(p, "b h w c -> b (h w) c") for p in pyramid], axis=1)
    starts = jnp.cumsum(jnp.array([0] + [p.shape[1] * p.shape[2] for p in pyramid[:-1]]))[levels]
    pitch = jnp.array([p.shape[2] for p in pyramid])[levels]
    stride = jnp.array(strides, boxes.dtype)[levels]
    valid = jax.vmap(lambda sizes, level: sizes[level], in_axes=(1, 0))(cells, levels)  # [B,N,2]

    def neighbours(axis: int) -> tuple[jax.Array, jax.Array]:
        start, end, size = boxes[..., 1 - axis], boxes[..., 3 - axis], valid[..., axis]
        position, inside = sample_positions(start, end, stride, size, sides[axis], ratio)
        low = jnp.floor(position)
        high = jnp.minimum(low + 1, size[..., None] - 1)
        fraction = position - low
        weight = jnp.stack([1 - fraction, fraction], axis=-1) * inside[..., None] / ratio
        index = jnp.stack([low, high], axis=-1).astype(jnp.int32)
        index, weight = (rearrange(v, "b n (s r) k -> b n s (r k)", r=ratio) for v in (index, weight))
        return index, weight

    (rows, row_weights), (columns, column_weights) = neighbours(0), neighbours(1)
    rows = starts[..., None, None] + rows * pitch[..., None, None]
    index, weight = (
        rearrange(v, "b n y j x k -> b (n y x) (j k)")  # 2R x 2R terms for each of N Y X cells
        for v in (
            rows[..., None, None] + columns[:, :, None, None],
            row_weights[..., None, None] * column_weights[:, :, None, None],
        )
    )
    return rearrange(_read(table, index, weight), "b (n y x) c -> b n y x c", y=sides[0], x=sides[1])


_BACKENDS = {"matmul": _matmul, "gather": _gather}


def choose_backend(device: str) -> str:
    """The backend that "auto" means on a kind of device ("cpu", "gpu", "tpu"): see docs/decisions.md."""
    return "matmul" if device == "tpu" else "gather"


def roi_align(
    pyramid: Sequence[jax.Array],
    boxes: jax.Array,
    *,
    strides: Sequence[int] = (4, 8, 16, 32),
    side: int | tuple[int, int] = 7,
    sampling_ratio: int = 2,
    canonical_size: float = 224.0,
    backend: str = "auto",
    image_size: jax.Array | None = None,
) -> jax.Array:
    """Features of boxes: [B,N,Y,X,C], in the dtype of the features.

    Gradients flow to the features, exactly; none flow to the boxes.

    Args:
      pyramid: levels [B,H/s,W/s,C], finest first.
      boxes: [B,N,4] xyxy pixels of the network image, float32; empty boxes read one point, boxes outside read zero.
      strides: pixels a cell, level by level.
      side: cells along each axis, or (Y, X).
      sampling_ratio: R, samples along each axis of a cell.
      canonical_size: the box size (pixels) that belongs to level 4 (see `assign_levels`).
      backend: "gather" (CPU and GPU), "matmul" (TPU; its backward pass needs no scatter), "auto" = `choose_backend`.
      image_size: [B,2] (h, w) int, the pixels that are the image's own: the border rule holds there, and what the
        padding of the batch holds is never read. None = no padding.
    """
    boxes, sides = jax.lax.stop_gradient(boxes), (side, side) if isinstance(side, int) else side
    levels = assign_levels(boxes, len(pyramid), canonical_size)
    if backend == "auto":
        backend = choose_backend(jax.default_backend())
    cells = valid_cells(pyramid, strides, image_size)
    return _BACKENDS[backend](tuple(pyramid), boxes, levels, tuple(strides), cells, sides, sampling_ratio)
