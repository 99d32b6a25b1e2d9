"""Families of re-ID networks on a ResNet: HHCL, strong baseline, AGW, MGN, PPLR.

The published code that was read for names, order of layers, embedding and saving, by file:
  HHCL      bupt-ai-cz/HHCL-ReID: hhcl/models/resnet.py and resnet_ibn.py, examples/train.py and test.py. Its pooling.py
            and resnet_ibn_a.py are missing there; those of cluster-contrast were read, on which it is built (copies in
            mangye16/ReID-Survey, UnTransReID_USL_ReID/clustercontrast/models).
  baseline  michuanhaohao/reid-strong-baseline: modeling/baseline.py, modeling/backbones/resnet.py and resnet_ibn_a.py,
            engine/trainer.py, config/defaults.py. Its ResNet has no ReLU after the first BatchNorm; its IBN-a has one.
  AGW       mangye16/ReID-Survey: modeling/baseline.py, modeling/backbones/resnet_nl.py, resnet.py and resnet_ibn_a.py,
            modeling/layer/non_local.py and gem_pool.py. No first ReLU there either.
  MGN       seathiefwang/MGN-pytorch: model/mgn.py, model/__init__.py, option.py, trainer.py. The authors of the paper
            published no code. Its evaluation adds the features of the mirrored crop; that is left out here.
  PPLR      yoonkicho/PPLR: pplr/models/resnet_part.py, pplr/evaluators.py, examples/train_pplr.py and test.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from psdiff_jax.convert.layout import Checkpoint
from psdiff_jax.errors import InputError
from psdiff_jax.teacher.family import COUNTERS, Family, renamed
from psdiff_jax.teacher.published import ReIDSpec

_IBN = ((r"\.instance$", ".IN"), (r"\.batch$", ".BN"))
_BASE = ((r"^backbone\.conv1$", "base.0"), (r"^backbone\.bn1$", "base.1"), *(
    (rf"^backbone\.layer{stage}\.", f"base.{stage + 3}.") for stage in (1, 2, 3, 4)
))  # fmt: skip
_NON_LOCAL = (*((rf"^backbone\.non_local\.{i}\.(\d+)\.", rf"base.NL_{i + 1}.\1.") for i in range(4)),
              (r"(NL_.*)\.query$", r"\1.theta"), (r"(NL_.*)\.key$", r"\1.phi"), (r"(NL_.*)\.value$", r"\1.g"),
              (r"(NL_.*)\.out$", r"\1.W.0"), (r"(NL_.*)\.norm$", r"\1.W.1"))  # fmt: skip
_BNNECK = (*_NON_LOCAL, (r"^backbone\.", "base."), (r"^neck$", "bottleneck"), (r"^gem$", "global_pool"), *_IBN)


@dataclass(frozen=True)
class ResidualFamily(Family):
    """A network on a ResNet of bottlenecks.

    choices: the poolings that leave no tensor behind. trunk, last: where its stem and stage 2, and stages 4 and 5, are.
    """

    choices: tuple[str, ...] = ("avg",)
    trunk: ClassVar[str] = "backbone/"
    last: ClassVar[tuple[str, str]] = ("backbone/layer3", "backbone/layer4")
    spec_type = ReIDSpec

    def poolings(self, file: Checkpoint) -> tuple[str, ...]:
        return self.choices if file.get("gem/p") is None else ("gem",)

    def spec(self, file: Checkpoint, pooling: str) -> ReIDSpec:
        second, third = (file.get(f"{self.trunk}layer1/0/conv{i}/kernel") for i in (2, 3))
        if second is not None and third is None:
            raise InputError(f"{file.where}: {self.title} with blocks of two 3x3 (ResNet-18, -34); give bottlenecks")
        stages = (f"{self.trunk}layer1", f"{self.trunk}layer2", *self.last)
        return ReIDSpec(
            depths=tuple(file.blocks(f"{stage}/{{}}/conv1/kernel") for stage in stages),
            widths=tuple(file.shape(f"{stage}/0/conv2/kernel", 4)[0] for stage in stages),
            stem_width=file.shape(f"{self.trunk}conv1/kernel", 4)[0],
            pooling=pooling,
        )

    def reference(self, file: Checkpoint, spec: ReIDSpec, crops: np.ndarray) -> np.ndarray:
        from psdiff_jax.teacher.torch_reference import embeddings

        return embeddings(file, spec, crops)


@dataclass(frozen=True)
class NeckFamily(ResidualFamily):
    """A ResNet under one BatchNorm neck. first_relu: of the ResNet without IBN-a."""

    first_relu: bool = True

    def spec(self, file: Checkpoint, pooling: str) -> ReIDSpec:
        values = [f"backbone/non_local/{i}/{{}}/value/kernel" for i in range(4)]
        non_local = tuple(map(file.blocks, values))
        inner = [file.shape(value.format(0), 4)[0] for value, count in zip(values, non_local, strict=True) if count]
        ibn = file.get("backbone/layer1/0/bn1/instance/scale") is not None
        return replace(
            super().spec(file, pooling),
            embedding_dim=0 if file.get("feature/kernel") is None else file.shape("feature/kernel", 2)[0],
            ibn=ibn,
            stem_relu=ibn or self.first_relu,
            non_local=non_local,
            non_local_width=inner[0] if inner else 1,
        )


@dataclass(frozen=True)
class PartsFamily(ResidualFamily):
    """MGN: three branches of parts, which begin after the first block of stage 4."""

    trunk = ""
    last = ("branches/0/0", "branches/0/1")

    def spec(self, file: Checkpoint, pooling: str) -> ReIDSpec:
        spec = super().spec(file, pooling)
        first, second, third, fourth = spec.depths
        parts_dim = file.shape("reductions/0/conv/kernel", 4)[0]
        return replace(spec, depths=(first, second, third + 1, fourth), parts_dim=parts_dim)


def _mgn(trunk: str) -> PartsFamily:
    pairs = (
        (r"^conv1$", f"{trunk}.0"), (r"^bn1$", f"{trunk}.1"), (r"^layer1\.", f"{trunk}.4."),
        (r"^layer2\.", f"{trunk}.5."), (r"^layer3\.", f"{trunk}.6."),
        *((rf"^branches\.{i}\.", f"p{i + 1}.") for i in range(3)),
        (r"^reductions\.(\d)\.conv$", r"reduction_\1.0"), (r"^reductions\.(\d)\.bn$", r"reduction_\1.1"),
    )  # fmt: skip
    left_out = rf"fc_id_[\d_]+\.(weight|bias)|{COUNTERS}"
    marks = (rf"{trunk}\.6\.conv1\..*",)
    return PartsFamily("MGN", marks, renamed(pairs), left_out, crop_size=(384, 128), choices=("max", "avg"))


MGN = (_mgn("backone"), _mgn("backbone"))
PPLR = NeckFamily(
    "PPLR",
    (r"bnneck\d*\..*",),
    renamed((*_BASE, (r"^neck$", "bnneck"))),
    rf"classifier\d*\.(weight|bias)|bnneck\d+\..*|{COUNTERS}",
    crop_size=(384, 128),
)
HHCL = NeckFamily(
    "HHCL",
    (r"base\.4\.0\.conv1\..*",),
    renamed((*_BASE, (r"^feature$", "feat"), (r"^neck$", "feat_bn"), (r"^gem$", "gap"), *_IBN)),
    rf"classifier\.(weight|bias)|{COUNTERS}",
    choices=("avg", "max"),
)
_CLASSIFIERS = rf"(classifier|base\.fc)\.(weight|bias)|{COUNTERS}"
AGW = NeckFamily("AGW", (r"(base\.NL_\d|global_pool\.p).*",), renamed(_BNNECK), _CLASSIFIERS, first_relu=False)
BASELINE = NeckFamily(
    "strong baseline", (r"base\.layer1\.0\.conv1\..*",), renamed(_BNNECK), _CLASSIFIERS, first_relu=False
)
RESIDUAL_FAMILIES = (*MGN, PPLR, HHCL, AGW, BASELINE)
