"""The names that files give to the tensors of `models.osnet.OSNet`: torchreid's, in its .pth files and in ONNX files of
them, and Open Model Zoo's.

Exporters to ONNX fold BatchNorm into the convolutions, which then have a bias. It becomes our BatchNorm's, whose other
tensors are those of the identity.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from psdiff_jax.convert.layout import BackboneLayout, Checkpoint, folded_norm
from psdiff_jax.convert.mobilenet import plain_names
from psdiff_jax.convert.resnet import LEAVES

HEAD = ("head.pool", "head.fc", "head.slope")  # the last layers; a file may lack them
LEFT_OUT = r"(fc|classifier)\..+|.*\.num_batches_tracked"


def torchreid_names(name: str) -> tuple[str]:
    """ "conv2/0/streams/1/0/conv/kernel" -> "conv2.0.conv2b.0.conv2.weight"."""
    *module, leaf = name.split("/")
    place = ".".join(module)
    place = re.sub(r"^transitions\.(\d+)", lambda found: f"conv{int(found[1]) + 2}.2.0", place)
    place = re.sub(r"(streams\.\d\.\d\.)conv$", r"\1conv2", place)
    place = place.replace("pointwise", "conv1").replace("streams.0.0", "conv2a")
    place = re.sub(r"streams\.(\d)", lambda found: f"conv2{'abcd'[int(found[1])]}", place)
    return (f"{place}.{LEAVES[leaf]}",)


def folded_names(name: str) -> tuple[str]:
    """ "conv1/bn/bias" -> "conv1.conv.bias", and otherwise as above."""
    return torchreid_names(re.sub(r"/bn/bias$", "/conv/bias", name))


@dataclass(frozen=True)
class OSNetLayout(BackboneLayout):
    """torchreid's names."""

    left_out: str = LEFT_OUT
    family = "OSNet"
    key = "conv2/0/gate/fc1/kernel"

    def structure(self, file: Checkpoint) -> str:
        depths = tuple(file.blocks(f"conv{i}/{{}}/gate/fc1/kernel") for i in (2, 3, 4))
        stages = ("conv1", "conv2/0/conv3", "conv3/0/conv3", "conv4/0/conv3")
        return f"depths {depths}, widths {tuple(file.width(f'{stage}/bn/bias') for stage in stages)}"


@dataclass(frozen=True)
class FoldedOSNetLayout(OSNetLayout):
    """The same where BatchNorm is folded into the convolutions."""

    def default(self, ours: str) -> float | None:
        return folded_norm(ours)


@dataclass(frozen=True)
class ModelZooLayout(FoldedOSNetLayout):
    """Open Model Zoo's person-reidentification-retail networks, most of whose layers have numbers for names: they are
    found by their order, which is that of the forward pass."""

    left_out: str = ".+"

    def find(self, arrays: Mapping[str, np.ndarray], where: str) -> Checkpoint | None:
        weights = (name for name in arrays if name.endswith(".weight"))
        found: dict[str, str] = {}
        for ours, weight in zip(_forward_order(), weights, strict=False):
            first = found.setdefault(ours, weight)  # a gate stands there once for each stream that it serves
            if arrays[first].ndim != _rank(ours) or not np.array_equal(arrays[first], arrays[weight]):
                return None
        if not set(_forward_order()) - set(HEAD) <= set(found):
            return None
        return self.with_names(found, arrays, where)


def _forward_order() -> Iterator[str]:
    """The modules of an OSNet with instance normalisation and context gates as they compute."""
    yield from ("norm", "conv1", "conv1.norm")
    for stage in (2, 3, 4):
        for block in (f"conv{stage}.0", f"conv{stage}.1"):
            yield f"{block}.conv1"
            for stream in range(4):
                for layer in range(stream + 1):
                    yield from (f"{block}.streams.{stream}.{layer}{part}" for part in (".pointwise", ""))
                if block.endswith("1"):
                    yield f"{block}.gate.norm"
                elif stream == 0:  # the weights of its two layers are told apart by name, and come once
                    yield from (f"{block}.gate.fc1", f"{block}.gate.fc2")
            yield f"{block}.conv3"
            if block.endswith("0"):
                yield f"{block}.downsample"
        if stage < 4:
            yield f"transitions.{stage - 2}"
    yield "conv5"
    yield from HEAD


def _rank(module: str) -> int:
    """The number of axes of a module's weight."""
    return {"head.fc": 2, "head.slope": 1}.get(module, 1 if "norm" in module else 4)


_GATE = r"conv2\.0\.gate\.fc1\.weight"
OSNETS = (
    OSNetLayout("torchreid's OSNet", (r"conv1\.bn\.weight", _GATE), torchreid_names),
    FoldedOSNetLayout("OSNet with folded BatchNorm", (r"conv1\.conv\.bias", _GATE), folded_names),
    ModelZooLayout("OSNet of Open Model Zoo", (), plain_names),
)
