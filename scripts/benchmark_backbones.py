"""Time of backbones on this device, measured in turns so that other load on the machine meets all of them alike.

    python scripts/benchmark_backbones.py small osnet_x0_25 [--sizes 288x360 576x720] [--repeats 20] [--gradient]

Milliseconds of one image, the least and the median, and the least relative to the first backbone. Random weights,
float32, BatchNorm folded into the convolutions as at inference. With --gradient it is frozen instead, and the gradient
of what is trained is computed as well.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from psdiff_jax.models.backbones import BACKBONES


def compiled(name: str, gradient: bool) -> Callable[[np.ndarray], Any]:
    """A pass of a backbone over images [B,H,W,3]."""
    spec = BACKBONES[name]
    graphdef, params, rest = nnx.split(
        spec.make(rngs=nnx.Rngs(0)), lambda path, v: isinstance(v, nnx.Param) and spec.is_trained(path), ...
    )

    def run(params, images):
        network = nnx.merge(graphdef, params, rest)
        if not gradient:
            spec.fold(network)
        return network(images, image_size=np.asarray([images.shape[1:3]], np.int32))

    def loss(params, images):
        return sum((x**2).mean() for x in run(params, images))

    apply = jax.jit(jax.grad(loss) if gradient else run)
    return lambda images: jax.block_until_ready(apply(params, images))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("backbones", nargs="+", choices=BACKBONES)
    parser.add_argument("--sizes", nargs="+", default=["288x360", "576x720"], metavar="HxW")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--gradient", action="store_true")
    arguments = parser.parse_args()
    runs = {name: compiled(name, arguments.gradient) for name in arguments.backbones}
    print("| size | " + " | ".join(runs) + " |\n" + "|---" * (len(runs) + 1) + "|")
    for size in arguments.sizes:
        height, width = map(int, size.split("x"))
        images = np.random.default_rng(0).uniform(0, 255, (1, height, width, 3)).astype(np.float32)
        for run in runs.values():
            run(images)  # compiles
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(arguments.repeats):
            for name, run in runs.items():
                started = time.perf_counter()
                run(images)
                times[name].append(1e3 * (time.perf_counter() - started))
        first = min(next(iter(times.values())))
        cells = [f"{min(t):.1f} (median {statistics.median(t):.1f}; x{min(t) / first:.1f})" for t in times.values()]
        print(f"| {size} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
