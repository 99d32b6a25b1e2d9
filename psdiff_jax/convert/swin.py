"""The names that published Swin Transformers give to the tensors of `models.swin.Swin`, and tables of other windows.

Where they differ: timm puts a patch merging at the start of the stage that it leads to, the others at the end of the
stage before; transformers has three tensors for query, key and value, the others one. The order of the four patches
that are merged, and of query, key and value, is the same everywhere.

ImageNet files have no LayerNorm for the four outputs: those start as the identity, as transformers' SwinBackbone does.
The classifier's own last `norm` is left out.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from psdiff_jax.convert.layout import BackboneLayout, Checkpoint

LEFT_OUT = (
    r"(norm|layernorm)\.(weight|bias)|(head|head\.fc|classifier)\.(weight|bias)"
    r"|.*\.(attn_mask|relative_position_index)|mask_token|embeddings\.mask_token"
)

# Our module (its numbers are i, then j) -> theirs, or those that are stacked. {after} = i + 1; torchvision counts
# stages and mergings in one row: {odd} = 2i + 1, {even} = 2i + 2.
_MICROSOFT = {
    "patch_embed/proj": "patch_embed.proj",
    "patch_embed/norm": "patch_embed.norm",
    "stages/#/blocks/#/norm1": "layers.{i}.blocks.{j}.norm1",
    "stages/#/blocks/#/norm2": "layers.{i}.blocks.{j}.norm2",
    "stages/#/blocks/#/attn": "layers.{i}.blocks.{j}.attn",
    "stages/#/blocks/#/attn/qkv": "layers.{i}.blocks.{j}.attn.qkv",
    "stages/#/blocks/#/attn/proj": "layers.{i}.blocks.{j}.attn.proj",
    "stages/#/blocks/#/mlp/fc1": "layers.{i}.blocks.{j}.mlp.fc1",
    "stages/#/blocks/#/mlp/fc2": "layers.{i}.blocks.{j}.mlp.fc2",
    "stages/#/merge/norm": "layers.{i}.downsample.norm",
    "stages/#/merge/reduction": "layers.{i}.downsample.reduction",
    "norms/#": "norm{i}",  # in detectors only
}
_TIMM = _MICROSOFT | {
    "stages/#/merge/norm": "layers.{after}.downsample.norm",
    "stages/#/merge/reduction": "layers.{after}.downsample.reduction",
}
_TORCHVISION = {
    "patch_embed/proj": "features.0.0",
    "patch_embed/norm": "features.0.2",
    "stages/#/blocks/#/norm1": "features.{odd}.{j}.norm1",
    "stages/#/blocks/#/norm2": "features.{odd}.{j}.norm2",
    "stages/#/blocks/#/attn": "features.{odd}.{j}.attn",
    "stages/#/blocks/#/attn/qkv": "features.{odd}.{j}.attn.qkv",
    "stages/#/blocks/#/attn/proj": "features.{odd}.{j}.attn.proj",
    "stages/#/blocks/#/mlp/fc1": "features.{odd}.{j}.mlp.0",
    "stages/#/blocks/#/mlp/fc2": "features.{odd}.{j}.mlp.3",
    "stages/#/merge/norm": "features.{even}.norm",
    "stages/#/merge/reduction": "features.{even}.reduction",
    "norms/#": "norm{i}",
}
_BLOCK = "encoder.layers.{i}.blocks.{j}."
_TRANSFORMERS = {
    "patch_embed/proj": "embeddings.patch_embeddings.projection",
    "patch_embed/norm": "embeddings.norm",
    "stages/#/blocks/#/norm1": _BLOCK + "layernorm_before",
    "stages/#/blocks/#/norm2": _BLOCK + "layernorm_after",
    "stages/#/blocks/#/attn": _BLOCK + "attention.self",
    "stages/#/blocks/#/attn/qkv": tuple(f"{_BLOCK}attention.self.{part}" for part in ("query", "key", "value")),
    "stages/#/blocks/#/attn/proj": _BLOCK + "attention.output.dense",
    "stages/#/blocks/#/mlp/fc1": _BLOCK + "intermediate.dense",
    "stages/#/blocks/#/mlp/fc2": _BLOCK + "output.dense",
    "stages/#/merge/norm": "encoder.layers.{i}.downsample.norm",
    "stages/#/merge/reduction": "encoder.layers.{i}.downsample.reduction",
    "norms/#": "hidden_states_norms.stage{after}",
}
# A state_dict of a module in memory; `save_pretrained` writes the names above.
_TRANSFORMERS_5 = _TRANSFORMERS | {
    "stages/#/blocks/#/attn": _BLOCK + "attention.relative_position_bias",
    "stages/#/blocks/#/attn/qkv": tuple(f"{_BLOCK}attention.{part}_proj" for part in "qkv"),
    "stages/#/blocks/#/attn/proj": _BLOCK + "attention.o_proj",
    "stages/#/blocks/#/mlp/fc1": _BLOCK + "mlp.fc1",
    "stages/#/blocks/#/mlp/fc2": _BLOCK + "mlp.fc2",
}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "bias_table": "relative_position_bias_table"}


def _names(table: Mapping[str, str | tuple[str, ...]]) -> Callable[[str], tuple[str, ...]]:
    def names(name: str) -> tuple[str, ...]:
        module, leaf = name.rsplit("/", 1)
        i, j, *_ = [*map(int, re.findall(r"(?<=/)\d+", module)), 0, 0]
        theirs = table[re.sub(r"(?<=/)\d+", "#", module)]
        places = {"i": i, "j": j, "after": i + 1, "odd": 2 * i + 1, "even": 2 * i + 2}
        parts = (theirs,) if isinstance(theirs, str) else theirs
        return tuple(f"{part.format(**places)}.{_LEAVES[leaf]}" for part in parts)

    return names


# Each: one of our names -> the names of the tensors that make it, stacked along the first axis.
microsoft_names = _names(_MICROSOFT)
timm_names = _names(_TIMM)
torchvision_names = _names(_TORCHVISION)
transformers_names = _names(_TRANSFORMERS)
transformers_5_names = _names(_TRANSFORMERS_5)


@dataclass(frozen=True)
class SwinLayout(BackboneLayout):
    """How one library names the tensors of Swin Transformers."""

    left_out: str = LEFT_OUT
    family = "Swin"
    key = "patch_embed/proj/kernel"
    prefixes = (*BackboneLayout.prefixes, "swin")

    def default(self, ours: str) -> float | None:
        """The identity for the norms of the outputs, which classifiers do not have."""
        return float(ours.endswith("scale")) if ours.startswith("norms/") else None

    def fitted(self, ours: str, array: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, str]:
        """A table of relative positions of another window is resized."""
        table = ours.endswith("bias_table") and array.ndim == 2 and array.shape[1] == shape[1]
        if not table or len(array) == shape[0] or round(len(array) ** 0.5) ** 2 != len(array):
            return array, ""
        note = f"tables of relative positions resized, window {window(len(array))} to {window(shape[0])} (bicubic)"
        return resize_table(array, shape[0]), note

    def structure(self, file: Checkpoint) -> str:
        heads = tuple(file.width(f"stages/{i}/blocks/0/attn/bias_table") for i in range(4))
        depths = tuple(file.blocks(f"stages/{i}/blocks/{{}}/attn/bias_table") for i in range(4))
        widths = tuple(file.width(f"stages/{i}/blocks/0/norm1/scale") for i in range(4))
        return f"heads {heads}, depths {depths}, widths {widths}"

    def distance(self, file: Checkpoint, backbone: Checkpoint) -> float:
        """By how many rows the tables of relative positions differ."""
        ours, theirs = (part.shape("stages/0/blocks/0/attn/bias_table", 2)[0] for part in (backbone, file))
        return abs(ours - theirs)


def window(rows: int) -> int:
    """w of a table of relative position biases with (2w-1)^2 rows."""
    return (round(rows**0.5) + 1) // 2


SWINS = (
    SwinLayout("timm's Swin", (r"patch_embed\.proj\.weight", r"layers\.3\.downsample\.reduction\.weight"), timm_names),
    SwinLayout(
        "Microsoft's Swin",
        (r"patch_embed\.proj\.weight", r"layers\.0\.blocks\.0\.attn\.qkv\.weight"),
        microsoft_names,
    ),
    SwinLayout(
        "torchvision's Swin", (r"features\.0\.0\.weight", r"features\.1\.0\.attn\.qkv\.weight"), torchvision_names
    ),
    SwinLayout(
        "transformers' Swin",
        (r"encoder\.layers\.0\.blocks\.0\.attention\.self\.query\.weight",),
        transformers_names,
    ),
    SwinLayout(
        "transformers' Swin (a module's own names)",
        (r"encoder\.layers\.0\.blocks\.0\.attention\.q_proj\.weight",),
        transformers_5_names,
    ),
)


def resize_table(table: np.ndarray, rows: int) -> np.ndarray:
    """A table of relative position biases [(2w-1)^2, heads] for another window, as [rows, heads].

    Bicubic (a = -0.75, pixel centres, edges repeated), which is how the authors load weights of another window.
    """
    sides = [round(length**0.5) for length in (len(table), rows)]
    if sides[0] ** 2 != len(table) or sides[1] ** 2 != rows:
        raise ValueError(f"a table of {len(table)} rows is not that of a square window")
    weights = cubic_weights(*sides)
    square = table.reshape(sides[0], sides[0], -1).astype(np.float64)
    return np.einsum("yi,xj,ijc->yxc", weights, weights, square).reshape(rows, -1).astype(np.float32)


def cubic_weights(old: int, new: int, a: float = -0.75) -> np.ndarray:
    """[new, old]: cubic convolution (Keys 1981) from `old` samples of a line to `new`, edges repeated."""
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    weights = np.zeros((new, old))
    for tap in range(-1, 3):
        place = np.floor(centre).astype(int) + tap
        d = np.abs(centre - place)
        near = (a + 2) * d**3 - (a + 3) * d**2 + 1
        far = a * (d**3 - 5 * d**2 + 8 * d - 4)
        np.add.at(weights, (np.arange(new), place.clip(0, old - 1)), np.where(d <= 1, near, np.where(d < 2, far, 0)))
    return weights
