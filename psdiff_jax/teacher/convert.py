"""Re-ID networks trained elsewhere, from PyTorch: as teachers, and the command that converts and checks a checkpoint.

    python -m psdiff_jax.teacher.convert IN.pth OUT.npz [--crop 256x128] [--pool max]
    teacher = load_teacher("OUT.npz")          a CropTeacher; IN.pth works as well

Which network it is (HHCL, strong baseline, AGW, MGN, PPLR; see `teacher.families`) is recognised from the names
and shapes of its tensors, all of which are accounted for. PyTorch is needed only to read its pickles, not for
`.safetensors`; nothing in a file is executed. OUT.npz describes its network. Crops are RGB, normalised with ImageNet's
mean and deviation, as all of these projects do; their crops are resized by Pillow, ours by OpenCV (`teacher.crops`).

A file does not tell the pooling where it has no weights (average, or MGN's maximum as in its paper, unless --pool says
otherwise) nor the stride of the last stage (1, the default of all of them).
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from flax import nnx

from psdiff_jax.convert.files import read_state_dict
from psdiff_jax.convert.fill import fill
from psdiff_jax.errors import InputError
from psdiff_jax.models.backbones import OneKey
from psdiff_jax.models.weights import assign, flatten_state, save_npz, state_hash
from psdiff_jax.teacher.crop_teacher import CropTeacher
from psdiff_jax.teacher.families import FAMILIES, recognise
from psdiff_jax.teacher.family import COUNTERS, NetworkSpec
from psdiff_jax.teacher.network import spread_over_devices
from psdiff_jax.teacher.residual_families import HHCL

DESCRIPTION = "description"  # in OUT.npz: UTF-8 bytes of JSON


class Converted(NamedTuple):
    """title, family: what the file was; spec, state: the network; crop_size: (h, w); left_out: names not used."""

    title: str
    family: str
    spec: NetworkSpec
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
    least = network.spec.least_size
    if height < least[0] or width < least[1]:
        raise InputError(f"{where}: crops of {height} x {width}; {network.title} needs {least[0]} x {least[1]} or more")
    return network._replace(crop_size=(height, width))


@lru_cache(maxsize=8)
def abstract_network(spec: NetworkSpec) -> tuple[nnx.GraphDef, nnx.State]:
    """(graphdef, state) of a network with names and shapes but no values, to be filled with weights."""
    return nnx.split(nnx.eval_shape(lambda: spec.make(rngs=cast(nnx.Rngs, OneKey()))))


def crop_teacher(network: Converted) -> CropTeacher:
    """The network, ready for use: compiled once for each number and size of crops, in float32 on any device."""
    graphdef, _ = abstract_network(network.spec)
    given = hashlib.sha256(json.dumps(_fields(network.spec), sort_keys=True).encode()).hexdigest()[:8]
    embed = spread_over_devices(lambda state, crops: nnx.merge(graphdef, state)(crops), network.state)
    digest = f"{state_hash(network.state)}-{given}"
    return CropTeacher(embed, network.spec.dim, digest, network.crop_size, network.title)


def _fields(spec: Any) -> dict[str, Any]:
    return dataclasses.asdict(spec)


def convert_teacher(arrays: Mapping[str, np.ndarray], where: str, pooling: str = "") -> Converted:
    """The network that a checkpoint's tensors make.

    Args:
      arrays: the file's names -> arrays. where: the file's name, for errors. pooling: one of those that the file leaves
        open; "" takes the family's default.

    Raises:
      InputError: a tensor that is missing, left over, damaged or of another shape, by its name in the file.
    """
    family, file = recognise(arrays, where)
    default, *others = family.poolings(file)
    if pooling not in ("", default, *others):
        raise InputError(f"{where}: {family.title} pools by {default}, not {pooling}; omit --pool")
    spec = family.spec(file, pooling or default)
    filled = fill(file, abstract_network(spec)[1], family.title)
    notes = [f"no tensor tells the pooling: {default}, unless --pool says otherwise"] if others and not pooling else []
    title = f"{family.title}, {spec.describe()}"
    return Converted(title, family.title, spec, filled.state, family.crop_size, filled.left_out, filled.notes + notes)


def save_teacher(path: str | Path, network: Converted) -> None:
    """Weights and description, as `load_teacher` reads them."""
    given = {"title": network.title, "family": network.family, "crop_size": network.crop_size}
    description = np.frombuffer(json.dumps({**given, "network": _fields(network.spec)}).encode(), np.uint8)
    save_npz(path, {**flatten_state(network.state), DESCRIPTION: description})


def _described(arrays: dict[str, np.ndarray], where: str) -> Converted:
    """What `save_teacher` wrote."""
    try:
        given = json.loads(arrays.pop(DESCRIPTION).tobytes())
        family, fields = (
            given.get("family", HHCL.title),
            given["network"],
        )  # files of earlier versions do not name theirs
        spec_type = next(known.spec_type for known in FAMILIES if known.title == family)
        spec = spec_type(**{name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()})
        title, (height, width) = given["title"], given["crop_size"]
    except StopIteration as error:
        raise InputError(f"{where}: of a family that is not registered here, {family}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{where}: its description cannot be read; convert the checkpoint again") from error
    return Converted(title, family, spec, assign(abstract_network(spec)[1], arrays, where), (height, width), [], [])


def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m psdiff_jax.teacher.convert", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("source", metavar="IN", type=Path)
    parser.add_argument("target", metavar="OUT.npz", type=Path)
    parser.add_argument("--crop", metavar="HxW", default="", help="size of the crops; default: its authors'")
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
    leaves = flatten_state(network.state)
    size = sum(leaf.size for leaf in leaves.values()) / 1e6
    others = [name for name in network.left_out if not re.fullmatch(COUNTERS, name)]
    modules = ", ".join(dict.fromkeys(name.rsplit(".", 1)[0] for name in others)) or "none"
    return [
        f"{source}: {network.title}; {len(leaves)} tensors, {size:.2f} M numbers -> {network.spec.dim}-d embeddings",
        f"left out: {len(others)} of training alone ({modules});"
        f" {len(network.left_out) - len(others)} counters (num_batches_tracked)",
        f"crops of {network.crop_size[0]} x {network.crop_size[1]}, RGB, ImageNet's mean and deviation",
        *network.notes,
    ]


def compare(network: Converted, arrays: Mapping[str, np.ndarray]) -> str:
    """A line: the largest difference to PyTorch over the embeddings of two test crops, or why there is none.

    A state_dict holds no code: PyTorch runs the published architecture as `Family.reference` has it, on the file's own
    tensors.
    """
    height, width = network.crop_size
    y, x, c = np.ogrid[:height, :width, :3]
    waves = [127.5 + 127.5 * np.sin(y / (7 + i) + c) * np.cos(x / (5 - 2 * i) + i) for i in range(2)]
    crops = np.stack(waves).astype(np.uint8)
    family, file = recognise(arrays, "")
    try:
        theirs = family.reference(file, network.spec, crops)
    except ImportError:
        return "not compared with PyTorch: it is not installed"
    if theirs is None:
        return f"not compared with PyTorch: there is no reference for {family.title}"
    if not np.isfinite(theirs).all():
        return "not compared: in PyTorch, too, the embeddings of the test crops are not finite; is it the right file?"
    difference = np.abs(np.asarray(crop_teacher(network).embed(crops)) - theirs).max()
    return f"compared with PyTorch (the published architecture, written here) on 2 test crops: {difference:.1e} apart"


if __name__ == "__main__":
    sys.exit(main())
