"""Weights of published backbones, as users have them, into `models.backbones`; and the command that converts a file.

    python -m psdiff_jax.convert.backbone IN OUT.npz [--backbone swin_b]

IN: torchvision's, timm's, Hugging Face's or Microsoft's file (.pth, .bin, .safetensors) or an .npz. Its layout is
recognised from the names. `config.model.backbone_weights` takes IN as well as OUT.npz. Every tensor is accounted for.

Legend: O output, I input channels, H W rows and columns of a kernel.
"""

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from einops import rearrange
from flax import nnx

from psdiff_jax.convert.files import read_state_dict
from psdiff_jax.convert.layouts import Layout, Recognised, file_structure, recognise, spec_structure
from psdiff_jax.convert.swin import resize_table
from psdiff_jax.errors import InputError
from psdiff_jax.models.backbones import BACKBONES, abstract_backbone
from psdiff_jax.models.weights import assign, check_finite, flatten_state, refuse, save_npz


class Loaded(NamedTuple):
    """state: filled; layout: what the file was; count: tensors used; left_out: names not used; notes: lines to show."""

    state: Any
    layout: str
    count: int
    left_out: list[str]
    notes: list[str]


def convert_backbone(arrays: Mapping[str, np.ndarray], state: Any, where: str) -> Loaded:
    """Fills the state of a backbone from a file's tensors.

    Args:
      arrays: the file's names -> arrays. state: `nnx.state(make_backbone(spec, ...))`, which may be abstract.
      where: the file's name, for errors.

    Raises:
      InputError: a tensor that is missing, left over, damaged or of another shape, by its name in the file.
    """
    recognised = layout, stored = recognise(arrays, where)
    ours = flatten_state(state)
    if layout.family != _family(ours):
        raise InputError(f"{where}: {layout.title}, but config.model.backbone is a {_family(ours)}")
    wanted = {name: layout.names(name) for name in ours}
    fresh = [name for name, theirs in wanted.items() if _is_optional(name, layout) and theirs[0] not in stored]
    for name in fresh:
        del wanted[name]
    used = {name for theirs in wanted.values() for name in theirs}
    left_out = [full for name, full in stored.items() if name not in used and re.fullmatch(layout.left_out, name)]
    _account(used, set(left_out), arrays, recognised, where)
    converted = {name: np.full(ours[name].shape, float(name.endswith("scale")), np.float32) for name in fresh}
    resized: list[str] = []
    for name, theirs in wanted.items():
        shape = _stored_shape(name, ours[name].shape, len(theirs), layout)
        parts = [_checked(arrays[stored[part]], stored[part], shape, where, resized) for part in theirs]
        converted[name] = _our_axes(name, np.concatenate(parts), layout)
    notes = [f"{where}: {len(resized)} tables of relative positions resized, {resized[0]} (bicubic)"] if resized else []
    return Loaded(assign(state, converted, where), layout.title, len(used), left_out, notes)


def _family(ours: Mapping[str, Any]) -> str:
    return "Swin" if "patch_embed/proj/kernel" in ours else "ResNet"


def _is_optional(name: str, layout: Layout) -> bool:
    """The norms of a Swin's outputs, which classifiers do not have."""
    return name.startswith("norms/") and not layout.ours


def _stored_shape(name: str, shape: tuple[int, ...], parts: int, layout: Layout) -> tuple[int, ...]:
    """The shape that each of the tensors which make ours has in the file."""
    if name.endswith("kernel") and not layout.ours:
        shape = (shape[-1], shape[-2], *shape[:-2])
    return (shape[0] // parts, *shape[1:])


def _our_axes(name: str, array: np.ndarray, layout: Layout) -> np.ndarray:
    if layout.ours or not name.endswith("kernel"):
        return array
    return rearrange(array, "o i h w -> h w i o" if array.ndim == 4 else "o i -> i o")


def _account(
    used: set[str], left_out: set[str], arrays: Mapping[str, np.ndarray], found: Recognised, where: str
) -> None:
    """Raises InputError for a tensor that is missing or left over."""
    missing = sorted(used - set(found.names))
    over = [full for name, full in found.names.items() if name not in used and full not in left_out]
    if missing or over:
        held = f"{found.layout.title} ({file_structure(arrays, found)})"
        refuse(missing, over, f"{where}: {held}", "backbone", "is it what config.model.backbone names?")


def _checked(array: np.ndarray, name: str, shape: tuple[int, ...], where: str, resized: list[str]) -> np.ndarray:
    """The array in float32 and of the wanted shape; a table of another window is resized and noted."""
    array = np.asarray(array, np.float32)
    table = "bias_table" in name and array.ndim == 2 and array.shape[1] == shape[1]
    if table and array.shape[0] != shape[0] and round(array.shape[0] ** 0.5) ** 2 == array.shape[0]:
        windows = [(round(rows**0.5) + 1) // 2 for rows in (array.shape[0], shape[0])]
        resized.append(f"window {windows[0]} to {windows[1]}")
        array = resize_table(array, shape[0])
    if array.shape != shape:
        raise InputError(f"{where}: {name!r} has shape {array.shape}, the configured backbone needs {shape}")
    check_finite(array, name, where)
    return array


def load_backbone(path: str | Path, state: Any) -> Loaded:
    """`convert_backbone` of a file: .npz, .safetensors, or a PyTorch pickle (for which torch must be installed).

    A line on stderr says when tables of relative positions were resized.
    """
    loaded = convert_backbone(read_state_dict(path), state, str(path))
    for note in loaded.notes:
        print(note, file=sys.stderr, flush=True)
    return loaded


def guess(arrays: Mapping[str, np.ndarray], where: str) -> str:
    """The name in `BACKBONES` that the tensors fit: of the file's depths and widths, if possible with its own window."""
    found = recognise(arrays, where)
    structure = file_structure(arrays, found)
    fitting = [name for name, spec in BACKBONES.items() if spec_structure(spec) == structure]
    if not fitting:
        raise InputError(f"{where}: {found.layout.title} ({structure}), which is none of {', '.join(BACKBONES)}")
    if found.layout.family == "ResNet":
        return fitting[0]
    table = arrays[found.names[found.layout.names("stages/0/blocks/0/attn/bias_table")[0]]]
    window = (round(len(table) ** 0.5) + 1) // 2
    return min(fitting, key=lambda name: abs(BACKBONES[name].window - window))


def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m psdiff_jax.convert.backbone", description=__doc__.split("\n")[0])
    parser.add_argument("source", metavar="IN", type=Path)
    parser.add_argument("target", metavar="OUT.npz", type=Path)
    parser.add_argument("--backbone", default="", help=f"one of {', '.join(BACKBONES)}; left out: found out")
    args = parser.parse_args(argv)
    try:
        if args.target.suffix != ".npz":
            raise InputError(f"{args.target}: the converted file is an .npz")
        arrays = read_state_dict(args.source)
        backbone = args.backbone or guess(arrays, str(args.source))
        if backbone not in BACKBONES:
            raise InputError(f"--backbone {backbone}: choose one of {', '.join(BACKBONES)}")
        loaded = convert_backbone(arrays, nnx.state(abstract_backbone(BACKBONES[backbone])), str(args.source))
        save_npz(args.target, loaded.state)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    lines = [*report(loaded, backbone, str(args.source)), *loaded.notes, f"written: {args.target}"]
    if backbone == "resnet50" and not args.backbone:
        lines.insert(1, "resnet50_v1 has the same tensors: if stride 2 is on the first 1x1, say --backbone resnet50_v1")
    print("\n".join(lines))
    return 0


def report(loaded: Loaded, backbone: str, source: str) -> list[str]:
    """Lines that say what a file was and what was done with its tensors."""
    size = sum(leaf.size for leaf in flatten_state(loaded.state).values())
    lines = [f"{source}: {loaded.layout}, {loaded.count} tensors -> {backbone}, {size / 1e6:.2f} M numbers"]
    kinds: dict[str, int] = {}
    for name in loaded.left_out:
        kind = re.sub(r"\.\d+(?=\.)", ".*", name)
        kinds[kind] = kinds.get(kind, 0) + 1
    left = ", ".join(f"{kind} ({count})" if count > 1 else kind for kind, count in kinds.items())
    return [*lines, f"left out: {left or 'nothing'}"]


if __name__ == "__main__":
    sys.exit(main())
