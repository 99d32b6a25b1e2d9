"""A teacher from an ONNX file: any network that takes one batch of crops and gives one vector for each.

    teacher = load_onnx("osnet.onnx")
    teacher.embed(crops)               float32 [B,D] of length one

Needs `onnxruntime`, which nothing else here does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from psdiff_jax.errors import InputError
from psdiff_jax.teacher.crop_teacher import CropTeacher
from psdiff_jax.teacher.exported import AUTO, ExportedFile, Port, as_teacher, files_hash, reason

DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


def load_onnx(
    path: str | Path,
    crop_size: tuple[int, int] | None = None,
    preprocessing: str = AUTO,
    interpolation: str = AUTO,
) -> CropTeacher:
    """The network in an ONNX file; see `exported.as_teacher`. `AUTO` is "imagenet" and "bicubic".

    Raises:
      InputError: also for a file that is no ONNX or that cannot run, and without onnxruntime.
    """
    path = Path(path)
    session = _session(path)
    inputs, outputs = (_ports(nodes) for nodes in (session.get_inputs(), session.get_outputs()))

    def run(batches: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [session.run(None, {inputs[0].name: x})[0] for x in batches]

    file = ExportedFile(path, "ONNX", _file_hash(path), inputs, outputs, DTYPES, lambda _: run)
    return as_teacher(file, crop_size, preprocessing, interpolation)


def _ports(nodes: Sequence[Any]) -> list[Port]:
    return [
        Port(node.name, tuple(side if isinstance(side, int) else str(side) for side in node.shape), node.type)
        for node in nodes
    ]


def _session(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: no such ONNX file")
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"{path}: reading ONNX files needs onnxruntime: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised
    providers = [name for name in PROVIDERS if name in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # its exceptions have no other common class
        raise InputError(f"{path}: not an ONNX file that onnxruntime can open ({reason(error)})") from error


def _file_hash(path: Path) -> str:
    """Digest of the file and of the files beside it that hold its tensors."""
    parts = (path.parent / name for name in _external(path.read_bytes()))
    return files_hash(path, (part for part in parts if part.is_file()))


def _external(content: bytes) -> list[str]:
    """The files that an ONNX file says its tensors are in: entries of key "location", in the bytes of protobuf."""
    names = set()
    for match in re.finditer(rb"\n\x08location\x12([\x80-\xff]*[\x00-\x7f])", content):
        length = sum((byte & 127) << 7 * i for i, byte in enumerate(match[1]))
        names.add(content[match.end() : match.end() + length].decode(errors="replace"))
    return sorted(names)
