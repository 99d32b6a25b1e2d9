"""The names that files give to the tensors of `models.mobilenet.MobileNetV2`.

torchvision's, with BatchNorm as it is or folded into the convolutions (ONNX), and Open Model Zoo's detectors.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from psdiff_jax.convert.layout import BackboneLayout, Checkpoint, folded_norm
from psdiff_jax.convert.resnet import LEAVES, LEFT_OUT

PARTS = ("expand", "depthwise", "project")
_LAST = r"|features\.18\..+"  # the 1x1 convolution before the classifier


def torchvision_names(name: str) -> tuple[str]:
    """ "blocks/3/depthwise/bn/mean" -> "features.4.conv.1.1.running_mean".

    torchvision's first block has no expansion: that of another network's is looked for at a place that no file has.
    """
    *module, kind, leaf = name.split("/")
    norm = kind == "bn"
    if module == ["stem"]:
        return (f"features.0.{int(norm)}.{LEAVES[leaf]}",)
    _, block, part = module
    place = PARTS.index(part) - (block == "0")
    inside = str(place + norm) if part == "project" else f"{place}.{int(norm)}"
    return (f"features.{int(block) + 1}.conv.{inside}.{LEAVES[leaf]}",)


def folded_names(name: str) -> tuple[str]:
    """ "stem/bn/bias" -> "features.0.0.bias", and otherwise as above."""
    return torchvision_names(re.sub(r"/bn/bias$", "/conv/bias", name))


def plain_names(name: str) -> tuple[str]:
    """ "blocks/3/depthwise/bn/bias" -> "blocks.3.depthwise.bias", as BatchNorm's other tensors are folded away."""
    name = re.sub(r"/(conv/kernel|bn/bias)$", lambda found: f"/{found[1].split('/')[1]}", name)
    *module, leaf = name.split("/")
    return (".".join([*module, LEAVES[leaf]]),)


@dataclass(frozen=True)
class MobileNetLayout(BackboneLayout):
    """torchvision's names."""

    left_out: str = LEFT_OUT + _LAST
    family = "MobileNetV2"
    key = "blocks/0/depthwise/conv/kernel"

    def structure(self, file: Checkpoint) -> str:
        widths = [file.width(f"blocks/{i}/project/bn/bias") for i in range(file.blocks("blocks/{}/project/bn/bias"))]
        first = "without" if file.get("blocks/0/expand/conv/kernel") is None else "with"
        return f"{len(widths)} blocks of widths {(*dict.fromkeys(widths),)}, the first {first} a 1x1 convolution"


@dataclass(frozen=True)
class FoldedMobileNetLayout(MobileNetLayout):
    """The same where BatchNorm is folded into the convolutions."""

    def default(self, ours: str) -> float | None:
        return folded_norm(ours)


@dataclass(frozen=True)
class ModelZooLayout(FoldedMobileNetLayout):
    """Open Model Zoo's detectors, whose layers have numbers for names: blocks are found by their order and shapes.

    Their input is BGR, 0..255; ours is RGB, 0..1.
    """

    left_out: str = ".+"
    in_detectors = True

    def find(self, arrays: Mapping[str, np.ndarray], where: str) -> Checkpoint | None:
        names = [name for name, array in arrays.items() if name.endswith(".weight") and array.ndim == 4]
        shapes = [arrays[name].shape for name in names]
        if not names or shapes[0][1:] != (3, 3, 3):
            return None
        found, width, block = {"stem": names[0]}, shapes[0][0], 0
        for i in range(len(names) - 2):
            hidden = shapes[i][0]
            wanted = (hidden, width, 1, 1), (hidden, 1, 3, 3), (shapes[i + 2][0], hidden, 1, 1)
            if tuple(shapes[i : i + 3]) == wanted:
                found |= {f"blocks.{block}.{part}": names[i + j] for j, part in enumerate(PARTS)}
                width, block = shapes[i + 2][0], block + 1
        if block < 2:
            return None
        return self.with_names(found, arrays, where)

    def fitted(self, ours: str, array: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, str]:
        if ours == "stem/conv/kernel":
            return array[:, ::-1] * 255, "kernel for BGR 0..255 made one for RGB 0..1"
        return array, ""


_FIRST, _PROJECTION = r"features\.0\.0\.weight", r"features\.1\.conv\.1\.weight"
MOBILENETS = (
    MobileNetLayout("torchvision's MobileNetV2", (_FIRST, _PROJECTION, r"features\.0\.1\.weight"), torchvision_names),
    FoldedMobileNetLayout(
        "MobileNetV2 with folded BatchNorm", (_FIRST, _PROJECTION, r"features\.0\.0\.bias"), folded_names
    ),
    ModelZooLayout("MobileNetV2 of Open Model Zoo", (), plain_names),
)
