"""Parameters, arithmetic and time of a model, beside the paper's Table II.

    python scripts/model_stats.py [--preset paper|wide | --config configs/X.py[:variant]] [--size 800 1333]
        [--num-proposals 300] [--steps 1 2 4 8] [--json FILE] [--time] [--no_compile]

No dataset and no weights are needed, and but for --time nothing is computed: shapes are enough. GFLOP are 2 x
multiply-add, as in the paper's table, for one image, counted twice:
- "products": every matrix product and convolution that the program holds, exactly, and RoIAlign's weighted sums by
  formula (2 S^2 (2R)^2 C a box, the gather backend's). Additions, activations, norms and softmax are left out.
- "compiler": what XLA says of the compiled program for this device, those others included.
The features are counted once and one denoising step K times; a sampler adds next to nothing. --time runs the whole
prediction (features, K steps, non-maximum suppression) on one random image with random weights.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks.psdiff import fill
from flax import nnx

from psdiff_jax.config import Config, from_values, load_config
from psdiff_jax.configs.base import PRESETS
from psdiff_jax.configs.base import get_config as base
from psdiff_jax.errors import InputError
from psdiff_jax.inference.predictor import Predictor
from psdiff_jax.models.psdiff import PSDiff, PSDiffOptions, merge
from psdiff_jax.training.train import abstract_model

# Table II of the paper: parameters (M), GFLOP, images a second on a V100.
PAPER = {
    "NAE": (33, 575, 14),
    "SeqNet": (48, 550, 12),
    "AlignPS": (42, 380, 16),
    "PSTR": (43, 356, 18),
    "COAT": (37, 473, 11),
    "PSDiff, 1 step": (31, 301, 31),
    "PSDiff, 2 steps": (31, 309, 27),
    "PSDiff, 4 steps": (31, 333, 21),
    "PSDiff, 8 steps": (31, 390, 14),
}


def count_parameters(model: PSDiff) -> dict[str, int]:
    """Parameters of each module; running statistics are none."""
    return {
        name: sum(int(np.prod(v.shape)) for v in jax.tree.leaves(nnx.state(getattr(model, name), nnx.Param)))
        for name in ("backbone", "fpn", "cdl", "reid_backbone", "readout")
        if getattr(model, name, None) is not None
    }


def count_products(jaxpr: Any) -> int:
    """2 x multiply-adds of all matrix products and convolutions of a jaxpr, those inside calls and scans too."""
    total = 0
    for equation in jaxpr.eqns:
        out = [int(np.prod(v.aval.shape)) for v in equation.outvars]
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += 2 * out[0] * int(np.prod([equation.invars[0].aval.shape[axis] for axis in contracted]))
        elif equation.primitive.name == "conv_general_dilated":
            kernel, features_out = equation.invars[1].aval.shape, equation.params["dimension_numbers"].rhs_spec[0]
            # A gradient puts zeros between its inputs, which are no work of the model either.
            zeros = int(np.prod(equation.params["lhs_dilation"]))
            total += 2 * out[0] * int(np.prod(kernel)) // kernel[features_out] // zeros
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                total += count_products(inner) * equation.params.get("length", 1)
    return total


def programs(model: PSDiff, size: tuple[int, int], num_proposals: int) -> dict[str, tuple]:
    """{"features", "step": (function, abstract arguments)} for one image."""
    graphdef, state = nnx.split(model)
    diffusion, array = model.diffusion, jax.ShapeDtypeStruct
    image = (state, array((1, *size, 3), jnp.uint8), array((1, 2), jnp.int32))

    def features(state, images, image_size):
        return merge(graphdef, state).features(images, image_size)

    def step(state, condition, noisy, t):
        return merge(graphdef, state).denoise(condition, noisy, t)

    noisy = jax.eval_shape(lambda: diffusion.gaussian(jax.random.key(0), num_proposals))
    noisy = jax.tree.map(lambda v: array((1, *v.shape), v.dtype), noisy)
    condition = jax.eval_shape(features, *image)
    return {"features": (features, image), "step": (step, (state, condition, noisy, array((1,), jnp.int32)))}


def roi_align_flops(model: PSDiffOptions, num_proposals: int) -> int:
    """RoIAlign's weighted sums in one denoising step."""
    return model.num_cdl * num_proposals * 2 * model.side**2 * (2 * model.sampling_ratio) ** 2 * model.dim


def measure(model: PSDiff, config: Config, size: tuple[int, int], steps: list[int], repeats: int) -> dict[int, float]:
    """Median seconds of an image for each number of steps."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    params, rest = (fill(tree) for tree in (params, rest))
    predict = Predictor(graphdef, config.sampler)
    batch = {
        "image": jnp.asarray(np.random.default_rng(0).integers(0, 256, (1, *size, 3)), jnp.uint8),
        "image_size": jnp.int32([size]),
        "image_index": jnp.int32([0]),
    }
    seconds = {}
    for k in steps:
        run = lambda k=k: jax.block_until_ready(predict(params, rest, batch, jax.random.key(0), (k,)))  # noqa: E731
        run()  # compiles
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            run()
            times.append(time.perf_counter() - started)
        seconds[k] = statistics.median(times)
    return seconds


def statistics_of(
    config: Config, size: tuple[int, int], num_proposals: int, steps: list[int], compiled: bool = True
) -> dict:
    """What --json writes, but for the times. FLOPs are plain integers, 2 x multiply-add."""
    # The other backend multiplies by zeros, which is no work of the model.
    config = replace(config, model=replace(config.model, roi_backend="gather"))
    model = abstract_model(config)
    parts = count_parameters(model)
    runs = programs(model, size, num_proposals)
    products = {name: count_products(jax.make_jaxpr(f)(*args).jaxpr) for name, (f, args) in runs.items()}
    roi = roi_align_flops(config.model, num_proposals)
    products["step"] += roi
    result = {
        "parameters": sum(parts.values()),
        "parameters_by_module": parts,
        "size": list(size),
        "num_proposals": num_proposals,
        "backbone": config.model.backbone,
        "dtype": config.model.dtype,
        "flops": {str(k): products["features"] + k * products["step"] for k in steps},
        "features_flops": products["features"],
        "step_flops": products["step"],
        "roi_align_flops": roi,
    }
    if compiled:
        compiled_runs: dict[str, Any] = {name: jax.jit(f).lower(*args).compile() for name, (f, args) in runs.items()}
        costs = {name: round(run.cost_analysis()["flops"]) for name, run in compiled_runs.items()}
        result |= {
            "compiler_flops": {str(k): costs["features"] + k * costs["step"] for k in steps},
            "compiler_features_flops": costs["features"],
            "compiler_step_flops": costs["step"],
        }
    return result


def table(stats: dict, name: str) -> str:
    """The markdown table: the paper's rows, then ours."""
    giga = lambda flops: f"{flops / 1e9:.1f}"  # noqa: E731
    lines = [
        "| method | parameters | GFLOP, products | GFLOP, compiler | ms an image | images a second |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {method} (paper, V100) | {size} M | {flops} | | | {speed} |"
        for method, (size, flops, speed) in PAPER.items()
    ]
    for k, flops in stats["flops"].items():
        seconds = stats.get("seconds", {}).get(k)
        lines.append(
            f"| {name}, {k} step{'s' * (k != '1')} | {stats['parameters'] / 1e6:.2f} M | {giga(flops)} | "
            f"{giga(stats['compiler_flops'][k]) if 'compiler_flops' in stats else ''} | "
            + (f"{1e3 * seconds:.0f} | {1 / seconds:.2f} |" if seconds else "| |")
        )
    return "\n".join(lines)


def summary(stats: dict) -> str:
    """The parts of the totals, in two lines."""
    parts = ", ".join(f"{name} {count:,}" for name, count in stats["parameters_by_module"].items())
    step, roi = stats["step_flops"] / 1e9, stats["roi_align_flops"] / 1e9
    compiler = f"; {stats['compiler_step_flops'] / 1e9:.2f} by the compiler" if "compiler_step_flops" in stats else ""
    return (
        f"Parameters: {stats['parameters']:,} = {parts}.\nGFLOP: features {stats['features_flops'] / 1e9:.1f}, a "
        f"step {step:.2f} ({step - roi:.2f} without RoIAlign{compiler})."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--config", help="an experiment's file, FILE[:variant]")
    which.add_argument("--preset", choices=PRESETS, default="paper")
    parser.add_argument("--size", nargs=2, type=int, default=(800, 1333), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--num-proposals", type=int, default=300, help="boxes an image")
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--no_compile", action="store_true", help="leave the compiler's count out")
    parser.add_argument("--time", action="store_true", help="measure as well, on this device")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if min(*arguments.size, arguments.num_proposals, arguments.repeats, *arguments.steps) < 1:
        raise InputError("--size, --num-proposals, --steps and --repeats must be 1 or more")
    config = from_values(load_config(arguments.config) if arguments.config else base(arguments.preset))
    config = replace(config, sampler=replace(config.sampler, num_proposals=arguments.num_proposals))
    name, size = arguments.config or f"{arguments.preset} preset", tuple(arguments.size)
    stats = statistics_of(config, size, arguments.num_proposals, arguments.steps, not arguments.no_compile)
    if arguments.time:
        stats["device"] = jax.devices()[0].device_kind
        seconds = measure(abstract_model(config), config, size, arguments.steps, arguments.repeats)
        stats["seconds"] = {str(k): value for k, value in seconds.items()}
    print(
        f"{name}: {stats['backbone']}, {size[0]}x{size[1]}, {arguments.num_proposals} boxes, {stats['dtype']}"
        f"{', times on ' + stats['device'] if arguments.time else ''}\n{summary(stats)}\n\n{table(stats, name)}"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(stats, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except (InputError, ValueError) as error:
        sys.exit(f"error: {error}")
