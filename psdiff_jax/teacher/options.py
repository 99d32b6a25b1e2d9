"""Options of a teacher: what it is, and how it is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from psdiff_jax.models.backbone import BackboneSpec
from psdiff_jax.models.backbones import BACKBONES
from psdiff_jax.options import AT_LEAST_1, FRACTION, NOT_NEGATIVE, POSITIVE, Need, Range
from psdiff_jax.teacher.augment import AugmentOptions
from psdiff_jax.teacher.kinds import KINDS


@dataclass(frozen=True)
class TeacherOptions(AugmentOptions):
    """config.teacher. Of the keys below, those from `backbone` on are of a teacher that is trained here."""

    kind: Annotated[
        str,
        "a name in `teacher.kinds.KINDS`: trained (here, on ground-truth crops), network (a published checkpoint), "
        "onnx, openvino, file (of embeddings), or none (boxes alone are learned)",
    ] = "trained"
    file: Annotated[
        str, "checkpoint, .onnx, .xml of an OpenVINO IR, or .npz with image_name, box_xywh, embedding, by kind"
    ] = ""
    preprocessing: Annotated[
        Literal["auto", "imagenet", "unit", "raw", "raw_bgr"],
        "what an onnx or openvino network expects of pixels; auto = imagenet, or raw_bgr where an IR says so",
    ] = "auto"
    interpolation: Annotated[
        Literal["auto", "bicubic", "bilinear"],
        "of the crops for an onnx or openvino network; auto = bicubic, for openvino bilinear",
    ] = "auto"
    whiten: Annotated[bool, "whiten the PCA to config.model.embedding_dim"] = False
    folder: Annotated[str, "where teacher and targets are kept, for runs to share; '' = WORKDIR/teacher"] = ""
    crop_size: Annotated[
        tuple[int, int], Range(16), "(height, width) of a crop; networks that fix a size of their own ignore it"
    ] = (256, 128)
    backbone: Annotated[
        str | Mapping[str, Any], "a name in `models.backbones.BACKBONES`, or the fields of the spec of one"
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
    temperature: Annotated[float, POSITIVE, "of the contrastive loss (`teacher.memory_bank`)"] = 0.05
    momentum: Annotated[float, Range(0, 0.999999), "of the memory bank"] = 0.1
    hard_weight: Annotated[float, FRACTION, "weight of the hardest samples in the contrastive loss"] = 0.5
    bfloat16: Annotated[bool, "compute in bfloat16; parameters, statistics and loss stay float32"] = False
    freeze_statistics: Annotated[bool, "normalise by the running BatchNorm statistics, for a short fine-tuning"] = False
    log_every: Annotated[int, AT_LEAST_1, "steps between two log lines"] = 50
    checkpoint_every: Annotated[int, NOT_NEGATIVE, "steps between two checkpoints; 0 = only at the end"] = 500

    def check(self, need: Need) -> None:
        need(self.kind in KINDS, "kind", f"choose one of {', '.join(KINDS)}")
        need(bool(self.file) or not KINDS[self.kind].file, "file", f"name {KINDS[self.kind].file}")
        need(self.pad * self.crop_size[0] <= self.crop_size[1], "pad", "must not shift by more than the crop's width")
        need(self.steps > 0 or bool(self.init_from), "steps", "0 needs config.teacher.init_from")
        if isinstance(self.backbone, str):
            need(self.backbone in BACKBONES, "backbone", f"choose one of {', '.join(BACKBONES)}")
        else:
            need(bool(self._classes()), "backbone", "not the fields of a ResNetSpec, a SwinSpec or another spec")

    def spec(self) -> BackboneSpec:
        """The backbone's, as re-ID networks have it."""
        if isinstance(self.backbone, str):
            return BACKBONES[self.backbone].for_reid()
        fields = {key: tuple(value) if isinstance(value, list) else value for key, value in self.backbone.items()}
        return self._classes()[0](**fields).for_reid()

    def _classes(self) -> list[Any]:
        """The classes of specs that have the fields of `backbone`, and no other ones without a default."""
        found = []
        for spec in dict.fromkeys(map(type, BACKBONES.values())):
            fields = {field.name: field.default is dataclasses.MISSING for field in dataclasses.fields(spec)}
            required = {name for name, is_required in fields.items() if is_required}
            if required <= set(self.backbone) <= set(fields):
                found.append(spec)
        return found
