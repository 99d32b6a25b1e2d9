"""Options of a teacher: what it is, and how it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from psdiff_jax.models.backbone import BackboneSpec
from psdiff_jax.models.backbones import BACKBONES
from psdiff_jax.models.resnet import ResNetSpec
from psdiff_jax.models.swin import SwinSpec
from psdiff_jax.options import AT_LEAST_1, FRACTION, NOT_NEGATIVE, POSITIVE, Need, Range
from psdiff_jax.teacher.crops import Augment

# What config.teacher.file names, of each kind of teacher that is one.
FILES = {
    "network": "a checkpoint of a re-ID network, or OUT.npz of psdiff_jax.teacher.convert",
    "onnx": "an .onnx of a re-ID network",
    "file": "an .npz with the embeddings",
}
# What keys were called in config.json and teacher.json before.
RENAMED = {"people": "identities", "crops_per_person": "crops_per_identity"}


@dataclass(frozen=True)
class TeacherOptions:
    """config.teacher. Keys from `backbone` on are those of a teacher that is trained here."""

    kind: Annotated[
        Literal["trained", "network", "onnx", "file"],
        "trained here on ground-truth crops; a published checkpoint; an ONNX network; or embeddings as a file",
    ] = "trained"
    file: Annotated[str, "checkpoint, .onnx, or .npz with image_name, box_xywh, embedding, by kind"] = ""
    preprocessing: Annotated[
        Literal["imagenet", "unit", "raw", "raw_bgr"], "what an ONNX network expects of pixels"
    ] = "imagenet"
    whiten: Annotated[bool, "whiten the PCA to config.model.embedding_dim"] = False
    folder: Annotated[str, "where teacher and targets are kept, for runs to share; '' = WORKDIR/teacher"] = ""
    crop_size: Annotated[
        tuple[int, int], Range(16), "(height, width) of a crop; networks that fix a size of their own ignore it"
    ] = (256, 128)
    backbone: Annotated[
        str | Mapping[str, Any], "a name in `models.backbones.BACKBONES`, or the fields of a ResNetSpec or SwinSpec"
    ] = "resnet50"
    init_from: Annotated[str, "teacher (.npz) or backbone weights to start from; '' = random weights"] = ""
    embedding_dim: Annotated[int, AT_LEAST_1, "width of its embedding"] = 256
    pooling: Annotated[Literal["avg", "gem"], "pooling of the last map"] = "avg"
    steps: Annotated[int, NOT_NEGATIVE, "training steps; 0 = the teacher of init_from as it is"] = 20_000
    identities: Annotated[int, Range(2), "P, identities per batch"] = 16
    crops_per_identity: Annotated[int, AT_LEAST_1, "K, crops per identity in a batch"] = 16
    unlabelled: Annotated[int, NOT_NEGATIVE, "U, crops of unlabelled people in a batch"] = 32
    negatives: Annotated[int, NOT_NEGATIVE, "embeddings of unlabelled people kept as negatives; 0 = none"] = 1024
    learning_rate: Annotated[float, POSITIVE, "Adam's, at its peak"] = 3.5e-4
    warmup_steps: Annotated[int, NOT_NEGATIVE, "steps of linear warm-up (HHCL: 0)"] = 100
    schedule: Annotated[Literal["step", "cosine", "constant"], "after warm-up"] = "step"
    decay_at: Annotated[tuple[float, ...], FRACTION, "where `step` divides by 10, in fractions of the steps"] = (
        0.4,
        0.8,
    )
    weight_decay: Annotated[float, NOT_NEGATIVE, "L2, on kernels"] = 5e-4
    temperature: Annotated[float, POSITIVE, "of the memory loss (`teacher.memory`)"] = 0.05
    momentum: Annotated[float, Range(0, 0.999999), "of the memory bank"] = 0.1
    hard_weight: Annotated[float, FRACTION, "weight of the hardest instances in the memory loss"] = 0.5
    flip: Annotated[bool, "mirror every other crop"] = True
    pad: Annotated[float, FRACTION, "largest shift of a crop, as a fraction of its height"] = 0.04
    erase: Annotated[float, FRACTION, "probability of random erasing"] = 0.5
    jitter: Annotated[float, NOT_NEGATIVE, "strength of colour jitter"] = 0.0
    bfloat16: Annotated[bool, "compute in bfloat16; parameters, statistics and loss stay float32"] = False
    freeze_statistics: Annotated[bool, "normalise by the running BatchNorm statistics, for a short fine-tuning"] = False
    log_every: Annotated[int, AT_LEAST_1, "steps between two log lines"] = 50
    checkpoint_every: Annotated[int, NOT_NEGATIVE, "steps between two checkpoints; 0 = only at the end"] = 500

    def check(self, need: Need) -> None:
        need(self.kind not in FILES or bool(self.file), "file", f"name {FILES.get(self.kind)}")
        need(self.pad * self.crop_size[0] <= self.crop_size[1], "pad", "must not shift by more than the crop's width")
        need(self.steps > 0 or bool(self.init_from), "steps", "0 needs config.teacher.init_from")
        if isinstance(self.backbone, str):
            need(self.backbone in BACKBONES, "backbone", f"choose one of {', '.join(BACKBONES)}")
        else:
            try:
                self.spec()
            except TypeError as error:
                need(False, "backbone", str(error))

    def spec(self) -> BackboneSpec:
        """The backbone's, as re-ID networks have it."""
        if isinstance(self.backbone, str):
            return BACKBONES[self.backbone].for_reid()
        fields = {key: tuple(v) if isinstance(v, list) else v for key, v in self.backbone.items()}
        return (SwinSpec if "embed_dim" in fields else ResNetSpec)(**fields).for_reid()

    def augment(self) -> Augment:
        return Augment(flip=self.flip, pad=self.pad, erase=self.erase, jitter=self.jitter)
