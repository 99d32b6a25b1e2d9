"""Memory and communication of one training step, as XLA compiles it: no data, no weights and nothing computed.

    python scripts/step_stats.py [--preset default|paper|wide | --config configs/X.py[:variant]] [--backbone swin_b]
        [--size 800 1333] [--batches 1 2 4 8] [--shards 1] [--remat backbone cdl] [--dtype bfloat16] [--json FILE]

A row for each batch (images a device): what the arguments (state and batch), the temporaries and all of it at its peak
take on one device, and the collectives of the program: how many, and the bytes of their results. XLA_FLAGS=
--xla_force_host_platform_device_count=8 gives the CPU eight devices to divide a step among.

The program is compiled for the devices that are there. On a CPU that is an estimate for others: the CPU computes
bfloat16 in float32 and orders operations otherwise, a GPU needs room for its convolutions.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from psdiff_jax import parallel
from psdiff_jax.config import Config, from_values, load_config
from psdiff_jax.configs.base import PRESETS
from psdiff_jax.configs.base import get_config as base
from psdiff_jax.errors import InputError
from psdiff_jax.training.step import TrainState
from psdiff_jax.training.train import abstract_model, initial_state, new_model, training_mesh, training_step

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_OPERATION = re.compile(rf"= (.*?) ({'|'.join(COLLECTIVES)})(?:-start)?\(")
_ARRAY = re.compile(r"(pred|[a-z]+\d+\w*)\[([\d,]*)\]")


def abstract_step(config: Config, size: tuple[int, int], boxes: int) -> tuple[Any, TrainState, dict[str, Any]]:
    """(the jitted step, shapes of its state and batch) of a config, on all devices as training has them."""
    mesh, array = training_mesh(config), jax.ShapeDtypeStruct
    model = abstract_model(config)
    graphdef, state = jax.eval_shape(lambda: initial_state(config, new_model(config, shapes=True)))

    def placed(leaf: Any) -> jax.ShapeDtypeStruct:
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        sharding = parallel.replicated(mesh) if is_key else parallel.divided(leaf.shape, mesh)
        return array(leaf.shape, leaf.dtype, sharding=sharding)

    def rows(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return array((config.train.batch_size, *shape), dtype, sharding=parallel.batch_sharding(mesh))

    batch = {
        "image": rows(*size, 3, dtype=jnp.uint8),
        "image_size": rows(2, dtype=jnp.int32),
        "boxes": rows(boxes, 4),
        "boxes_mask": rows(boxes, dtype=jnp.bool_),
        "embeddings": rows(boxes, config.model.embedding_dim),
        "person_ids": rows(boxes, dtype=jnp.int32),
    }
    return training_step(config, graphdef, model, mesh), jax.tree.map(placed, state), batch


def collectives(text: str) -> dict[str, dict[str, int]]:
    """{operation: {"count", "bytes" of the results}} of a compiled program as text."""
    found: dict[str, dict[str, int]] = {}
    for shapes, name in _OPERATION.findall(text):
        entry = found.setdefault(name, {"count": 0, "bytes": 0})
        entry["count"] += 1
        entry["bytes"] += sum(_bytes(*array) for array in _ARRAY.findall(shapes))
    return found


def _bytes(kind: str, sides: str) -> int:
    bits = 8 if kind == "pred" else int("".join(re.findall(r"\d+", kind)[:1]))
    return int(np.prod([int(side) for side in sides.split(",") if side], dtype=np.int64)) * bits // 8


def stats_of(config: Config, size: tuple[int, int]) -> dict[str, Any]:
    """What a row of the table says: bytes on one device, and the collectives."""
    step, state, batch = abstract_step(config, size, config.data.max_boxes)
    compiled = step.lower(state, batch).compile()
    memory = compiled.memory_analysis()
    return {
        "batch": config.train.batch_size // jax.device_count(),
        "devices": jax.device_count(),
        "shards": config.train.shards,
        "state_and_batch": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "peak": memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes,
        "collectives": collectives(compiled.as_text()),
    }


def row(stats: dict[str, Any]) -> str:
    gib = " | ".join(f"{stats[name] / 2**30:.2f}" for name in ("state_and_batch", "temporaries", "peak"))
    said = ", ".join(f"{each['count']} {name} of {each['bytes'] / 2**20:.1f} MiB"
                     for name, each in stats["collectives"].items())  # fmt: skip
    return f"| {stats['batch']} | {gib} | {said or 'none'} |"


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--config", help="an experiment's file, FILE[:variant]")
    which.add_argument("--preset", choices=PRESETS, default="default")
    parser.add_argument("--backbone", help="another than the config's")
    parser.add_argument("--size", nargs=2, type=int, default=(800, 1333), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8], help="images a device")
    parser.add_argument("--shards", type=int, default=1, help="config.train.shards")
    parser.add_argument("--remat", nargs="*", default=[], choices=("backbone", "cdl"), help="config.train.remat")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="another than the config's")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args(given)
    if min(*arguments.size, *arguments.batches) < 1:
        raise InputError("--size and --batches must be 1 or more")
    values: Any = load_config(arguments.config) if arguments.config else base(arguments.preset)
    values.model.update({k: v for k in ("backbone", "dtype") if (v := getattr(arguments, k))})
    values.train.update({"shards": arguments.shards, "remat": tuple(arguments.remat)})
    config = from_values(values)
    print(
        f"{config.model.backbone}, {config.model.dtype}, {arguments.size[0]}x{arguments.size[1]}, "
        f"{config.noise.num_proposals} proposals, {jax.device_count()} x {jax.devices()[0].device_kind}, shards "
        f"{arguments.shards}, computed again: {', '.join(arguments.remat) or 'nothing'}; GiB a device\n"
    )
    print("| images a device | state and batch | temporaries | peak | collectives |\n|---|---|---|---|---|", flush=True)
    height, width = arguments.size
    rows = []
    for batch in arguments.batches:
        train = replace(config.train, batch_size=batch * jax.device_count())
        rows.append(stats_of(replace(config, train=train), (height, width)))
        print(row(rows[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except (InputError, ValueError) as error:
        sys.exit(f"error: {error}")
