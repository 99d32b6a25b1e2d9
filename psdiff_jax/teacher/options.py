"""What a teacher is and how it is trained: every key of `config.teacher`, its default and its limits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psdiff_jax.errors import InputError
from psdiff_jax.models.backbones import SPECS
from psdiff_jax.models.resnet import ResNetSpec
from psdiff_jax.models.swin import SwinSpec
from psdiff_jax.teacher.crops import Augment
from psdiff_jax.teacher.network import POOLINGS
from psdiff_jax.teacher.onnx import PREPROCESSING

# What config.teacher.file names, of each kind of teacher that is one.
FILES = {
    "network": "a checkpoint of a re-ID network, or OUT.npz of psdiff_jax.teacher.convert",
    "onnx": "an .onnx of a re-ID network",
    "file": "an .npz with the embeddings",
}
KINDS = ("trained", *FILES)
SCHEDULES = ("cosine", "step", "constant")
# The smallest and the largest value of numbers.
LIMITS = {
    **dict.fromkeys(("embedding_dim", "crops_per_identity", "log_every"), (1, math.inf)),
    **dict.fromkeys(("steps", "unlabelled", "negatives", "warmup_steps", "checkpoint_every"), (0, math.inf)),
    **dict.fromkeys(("weight_decay", "jitter"), (0, math.inf)),
    **dict.fromkeys(("momentum", "hard_weight", "erase"), (0, 1)),
    "people": (2, math.inf),
}


@dataclasses.dataclass(frozen=True)
class TeacherOptions:
    """The keys of `config.teacher`.

    Attributes:
      kind: "trained" here on truth crops; "network", a checkpoint that somebody trained elsewhere; "onnx", a network in
        that format; or "file", embeddings of the truth boxes.
      file: for "network" see `teacher.convert`; for "onnx" the `.onnx`; for "file" a `.npz` with image_name, box_xywh,
        embedding.
      preprocessing: what an "onnx" network wants of pixels, see `teacher.onnx`.
      whiten: give every direction that the PCA keeps the same variance. A teacher whose embeddings are not
        config.model.embedding_dim wide goes through a PCA (`teacher.projection`).
      backbone: a name in `models.backbones.SPECS`, or a mapping with the fields of `ResNetSpec` or of `SwinSpec`. Stage
        5 of a ResNet keeps stage 4's resolution whatever the spec says.
      folder: where the teacher, its crops and its targets are kept; "" = WORKDIR/teacher. Runs may share it.
      embedding_dim, pooling: see `teacher.network.Teacher`.
      crop_size: (h, w) that crops are resized to. A "network" says itself what it takes, an "onnx" too
        unless it leaves it open.
      init_from: a teacher to go on from (`.npz`), or a backbone's weights (see `convert.backbone`); "" starts from
        random weights.
      steps: 0 takes the teacher of `init_from` as it is. A backbone alone needs `embedding_dim` = its last width then.
      people, crops_per_identity, unlabelled: P, K and U of a batch of P x K + U crops.
      learning_rate, warmup_steps: Adam's, and over how many steps it rises from zero (HHCL: none).
      schedule: after that "cosine" to zero, "step" (a tenth at each share in `decay_at` of the steps), or "constant".
      decay_at: HHCL's epochs 20 and 40 of 50 (of 400 steps), its default; its published runs have 60 (of 200).
      weight_decay: L2, on kernels.
      temperature, momentum, hard_weight: see `teacher.memory`.
      negatives: embeddings of unlabelled people kept as further negatives; 0 leaves them out (and `unlabelled` too), as
        `unlabelled` = 0 does.
      flip, pad, erase, jitter: see `teacher.crops.Augment`.
      bfloat16: compute in bfloat16 (parameters, statistics and loss stay float32).
      freeze_statistics: normalise by the running BatchNorm statistics; for a few steps of fine-tuning.
      log_every, checkpoint_every: in steps.
    """

    kind: str = "trained"
    file: str = ""
    preprocessing: str = "imagenet"
    whiten: bool = False
    folder: str = ""
    backbone: str | Mapping[str, Any] = "small"
    embedding_dim: int = 256
    pooling: str = "avg"
    crop_size: tuple[int, int] = (128, 64)
    init_from: str = ""
    steps: int = 2000
    people: int = 16
    crops_per_identity: int = 4
    unlabelled: int = 0
    learning_rate: float = 3.5e-4
    warmup_steps: int = 100
    schedule: str = "cosine"
    decay_at: tuple[float, ...] = (0.4, 0.8)
    weight_decay: float = 5e-4
    temperature: float = 0.05
    momentum: float = 0.1
    hard_weight: float = 0.5
    negatives: int = 0
    flip: bool = True
    pad: float = 0.04
    erase: float = 0.5
    jitter: float = 0.0
    bfloat16: bool = False
    freeze_statistics: bool = False
    log_every: int = 50
    checkpoint_every: int = 500

    @classmethod
    def from_config(cls, config_teacher: Mapping[str, Any]) -> TeacherOptions:
        """Checked options; InputError naming the key that is unknown, of a wrong type or out of range."""
        given, defaults = dict(config_teacher), vars(cls())
        for key, value in given.items():
            if key not in defaults:
                raise InputError(f"config.teacher.{key}: no such key; there are {', '.join(defaults)}")
            given[key] = _typed(key, value, defaults[key])
            if key in ("file", "init_from") and value:
                given[key] = str(Path(value).expanduser())
        return cls(**given)

    def __post_init__(self) -> None:
        def need(holds: bool, key: str, what: str) -> None:
            if not holds:
                raise InputError(f"config.teacher.{key}={getattr(self, key)!r}: {what}")

        need(self.kind in KINDS, "kind", f"choose one of {', '.join(KINDS)}")
        need(self.kind not in FILES or bool(self.file), "file", f"name {FILES.get(self.kind)}")
        need(self.preprocessing in PREPROCESSING, "preprocessing", f"choose one of {', '.join(PREPROCESSING)}")
        need(self.pooling in POOLINGS, "pooling", f"choose one of {', '.join(POOLINGS)}")
        need(self.schedule in SCHEDULES, "schedule", f"choose one of {', '.join(SCHEDULES)}")
        sides = [side for side in self.crop_size if isinstance(side, int) and side >= 16]
        need(len(sides) == len(self.crop_size) == 2, "crop_size", "two whole sides (h, w) of 16 or more")
        for key, (low, high) in LIMITS.items():
            within = f"{low} or more" if high == math.inf else f"within {low}..{high}"
            need(low <= getattr(self, key) <= high, key, within)
        for key in ("temperature", "learning_rate"):
            need(getattr(self, key) > 0, key, "above 0")
        need(self.momentum < 1, "momentum", "below 1, or the memory never moves")
        need(0 <= self.pad * sides[0] <= sides[1], "pad", "a share of the height, of 0 up to the crop's width")
        shares = [share for share in self.decay_at if isinstance(share, int | float) and 0 <= share <= 1]
        need(len(shares) == len(self.decay_at), "decay_at", "shares of the steps, within 0..1")
        need(self.steps > 0 or bool(self.init_from), "steps", "0 needs config.teacher.init_from")
        self.spec()

    def spec(self) -> ResNetSpec | SwinSpec:
        """The backbone's; a ResNet has a last stride of 1."""
        if isinstance(self.backbone, str):
            if self.backbone not in SPECS:
                raise InputError(f"config.teacher.backbone={self.backbone!r}: choose one of {', '.join(SPECS)}")
            spec = SPECS[self.backbone]
        else:
            fields = {key: tuple(v) if isinstance(v, list) else v for key, v in dict(self.backbone).items()}
            try:
                spec = (SwinSpec if "embed_dim" in fields else ResNetSpec)(**fields)
            except TypeError as error:
                raise InputError(f"config.teacher.backbone: {error}") from error
        return dataclasses.replace(spec, last_stride=1) if isinstance(spec, ResNetSpec) else spec

    def augment(self) -> Augment:
        return Augment(flip=self.flip, pad=self.pad, erase=self.erase, jitter=self.jitter)


def _typed(key: str, value: Any, default: Any) -> Any:
    """`value` in the type of `default`, or InputError; configs and JSON hand over lists for tuples, ints for floats."""
    if isinstance(default, tuple) and isinstance(value, list | tuple):
        return tuple(value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if key == "backbone" and hasattr(value, "items"):  # a dict or a ConfigDict
        return dict(value.items())
    if type(value) is not type(default):
        raise InputError(f"config.teacher.{key}={value!r}: expected {type(default).__name__}, such as {default!r}")
    return value
