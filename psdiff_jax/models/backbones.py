"""The backbones that a config can name: ResNets and Swin Transformers behind one call.

`backbone(images, image_size=..., dtype=...)`: images float [B,H,W,3], 0..255 RGB, and the (h, w) of their valid pixels
[B,2] (None: all are) -> four maps of strides 4, 8, 16 and 32. A spec has `channels` (of the four), `mean` and `std`.
"""

import jax
from flax import nnx

from psdiff_jax.models import resnet, swin
from psdiff_jax.models.resnet import ResNet, ResNetSpec
from psdiff_jax.models.swin import Swin, SwinSpec

SPECS: dict[str, ResNetSpec | SwinSpec] = {**resnet.SPECS, **swin.SPECS}


def make_backbone(spec: ResNetSpec | SwinSpec, *, rngs: nnx.Rngs) -> ResNet | Swin:
    """A backbone with random weights."""
    return Swin(spec, rngs=rngs) if isinstance(spec, SwinSpec) else ResNet(spec, rngs=rngs)


class OneKey:
    """Stands for `nnx.Rngs` where only shapes are wanted: under a trace, counting its keys costs flax seconds."""

    def params(self) -> jax.Array:
        return jax.random.key(0)


def abstract_backbone(spec: ResNetSpec | SwinSpec) -> ResNet | Swin:
    """A backbone with names and shapes but no values, to be filled with weights."""
    return nnx.eval_shape(lambda: make_backbone(spec, rngs=OneKey()))
