"""PSDiff (paper Fig. 2): feature extractor and collaborative denoising layers.

Legend: B image, H W pixels, N slot, D embedding.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from psdiff_jax.diffusion.noise import Diffusion, State
from psdiff_jax.models.backbones import ResNetSpec, SwinSpec, make_backbone
from psdiff_jax.models.cdl import CDL, CDLOptions
from psdiff_jax.models.fpn import FPN, STRIDES
from psdiff_jax.models.resnet import fold_batch_norm
from psdiff_jax.ops import boxes as box_ops
from psdiff_jax.ops.roi_align import roi_align

DELTA_WEIGHTS = (2.0, 2.0, 1.0, 1.0)
MAX_LOG_SCALE = 4.135  # log(1000 / 16), detectron2's limit on how much one step may enlarge a box


class Condition(NamedTuple):
    """What denoising looks at (Eq. 9): pyramid levels [B,H/s,W/s,C] and image_size [B,2] (h, w) in pixels."""

    pyramid: tuple[jax.Array, ...]
    image_size: jax.Array


class Estimate(NamedTuple):
    """Predicted clean people: boxes xyxy pixels [B,N,4], logits [B,N], embeddings [B,N,D] (not normalised)."""

    boxes: jax.Array
    logits: jax.Array
    embeddings: jax.Array


@dataclass(frozen=True)
class PSDiffSpec:
    """Sizes of the model. `canonical_size` is RoIAlign's level rule (224 pixels belong to P4)."""

    backbone: ResNetSpec | SwinSpec
    cdl: CDLOptions = field(default_factory=CDLOptions)
    diffusion: Diffusion = field(default_factory=Diffusion)
    num_cdl: int = 1
    sampling_ratio: int = 2
    canonical_size: float = 224.0
    roi_backend: str = "auto"
    dtype: str = "float32"


def apply_deltas(boxes: jax.Array, deltas: jax.Array) -> jax.Array:
    """Moves and scales xyxy boxes [...,4] by deltas [...,4] (Girshick et al. 2014, weights 2, 2, 1, 1), in float32."""
    box = box_ops.to_cxcywh(boxes)
    size = jnp.maximum(box[..., 2:], 1.0)  # an empty box could never grow again
    move = deltas[..., :2] / jnp.asarray(DELTA_WEIGHTS[:2])
    scale = jnp.minimum(deltas[..., 2:] / jnp.asarray(DELTA_WEIGHTS[2:]), MAX_LOG_SCALE)
    return box_ops.to_xyxy(jnp.concatenate([box[..., :2] + move * size, size * jnp.exp(scale)], axis=-1))


def merge(graphdef: nnx.GraphDef, *states: Any, folded: bool = False) -> "PSDiff":
    """The model of a split, its parameters cast to the dtype it computes in (`PSDiffSpec.dtype`).

    BatchNorm statistics stay float32; gradients come back in the dtype of the parameters given. `folded`: BatchNorm is
    folded into the convolutions, for inference.
    """
    model: PSDiff = nnx.merge(graphdef, *states)
    if folded:
        fold_batch_norm(model.backbone)
    dtype = jnp.dtype(model.spec.dtype)
    if dtype == jnp.float32:
        return model

    def cast(variable: nnx.Variable) -> nnx.Variable:
        return variable.replace(variable[...].astype(dtype)) if isinstance(variable, nnx.Param) else variable

    graphdef, state = nnx.split(model)
    return nnx.merge(graphdef, jax.tree.map(cast, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)))


class PSDiff(nnx.Module):
    """The model: `features` once an image, `denoise` once a step."""

    def __init__(self, spec: PSDiffSpec, *, rngs: nnx.Rngs):
        self.spec = spec
        self.backbone = make_backbone(spec.backbone, rngs=rngs)
        self.fpn = FPN(spec.backbone.channels, spec.cdl.dim, rngs=rngs)
        self.cdl = nnx.List([CDL(spec.cdl, rngs=rngs) for _ in range(spec.num_cdl)])

    def features(self, images: jax.Array, image_size: jax.Array) -> Condition:
        """uint8 RGB [B,H,W,3], valid size [B,2] -> Condition. BatchNorm is frozen.

        The pyramid depends on neither the extent of the padding nor on what the batch holds there; it is zero there.
        """
        dtype = jnp.dtype(self.spec.dtype)
        stages = self.backbone(images.astype(jnp.float32), image_size=image_size, dtype=dtype)
        return Condition(self.fpn(stages, image_size), image_size)

    def denoise(self, condition: Condition, state: State, t: jax.Array) -> list[Estimate]:
        """f_theta2 (Eq. 12): noisy state at times t [B] -> one Estimate for each stacked layer, the last is the answer.

        Later layers read the boxes and embeddings of the layer before (as constants), so that each is supervised.
        """
        spec = self.spec
        boxes = spec.diffusion.decode_boxes(state.box, condition.image_size)
        embedding = state.embedding / spec.diffusion.embedding_snr_scale
        estimates = []
        for layer in self.cdl:
            cells = roi_align(
                condition.pyramid,
                boxes,
                strides=STRIDES,
                side=spec.cdl.side,
                sampling_ratio=spec.sampling_ratio,
                canonical_size=spec.canonical_size,
                backend=spec.roi_backend,
                image_size=condition.image_size,
            )
            prediction = layer(rearrange(cells, "b n y x c -> b n (y x) c"), embedding, t)
            moved = apply_deltas(boxes, prediction.deltas)
            estimates.append(Estimate(moved, prediction.logits, prediction.embeddings))
            boxes = jax.lax.stop_gradient(box_ops.clip(moved, condition.image_size))
            embedding = jax.lax.stop_gradient(prediction.embeddings)
        return estimates
