"""Speed, memory and compile time of training and inference, whole and by part, beside peers in the same run.

    python scripts/benchmark.py [--preset default | --config configs/X.py[:variant]] [--size 800 1333] [--images 1]
        [--dtype float32] [--steps 1 2 4 8] [--only training inference RoIAlign ...] [--peers torch onnxruntime]
        [--repeats 5] [--clock wall|cpu] [--json FILE]

One table, and with --json the same numbers. Images and weights are random; all contestants of a group get images of the
same size and take turns. "ratio" is against the first of the group. Peak memory is XLA's plan of a program, PyTorch's
allocator on a GPU, and for others on a CPU by how much the process grows. "share of matmul" is FLOP/s, by XLA's count,
over those of a product of large square matrices in the same dtype. Runs alike on CPUs, GPUs and TPUs.
"""

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import jax
from benchmarks import onnx_peers, psdiff, torch_peers
from benchmarks.psdiff import PARTS, Setting
from benchmarks.timing import CLOCKS, Contestant, Result, matmul_rate, measure, table

from psdiff_jax.config import from_values, load_config
from psdiff_jax.configs.base import PRESETS
from psdiff_jax.configs.base import get_config as base
from psdiff_jax.errors import InputError
from psdiff_jax.models.backbones import BACKBONES

GROUPS = ("training", "inference", *PARTS)
PEERS = ("torch", "onnxruntime")


def groups(given: argparse.Namespace, setting: Setting) -> dict[str, list[Contestant]]:
    """{group: contestants}, this program's first."""
    found = [Contestant("training", "PSDiff", setting.images, partial(psdiff.training, setting))]
    for k in given.steps:
        name = f"PSDiff, {k} step{'s' * (k > 1)}"
        found.append(Contestant("inference", name, setting.images, partial(psdiff.inference, setting, k)))
    for gradient in (False, True) if given.gradient else (False,):
        found += psdiff.parts(setting, gradient)
        found += psdiff.other_backbones(setting, given.backbones, gradient)
    if "torch" in given.peers:
        found += torch_peers.contestants(setting, given.torch_compile)
    if "onnxruntime" in given.peers and all(map(importlib.util.find_spec, ("onnx", "onnxruntime"))):
        exported = given.steps[:1] if importlib.util.find_spec("jax2onnx") else []
        found += onnx_peers.contestants(setting, exported)
    chosen: dict[str, list[Contestant]] = {}
    for contestant in found:
        if contestant.group.removesuffix(", gradient") in given.only:
            chosen.setdefault(contestant.group, []).append(contestant)
    return chosen


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    which = made.add_mutually_exclusive_group()
    which.add_argument("--config", help="an experiment's file, FILE[:variant]")
    which.add_argument("--preset", choices=PRESETS, default="default")
    made.add_argument("--size", nargs=2, type=int, default=(800, 1333), metavar=("HEIGHT", "WIDTH"))
    made.add_argument("--images", type=int, default=1, help="of a batch, over all devices")
    made.add_argument("--dtype", choices=("float32", "bfloat16"), help="another than the config's")
    made.add_argument("--steps", nargs="+", type=int, default=[1, 2, 4, 8], help="denoising steps")
    made.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS))
    made.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), help="those that are installed")
    made.add_argument("--torch_compile", action="store_true", help="PyTorch's inference compiled as well: minutes")
    made.add_argument("--backbones", nargs="*", choices=BACKBONES, default=[], help="beside the config's own")
    made.add_argument("--gradient", action="store_true", help="parts with their gradient, too")
    made.add_argument("--repeats", type=int, default=5)
    made.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: this process's time, on a busy machine")
    made.add_argument("--matmul", type=int, default=2048, help="side of the matrices of the product")
    made.add_argument("--json", type=Path, metavar="FILE")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    given = parser().parse_args(argv)
    if min(*given.size, given.images, given.repeats, given.matmul, *given.steps) < 1:
        raise InputError("--size, --images, --steps, --repeats and --matmul must be 1 or more")
    values: Any = load_config(given.config) if given.config else base(given.preset)
    if given.dtype:
        values.model.dtype = given.dtype
    config = from_values(values)
    height, width = given.size
    setting = Setting(config, (height, width), given.images)
    matmul = matmul_rate(config.model.dtype, given.matmul, CLOCKS[given.clock])
    about = {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "config": given.config or given.preset,
        "backbone": config.model.backbone,
        "dtype": config.model.dtype,
        "size": list(given.size),
        "images": given.images,
        "proposals": config.sampler.num_proposals,
        "clock": given.clock,
        "matmul_flops_per_second": matmul,
    }
    print(
        f"{about['devices']} x {about['device']}, {about['config']}: {about['backbone']}, {about['dtype']}, "
        f"{given.images} x {given.size[0]}x{given.size[1]}, {about['proposals']} proposals, median of {given.repeats} "
        f"({given.clock} clock); matmul {matmul / 1e9:.0f} GFLOP/s\n"
    )
    results: list[Result] = []
    for group, contestants in groups(given, setting).items():
        print(f"{group} ...", file=sys.stderr, flush=True)
        results += measure(contestants, given.repeats, CLOCKS[given.clock], matmul)
    print(table(results))
    if given.json:
        text = json.dumps({**about, "results": [asdict(result) for result in results]}, indent=2)
        given.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except (InputError, ValueError) as error:
        sys.exit(f"error: {error}")
