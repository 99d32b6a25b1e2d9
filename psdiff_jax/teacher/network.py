"""The re-ID network of a teacher that is trained here: the crop of a person -> the embedding PSDiff learns to denoise.

Legend: B crop, h w rows and columns of the crop, C channels of the last map, D embedding.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType

from psdiff_jax import parallel
from psdiff_jax.models.backbone import BackboneSpec
from psdiff_jax.ops.normalize import normalize


class GeM(nnx.Module):
    """Generalised mean over the cells with a learned exponent (Radenovic et al. 2018, Eq. 3): [B,H,W,C] -> [B,C]."""

    def __init__(self, exponent: float = 3.0):
        self.p = nnx.Param(jnp.full((1,), exponent, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        p = self.p[...]
        return jnp.mean(jnp.maximum(x, 1e-6) ** p, axis=(1, 2)) ** (1 / p)


class TeacherNetwork(nnx.Module):
    """Backbone, pooling, a linear layer where its last map is not `embedding_dim` wide, BatchNorm neck, unit length.

    Re-ID networks keep the resolution of stage 4 in stage 5: give `BackboneSpec.for_reid()`.
    The neck has no bias (Luo et al. 2019: it is frozen at 0), so that identities differ by angle.

    Call: crops [B,h,w,3] RGB 0..255, uint8 or float -> float32 [B,D] of unit length.
    `train=True` normalises by the batch and updates the running statistics.
    """

    def __init__(self, spec: BackboneSpec, embedding_dim: int, pooling: str, *, rngs: nnx.Rngs):
        width = spec.channels[-1]
        self.backbone = spec.make(rngs=rngs)
        self.gem = GeM() if pooling == "gem" else None
        self.project = nnx.Linear(width, embedding_dim, use_bias=False, rngs=rngs) if width != embedding_dim else None
        self.neck = nnx.BatchNorm(embedding_dim, use_bias=False, epsilon=1e-5, momentum=0.9, rngs=rngs)

    def __call__(self, crops: jax.Array, train: bool = False, dtype: jnp.dtype = jnp.float32) -> jax.Array:
        x = crops.astype(jnp.float32)
        x = self.backbone(x, train, dtype)[-1].astype(jnp.float32)
        x = self.gem(x) if self.gem is not None else x.mean(axis=(1, 2))
        if self.project is not None:
            x = self.project(x)
        return normalize(self.neck(x, use_running_average=not train))


def apply_teacher(
    graphdef: Any, params: Any, stats: Any, crops: jax.Array, train: bool = False, dtype: jnp.dtype = jnp.float32
) -> tuple[jax.Array, Any]:
    """A pure function: embeddings [B,D] of `crops` [B,h,w,3], and the statistics after them. dtype: the backbone's."""
    # flax promotes bfloat16 inputs and float32 parameters to float32.
    cast = jax.tree.map(lambda param: param.astype(dtype), params["backbone"])
    params = nnx.State({**params, "backbone": cast})
    # A copy: under jax.grad the statistics come from an outer trace and could not be updated in place.
    teacher = nnx.merge(graphdef, params, stats, copy=True)
    embeddings = teacher(crops, train=train, dtype=dtype)
    return embeddings, nnx.state(teacher, nnx.BatchStat)


def spread_over_devices(apply: Callable[[Any, jax.Array], jax.Array], state: Any) -> Callable[[np.ndarray], jax.Array]:
    """`apply(state, crops)` compiled, as a function of crops [B,h,w,3] that gives [B,D].

    Each of this machine's devices takes a part of the crops if their number divides. Products are taken in float32
    wherever it runs, so that embeddings are the same on every machine to some 1e-6.
    """
    mesh = jax.make_mesh((jax.local_device_count(),), ("data",), (AxisType.Auto,), devices=jax.local_devices())
    placed = parallel.put_replicated(parallel.fetch(state), mesh)

    @jax.jit
    def run(state: Any, crops: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("float32"):
            return apply(state, crops)

    def embed(crops: np.ndarray) -> jax.Array:
        spread = len(crops) % mesh.size == 0
        return run(placed, jax.device_put(crops, parallel.batch_sharding(mesh)) if spread else crops)

    return embed
