"""PSDiff (paper Fig. 2): feature extractor and collaborative denoising layers.

Legend: B image, H W pixels, N proposal, D embedding.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from psdiff_jax.diffusion.noise import Diffusion, DiffusionOptions, State
from psdiff_jax.models.backbone import BackboneSpec
from psdiff_jax.models.backbones import BACKBONES
from psdiff_jax.models.cdl import CDL, CDLOptions
from psdiff_jax.models.fpn import FPN, STRIDES
from psdiff_jax.ops import boxes as box_ops
from psdiff_jax.ops.roi_align import roi_align
from psdiff_jax.options import AT_LEAST_1, POSITIVE, Need

DELTA_WEIGHTS = (2.0, 2.0, 1.0, 1.0)
MAX_LOG_SCALE = 4.135  # log(1000 / 16), detectron2's limit on how much one step may enlarge a box


class Condition(NamedTuple):
    """What denoising is conditioned on (Eq. 9): pyramid levels [B,H/s,W/s,C] and image_size [B,2] (h, w) in pixels."""

    pyramid: tuple[jax.Array, ...]
    image_size: jax.Array


class Estimate(NamedTuple):
    """Predicted clean people: boxes xyxy pixels [B,N,4], logits [B,N], embeddings [B,N,D] (not normalised)."""

    boxes: jax.Array
    logits: jax.Array
    embeddings: jax.Array


@dataclass(frozen=True)
class PSDiffOptions(CDLOptions):
    """config.model: sizes and switches of the model."""

    backbone: Annotated[str, "a name in `models.backbones.BACKBONES`"] = "resnet50"
    backbone_weights: Annotated[
        str, "file of a pretrained backbone (`psdiff_jax.convert.backbone`); 'teacher' = the teacher's"
    ] = ""
    num_cdl: Annotated[int, AT_LEAST_1, "stacked denoising layers"] = 1
    sampling_ratio: Annotated[int, AT_LEAST_1, "RoIAlign's samples per cell and axis"] = 2
    canonical_size: Annotated[float, POSITIVE, "box size in pixels that RoIAlign reads from level P4"] = 224.0
    roi_backend: Annotated[Literal["auto", "gather", "matmul"], "implementation of RoIAlign"] = "auto"
    dtype: Annotated[Literal["float32", "bfloat16"], "dtype of the computation; parameters stay float32"] = "bfloat16"

    def check(self, need: Need) -> None:
        super().check(need)
        need(self.backbone in BACKBONES, "backbone", f"choose one of {', '.join(BACKBONES)}")


def apply_deltas(boxes: jax.Array, deltas: jax.Array) -> jax.Array:
    """Moves and scales xyxy boxes [...,4] by deltas [...,4] (Girshick et al. 2014, weights 2, 2, 1, 1), in float32."""
    box = box_ops.to_cxcywh(boxes)
    size = jnp.maximum(box[..., 2:], 1.0)  # an empty box could never grow again
    move = deltas[..., :2] / jnp.asarray(DELTA_WEIGHTS[:2])
    scale = jnp.minimum(deltas[..., 2:] / jnp.asarray(DELTA_WEIGHTS[2:]), MAX_LOG_SCALE)
    return box_ops.to_xyxy(jnp.concatenate([box[..., :2] + move * size, size * jnp.exp(scale)], axis=-1))


def merge(graphdef: nnx.GraphDef, *states: Any, folded: bool = False) -> "PSDiff":
    """The model of a split, its parameters cast to the dtype it computes in (`PSDiffOptions.dtype`).

    BatchNorm statistics stay float32; gradients come back in the dtype of the parameters given. `folded`: BatchNorm is
    folded into the convolutions, for inference.
    """
    model: PSDiff = nnx.merge(graphdef, *states)
    if folded:
        model.backbone_spec.fold(model.backbone)
    dtype = jnp.dtype(model.options.dtype)
    if dtype == jnp.float32:
        return model

    def cast(variable: nnx.Variable) -> nnx.Variable:
        return variable.replace(variable[...].astype(dtype)) if isinstance(variable, nnx.Param) else variable

    graphdef, state = nnx.split(model)
    return nnx.merge(graphdef, jax.tree.map(cast, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)))


class PSDiff(nnx.Module):
    """The model: `features` once an image, `denoise` once a step."""

    def __init__(self, options: PSDiffOptions, diffusion: DiffusionOptions | None = None, *, rngs: nnx.Rngs):
        self.options = options
        self.diffusion = Diffusion(**vars(diffusion or DiffusionOptions()), embedding_dim=options.embedding_dim)
        self.backbone = self.backbone_spec.make(rngs=rngs)
        self.fpn = FPN(self.backbone_spec.channels, options.dim, rngs=rngs)
        self.cdl = nnx.List([CDL(options, rngs=rngs) for _ in range(options.num_cdl)])

    @property
    def backbone_spec(self) -> BackboneSpec:
        return BACKBONES[self.options.backbone]

    def features(self, images: jax.Array, image_size: jax.Array) -> Condition:
        """uint8 RGB [B,H,W,3], valid size [B,2] -> Condition. BatchNorm is frozen.

        The pyramid depends on neither the extent of the padding nor on what the batch holds there; it is zero there.
        """
        dtype = jnp.dtype(self.options.dtype)
        stages = self.backbone(images.astype(jnp.float32), image_size=image_size, dtype=dtype)
        return Condition(self.fpn(stages, image_size), image_size)

    def denoise(self, condition: Condition, state: State, t: jax.Array) -> list[Estimate]:
        """f_theta2 (Eq. 12): noisy state at times t [B] -> one Estimate for each stacked layer, the last is the answer.

        Later layers read the boxes and embeddings of the layer before (as constants), so that each is supervised.
        """
        options = self.options
        boxes = self.diffusion.decode_boxes(state.box, condition.image_size)
        embedding = state.embedding / self.diffusion.embedding_snr_scale
        estimates = []
        for layer in self.cdl:
            cells = roi_align(
                condition.pyramid,
                boxes,
                strides=STRIDES,
                side=options.side,
                sampling_ratio=options.sampling_ratio,
                canonical_size=options.canonical_size,
                backend=options.roi_backend,
                image_size=condition.image_size,
            )
            prediction = layer(rearrange(cells, "b n y x c -> b n (y x) c"), embedding, t)
            moved = apply_deltas(boxes, prediction.deltas)
            estimates.append(Estimate(moved, prediction.logits, prediction.embeddings))
            boxes = jax.lax.stop_gradient(box_ops.clip(moved, condition.image_size))
            embedding = jax.lax.stop_gradient(prediction.embeddings)
        return estimates

    def clean(self, condition: Condition, estimate: Estimate) -> tuple[State, jax.Array]:
        """An estimate as (clean state, scores [B,N]), which is what samplers work with."""
        boxes = box_ops.clip(estimate.boxes, condition.image_size)
        clean = self.diffusion.clean(boxes, estimate.embeddings, condition.image_size)
        return clean, jax.nn.sigmoid(estimate.logits)
