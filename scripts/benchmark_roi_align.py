"""How fast the RoIAlign backends are on this machine's device, beside onnxruntime's operator on the CPU.

    python scripts/benchmark_roi_align.py [--settings full street P2 P3 P4 P5] [--repeats 5] [--clock wall|cpu]

Prints a markdown table: milliseconds an image forward, and forward with the gradient to the features, of both backends
(medians; the contestants take turns, so that a busy machine is busy for all of them), with their ratios. `--clock cpu`
counts the processor time of this process instead, which is what to trust beside other work. "full" and "street" have
four levels and assign boxes to them; P2 to P5 are the single levels of 800x1333, all 300 boxes on each. onnxruntime's
operator (needs `pip install onnx onnxruntime`) knows one level and no gradient: it gets the boxes of each level already
sorted out, channels first as it wants them, and is timed forward only.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from psdiff_jax.ops.roi_align import assign_levels, choose_backend, roi_align

BACKENDS = ("gather", "matmul")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Setting:
    """images of height x width pixels, `boxes` boxes each, features of `channels`, levels of `strides`."""

    images: int
    height: int
    width: int
    boxes: int
    channels: int
    strides: tuple[int, ...] = (4, 8, 16, 32)
    ratio: int = 2
    canonical: float = 224.0


SETTINGS = {
    "full": Setting(1, 800, 1333, 300, 256),
    "street": Setting(8, 160, 256, 64, 64, ratio=1, canonical=112.0),
    **{f"P{level}": Setting(1, 800, 1333, 300, 256, strides=(2**level,)) for level in (2, 3, 4, 5)},
}


def inputs(setting: Setting, dtype: str) -> tuple[tuple[jax.Array, ...], np.ndarray]:
    """Random features and boxes as a sampler meets them: half of them noise around half the image, half people."""
    rng = np.random.default_rng(0)
    pyramid = tuple(
        rng.normal(size=(setting.images, -(-setting.height // s), -(-setting.width // s), setting.channels)).astype(
            np.float32
        )
        for s in setting.strides
    )
    people = np.arange(setting.boxes) % 2 == 0
    side = np.where(
        people[:, None],
        rng.uniform(0.03, 0.15, (setting.images, setting.boxes, 1)) * [[[0.6, 2.0]]],
        np.clip(0.5 + 0.25 * rng.normal(size=(setting.images, setting.boxes, 2)), 0, 1),
    )
    centre = rng.uniform(size=side.shape)
    boxes = np.concatenate([centre - side / 2, centre + side / 2], -1) * ([setting.width, setting.height] * 2)
    return tuple(jnp.asarray(p, dtype) for p in pyramid), boxes.astype(np.float32)


def ours(setting: Setting, backend: str, backward: bool) -> Callable[..., Any]:
    align = partial(
        roi_align,
        strides=setting.strides,
        sampling_ratio=setting.ratio,
        canonical_size=setting.canonical,
        backend=backend,
    )
    if not backward:
        return jax.jit(align)
    return jax.jit(jax.grad(lambda pyramid, boxes: jnp.sum(align(pyramid, boxes).astype(jnp.float32) ** 2)))


def onnxruntimes(setting: Setting, pyramid: tuple[jax.Array, ...], boxes: np.ndarray) -> Callable[[], list]:
    """A call that runs the operator on every level with the boxes that belong to it."""
    import onnx
    import onnxruntime as ort

    kind, value = onnx.TensorProto, onnx.helper.make_tensor_value_info
    options = ort.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads would slow the others
    levels, runs = np.asarray(assign_levels(jnp.asarray(boxes), len(pyramid), setting.canonical)), []
    for level, (features, stride) in enumerate(zip(pyramid, setting.strides, strict=True)):
        node = onnx.helper.make_node(
            "RoiAlign",
            ["x", "rois", "index"],
            ["y"],
            mode="avg",
            output_height=7,
            output_width=7,
            sampling_ratio=setting.ratio,
            spatial_scale=1 / stride,
            coordinate_transformation_mode="half_pixel",
        )
        graph = onnx.helper.make_graph(
            [node],
            "roi_align",
            [value("x", kind.FLOAT, None), value("rois", kind.FLOAT, None), value("index", kind.INT64, None)],
            [value("y", kind.FLOAT, None)],
        )
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 16)], ir_version=8)
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        image, box = np.nonzero(levels == level)
        first = np.ascontiguousarray(np.moveaxis(np.asarray(features, np.float32), -1, 1))
        runs.append(partial(session.run, None, {"x": first, "rois": boxes[image, box], "index": image}))
    return lambda: [run() for run in runs]


def medians(calls: dict[Any, Callable[[], Any]], repeats: int, clock: Callable[[], float]) -> dict[Any, float]:
    """Milliseconds of each call, by turns; the first call of each (compiling) is not counted."""
    for call in calls.values():
        jax.block_until_ready(call())
    seconds: dict[Any, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            started = clock()
            jax.block_until_ready(call())
            seconds[name].append(clock() - started)
    return {name: 1e3 * statistics.median(values) for name, values in seconds.items()}


def row(name: str, repeats: int, dtype: str, clock: Callable[[], float]) -> str:
    setting = SETTINGS[name]
    pyramid, boxes = inputs(setting, dtype)
    calls: dict[Any, Callable[[], Any]] = {
        (backend, backward): partial(ours(setting, backend, backward), pyramid, jnp.asarray(boxes))
        for backward in (False, True)
        for backend in BACKENDS
    }
    try:
        calls["onnxruntime"] = onnxruntimes(setting, pyramid, boxes)
    except ImportError:
        print("(onnx or onnxruntime is not installed: without that column)")
    time_of = {key: value / setting.images for key, value in medians(calls, repeats, clock).items()}
    forward, backward = ([time_of[backend, way] for backend in BACKENDS] for way in (False, True))
    peer = time_of.get("onnxruntime")
    told = "" if peer is None else f"{peer:.2f} | {peer / forward[0]:.2f}"
    return (
        f"| {name} | {forward[0]:.2f} | {forward[1]:.2f} | {forward[1] / forward[0]:.1f} | {backward[0]:.2f} | "
        f"{backward[1]:.2f} | {backward[1] / backward[0]:.1f} | {told or '| '} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    arguments = parser.parse_args()
    device = jax.default_backend()
    print(
        f"{jax.devices()[0].device_kind}, {arguments.dtype}, ms an image ({arguments.clock} clock); "
        f"auto = {choose_backend(device)} on {device}\n"
    )
    print(
        "| setting | gather | matmul | matmul / gather | gather, with gradient | matmul, with gradient | "
        "matmul / gather | onnxruntime | onnxruntime / gather |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in arguments.settings:
        print(row(name, arguments.repeats, arguments.dtype, CLOCKS[arguments.clock]), flush=True)


if __name__ == "__main__":
    main()
