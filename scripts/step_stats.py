"""Memory and communication of one training step, as XLA compiles it: no data, no weights and nothing computed.

    python scripts/step_stats.py [--preset default|paper|wide | --config configs/X.py[:variant]] [--backbone swin_b]
        [--size 800 1333] [--batches 1 2 4 8] [--shards 1] [--remat backbone cdl] [--dtype bfloat16]
        [--no_compile] [--json FILE]

A row for each batch (images a device), in bytes on one device: "kept", the activations that the forward pass keeps for
the backward pass, by the types and shapes of the program before any compiler has seen it; then what XLA plans: the
arguments (state and batch), the temporaries, all of it at its peak; and the collectives: how many, and the bytes of
their results. XLA_FLAGS=--xla_force_host_platform_device_count=8 gives the CPU eight devices to divide a step among,
and --xla_backend_optimization_level=0 compiles sooner: it spares the machine code alone. --no_compile leaves out what
XLA plans. The file has the FLOPs of a step besides, for `scaling_estimate.py`.

The program is compiled for the devices that are there. On a CPU that is an estimate for others: the CPU computes
bfloat16 in float32 and orders operations otherwise (what is to be computed again it may compute at once, so that
--remat shows in "kept" alone), a GPU needs room for its convolutions.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend.core import Literal
from model_stats import count_products

from psdiff_jax import parallel
from psdiff_jax.config import Config, from_values, load_config
from psdiff_jax.configs.base import PRESETS
from psdiff_jax.configs.base import get_config as base
from psdiff_jax.errors import InputError
from psdiff_jax.training.step import OBJECTIVES, TrainState
from psdiff_jax.training.train import abstract_model, initial_state, new_model, training_mesh, training_step

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_OPERATION = re.compile(rf"= (.*?) ({'|'.join(COLLECTIVES)})(?:-start)?\(")
_ARRAY = re.compile(r"(pred|[a-z]+\d+\w*)\[([\d,]*)\]")


def abstract_step(
    config: Config, size: tuple[int, int], boxes: int
) -> tuple[Any, nnx.GraphDef, TrainState, dict[str, Any]]:
    """(the jitted step, graphdef, shapes of state and batch) of a config, on all devices as training has them."""
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
    return training_step(config, graphdef, model, mesh), graphdef, jax.tree.map(placed, state), batch


def kept(config: Config, graphdef: nnx.GraphDef, state: TrainState, batch: dict[str, Any]) -> int:
    """Bytes of what a forward pass over the batch keeps for the backward pass, without the parameters."""
    objective = partial(OBJECTIVES[config.train.objective], remat=config.train.remat)

    def backward(params: Any, rest: Any, key: Any, batch: Any) -> Any:
        given = rest, graphdef, key, batch, config.noise, config.matching, config.sampler
        return jax.vjp(lambda p: objective(p, *given), params, has_aux=True)[1]  # a tree of what it has kept

    program = jax.make_jaxpr(backward)(state.params, state.rest, state.key, batch).jaxpr
    arguments = set(program.invars)
    found = {v for v in program.outvars if not isinstance(v, Literal) and v not in arguments}
    return sum(v.aval.size * v.aval.dtype.itemsize for v in found)


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


def _nbytes(tree: Any) -> int:
    keys = jax.dtypes.prng_key
    return sum(
        leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if not jnp.issubdtype(leaf.dtype, keys)
    )


def stats_of(config: Config, size: tuple[int, int], compiled: bool = True) -> dict[str, Any]:
    """What a row of the table says: bytes on one device, and the collectives. `state` and `parameters` are the bytes of
    whole arrays; `flops` are 2 x multiply-add of the products in the step's jaxpr, divided by the devices."""
    step, graphdef, state, batch = abstract_step(config, size, config.data.max_boxes)
    traced, devices = step.trace(state, batch), jax.device_count()
    stats: dict[str, Any] = {
        "batch": config.train.batch_size // devices,
        "devices": devices,
        "shards": config.train.shards or devices,
        "backbone": config.model.backbone,
        "size": list(size),
        "dtype": config.model.dtype,
        "remat": list(config.train.remat),
        "flops": count_products(traced.jaxpr.jaxpr) // devices,
        "state": _nbytes(state),
        "parameters": _nbytes(state.params),
        "kept": kept(config, graphdef, state, batch) // devices // config.train.accumulate,
    }
    if not compiled:
        return stats
    program = traced.lower().compile()
    memory = program.memory_analysis()
    return stats | {
        "state_and_batch": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "peak": memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes,
        "collectives": collectives(program.as_text()),
    }


def row(stats: dict[str, Any]) -> str:
    planned = ("kept", "state_and_batch", "temporaries", "peak")
    gib = " | ".join(f"{stats[name] / 2**30:.2f}" if name in stats else "" for name in planned)
    said = ", ".join(f"{each['count']} {name} of {each['bytes'] / 2**20:.1f} MiB"
                     for name, each in stats.get("collectives", {}).items())  # fmt: skip
    return f"| {stats['batch']} | {gib} | {said or ('none' if 'collectives' in stats else '')} |"


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
    parser.add_argument("--no_compile", action="store_true", help="leave out what XLA plans")
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
    columns = "images a device", "kept", "state and batch", "temporaries", "peak", "collectives"
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|", flush=True)
    height, width = arguments.size
    rows = []
    for batch in arguments.batches:
        train = replace(config.train, batch_size=batch * jax.device_count())
        rows.append(stats_of(replace(config, train=train), (height, width), not arguments.no_compile))
        print(row(rows[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except (InputError, ValueError) as error:
        sys.exit(f"error: {error}")
