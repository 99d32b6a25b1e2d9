"""A backbone and its published layout as somebody outside of the package writes them."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import nnx

from psdiff_jax.convert.layout import BackboneLayout
from psdiff_jax.models.backbone import BackboneSpec


@dataclass(frozen=True)
class ToySpec(BackboneSpec):
    """Four convolutions, each of stride 4 or 2."""

    width: int

    @property
    def channels(self):
        return (self.width,) * 4

    def make(self, *, rngs):
        return Toy(self, rngs=rngs)


class Toy(nnx.Module):
    def __init__(self, spec, *, rngs):
        self.spec = spec
        self.maps = nnx.List(
            [nnx.Conv(3 if i == 0 else spec.width, spec.width, (3, 3), 4 if i == 0 else 2, rngs=rngs) for i in range(4)]
        )

    def __call__(self, images, train=False, dtype=jnp.float32, image_size=None):
        x, found = ((images - jnp.asarray(self.spec.mean)) / jnp.asarray(self.spec.std)).astype(dtype), []
        for convolution in self.maps:
            x = nnx.relu(convolution(x))
            found.append(x)
        return tuple(found)


@dataclass(frozen=True)
class ToyLayout(BackboneLayout):
    family = "Toy"
    key = "maps/0/kernel"


def names(ours):
    """ "maps/2/kernel" -> ("stage2.weight",)."""
    _, stage, leaf = ours.split("/")
    return (f"stage{stage}.{'weight' if leaf == 'kernel' else leaf}",)


LAYOUT = ToyLayout("toy library's Toy", (r"stage0\.weight",), names, left_out=r"head\.weight")


def published(width=6):
    """A file of the toy library, with the head of a classifier."""
    rng, made = np.random.default_rng(0), {"head.weight": np.zeros((10, width), np.float32)}
    for i in range(4):
        made[f"stage{i}.weight"] = rng.normal(0, 0.3, (width, 3 if i == 0 else width, 3, 3)).astype(np.float32)
        made[f"stage{i}.bias"] = rng.normal(0, 0.3, width).astype(np.float32)
    return made
