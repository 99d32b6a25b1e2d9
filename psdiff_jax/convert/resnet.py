"""The names that published residual networks give to the tensors of `models.resnet.ResNet`.

torchvision's layout (timm's ResNets have the same names) and that of Hugging Face's transformers. Names and shapes do
not say whether stride 2 sits on the first 1x1 (v1) or on the 3x3: the `ResNetSpec` does ("resnet50_v1", "resnet50"), as
it does BatchNorm's epsilon and the scale of the input.
"""

from dataclasses import dataclass

from psdiff_jax.convert.layout import BackboneLayout, Checkpoint

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
LEFT_OUT = r"(fc|classifier\.1)\.(weight|bias)|.*\.num_batches_tracked"  # classifiers; counters that nothing reads


def torchvision_names(name: str) -> tuple[str]:
    """ "layer1/0/bn1/mean" -> "layer1.0.bn1.running_mean"."""
    *module, leaf = name.split("/")
    return (".".join([*module, LEAVES[leaf]]),)


def transformers_names(name: str) -> tuple[str]:
    """ "layer1/0/bn1/mean" -> "encoder.stages.0.layers.0.layer.0.normalization.running_mean"."""
    *module, leaf = name.split("/")
    kinds = {"conv": "convolution", "bn": "normalization", "0": "convolution", "1": "normalization"}
    kind, number = module[-1][:-1], module[-1][-1]  # "bn1", or "0" of a downsample
    if len(module) == 1:
        place = f"embedder.embedder.{kinds[kind]}"
    else:
        stage, block = int(module[0].removeprefix("layer")) - 1, module[1]
        part = f"layer.{int(number) - 1}.{kinds[kind]}" if kind else f"shortcut.{kinds[number]}"
        place = f"encoder.stages.{stage}.layers.{block}.{part}"
    return (f"{place}.{LEAVES[leaf]}",)


@dataclass(frozen=True)
class ResNetLayout(BackboneLayout):
    """How one library names the tensors of residual networks."""

    left_out: str = LEFT_OUT
    family = "ResNet"
    key = "layer1/0/conv1/kernel"
    prefixes = (*BackboneLayout.prefixes, "resnet")

    def structure(self, file: Checkpoint) -> str:
        kind = "basic" if file.get("layer1/0/conv3/kernel") is None else "bottleneck"
        depths = tuple(file.blocks(f"layer{i}/{{}}/conv1/kernel") for i in range(1, 5))
        widths = tuple(file.width(f"layer{i}/0/bn1/scale") for i in range(1, 5))
        return f"{kind} blocks, depths {depths}, widths {widths}"


RESNETS = (
    ResNetLayout("torchvision's or timm's ResNet", (r"conv1\.weight", r"layer1\.0\.conv1\.weight"), torchvision_names),
    ResNetLayout("transformers' ResNet", (r"embedder\.embedder\.convolution\.weight",), transformers_names),
)
