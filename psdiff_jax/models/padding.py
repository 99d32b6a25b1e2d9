"""Exact padding: what lies outside an image's valid area is zero wherever a spatial operation reads it.

Legend: B image, H W rows and columns of a map, C channels.
"""

import jax
import jax.numpy as jnp
from einops import reduce

from psdiff_jax.ops.ceil_div import ceil_div


def valid_size(image_size: jax.Array, stride: int) -> jax.Array:
    """Valid rows and columns [B,2] of a map of the given stride, for images of `image_size` [B,2] (h, w) pixels."""
    return ceil_div(image_size, stride)


def clear_outside(x: jax.Array, image_size: jax.Array | None, stride: int = 1) -> jax.Array:
    """`x` [B,H,W,C], a map of the given stride, with zeros outside each image's valid area; `x` itself for None."""
    if image_size is None:
        return x
    size = valid_size(image_size, stride)
    rows, columns = jnp.arange(x.shape[1]), jnp.arange(x.shape[2])
    inside = (rows[:, None] < size[:, 0, None, None]) & (columns < size[:, 1, None, None])
    return jnp.where(inside[..., None], x, 0)


def shrunk(x: jax.Array, image_size: jax.Array | None, times: int, stride: int = 1) -> jax.Array:
    """Means of blocks of `times` x `times` valid cells of a map of the given stride, [B,H,W,C] -> [B,H/times,..,C].

    At a border that `times` does not divide, the mean is of what lies inside.
    """
    if times == 1:
        return x
    missing = [(0, -side % times) for side in x.shape[1:3]]
    ones = clear_outside(jnp.ones((1, *x.shape[1:3], 1), x.dtype), image_size, stride)
    cleared = clear_outside(x, image_size, stride)
    sums, counts = (
        reduce(jnp.pad(part, ((0, 0), *missing, (0, 0))), "b (h s) (w t) c -> b h w c", "sum", s=times, t=times)
        for part in (cleared, ones)
    )
    return sums / jnp.maximum(counts, 1)


def enlarged(x: jax.Array, image_size: jax.Array, times: int) -> jax.Array:
    """Images [B,H,W,C] at `times` their resolution, bilinear between pixel centres; beyond the border of an image's
    valid area `image_size` [B,2] it goes on as it ends there."""
    if times == 1:
        return x
    for axis in (1, 2):
        last = image_size[:, axis - 1, None] - 1
        place = jnp.clip((jnp.arange(x.shape[axis] * times) + 0.5) / times - 0.5, 0, last)  # [B,H * times]
        before = jnp.floor(place).astype(jnp.int32)
        index = (before, jnp.minimum(before + 1, last), place - before)
        near, far, weight = (jnp.expand_dims(each, (2, 3) if axis == 1 else (1, 3)) for each in index)
        x = jnp.take_along_axis(x, near, axis) * (1 - weight) + jnp.take_along_axis(x, far, axis) * weight
    return x
