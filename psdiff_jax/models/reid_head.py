"""The head of Open Model Zoo's re-ID networks, on the cells of a person's box instead of a crop's.

Legend: y x cells of a box, C channels of conv5, D embedding.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from psdiff_jax.ops.normalize import normalize
from psdiff_jax.ops.roi_align import roi_align

CELLS = (16, 8)  # of the map of a crop
STRIDE = 16  # of the map that is read
CROP = (CELLS[0] * STRIDE, CELLS[1] * STRIDE)  # pixels


class Slope(nnx.Module):
    """A PReLU with one slope for all channels."""

    def __init__(self) -> None:
        self.scale = nnx.Param(jnp.full(1, 0.25))

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.where(x < 0, self.scale[...].astype(x.dtype) * x, x)


class ReidHead(nnx.Module):
    """Each channel's weighted sum over the cells, a linear layer and a PReLU: [...,16,8,C] -> [...,D] of length one."""

    def __init__(self, width: int, dim: int, *, rngs: nnx.Rngs):
        self.pool = nnx.Conv(width, width, CELLS, padding="VALID", feature_group_count=width, rngs=rngs)
        self.fc = nnx.Linear(width, dim, rngs=rngs)
        self.slope = Slope()

    def __call__(self, cells: jax.Array) -> jax.Array:
        assert self.pool.bias is not None
        kernel, bias = self.pool.kernel[...][:, :, 0], self.pool.bias[...]
        pooled = jnp.einsum("...yxc,yxc->...c", cells, kernel.astype(cells.dtype)) + bias.astype(cells.dtype)
        return normalize(self.slope(self.fc(pooled)).astype(jnp.float32))

    def embed(
        self, conv5: jax.Array, boxes: jax.Array, stride: int, image_size: jax.Array, backend: str = "auto"
    ) -> jax.Array:
        """Boxes [B,N,4] (xyxy pixels) of images whose map conv5 [B,H,W,C] has a cell each `stride` pixels: [B,N,D]."""
        cells = roi_align(
            (conv5,), boxes, strides=(stride,), side=CELLS, sampling_ratio=1, backend=backend, image_size=image_size
        )
        return self(cells)
