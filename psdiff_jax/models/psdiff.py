"""PSDiff (paper Fig. 2): feature extractor and collaborative denoising layers.

Legend: B image, H W pixels, N proposal, D embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from psdiff_jax.diffusion.noise import Diffusion, DiffusionOptions, State
from psdiff_jax.models.backbone import BackboneSpec
from psdiff_jax.models.backbones import BACKBONES
from psdiff_jax.models.cdl import CDL, CDLOptions
from psdiff_jax.models.fpn import FPN, STRIDES
from psdiff_jax.models.padding import enlarged, shrunk, valid_size
from psdiff_jax.models.readout import RowReadout
from psdiff_jax.models.reid_head import CROP
from psdiff_jax.models.reid_head import STRIDE as HEAD_STRIDE
from psdiff_jax.ops import boxes as box_ops
from psdiff_jax.ops.roi_align import roi_align
from psdiff_jax.options import AT_LEAST_1, NOT_NEGATIVE, POSITIVE, Need

T = TypeVar("T")
DELTA_WEIGHTS = (2.0, 2.0, 1.0, 1.0)
MAX_LOG_SCALE = 4.135  # log(1000 / 16), detectron2's limit on how much one step may enlarge a box


class Maps(NamedTuple):
    """What the backbones make of images: the stages [B,H/s,W/s,C] of the one that finds people; of the one that tells
    them apart, those that the row read-out reads (() = there is one backbone), and what its own head reads (() = it is
    not asked)."""

    stages: tuple[jax.Array, ...]
    reid: tuple[jax.Array, ...] = ()
    head: tuple[jax.Array, ...] = ()


class Condition(NamedTuple):
    """What denoising is conditioned on (Eq. 9): pyramid levels [B,H/s,W/s,C] and image_size [B,2] (h, w) in pixels.

    maps: what the row read-out reads, at the pyramid's resolution or a multiple of it; () without it. head: what
    reid_backbone's own head reads. images: [B,H,W,3] uint8, where crops of them are embedded.
    """

    pyramid: tuple[jax.Array, ...]
    image_size: jax.Array
    maps: tuple[jax.Array, ...] = ()
    head: tuple[jax.Array, ...] = ()
    images: jax.Array | None = None


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
    downsample: Annotated[int, AT_LEAST_1, "the backbone sees images at this fraction of their resolution: 1 / it"] = 1
    readout_rows: Annotated[
        int, NOT_NEGATIVE, "rows of a box whose features are mapped to an embedding that is added (`models.readout`)"
    ] = 0
    readout_strides: Annotated[tuple[int, ...], "strides of the maps that are read"] = STRIDES
    reid_backbone: Annotated[
        str, "backbone at full resolution that the row read-out reads; '' = the one above, at its own"
    ] = ""
    reid_weights: Annotated[str, "file of its pretrained weights"] = ""
    reid_scale: Annotated[Literal[1, 2, 4], "reid_backbone sees images at this multiple of their resolution"] = 1
    reid_head: Annotated[bool, "what reid_backbone's own head makes of a box is added as well"] = False
    reid_crops: Annotated[
        int,
        NOT_NEGATIVE,
        "people of an image at most, of whom reid_backbone and its head embed a crop once they are found, instead of"
        " reading the image; who would be renewed is left out; 0 = none",
    ] = 0
    num_cdl: Annotated[int, AT_LEAST_1, "stacked denoising layers"] = 1
    sampling_ratio: Annotated[int, AT_LEAST_1, "RoIAlign's samples per cell and axis"] = 2
    canonical_size: Annotated[float, POSITIVE, "pixels of what the backbone sees: size of a box read from P4"] = 224.0
    roi_backend: Annotated[Literal["auto", "gather", "matmul"], "implementation of RoIAlign"] = "auto"
    dtype: Annotated[Literal["float32", "bfloat16"], "dtype of the computation; parameters stay float32"] = "bfloat16"

    @property
    def backbones(self) -> dict[str, str]:
        """The names of the backbones by those of their modules."""
        names = {"backbone": self.backbone, "reid_backbone": self.reid_backbone}
        return {module: name for module, name in names.items() if name}

    def check(self, need: Need) -> None:
        super().check(need)
        names = ", ".join(BACKBONES)
        need(self.backbone in BACKBONES, "backbone", f"choose one of {names}")
        need(self.reid_backbone in ("", *BACKBONES), "reid_backbone", f"choose one of {names}, or '' for none")
        strides = self.readout_strides
        need(
            strides == tuple(s for s in STRIDES if s in strides) != (),
            "readout_strides",
            f"choose one or more of {', '.join(map(str, STRIDES))}, in this order",
        )
        need(
            bool(self.readout_rows or self.reid_crops) or not self.reid_backbone,
            "readout_rows",
            "must be 1 or more to read reid_backbone, unless reid_crops is",
        )
        need(not (self.readout_rows and self.reid_crops), "reid_crops", "must be 0 with readout_rows")
        reads_images = bool(self.reid_backbone) and not self.reid_crops
        need(self.reid_scale == 1 or reads_images, "reid_scale", "must be 1 without a reid_backbone that reads images")
        heads = {name: spec.embedding_dim for name, spec in BACKBONES.items() if spec.embedding_dim}
        known = ", ".join(f"{name} ({dim})" for name, dim in heads.items())
        need(not (self.reid_head and self.reid_crops), "reid_head", "must be False with reid_crops: it embeds those")
        need(bool(self.reid_backbone) or not self.reid_weights, "reid_weights", "must be empty without a reid_backbone")
        for key in ("reid_head", "reid_crops"):
            need(
                not getattr(self, key) or heads.get(self.reid_backbone) == self.embedding_dim,
                key,
                f"needs a reid_backbone with a head, and that head's config.model.embedding_dim: {known}",
            )


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
        for name, spec in model.backbone_specs.items():
            spec.fold(getattr(model, name))
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
        specs = self.backbone_specs
        self.backbone = specs["backbone"].make(rngs=rngs)
        self.fpn = FPN(specs["backbone"].channels, options.dim, rngs=rngs)
        self.cdl = nnx.List([CDL(options, rngs=rngs) for _ in range(options.num_cdl)])
        if options.reid_backbone:
            self.reid_backbone = specs["reid_backbone"].make(rngs=rngs)
        read = self._read(specs.get("reid_backbone", specs["backbone"]).channels)
        rows, width = options.readout_rows, options.embedding_dim
        self.readout = (
            RowReadout(read, rows, 2 * options.dim, width, with_head=options.reid_head, rngs=rngs) if rows else None
        )

    @property
    def backbone_specs(self) -> dict[str, BackboneSpec]:
        """The backbones by the names of their modules."""
        specs = {module: BACKBONES[name] for module, name in self.options.backbones.items()}
        if self.options.reid_crops:
            specs["reid_backbone"] = specs["reid_backbone"].for_reid()
        if self.options.reid_crops or self.options.reid_head:
            specs["reid_backbone"] = replace(specs["reid_backbone"], head=True)
        return specs

    def features(self, images: jax.Array, image_size: jax.Array) -> Condition:
        """uint8 RGB [B,H,W,3], valid size [B,2] -> Condition. BatchNorm is frozen.

        The pyramid depends on neither the extent of the padding nor on what the batch holds there; it is zero there.
        """
        condition = self.condition(self.maps(images, image_size), image_size)
        return condition._replace(images=images) if self.options.reid_crops else condition

    def maps(self, images: jax.Array, image_size: jax.Array) -> Maps:
        """The part of `features` that the backbones do."""
        dtype = jnp.dtype(self.options.dtype)
        pixels = images.astype(jnp.float32)
        times = self.options.downsample
        small, small_size = shrunk(pixels, image_size, times), valid_size(image_size, times)
        stages = self.backbone(small, image_size=small_size, dtype=dtype)
        if not self.options.reid_backbone or self.options.reid_crops:
            return Maps(stages)
        times = self.options.reid_scale
        large = enlarged(pixels, image_size, times)
        maps = self.reid_backbone(large, image_size=image_size * times, dtype=dtype)
        return Maps(stages, self._read(maps[:4]), maps[4:])

    def _read(self, of_maps: Sequence[T]) -> tuple[T, ...]:
        """Of something for each of the four maps, what is for those that the row read-out reads."""
        pairs = zip(of_maps, STRIDES, strict=True)
        return tuple(each for each, stride in pairs if stride in self.options.readout_strides)

    def condition(self, maps: Maps, image_size: jax.Array) -> Condition:
        """The part of `features` that comes after the backbones."""
        pyramid = self.fpn(maps.stages, valid_size(image_size, self.options.downsample))
        read = () if self.readout is None else maps.reid or self._read(maps.stages)
        return Condition(pyramid, image_size, read, maps.head)

    def denoise(
        self, condition: Condition, state: State, t: jax.Array, held: jax.Array | None = None
    ) -> list[Estimate]:
        """f_theta2 (Eq. 12): noisy state at times t [B] -> one Estimate for each stacked layer, the last is the answer.

        Later layers read the boxes and embeddings of the layer before (as constants), so that each is supervised.
        The row read-out reads the box that a layer predicts, or the given one where `held` [B,N] says that it is exact.
        """
        options, size = self.options, condition.image_size
        given = boxes = self.diffusion.decode_boxes(state.box, size)
        embedding = state.embedding / self.diffusion.embedding_snr_scale
        estimates = []
        for layer in self.cdl:
            cells = roi_align(
                condition.pyramid,
                boxes,
                strides=tuple(stride * options.downsample for stride in STRIDES),
                side=options.side,
                sampling_ratio=options.sampling_ratio,
                canonical_size=options.canonical_size * options.downsample,
                backend=options.roi_backend,
                image_size=size,
            )
            cells = checkpoint_name(rearrange(cells, "b n y x c -> b n (y x) c"), "cells")
            prediction = layer(cells, embedding, t)
            moved = apply_deltas(boxes, prediction.deltas)
            after = jax.lax.stop_gradient(box_ops.clip(moved, size))
            embeddings = prediction.embeddings
            if self.readout is not None:
                read = after if held is None else jnp.where(held[..., None], given, after)
                embeddings += self.readout(self.read(condition, read), prediction.hidden)
            estimates.append(Estimate(moved, prediction.logits, embeddings))
            boxes, embedding = after, jax.lax.stop_gradient(embeddings)
        return estimates

    def read(self, condition: Condition, boxes: jax.Array) -> jax.Array:
        """What the row read-out maps to embeddings: features [B,N,F] of boxes [B,N,4] in pixels, the last of them what
        the head says."""
        assert self.readout is not None
        options, size = self.options, condition.image_size
        factor = 1 if options.reid_backbone else options.downsample
        strides = tuple(stride * factor // options.reid_scale for stride in options.readout_strides)
        features = self.readout.features(condition.maps, boxes, strides, size, options.roi_backend)
        if not condition.head:
            return features
        stride = HEAD_STRIDE // options.reid_scale
        said = self.reid_backbone.head.embed(condition.head[0], boxes, stride, size, options.roi_backend)
        return jnp.concatenate([features, said.astype(features.dtype)], axis=-1)

    def embed_crops(self, condition: Condition, boxes: jax.Array, wanted: jax.Array) -> jax.Array:
        """What reid_backbone and its head make of crops of the images: boxes [B,N,4] in pixels -> unit vectors
        [B,N,D]. The n-th crops of a batch, of whom none is wanted [B,N], are not looked at, and have zeros."""
        assert condition.images is not None
        pixels, size, options = (condition.images.astype(jnp.float32),), condition.image_size, self.options

        def embed(boxes: jax.Array) -> jax.Array:
            crops = roi_align(
                pixels, boxes[:, None], strides=(1,), side=CROP, backend=options.roi_backend, image_size=size
            )
            *_, conv5 = self.reid_backbone(crops[:, 0], dtype=jnp.dtype(options.dtype))
            return self.reid_backbone.head(conv5)

        def nothing(boxes: jax.Array) -> jax.Array:
            return jnp.zeros((boxes.shape[0], options.embedding_dim))

        ranks = (rearrange(boxes, "b n x -> n b x"), rearrange(wanted, "b n -> n b"))
        found = jax.lax.map(lambda rank: jax.lax.cond(rank[1].any(), embed, nothing, rank[0]), ranks)
        return rearrange(found, "n b d -> b n d")

    def clean(self, condition: Condition, estimate: Estimate) -> tuple[State, jax.Array]:
        """An estimate as (clean state, scores [B,N]), which is what samplers work with."""
        boxes = box_ops.clip(estimate.boxes, condition.image_size)
        clean = self.diffusion.clean(boxes, estimate.embeddings, condition.image_size)
        return clean, jax.nn.sigmoid(estimate.logits)
