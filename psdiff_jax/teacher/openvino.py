"""A teacher from an OpenVINO IR (`.xml` and the `.bin` beside it), as the re-ID networks of the Open Model Zoo come.

    teacher = load_openvino("person-reidentification-retail-0277.xml")
    teacher.embed(crops)               float32 [B,D] of length one

Needs `openvino`, which nothing else here does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from psdiff_jax.errors import InputError
from psdiff_jax.teacher.crop_teacher import CropTeacher
from psdiff_jax.teacher.exported import AUTO, ExportedFile, Port, Run, as_teacher, files_hash, reason

DTYPES = {"f32": np.float32, "f16": np.float16, "u8": np.uint8}
# Several batches at once, a thread or a few for each: the fastest on a CPU. Left to itself, OpenVINO computes in
# bfloat16 on CPUs that can, and an embedding would depend on the machine.
COMPILE = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32"}
# Compiled networks live as long as the process: collected as garbage, several of them end it with a segmentation fault
# at the next signal (openvino 2026.4).
_OPEN: list[Any] = []
OPEN_BATCH = 8  # larger ones are no faster
# What the model converter writes into an IR whose input is as OpenCV reads images, with the scaling inside.
REVERSED = ["conversion_parameters", "reverse_input_channels"]


def load_openvino(
    path: str | Path,
    crop_size: tuple[int, int] | None = None,
    preprocessing: str = AUTO,
    interpolation: str = AUTO,
) -> CropTeacher:
    """The network in an OpenVINO IR, on the CPU, in float32; see `exported.as_teacher`.

    `AUTO` is "raw_bgr" where the IR says that its channels are reversed inside (the Open Model Zoo's are), otherwise
    "imagenet"; and "bilinear", as the Open Model Zoo's demos resize.

    Raises:
      InputError: also for a file that is no IR, without its `.bin`, and without openvino.
    """
    path = Path(path)
    model = _read(path)
    file = ExportedFile(
        path,
        "OpenVINO",
        files_hash(path, [path.with_suffix(".bin")]),
        [_port(node) for node in model.inputs],
        [_port(node) for node in model.outputs],
        DTYPES,
        partial(_start, path, model),
        OPEN_BATCH,
        "raw_bgr" if model.has_rt_info(REVERSED) and model.get_rt_info(REVERSED).value == "True" else "imagenet",
        "bilinear",
    )
    return as_teacher(file, crop_size, preprocessing, interpolation)


def load_maps(
    path: str | Path, names: Sequence[str], image_size: tuple[int, int]
) -> Callable[[np.ndarray], list[np.ndarray]]:
    """What some nodes of a network put out for whole images: uint8 [B,H,W,3] RGB -> float32 [B,h,w,C] each.

    The network is cut off behind them, so that layers made for one size of crop do not matter. Its input is BGR, 0..255
    (`load_openvino` tells of others).

    Raises:
      InputError: also for a node that is not there, or does not put out a map.
    """
    path = Path(path)
    model = _read(path)
    from openvino import Model

    make: Any = Model  # its stub does not know itself
    nodes = {node.get_friendly_name(): node for node in model.get_ops()}
    missing = [name for name in names if name not in nodes]
    if missing:
        raise InputError(f"{path}: has no node {missing[0]!r}; look its names up in the .xml")
    cut = make([nodes[name].output(0) for name in names], model.get_parameters())
    run = _compiled(path, cut, (1, 3, *image_size))
    for name, port in zip(names, cut.outputs, strict=True):
        if len(port.partial_shape) != 4:
            raise InputError(f"{path}: node {name!r} does not put out a map")

    def maps(images: np.ndarray) -> list[np.ndarray]:
        bgr = images[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32)
        found = run(list(bgr[:, None]))
        return [np.concatenate(each).transpose(0, 2, 3, 1) for each in zip(*found, strict=True)]

    return maps


def _read(path: Path) -> Any:
    """The `openvino.Model` in a file."""
    weights = path.with_suffix(".bin")
    if not path.is_file():
        raise InputError(f"{path}: no such OpenVINO IR")
    if b"<net" not in path.read_bytes():  # OpenVINO itself would try other formats
        raise InputError(f"{path}: not an OpenVINO IR; name its .xml")
    if not weights.is_file():
        raise InputError(f"{weights}: missing; an OpenVINO IR is an .xml and a .bin: copy that one too")
    # The import itself would report to its makers (SECURITY.md), in a process forked from this one, which has threads.
    # None has Python say that there is no such package, and openvino does without.
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]
    try:
        import openvino
    except ImportError as error:
        raise InputError(f"{path}: reading it needs openvino: pip install 'psdiff-jax[openvino]'") from error
    try:
        return openvino.Core().read_model(path, weights)
    except Exception as error:  # RuntimeError, or what pybind11 makes of others
        raise InputError(f"{path}: not an IR that OpenVINO can open ({reason(error)})") from error


def _port(node: Any) -> Port:
    name = min(node.names, default=node.node.friendly_name)
    sides = [] if node.partial_shape.rank.is_dynamic else list(node.partial_shape)
    shape = tuple("?" if side.is_dynamic else side.get_length() for side in sides)
    return Port(name, shape, node.element_type.get_type_name())


def _start(path: Path, model: Any, shape: tuple[int, ...]) -> Run:
    """Compiles a network of one output for batches of one shape."""
    run = _compiled(path, model, shape)
    return lambda batches: [output for [output] in run(batches)]


def _compiled(path: Path, model: Any, shape: tuple[int, ...]) -> Callable[[Sequence[np.ndarray]], list[Any]]:
    """A function from batches of one shape to all outputs of each."""
    import openvino

    try:
        if model.is_dynamic() or tuple(model.input(0).shape) != shape:
            model.reshape(list(shape))
        compiled = openvino.Core().compile_model(model, "CPU", COMPILE)
    except Exception as error:  # see _read
        raise InputError(f"{path}: cannot be run on crops of shape {shape} ({reason(error)})") from error

    _OPEN.append(compiled)
    # Threads of ours instead of openvino.AsyncInferQueue: its callbacks deadlock when the network is garbage-collected.
    streams = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")

    def infer(batches: Sequence[np.ndarray]) -> list[Any]:
        request = compiled.create_infer_request()
        return [list(request.infer({0: x}).values()) for x in batches]

    def run(batches: Sequence[np.ndarray]) -> list[Any]:
        with ThreadPoolExecutor(streams) as pool:
            shares = list(pool.map(infer, (batches[i::streams] for i in range(streams))))
        return [shares[i % streams][i // streams] for i in range(len(batches))]

    return run
