"""What a step of training would take on many accelerators: an estimate on paper, from a compiled step and link speeds.

    XLA_FLAGS="--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0" \\
        python scripts/step_stats.py --batches 1 --json step.json
    python scripts/scaling_estimate.py step.json [--accelerator h100|v5e] [--devices 8 64 512] [--batch 4]
        [--utilisation 0.4] [--join 30] [--images 11206] [--jpeg 200] [--json FILE]

FLOPs and collectives are the file's, link speeds are published (`ACCELERATORS`), and the rest is assumed:
- compute: FLOPs / (peak x utilisation), in proportion to the images of a device;
- communication: every collective is a ring within a host and one across hosts, each device with its own link:
  n devices exchange bytes x (n - 1) / n each way, for a sum twice that; and LATENCY for each collective and ring. XLA
  joins collectives of a kind, on GPUs to 30 MiB, on a CPU not all of them: `--join 0` takes the file's count;
- nothing overlaps: a step is the sum of both. XLA on GPUs and TPUs hides a part of the communication behind the
  backward pass, so that this is pessimistic; stragglers and waiting for data are left out, which is optimistic.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from psdiff_jax.errors import InputError

LATENCY = 20e-6  # seconds, of one collective in one ring
DECODING = 4.5e-3  # seconds of a core to decode and resize an image of 800x1333 with OpenCV
DISK = 1e9  # bytes a second that a file system takes


@dataclass(frozen=True)
class Accelerator:
    """flops: peak of dense bfloat16. near, far: bytes/s one way, of a device among `island` of them and beyond."""

    name: str
    flops: float
    near: float
    island: int
    far: float


ACCELERATORS = {
    # NVIDIA's H100 datasheet: 989 TFLOP/s dense, NVLink 900 GB/s both ways together; DGX H100: InfiniBand of 400 Gb/s
    # for each GPU.
    "h100": Accelerator("H100 SXM", 989e12, 450e9, 8, 50e9),
    # docs.cloud.google.com/tpu/docs/v5e: 197 TFLOP/s, 1600 Gb/s between chips, 6.4 Tb/s from a pod of 256 to others.
    "v5e": Accelerator("TPU v5e", 197e12, 200e9, 256, 3.125e9),
}


@dataclass(frozen=True)
class Estimate:
    """One row: times in seconds, moved bytes one way of a device and step, rates per second of all devices."""

    devices: int
    batch: int
    compute: float
    communication: float
    moved: float
    images: float

    @property
    def step(self) -> float:
        return self.compute + self.communication

    @property
    def efficiency(self) -> float:
        return self.compute / self.step


def ring(size: float, devices: int, accelerator: Accelerator) -> tuple[float, float]:
    """(seconds, bytes moved) until each of the devices has all `size` bytes of which each had a part, or a part of the
    sum of what each had whole."""
    inside = min(devices, accelerator.island)
    outside = devices // inside
    near, far = size * (inside - 1) / inside, size / inside * (outside - 1) / outside
    rings = (inside > 1) + (outside > 1)
    return near / accelerator.near + far / accelerator.far + rings * LATENCY, near + far


def communication(
    stats: Mapping[str, Any], devices: int, accelerator: Accelerator, join: int = 0
) -> tuple[float, float]:
    """(seconds, bytes moved) of the collectives of a step. Those who share a state gather it among themselves.

    join: bytes that collectives of a kind are joined to; 0: they stay as they are.
    """
    seconds = moved = 0.0
    for name, found in stats["collectives"].items():
        sharing = min(stats["shards"], devices) if name == "all-gather" and stats["shards"] > 1 else devices
        count = min(found["count"], -(-found["bytes"] // join)) if join else found["count"]
        one = ring(found["bytes"] / count, sharing, accelerator)
        rings = count * (2 if name == "all-reduce" else 1)
        seconds, moved = seconds + rings * one[0], moved + rings * one[1]
    return seconds, moved


def estimate(
    stats: Mapping[str, Any], devices: int, batch: int, accelerator: Accelerator, utilisation: float, join: int = 0
) -> Estimate:
    """A row for `devices` with `batch` images each, from a row of `step_stats.py` (any batch)."""
    compute = stats["flops"] / stats["batch"] * batch / (accelerator.flops * utilisation)
    seconds, moved = communication(stats, devices, accelerator, join)
    return Estimate(devices, batch, compute, seconds, moved, devices * batch / (compute + seconds))


def read(path: Path) -> dict[str, Any]:
    """The first row of a file of `step_stats.py`.

    Raises:
      InputError: it is no such file, or of a step on one device, which has no collectives.
    """
    try:
        stats = json.loads(path.read_text(encoding="utf-8"))[0]
        missing = {"flops", "state", "batch", "devices", "shards", "collectives", "backbone", "size"} - set(stats)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path}: not a file of step_stats.py --json ({error})") from error
    if missing:
        raise InputError(f"{path}: {', '.join(sorted(missing))} missing; write it anew with step_stats.py --json")
    if not stats["collectives"]:
        raise InputError(f"{path}: a step on one device; give step_stats.py XLA_FLAGS of several")
    return stats


def table(rows: Sequence[Estimate], images: int, jpeg: float) -> str:
    """jpeg: bytes of a compressed image. images: of the training data. "cores": that decode and resize."""
    columns = ("accelerators", "images a step", "compute ms", "communication ms", "share of compute", "images/s",
               "MB moved a device", "JPEG MB/s", "cores a device", "steps an epoch", "s an epoch")  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for row in rows:
        together = row.devices * row.batch
        cells = (
            f"{row.devices}",
            f"{together:,}",
            f"{1e3 * row.compute:.1f}",
            f"{1e3 * row.communication:.1f}",
            f"{100 * row.efficiency:.0f} %",
            f"{row.images:,.0f}",
            f"{row.moved / 1e6:,.0f}",
            f"{row.images * jpeg / 1e6:,.0f}",
            f"{row.images * DECODING / row.devices:.1f}",
            f"{images / together:,.1f}",
            f"{images / row.images:.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stats", type=Path, help="a file of step_stats.py --json, of several devices")
    parser.add_argument("--accelerator", choices=ACCELERATORS, default="h100")
    parser.add_argument("--devices", nargs="+", type=int, default=[8, 64, 512])
    parser.add_argument("--batch", type=int, default=4, help="images a device")
    parser.add_argument("--utilisation", type=float, default=0.4, help="share of the peak that is reached")
    parser.add_argument("--join", type=int, default=30, help="MiB that collectives are joined to; 0: not at all")
    parser.add_argument("--images", type=int, default=11_206, help="of the training data; default: CUHK-SYSU's")
    parser.add_argument("--jpeg", type=float, default=200, help="KB of a compressed image")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args(given)
    if min(*arguments.devices, arguments.batch, arguments.images) < 1 or arguments.join < 0:
        raise InputError("--devices, --batch and --images must be 1 or more, --join 0 or more")
    if not 0 < arguments.utilisation <= 1:
        raise InputError("--utilisation must be above 0 and at most 1")
    stats, accelerator = read(arguments.stats), ACCELERATORS[arguments.accelerator]
    for devices in arguments.devices:
        if devices > accelerator.island and devices % accelerator.island:
            raise InputError(f"--devices {devices}: choose a multiple of {accelerator.island}")
    assumed = arguments.batch, accelerator, arguments.utilisation, arguments.join * 2**20
    rows = [estimate(stats, n, *assumed) for n in arguments.devices]
    print(
        f"{stats['backbone']}, {stats['size'][0]}x{stats['size'][1]}, shards {stats['shards']}: "
        f"{stats['flops'] / stats['batch'] / 1e9:.0f} GFLOP an image; {accelerator.name} at "
        f"{100 * arguments.utilisation:.0f} % of its peak, {arguments.batch} images a device. An estimate, not a "
        f"measurement.\n\n{table(rows, arguments.images, 1e3 * arguments.jpeg)}\n\nA checkpoint has "
        f"{stats['state'] / 1e6:.0f} MB: {stats['state'] / DISK:.1f} s at {DISK / 1e9:.0f} GB/s."
    )
    if arguments.json:
        said = [{**asdict(row), "step": row.step, "efficiency": row.efficiency} for row in rows]
        arguments.json.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except (InputError, ValueError) as error:
        sys.exit(f"error: {error}")
