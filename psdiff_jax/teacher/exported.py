"""A network in a file that another program exported, as a teacher: what ONNX files and OpenVINO IRs have in common.

Such a network takes one batch of crops and gives one vector for each. Layout, batch size and crop size are read from
its input; what it expects of pixels is `preprocessing`.

Legend: B crops, h w rows and columns of a crop, D embedding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from psdiff_jax.errors import InputError
from psdiff_jax.ops.normalize import first_off_unit, unit_rows
from psdiff_jax.teacher.crop_teacher import CropTeacher

AUTO = "auto"
# Name -> (mean, standard deviation, channels reversed), on RGB 0..255.
PREPROCESSING = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), False),
    "unit": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0), False),
    "raw": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), False),
    "raw_bgr": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), True),
}

Run = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]  # batches of the input -> the output of each


@dataclass(frozen=True)
class Port:
    """An input or an output. shape: a side that is left open is a text. dtype: its type, as the format calls it."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str


@dataclass(frozen=True)
class ExportedFile:
    """A file that its runtime has opened.

    Attributes:
      format: what it is, in reports. hash: of all its parts. dtypes: the types that an input may have.
      start: (shape of a batch to come, 0 where its size varies) -> a function that runs the network.
      open_batch: crops in a batch where the file leaves that open; None = as many as there are.
      preprocessing, interpolation: what `AUTO` stands for.
    """

    path: Path
    format: str
    hash: str
    inputs: Sequence[Port]
    outputs: Sequence[Port]
    dtypes: Mapping[str, type]
    start: Callable[[tuple[int, ...]], Run]
    open_batch: int | None = None
    preprocessing: str = "imagenet"
    interpolation: str = "bicubic"


def as_teacher(
    file: ExportedFile, crop_size: tuple[int, int] | None, preprocessing: str, interpolation: str
) -> CropTeacher:
    """The network as a `CropTeacher`.

    Args:
      crop_size: (h, w), where the file leaves it open; a size that the file fixes is used whatever this says.
      preprocessing: what is made of RGB 0..255 before it goes in: "imagenet" (0..1, minus ImageNet's mean, divided by
        its standard deviation, as torchreid, FastReID and the strong baselines do), "unit" (0..1), "raw" (as it is:
        the file has the scaling inside), "raw_bgr" (as OpenCV reads it: Intel's models), or `AUTO`.
      interpolation: of the crops, "bicubic", "bilinear" or `AUTO`.

    Raises:
      InputError: inputs or outputs that are not those of a teacher, a network that cannot run, embeddings that are not
        finite or that depend on the other crops of the batch.
    """
    path = file.path
    preprocessing = file.preprocessing if preprocessing == AUTO else preprocessing
    if preprocessing not in PREPROCESSING:
        raise InputError(f"{path}: preprocessing {preprocessing!r}: choose one of {', '.join(PREPROCESSING)}")
    network = _network(file, crop_size, preprocessing)
    probe = np.random.default_rng(0).integers(0, 256, (2, *network.crop_size, 3), np.uint8)
    embeddings = network(probe)
    if first_off_unit(embeddings) is not None:
        raise InputError(f"{path}: gives embeddings that are zero or not finite; the file is damaged or badly exported")
    if np.abs(network(probe[:1]) - embeddings[:1]).max() > 1e-2:
        raise InputError(f"{path}: the embedding of a crop depends on the crops beside it; export it in eval mode")
    dim, (height, width) = embeddings.shape[1], network.crop_size
    return CropTeacher(
        network,
        dim,
        f"{file.hash}-{preprocessing}-{height}x{width}",
        network.crop_size,
        f"{path.name} ({file.format}, {dim}-d, crops of {height}x{width})",
        interpolation=file.interpolation if interpolation == AUTO else interpolation,
    )


@dataclass(frozen=True)
class _Network:
    """Crops uint8 [B,h,w,3] -> float32 [B,D] of length one (a zero row stays zero)."""

    path: Path
    run: Run
    output: str
    crop_size: tuple[int, int]
    batch: int | None  # None: any
    channels_first: bool
    dtype: type
    preprocessing: str

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        x = self._prepare(np.asarray(crops))
        batch = self.batch or len(x)
        parts = [x[start : start + batch] for start in range(0, len(x), batch)]
        outputs = self._run([part[np.resize(np.arange(len(part)), batch)] for part in parts])
        return unit_rows(np.concatenate([output[: len(part)] for output, part in zip(outputs, parts, strict=True)]))

    def _prepare(self, crops: np.ndarray) -> np.ndarray:
        mean, deviation, reverse = PREPROCESSING[self.preprocessing]
        x = crops
        if self.dtype != np.uint8:
            x = ((x.astype(np.float32) - np.asarray(mean, np.float32)) / np.asarray(deviation, np.float32)).astype(
                self.dtype
            )
        x = x[..., ::-1] if reverse else x
        return np.ascontiguousarray(np.moveaxis(x, -1, 1) if self.channels_first else x)

    def _run(self, batches: Sequence[np.ndarray]) -> list[np.ndarray]:
        """float32 [B,D] of each batch, as the file gives it."""
        try:
            outputs = self.run(batches)
        except Exception as error:  # a runtime's exceptions have no other common class
            shape = batches[0].shape
            raise InputError(f"{self.path}: cannot be run on crops of shape {shape} ({reason(error)})") from error
        return [self._vectors(output, len(x)) for output, x in zip(outputs, batches, strict=True)]

    def _vectors(self, output: np.ndarray, count: int) -> np.ndarray:
        shape = output.shape
        if output.ndim == 4 and shape[2:] == (1, 1):  # pooled, but not flattened
            output = output[:, :, 0, 0]
        if output.ndim != 2 or len(output) != count:
            raise InputError(
                f"{self.path}: output {self.output!r} has shape {shape} for {count} crops;"
                " a teacher gives [crops, D]: export it with its pooling, and with the batch left open"
            )
        return output.astype(np.float32)


def _network(file: ExportedFile, crop_size: tuple[int, int] | None, preprocessing: str) -> _Network:
    path = file.path
    for what, ports in (("inputs", file.inputs), ("outputs", file.outputs)):
        if len(ports) != 1:
            names = ", ".join(repr(port.name) for port in ports)
            raise InputError(f"{path}: has {len(ports)} {what} ({names}); a teacher has one: export that one alone")
    name, shape, kind = file.inputs[0].name, file.inputs[0].shape, file.inputs[0].dtype
    if kind not in file.dtypes:
        raise InputError(f"{path}: input {name!r} is a {kind}; teachers take {', '.join(file.dtypes)}")
    dtype = file.dtypes[kind]
    if dtype is np.uint8 and not preprocessing.startswith("raw"):
        raise InputError(f"{path}: input {name!r} is a {kind}, which needs preprocessing raw or raw_bgr")
    channels_first = _is_channels_first(path, name, shape)
    sides = shape[2:4] if channels_first else shape[1:3]
    if not all(isinstance(side, int) for side in sides) and crop_size is None:
        raise InputError(f"{path}: input {name!r} {list(shape)} leaves the size open: set config.teacher.crop_size")
    height, width = (
        side if isinstance(side, int) else int(wanted) for side, wanted in zip(sides, crop_size or sides, strict=True)
    )
    batch = shape[0] if isinstance(shape[0], int) else file.open_batch
    run = file.start((batch or 0, *((3, height, width) if channels_first else (height, width, 3))))
    output = file.outputs[0].name
    return _Network(path, run, output, (height, width), batch, channels_first, dtype, preprocessing)


def _is_channels_first(path: Path, name: str, shape: Sequence[int | str]) -> bool:
    """Whether the input is [B,3,h,w]: it is when the file leaves the channels open, as exporters of PyTorch do."""
    if len(shape) == 4:
        if shape[3] == 3 and shape[1] != 3:
            return False
        if shape[1] == 3 or not any(isinstance(side, int) for side in (shape[1], shape[3])):
            return True
    raise InputError(
        f"{path}: input {name!r} has shape {list(shape)}; teachers take colour crops [B,3,h,w] or [B,h,w,3]"
    )


def reason(error: Exception) -> str:
    """The line of a runtime's error that says what is wrong; OpenVINO puts places in its source code above it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("Exception from ", "Check '", "While validating "))]
    return (said or lines or [type(error).__name__])[0]


def files_hash(first: Path, others: Iterable[Path]) -> str:
    """Digest of a file and of the others that belong to it."""
    digest = hashlib.sha256(_sha256(first))
    for part in others:
        digest.update(_sha256(part))
    return digest.hexdigest()[:16]


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
