"""The layouts of weights files, told apart by their names.

A layout says how one library names the tensors of a backbone. Depths and widths are read from blocks, for messages and
to find out which backbone a file is.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from psdiff_jax.convert import resnet, swin
from psdiff_jax.errors import InputError
from psdiff_jax.models.resnet import ResNetSpec
from psdiff_jax.models.swin import SwinSpec

_PREFIX = r"^(?P<prefix>(?:module\.|model\.|backbone\.|encoder\.|resnet\.|swin\.)*)"
_DETECTOR = r"(^|[./])(rpn|roi_heads?|rpn_head|bbox_head|proposal_generator|fpn|neck|transformer|detr|cdl)[./]"


@dataclass(frozen=True)
class Layout:
    """How one library names a backbone's tensors.

    Attributes:
      title: for messages. family: "ResNet" or "Swin".
      marks: regular expressions, each of which some name of such a file matches (after prefixes like "module.").
      names: one of our names -> the file's names, whose tensors are stacked along the first axis.
      left_out: regular expression of the names that a backbone has no place for.
      ours: axes are ours, [H,W,I,O] and [I,O], not PyTorch's [O,I,H,W] and [O,I].
    """

    title: str
    family: str
    marks: tuple[str, ...]
    names: Callable[[str], tuple[str, ...]]
    left_out: str = "(?!)"
    ours: bool = False


LAYOUTS = (
    Layout("our own ResNet", "ResNet", (r"layer1/0/conv1/kernel",), lambda name: (name,), ours=True),
    Layout("our own Swin", "Swin", (r"patch_embed/proj/kernel",), lambda name: (name,), ours=True),
    Layout(
        "torchvision's or timm's ResNet",
        "ResNet",
        (r"conv1\.weight", r"layer1\.0\.conv1\.weight"),
        resnet.torchvision_names,
        resnet.LEFT_OUT,
    ),
    Layout(
        "transformers' ResNet",
        "ResNet",
        (r"embedder\.embedder\.convolution\.weight",),
        resnet.transformers_names,
        resnet.LEFT_OUT,
    ),
    Layout(
        "timm's Swin",
        "Swin",
        (r"patch_embed\.proj\.weight", r"layers\.3\.downsample\.reduction\.weight"),
        swin.timm_names,
        swin.LEFT_OUT,
    ),
    Layout(
        "Microsoft's Swin",
        "Swin",
        (r"patch_embed\.proj\.weight", r"layers\.0\.blocks\.0\.attn\.qkv\.weight"),
        swin.microsoft_names,
        swin.LEFT_OUT,
    ),
    Layout(
        "torchvision's Swin",
        "Swin",
        (r"features\.0\.0\.weight", r"features\.1\.0\.attn\.qkv\.weight"),
        swin.torchvision_names,
        swin.LEFT_OUT,
    ),
    Layout(
        "transformers' Swin",
        "Swin",
        (r"encoder\.layers\.0\.blocks\.0\.attention\.self\.query\.weight",),
        swin.transformers_names,
        swin.LEFT_OUT,
    ),
    Layout(
        "transformers' Swin (a module's own names)",
        "Swin",
        (r"encoder\.layers\.0\.blocks\.0\.attention\.q_proj\.weight",),
        swin.transformers_5_names,
        swin.LEFT_OUT,
    ),
)


class Recognised(NamedTuple):
    """A layout, and name without prefix -> name in the file."""

    layout: Layout
    names: dict[str, str]


def recognise(arrays: Mapping[str, Any], where: str) -> Recognised:
    """The layout of a file of weights, from its names.

    Raises:
      InputError: no known backbone, or more than one (a detector, a whole PSDiff).
    """
    whole = next((name for name in arrays if re.search(_DETECTOR, name)), None)
    if whole:
        hint = "a whole PSDiff goes into config.train.init_from" if "cdl/" in whole else "give a backbone's weights"
        raise InputError(f"{where}: a whole network, such as a detector (it holds {whole!r}); {hint}")
    for layout in LAYOUTS:
        found = [_find(mark, arrays) for mark in layout.marks]
        if all(match is not None for match in found):
            prefix = found[0]["prefix"]
            return Recognised(layout, {name.removeprefix(prefix): name for name in arrays})
    some = ", ".join(map(repr, list(arrays)[:3]))
    raise InputError(f"{where}: no layout of a ResNet or Swin that is known here (it holds {some}, ...)")


def _find(mark: str, names: Mapping[str, Any]) -> re.Match[str] | None:
    matches = (re.match(f"{_PREFIX}{mark}$", name) for name in names)
    return next((match for match in matches if match), None)


class Structure(NamedTuple):
    """What tells two backbones of a family apart. kind: "bottleneck" or "basic" blocks, or the heads of a Swin."""

    kind: str
    depths: tuple[int, ...]
    widths: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.kind}, depths {self.depths}, widths {self.widths}"


def spec_structure(spec: ResNetSpec | SwinSpec) -> Structure:
    """What a file for this spec holds."""
    if isinstance(spec, SwinSpec):
        return Structure(f"heads {spec.heads}", spec.depths, spec.channels)
    return Structure("bottleneck blocks" if spec.bottleneck else "basic blocks", spec.depths, spec.widths)


def file_structure(arrays: Mapping[str, np.ndarray], found: Recognised) -> Structure:
    """What a file of four stages holds, read from the names and shapes of its blocks."""
    layout, stored = found
    swin_like = layout.family == "Swin"
    block = "stages/{0}/blocks/{1}/attn/bias_table" if swin_like else "layer{0}/{1}/conv1/kernel"
    width = "stages/{0}/blocks/0/norm1/scale" if swin_like else "layer{0}/0/bn1/scale"
    stages = range(4) if swin_like else range(1, 5)

    def theirs(name: str) -> np.ndarray | None:
        full = stored.get(layout.names(name)[0])
        return None if full is None else np.asarray(arrays[full])

    depths = tuple(next(j for j in count() if theirs(block.format(i, j)) is None) for i in stages)
    widths = tuple(0 if (array := theirs(width.format(i))) is None else len(array) for i in stages)
    if swin_like:
        tables = [theirs(block.format(i, 0)) for i in stages]
        kind = f"heads {tuple(0 if table is None else table.shape[-1] for table in tables)}"
    else:
        kind = "basic blocks" if theirs("layer1/0/conv3/kernel") is None else "bottleneck blocks"
    return Structure(kind, depths, widths)
