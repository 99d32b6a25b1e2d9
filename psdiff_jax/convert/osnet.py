"""The names that torchreid gives to the tensors of `models.osnet.OSNet`, in its .pth files and in ONNX files of them.

Exporters to ONNX fold BatchNorm into the convolutions, which then have a bias. It becomes our BatchNorm's, whose other
tensors are those of the identity.
"""

import re
from dataclasses import dataclass

from psdiff_jax.convert.layout import BackboneLayout, Checkpoint, folded_norm
from psdiff_jax.convert.resnet import LEAVES

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


_GATE = r"conv2\.0\.gate\.fc1\.weight"
OSNETS = (
    OSNetLayout("torchreid's OSNet", (r"conv1\.bn\.weight", _GATE), torchreid_names),
    FoldedOSNetLayout("OSNet with folded BatchNorm", (r"conv1\.conv\.bias", _GATE), folded_names),
)
