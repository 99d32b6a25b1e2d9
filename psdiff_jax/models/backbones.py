"""The backbones that a config can name. Registering one here is all that is needed to use it anywhere."""

import functools
from typing import Any, cast

import jax
from flax import nnx

from psdiff_jax.models import mobilenet, osnet, resnet, swin
from psdiff_jax.models.backbone import BackboneSpec

BACKBONES: dict[str, BackboneSpec] = {**resnet.SPECS, **swin.SPECS, **osnet.SPECS, **mobilenet.SPECS}


class OneKey:
    """Stands for `nnx.Rngs` where only shapes are wanted: under a trace, counting its keys costs flax seconds."""

    def params(self) -> jax.Array:
        return jax.random.key(0)


def abstract_backbone(spec: BackboneSpec) -> Any:
    """A new backbone with names and shapes but no values, to be filled with weights."""
    return nnx.merge(*_skeleton(spec), copy=True)


@functools.lru_cache(maxsize=64)  # flax takes half a second for each; a conversion compares a file with all there are
def _skeleton(spec: BackboneSpec) -> tuple[nnx.GraphDef, Any]:
    return nnx.split(nnx.eval_shape(lambda: spec.make(rngs=cast(nnx.Rngs, OneKey()))))
