"""Re-ID networks trained elsewhere, from PyTorch: as teachers, and the command that converts and checks a checkpoint.

    python -m psdiff_jax.teacher.convert IN.pth OUT.npz [--crop 256x128] [--pool max]
    teacher = load_teacher("OUT.npz")          a CropTeacher; IN.pth will do as well

Which network it is (HHCL, strong baseline, AGW, MGN, PPLR; see `teacher.layouts`) is recognised from the names
and shapes of its tensors, all of which are accounted for. PyTorch is needed only to read its pickles, not for
`.safetensors`; nothing in a file is executed. OUT.npz describes its network. Crops are RGB, normalised with ImageNet's
mean and deviation, as all of these projects do; their crops are resized by Pillow, ours by OpenCV (`teacher.crops`).

What a file cannot say: pooling without weights (average, or MGN's maximum as in its paper, unless --pool says
otherwise), and the stride of the last stage (1, the default of all of them).
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from einops import rearrange
from flax import nnx

from psdiff_jax.convert.files import read_state_dict
from psdiff_jax.errors import InputError
from psdiff_jax.models.weights import assign, check_finite, flatten_state, refuse, save_npz, state_hash
from psdiff_jax.teacher.layouts import COUNTERS, Recognised, read_spec, recognise
from psdiff_jax.teacher.network import spread_over_devices
from psdiff_jax.teacher.published import ReIDSpec, abstract_reid
from psdiff_jax.teacher.targets import CropTeacher

DESCRIPTION = "description"  # in OUT.npz: UTF-8 bytes of JSON


class Converted(NamedTuple):
    """title: what the file was; spec, state: the network; crop_size: (h, w); left_out: names not used; notes: lines."""

    title: str
    spec: ReIDSpec
    state: Any
    crop_size: tuple[int, int]
    left_out: list[str]
    notes: list[str]


def load_teacher(path: str | Path, crop_size: tuple[int, int] | None = None) -> CropTeacher:
    """A teacher from the OUT.npz of this command, or from a checkpoint of PyTorch itself.

    Args:
      crop_size: (h, w) of the crops; None is what OUT.npz says, or what the authors of the network test with.

    Raises:
      InputError: a file that is missing, damaged, or holds no network that is known.
    """
    arrays = read_state_dict(path)
    network = _described(arrays, str(path)) if DESCRIPTION in arrays else convert_teacher(arrays, str(path))
    network = _sized(network, crop_size, str(path))
    return crop_teacher(network._replace(title=f"{Path(path).name} ({network.title})"))


def _sized(network: Converted, crop_size: tuple[int, int] | None, where: str) -> Converted:
    """The network for crops of another size; InputError for one too small for it."""
    height, width = crop_size or network.crop_size
    least = 48 if network.spec.parts_dim else 32  # MGN cuts its map, of stride 16, into three
    if height < least or width < 32:
        raise InputError(f"{where}: crops of {height} x {width}; {network.title} needs {least} x 32 or more")
    return network._replace(crop_size=(height, width))


def crop_teacher(network: Converted) -> CropTeacher:
    """The network, ready for use: compiled once for each number and size of crops, in float32 on any device."""
    spec, crop_size = network.spec, network.crop_size
    graphdef, _ = abstract_reid(spec)
    said = hashlib.sha256(json.dumps(dataclasses.asdict(spec), sort_keys=True).encode()).hexdigest()[:8]
    embed = spread_over_devices(lambda state, crops: nnx.merge(graphdef, state)(crops), network.state)
    return CropTeacher(embed, spec.dim, f"{state_hash(network.state)}-{said}", tuple(crop_size), network.title)


def convert_teacher(arrays: Mapping[str, np.ndarray], where: str, pooling: str = "") -> Converted:
    """The network that a checkpoint's tensors make.

    Args:
      arrays: the file's names -> arrays. where: the file's name, for errors. pooling: see `read_spec`.

    Raises:
      InputError: a tensor that is missing, left over, damaged or of another shape, by its name in the file.
    """
    found = recognise(arrays, where)
    spec = read_spec(found, pooling, where)
    _, state = abstract_reid(spec)
    shapes = {ours: tuple(leaf.shape) for ours, leaf in flatten_state(state).items()}
    wanted = {ours: found.family.name(ours) for ours in shapes}
    left_out = _account(found, set(wanted.values()), where)
    converted = {ours: _converted(found, theirs, shapes[ours], where) for ours, theirs in wanted.items()}
    open_question = not pooling and spec.pooling != "gem" and len(found.family.poolings) > 1
    notes = [f"no tensor tells the pooling: {spec.pooling}, unless --pool says otherwise"] if open_question else []
    state = assign(state, converted, where)
    return Converted(_title(found, spec), spec, state, found.family.crop_size, left_out, notes)


def _account(found: Recognised, used: set[str], where: str) -> list[str]:
    """Names in the file that serve training alone; InputError for a tensor that is missing or left over."""
    rest = [name for name in found.arrays if name not in used]
    left_out = [name for name in rest if re.fullmatch(f"{found.family.left_out}|{COUNTERS}", name)]
    missing = [found.prefix + name for name in sorted(used - set(found.arrays))]
    over = [found.prefix + name for name in rest if name not in left_out]
    refuse(missing, over, f"{where}: {found.family.title}", "network", "is the file whole and unchanged?")
    return [found.prefix + name for name in left_out]


def _converted(found: Recognised, theirs: str, shape: tuple[int, ...], where: str) -> np.ndarray:
    """A tensor in our axes, [H,W,I,O] and [I,O]; InputError when it has another shape or is not finite."""
    array = np.asarray(found.arrays[theirs], np.float32)
    stored = shape if len(shape) < 2 else (shape[-1], shape[-2], *shape[:-2])
    if array.shape != stored:
        raise InputError(f"{where}: {found.prefix + theirs!r} has shape {array.shape}, its network needs {stored}")
    check_finite(array, found.prefix + theirs, where)
    if array.ndim < 2:
        return array
    return rearrange(array, "o i h w -> h w i o" if array.ndim == 4 else "o i -> i o")


def _title(found: Recognised, spec: ReIDSpec) -> str:
    """One phrase: the family and what it is made of."""
    depth = 3 * sum(spec.depths) + 2
    blocks = f", {sum(spec.non_local)} non-local blocks" if any(spec.non_local) else ""
    return f"{found.family.title}, ResNet-{depth}{' IBN-a' if spec.ibn else ''}{blocks}, {spec.pooling} pooling"


def save_teacher(path: str | Path, network: Converted) -> None:
    """Weights and description, as `load_teacher` reads them."""
    said = {"title": network.title, "crop_size": network.crop_size, "network": dataclasses.asdict(network.spec)}
    description = np.frombuffer(json.dumps(said).encode(), np.uint8)
    save_npz(path, {**flatten_state(network.state), DESCRIPTION: description})


def _described(arrays: dict[str, np.ndarray], where: str) -> Converted:
    """What `save_teacher` wrote."""
    try:
        said = json.loads(arrays.pop(DESCRIPTION).tobytes())
        title, spec, crop_size = said["title"], ReIDSpec.from_json(said["network"]), tuple(said["crop_size"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{where}: its description cannot be read; convert the checkpoint again") from error
    return Converted(title, spec, assign(abstract_reid(spec)[1], arrays, where), crop_size, [], [])


def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m psdiff_jax.teacher.convert", description=__doc__.split("\n")[0])
    parser.add_argument("source", metavar="IN", type=Path)
    parser.add_argument("target", metavar="OUT.npz", type=Path)
    parser.add_argument("--crop", metavar="HxW", default="", help="size of the crops; left out: what its authors use")
    parser.add_argument("--pool", choices=("avg", "max"), default="", help="where the file does not say how it pools")
    args = parser.parse_args(argv)
    try:
        if args.target.suffix != ".npz":
            raise InputError(f"{args.target}: the converted file is an .npz")
        arrays = read_state_dict(args.source)
        if DESCRIPTION in arrays:
            raise InputError(f"{args.source}: is converted already; give it to config.teacher.file as it is")
        network = convert_teacher(arrays, str(args.source), args.pool)
        network = _sized(network, _parsed(args.crop), str(args.source))
        save_teacher(args.target, network)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join([*report(network, str(args.source)), compare(network, arrays), f"written: {args.target}"]))
    return 0


def _parsed(crop: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"(\d+)x(\d+)", crop)
    if crop and not match:
        raise InputError(f"--crop {crop}: give height x width in pixels, such as 256x128")
    return (int(match[1]), int(match[2])) if match else None


def report(network: Converted, source: str) -> list[str]:
    """Lines that say what a file was and what was done with its tensors."""
    leaves, spec = flatten_state(network.state), network.spec
    size = sum(leaf.size for leaf in leaves.values()) / 1e6
    others = [name for name in network.left_out if not re.fullmatch(COUNTERS, name)]
    modules = ", ".join(dict.fromkeys(name.rsplit(".", 1)[0] for name in others)) or "none"
    return [
        f"{source}: {network.title}; {len(leaves)} tensors, {size:.2f} M numbers -> {spec.dim}-d embeddings",
        f"left out: {len(others)} of training alone ({modules});"
        f" {len(network.left_out) - len(others)} counters (num_batches_tracked)",
        f"crops of {network.crop_size[0]} x {network.crop_size[1]}, RGB, ImageNet's mean and deviation",
        *network.notes,
    ]


def compare(network: Converted, arrays: Mapping[str, np.ndarray]) -> str:
    """A line: the largest difference to PyTorch over the embeddings of two test crops, or why there is none.

    A state_dict holds no code, so that its authors' cannot run: PyTorch runs the architecture that they published as
    `teacher.torch_reference` has it, on the file's tensors as they are.
    """
    from psdiff_jax.teacher.torch_reference import embeddings

    height, width = network.crop_size
    y, x, c = np.ogrid[:height, :width, :3]
    waves = [127.5 + 127.5 * np.sin(y / (7 + i) + c) * np.cos(x / (5 - 2 * i) + i) for i in range(2)]
    crops = np.stack(waves).astype(np.uint8)
    try:
        theirs = embeddings(recognise(arrays, ""), network.spec, crops)
    except ImportError:
        return "not compared with PyTorch: it is not installed"
    if not np.isfinite(theirs).all():
        return "not compared: by PyTorch, too, the embeddings of the test crops are not finite; is it the right file?"
    difference = np.abs(np.asarray(crop_teacher(network).embed(crops)) - theirs).max()
    return f"compared with PyTorch (the published architecture, written here) on 2 test crops: {difference:.1e} apart"


if __name__ == "__main__":
    sys.exit(main())
