"""Weights of published backbones, as users have them, into `models.backbones`; and the command that converts a file.

    python -m psdiff_jax.convert.backbone IN OUT.npz [--backbone swin_b]

IN: torchvision's, timm's, Hugging Face's, Microsoft's or torchreid's file (.pth, .bin, .safetensors, .onnx), a detector
of Open Model Zoo (.xml, with its .bin beside it) or an .npz. Its layout is recognised from the names
(`convert.layouts`). `config.model.backbone_weights` takes both IN and OUT.npz.
"""

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from psdiff_jax.convert.files import read_state_dict
from psdiff_jax.convert.fill import Filled, fill
from psdiff_jax.convert.layouts import LAYOUTS, OURS, recognise
from psdiff_jax.errors import InputError
from psdiff_jax.models.backbones import BACKBONES, abstract_backbone
from psdiff_jax.models.weights import flatten_state, save_npz


def convert_backbone(arrays: Mapping[str, np.ndarray], state: Any, where: str) -> Filled:
    """Fills the state of a backbone from a file's tensors.

    Args:
      arrays: the file's names -> arrays. state: `nnx.state(abstract_backbone(spec))`, or of a network with values.
      where: the file's name, for errors.

    Raises:
      InputError: a tensor that is missing, left over, damaged or of another shape, by its name in the file.
    """
    layout, file = recognise(arrays, where)
    ours = flatten_state(state)
    if layout.key and layout.key not in ours:
        family = next((other.family for other in LAYOUTS if other.key in ours), "backbone of another family")
        raise InputError(f"{where}: {layout.title}, but config.model.backbone (or reid_backbone) is a {family}")
    return fill(file, state, f"{layout.title} ({layout.structure(file)})")


def load_backbone(path: str | Path, state: Any) -> Filled:
    """`convert_backbone` of a file: .npz, .safetensors, or a PyTorch pickle (for which torch must be installed).

    A line on stderr says when tables of relative positions were resized.
    """
    loaded = convert_backbone(read_state_dict(path), state, str(path))
    for note in loaded.notes:
        print(note, file=sys.stderr, flush=True)
    return loaded


def guess(arrays: Mapping[str, np.ndarray], where: str) -> list[str]:
    """The names in `BACKBONES` that the tensors fit equally well: of the file's structure, and nearest to it."""
    layout, file = recognise(arrays, where)
    structure = layout.structure(file)
    fitting = {}
    for name, spec in BACKBONES.items():
        backbone = OURS.find(flatten_state(nnx.state(abstract_backbone(spec))), name)
        if backbone and layout.key in ("", *backbone.full) and layout.structure(backbone) == structure:
            fitting[name] = layout.distance(file, backbone)
    if not fitting:
        raise InputError(f"{where}: {layout.title} ({structure}), which is none of {', '.join(BACKBONES)}")
    return [name for name, distance in fitting.items() if distance == min(fitting.values())]


def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m psdiff_jax.convert.backbone", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("source", metavar="IN", type=Path)
    parser.add_argument("target", metavar="OUT.npz", type=Path)
    parser.add_argument("--backbone", default="", help=f"one of {', '.join(BACKBONES)}; default: recognised")
    args = parser.parse_args(argv)
    try:
        if args.target.suffix != ".npz":
            raise InputError(f"{args.target}: the converted file is an .npz")
        arrays = read_state_dict(args.source)
        backbone, *others = [args.backbone] if args.backbone else guess(arrays, str(args.source))
        if backbone not in BACKBONES:
            raise InputError(f"--backbone {backbone}: choose one of {', '.join(BACKBONES)}")
        loaded = convert_backbone(arrays, nnx.state(abstract_backbone(BACKBONES[backbone])), str(args.source))
        save_npz(args.target, loaded.state)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    summary, left_out = report(loaded, backbone, str(args.source))
    same = [
        f"{name} has the same tensors and another forward pass; choose it with --backbone {name}" for name in others
    ]
    print("\n".join([summary, *same, left_out, *loaded.notes, f"written: {args.target}"]))
    return 0


def report(loaded: Filled, backbone: str, source: str) -> tuple[str, str]:
    """Two lines: what a file was, and which of its tensors were left out."""
    size = sum(leaf.size for leaf in flatten_state(loaded.state).values())
    summary = f"{source}: {loaded.layout}, {loaded.count} tensors -> {backbone}, {size / 1e6:.2f} M numbers"
    kinds: dict[str, int] = {}
    for name in loaded.left_out:
        kind = re.sub(r"\.\d+(?=\.)", ".*", name)
        kinds[kind] = kinds.get(kind, 0) + 1
    left = ", ".join(f"{kind} ({count})" if count > 1 else kind for kind, count in kinds.items())
    return summary, f"left out: {left or 'nothing'}"


if __name__ == "__main__":
    sys.exit(main())
