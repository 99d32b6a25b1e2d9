"""A teacher from an ONNX file: any network that takes one batch of crops and gives one vector for each.

    teacher = load_onnx("osnet.onnx")
    teacher.embed(crops)               float32 [B,D] of length one

Needs `onnxruntime`, which nothing else here does.

Legend: B crops, h w rows and columns of a crop, D embedding.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from psdiff_jax.errors import InputError
from psdiff_jax.ops.normalize import first_off_unit, unit_rows
from psdiff_jax.teacher.crop_teacher import CropTeacher

# Name -> (mean, standard deviation, channels reversed), on RGB 0..255.
PREPROCESSING = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), False),
    "unit": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0), False),
    "raw": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), False),
    "raw_bgr": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), True),
}
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


def load_onnx(
    path: str | Path, crop_size: tuple[int, int] | None = None, preprocessing: str = "imagenet"
) -> CropTeacher:
    """The network in an ONNX file as a `CropTeacher`; layout, batch size and crop size are read from its input.

    Args:
      crop_size: (h, w), where the file leaves it open; a size that the file fixes is used whatever this says.
      preprocessing: what is made of RGB 0..255 before it goes in: "imagenet" (0..1, minus ImageNet's mean, divided by
        its standard deviation, as torchreid, FastReID and the strong baselines do), "unit" (0..1), "raw" (as it is:
        the file has the scaling inside), "raw_bgr" (as OpenCV reads it: Intel's models).

    Raises:
      InputError: a file that is no ONNX or that cannot run, inputs or outputs that are not those of a teacher,
        embeddings that are not finite, onnxruntime is missing.
    """
    path = Path(path)
    if preprocessing not in PREPROCESSING:
        raise InputError(f"{path}: preprocessing {preprocessing!r}: choose one of {', '.join(PREPROCESSING)}")
    network = _open(path, crop_size, preprocessing)
    probe = np.random.default_rng(0).integers(0, 256, (2, *network.crop_size, 3), np.uint8)
    embeddings = network(probe)
    if first_off_unit(embeddings) is not None:
        raise InputError(f"{path}: gives embeddings that are zero or not finite; the file is damaged or badly exported")
    if np.abs(network(probe[:1]) - embeddings[:1]).max() > 1e-2:
        raise InputError(f"{path}: the embedding of a crop depends on the crops beside it; export it in eval mode")
    dim, (height, width) = embeddings.shape[1], network.crop_size
    title = f"{path.name} (ONNX, {dim}-d, crops of {height}x{width})"
    digest = f"{_file_hash(path)}-{preprocessing}-{height}x{width}"
    return CropTeacher(network, dim, digest, network.crop_size, title)


@dataclass(frozen=True)
class _Network:
    """Crops uint8 [B,h,w,3] -> float32 [B,D] of length one (a zero row stays zero)."""

    path: Path
    session: Any
    crop_size: tuple[int, int]
    batch: int | None  # a size that the file fixes
    channels_first: bool
    dtype: type
    preprocessing: str

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        x = self._prepare(np.asarray(crops))
        batch = self.batch or len(x)
        outputs = []
        for start in range(0, len(x), batch):
            part = x[start : start + batch]
            outputs.append(self._run(part[np.resize(np.arange(len(part)), batch)])[: len(part)])
        return unit_rows(np.concatenate(outputs))

    def _prepare(self, crops: np.ndarray) -> np.ndarray:
        mean, deviation, reverse = PREPROCESSING[self.preprocessing]
        x = crops
        if self.dtype != np.uint8:
            x = ((x.astype(np.float32) - np.asarray(mean, np.float32)) / np.asarray(deviation, np.float32)).astype(
                self.dtype
            )
        x = x[..., ::-1] if reverse else x
        return np.ascontiguousarray(np.moveaxis(x, -1, 1) if self.channels_first else x)

    def _run(self, x: np.ndarray) -> np.ndarray:
        """float32 [B,D] as the file gives it."""
        name = self.session.get_inputs()[0].name
        try:
            (output,) = self.session.run(None, {name: x})
        except Exception as error:  # onnxruntime's exceptions have no other common class
            raise InputError(f"{self.path}: cannot be run on crops of shape {x.shape} ({_first(error)})") from error
        shape = output.shape
        if output.ndim == 4 and shape[2:] == (1, 1):  # pooled, but not flattened
            output = output[:, :, 0, 0]
        if output.ndim != 2 or len(output) != len(x):
            raise InputError(
                f"{self.path}: output {self.session.get_outputs()[0].name!r} has shape {shape} for {len(x)} crops;"
                " a teacher gives [crops, D]: export it with its pooling, and with the batch left open"
            )
        return output.astype(np.float32)


def _open(path: Path, crop_size: tuple[int, int] | None, preprocessing: str) -> _Network:
    session = _session(path)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    for what, nodes in (("inputs", inputs), ("outputs", outputs)):
        if len(nodes) != 1:
            names = ", ".join(repr(node.name) for node in nodes)
            raise InputError(f"{path}: has {len(nodes)} {what} ({names}); a teacher has one: export that one alone")
    name, shape, kind = inputs[0].name, list(inputs[0].shape), inputs[0].type
    if kind not in TYPES:
        raise InputError(f"{path}: input {name!r} is a {kind}; teachers take {', '.join(TYPES)}")
    if TYPES[kind] is np.uint8 and not preprocessing.startswith("raw"):
        raise InputError(f"{path}: input {name!r} is a {kind}, which needs preprocessing raw or raw_bgr")
    channels_first = _is_channels_first(path, name, shape)
    sides = shape[2:4] if channels_first else shape[1:3]
    if not all(isinstance(side, int) for side in sides) and crop_size is None:
        raise InputError(f"{path}: input {name!r} {shape} leaves the size open: set config.teacher.crop_size")
    height, width = (
        side if isinstance(side, int) else int(wanted) for side, wanted in zip(sides, crop_size or sides, strict=True)
    )
    batch = shape[0] if isinstance(shape[0], int) else None
    return _Network(path, session, (height, width), batch, channels_first, TYPES[kind], preprocessing)


def _is_channels_first(path: Path, name: str, shape: list[Any]) -> bool:
    """Whether the input is [B,3,h,w]: it is when the file leaves the channels open, as exporters of PyTorch do."""
    if len(shape) == 4:
        if shape[3] == 3 and shape[1] != 3:
            return False
        if shape[1] == 3 or not any(isinstance(side, int) for side in (shape[1], shape[3])):
            return True
    raise InputError(f"{path}: input {name!r} has shape {shape}; teachers take colour crops [B,3,h,w] or [B,h,w,3]")


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
    except Exception as error:  # see _run
        raise InputError(f"{path}: not an ONNX file that onnxruntime can open ({_first(error)})") from error


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _file_hash(path: Path) -> str:
    """Digest of the file and of the files beside it that hold its tensors."""
    content = path.read_bytes()
    digest = hashlib.sha256(hashlib.sha256(content).digest())
    for part in (path.parent / name for name in _external(content)):
        if part.is_file():
            with part.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _external(content: bytes) -> list[str]:
    """The files that an ONNX file says its tensors are in: entries of key "location", in the bytes of protobuf."""
    names = set()
    for match in re.finditer(rb"\n\x08location\x12([\x80-\xff]*[\x00-\x7f])", content):
        length = sum((byte & 127) << 7 * i for i, byte in enumerate(match[1]))
        names.add(content[match.end() : match.end() + length].decode(errors="replace"))
    return sorted(names)
