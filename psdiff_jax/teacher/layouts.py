"""The re-ID networks that other projects save, told apart by the names of their tensors.

What was read in the published code, by file (names, order of layers, what the embedding is, how it is saved):
  HHCL      bupt-ai-cz/HHCL-ReID: hhcl/models/resnet.py and resnet_ibn.py, examples/train.py and test.py. Of pooling.py
            and resnet_ibn_a.py, which those import, not its own were at hand but cluster-contrast's, on which it is
            built (the copies in mangye16/ReID-Survey, UnTransReID_USL_ReID/clustercontrast/models).
  baseline  michuanhaohao/reid-strong-baseline: modeling/baseline.py, modeling/backbones/resnet.py and resnet_ibn_a.py,
            engine/trainer.py, config/defaults.py. Its ResNet has no ReLU after the first BatchNorm; its IBN-a has one.
  AGW       mangye16/ReID-Survey: modeling/baseline.py, modeling/backbones/resnet_nl.py, resnet.py and resnet_ibn_a.py,
            modeling/layer/non_local.py and gem_pool.py. No first ReLU there either.
  MGN       seathiefwang/MGN-pytorch: model/mgn.py, model/__init__.py, option.py, trainer.py. The authors of the paper
            published no code. Its evaluation adds the features of the mirrored crop; that is left out here.
  PPLR      yoonkicho/PPLR: pplr/models/resnet_part.py, pplr/evaluators.py, examples/train_pplr.py and test.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from psdiff_jax.convert.resnet import LEAVES
from psdiff_jax.errors import InputError
from psdiff_jax.teacher.published import ReIDSpec

COUNTERS = r".*\.num_batches_tracked"
_PREFIX = r"(?P<prefix>(?:module\.|model\.|net\.)*)"
_DETECTOR = r"(^|[./])(rpn|roi_heads?|rpn_head|bbox_head|proposal_generator|fpn|transformer|detr|cdl)[./]"
_IBN = ((r"\.instance$", ".IN"), (r"\.batch$", ".BN"))
_BASE = ((r"^backbone\.conv1$", "base.0"), (r"^backbone\.bn1$", "base.1"), *(
    (rf"^backbone\.layer{stage}\.", f"base.{stage + 3}.") for stage in (1, 2, 3, 4)
))  # fmt: skip
_NON_LOCAL = (*((rf"^backbone\.non_local\.{i}\.(\d+)\.", rf"base.NL_{i + 1}.\1.") for i in range(4)),
              (r"(NL_.*)\.query$", r"\1.theta"), (r"(NL_.*)\.key$", r"\1.phi"), (r"(NL_.*)\.value$", r"\1.g"),
              (r"(NL_.*)\.out$", r"\1.W.0"), (r"(NL_.*)\.norm$", r"\1.W.1"))  # fmt: skip
_BNNECK = (*_NON_LOCAL, (r"^backbone\.", "base."), (r"^neck$", "bottleneck"), (r"^gem$", "global_pool"), *_IBN)


def _mgn(trunk: str) -> tuple[tuple[str, str], ...]:
    return (
        (r"^conv1$", f"{trunk}.0"), (r"^bn1$", f"{trunk}.1"), (r"^layer1\.", f"{trunk}.4."),
        (r"^layer2\.", f"{trunk}.5."), (r"^layer3\.", f"{trunk}.6."),
        *((rf"^branches\.{i}\.", f"p{i + 1}.") for i in range(3)),
        (r"^reductions\.(\d)\.conv$", r"reduction_\1.0"), (r"^reductions\.(\d)\.bn$", r"reduction_\1.1"),
    )  # fmt: skip


@dataclass(frozen=True)
class Family:
    """How one project names its tensors.

    Attributes:
      title: for messages. mark: regular expression that some name of such a file begins with, after prefixes like
        "module.". renames: (pattern, replacement) pairs that turn the dotted name of one of our modules into theirs.
      left_out: regular expression of what serves training alone (classifiers, heads of parts).
      crop_size: (h, w) that the authors test with.
      poolings: what their option for it can say that leaves no tensor behind; the first is taken unless --pool differs.
      parts: three branches of parts; otherwise one neck. first_relu: of the ResNet without IBN-a.
    """

    title: str
    mark: str
    renames: tuple[tuple[str, str], ...]
    left_out: str
    crop_size: tuple[int, int] = (256, 128)
    poolings: tuple[str, ...] = ("avg",)
    parts: bool = False
    first_relu: bool = True

    def name(self, ours: str) -> str:
        """ "backbone/layer1/0/bn1/mean" -> "base.4.0.bn1.running_mean"."""
        module, leaf = ours.replace("/", ".").rsplit(".", 1)
        for pattern, replacement in self.renames:
            module = re.sub(pattern, replacement, module)
        return f"{module}.{LEAVES.get(leaf, leaf)}"


# The first whose mark is found.
FAMILIES = (
    *(Family("MGN", rf"{trunk}\.6\.conv1\.", _mgn(trunk), r"fc_id_[\d_]+\.(weight|bias)", (384, 128),
             poolings=("max", "avg"), parts=True)
      for trunk in ("backone", "backbone")),
    Family("PPLR", r"bnneck\d*\.", (*_BASE, (r"^neck$", "bnneck")), r"classifier\d*\.(weight|bias)|bnneck\d+\..*",
           (384, 128)),
    Family("HHCL", r"base\.4\.0\.conv1\.",
           (*_BASE, (r"^feature$", "feat"), (r"^neck$", "feat_bn"), (r"^gem$", "gap"), *_IBN),
           r"classifier\.(weight|bias)", poolings=("avg", "max")),
    Family("AGW", r"base\.NL_\d|global_pool\.p", _BNNECK, r"(classifier|base\.fc)\.(weight|bias)", first_relu=False),
    Family("strong baseline", r"base\.layer1\.0\.conv1\.", _BNNECK, r"(classifier|base\.fc)\.(weight|bias)",
           first_relu=False),
)  # fmt: skip


class Recognised(NamedTuple):
    """A family, the prefix of all names, and name without prefix -> array."""

    family: Family
    prefix: str
    arrays: dict[str, np.ndarray]


def recognise(arrays: Mapping[str, np.ndarray], where: str) -> Recognised:
    """The family of a checkpoint, from its names.

    Raises:
      InputError: a detector, a teacher that was trained here, or none that is known.
    """
    if not arrays:
        raise InputError(f"{where}: holds no tensor")
    whole = next((name for name in arrays if re.search(_DETECTOR, name)), None)
    if whole:
        raise InputError(f"{where}: a detector or person-search network (it holds {whole!r}); give a re-ID network's")
    if "neck/scale" in arrays:
        raise InputError(f"{where}: trained here; name it in config.teacher.init_from, with kind='trained' and steps=0")
    for family in FAMILIES:
        found = next((match for name in arrays if (match := re.match(_PREFIX + f"(?:{family.mark})", name))), None)
        if found:
            prefix = found["prefix"]
            other = next((name for name in arrays if not name.startswith(prefix)), None)
            if other:
                what = f"{family.title}, of which all names begin with {prefix!r}, but it holds {other!r}"
                raise InputError(f"{where}: {what}; save one network alone")
            return Recognised(family, prefix, {name.removeprefix(prefix): array for name, array in arrays.items()})
    some = ", ".join(map(repr, list(arrays)[:3]))
    titles = ", ".join(dict.fromkeys(family.title for family in FAMILIES))
    raise InputError(
        f"{where}: not one of {titles} (it holds {some}, ...); other networks come as ONNX, config.teacher.kind='onnx'"
    )


def read_spec(found: Recognised, pooling: str, where: str) -> ReIDSpec:
    """What the shapes of a checkpoint say about its network.

    Args:
      pooling: "avg" or "max" where the family has both and stores no exponent of a generalised mean; "" is its first.

    Raises:
      InputError: a tensor that is needed for this is missing or of another rank, blocks are no bottlenecks, or
        `pooling` is not what such a network can have.
    """
    family = found.family
    prefix = "" if family.parts else "backbone/"
    if family.name(f"{prefix}layer1/0/conv2/kernel") in found.arrays:
        if family.name(f"{prefix}layer1/0/conv3/kernel") not in found.arrays:
            raise InputError(f"{where}: {family.title} with blocks of two 3x3 (ResNet-18, -34); bottlenecks are known")
    last = ("branches/0/0", "branches/0/1") if family.parts else ("backbone/layer3", "backbone/layer4")
    stages = (f"{prefix}layer1", f"{prefix}layer2", *last)
    depths = [count(found, f"{stage}/0/conv1/kernel") for stage in stages]
    depths[2] += family.parts  # MGN's branches begin after the first block of stage 4
    spec = ReIDSpec(
        depths=tuple(depths), widths=tuple(shape(found, f"{stage}/0/conv2/kernel", 4, where)[0] for stage in stages),
        stem_width=shape(found, f"{prefix}conv1/kernel", 4, where)[0], pooling=_pooling(found, pooling, where),
    )  # fmt: skip
    if family.parts:
        return replace(spec, parts_dim=shape(found, "reductions/0/conv/kernel", 4, where)[0])
    return _with_extras(spec, found, where)


def _with_extras(spec: ReIDSpec, found: Recognised, where: str) -> ReIDSpec:
    """The spec of a network with one neck, with what else its tensors tell."""
    family, arrays = found.family, found.arrays
    values = [f"backbone/non_local/{i}/0/value/kernel" for i in range(4)]
    non_local = tuple(count(found, value) for value in values)
    inner = [shape(found, value, 4, where)[0] for value, blocks in zip(values, non_local, strict=True) if blocks]
    linear = family.name("feature/kernel") in arrays
    ibn = family.name("backbone/layer1/0/bn1/instance/scale") in arrays
    return replace(
        spec, embedding_dim=shape(found, "feature/kernel", 2, where)[0] if linear else 0, ibn=ibn,
        stem_relu=ibn or family.first_relu, non_local=non_local, non_local_width=inner[0] if inner else 1,
    )  # fmt: skip


def _pooling(found: Recognised, wanted: str, where: str) -> str:
    family, exponent = found.family, found.family.name("gem/p")
    if exponent in found.arrays and wanted:
        raise InputError(f"{where}: holds the exponent of a generalised mean, {exponent!r}; omit --pool")
    if wanted not in ("", *family.poolings):
        raise InputError(f"{where}: {family.title} pools by {family.poolings[0]}, not {wanted}; omit --pool")
    return "gem" if exponent in found.arrays else wanted or family.poolings[0]


def count(found: Recognised, first: str) -> int:
    """How many blocks there are in the row of which `first` names a tensor of block 0: the highest number, plus 1."""
    row = re.escape(found.family.name(first).rsplit(".0.", 1)[0])
    numbers = [int(match[1]) for name in found.arrays if (match := re.match(rf"{row}\.(\d+)\.", name))]
    return max(numbers, default=-1) + 1


def shape(found: Recognised, ours: str, rank: int, where: str) -> tuple[int, ...]:
    """The shape of a tensor by one of our names; InputError when it is missing or of another rank."""
    name = found.family.name(ours)
    if name not in found.arrays:
        raise InputError(f"{where}: {found.family.title} lacks {found.prefix + name!r}; is the file whole?")
    if found.arrays[name].ndim != rank:
        raise InputError(f"{where}: {found.prefix + name!r} has shape {found.arrays[name].shape}, not {rank} axes")
    return found.arrays[name].shape
