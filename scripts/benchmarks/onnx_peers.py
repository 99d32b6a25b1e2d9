"""onnxruntime on the CPU: its RoIAlign, and this program's own export."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax.numpy as jnp
import numpy as np
from benchmarks.psdiff import Setting, fill, flat_levels, random_boxes
from benchmarks.timing import Contestant, Ready
from flax import nnx

from psdiff_jax.inference.export import INPUTS, ExportedPredictor, write_onnx
from psdiff_jax.models.fpn import STRIDES
from psdiff_jax.ops.roi_align import assign_levels
from psdiff_jax.training.train import abstract_model


def contestants(setting: Setting, steps: list[int]) -> Iterator[Contestant]:
    """RoIAlign of all levels, and the exported predictor for some numbers of steps."""
    yield Contestant("RoIAlign", "onnxruntime", setting.images, partial(roi_align, setting))
    for k in steps:
        name = f"PSDiff, {k} step{'s' * (k > 1)}, ONNX in onnxruntime"
        yield Contestant("inference", name, setting.images, partial(exported, setting, k))


def session(model: bytes) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads would slow the others
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def roi_align(setting: Setting) -> Ready:
    """The operator knows one level: each gets its boxes already sorted out, channels first as it wants them."""
    options = setting.config.model
    height, width = setting.size
    boxes = random_boxes(setting.images, setting.config.sampler.num_proposals, setting.size)
    strides = [stride * options.downsample for stride in STRIDES]
    rng = np.random.default_rng(0)
    shapes = [(setting.images, -(-height // s), -(-width // s), options.dim) for s in strides]
    features = flat_levels([rng.normal(size=shape) for shape in shapes])
    levels = np.asarray(assign_levels(jnp.asarray(boxes), len(strides), options.canonical_size * options.downsample))
    runs: list[Callable[[], Any]] = []
    for level, (first, stride) in enumerate(zip(features, strides, strict=True)):
        run = session(operator(options.side, options.sampling_ratio, stride)).run
        image, box = np.nonzero(levels == level)
        runs.append(partial(run, None, {"x": first, "rois": boxes[image, box], "index": image}))
    return Ready(lambda: [run() for run in runs])


def operator(side: int, ratio: int, stride: int) -> bytes:
    """A model of the one operator."""
    import onnx

    kind, value = onnx.TensorProto, onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node(
        "RoiAlign",
        ["x", "rois", "index"],
        ["y"],
        mode="avg",
        output_height=side,
        output_width=side,
        sampling_ratio=ratio,
        spatial_scale=1 / stride,
        coordinate_transformation_mode="half_pixel",
    )
    inputs = [value("x", kind.FLOAT, None), value("rois", kind.FLOAT, None), value("index", kind.INT64, None)]
    graph = onnx.helper.make_graph([node], "roi_align", inputs, [value("y", kind.FLOAT, None)])
    opset = [onnx.helper.make_opsetid("", 16)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def exported(setting: Setting, steps: int) -> Ready:
    """What --mode export writes, with random weights."""
    graphdef, state = nnx.split(abstract_model(setting.config))
    predictor = ExportedPredictor(graphdef, fill(state), setting.config.sampler, steps, setting.size)
    started = time.perf_counter()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "predictor.onnx"
        write_onnx(path, predictor)
        run = session(path.read_bytes()).run
    seconds = time.perf_counter() - started
    batch, rng = setting.batch(), np.random.default_rng(0)
    noise = rng.normal(size=(setting.images, *predictor.shapes[2].shape[1:])).astype(np.float32)
    boxes = np.zeros((setting.images, 4), np.float32)
    values = batch["image"], batch["image_size"], noise, boxes, np.zeros(setting.images, bool)
    return Ready(lambda: run(None, dict(zip(INPUTS, values, strict=True))), seconds)
