"""Exact padding: what lies outside an image's valid area is zero wherever a spatial operation reads it.

Legend: B image, H W rows and columns of a map, C channels.
"""

import jax
import jax.numpy as jnp


def valid_size(image_size: jax.Array, stride: int) -> jax.Array:
    """Valid rows and columns [B,2] of a map of the given stride, for images of `image_size` [B,2] (h, w) pixels."""
    return -(-image_size // stride)


def clear_outside(x: jax.Array, image_size: jax.Array | None, stride: int = 1) -> jax.Array:
    """`x` [B,H,W,C], a map of the given stride, with zeros outside each image's valid area; `x` itself for None."""
    if image_size is None:
        return x
    size = valid_size(image_size, stride)
    rows, columns = jnp.arange(x.shape[1]), jnp.arange(x.shape[2])
    inside = (rows[:, None] < size[:, 0, None, None]) & (columns < size[:, 1, None, None])
    return jnp.where(inside[..., None], x, 0)
