"""Feature pyramid network (Lin et al. 2017, Fig. 3): P2 to P5, strides 4 to 32."""

from collections.abc import Sequence

import jax
from einops import repeat
from flax import nnx

from psdiff_jax.models.padding import clear_outside
from psdiff_jax.models.resnet import conv

STRIDES = (4, 8, 16, 32)


def upsample_to(x: jax.Array, like: jax.Array) -> jax.Array:
    """Nearest-neighbour doubling of [B,H,W,C], cut to the rows and columns of `like` (odd sizes lose the last)."""
    doubled = repeat(x, "b h w c -> b (h 2) (w 2) c")
    return doubled[:, : like.shape[1], : like.shape[2]]


class FPN(nnx.Module):
    """(C2, C3, C4, C5) -> (P2, P3, P4, P5), each [B,H/s,W/s,channels].

    `image_size` [B,2]: (h, w) of the valid pixels. The levels are zero outside, and what they hold inside does not
    depend on how far the batch is padded.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, *, rngs: nnx.Rngs):
        self.lateral = nnx.List([conv(c, channels, 1, bias=True, rngs=rngs) for c in in_channels])
        self.output = nnx.List([conv(channels, channels, 3, bias=True, rngs=rngs) for _ in in_channels])

    def __call__(self, stages: Sequence[jax.Array], image_size: jax.Array | None = None) -> tuple[jax.Array, ...]:
        merged = [lateral(x) for lateral, x in zip(self.lateral, stages, strict=True)]
        for i in range(len(merged) - 2, -1, -1):
            # Valid cells read valid cells only: row r takes row r // 2 of the level above.
            merged[i] = merged[i] + upsample_to(merged[i + 1], merged[i])
        merged = [clear_outside(x, image_size, stride) for x, stride in zip(merged, STRIDES, strict=True)]
        levels = [output(x) for output, x in zip(self.output, merged, strict=True)]
        return tuple(clear_outside(x, image_size, stride) for x, stride in zip(levels, STRIDES, strict=True))
