"""The teacher while it is trained: weights to start from, Adam, and one step of the contrastive loss.

Legend: B crops of a batch, h w rows and columns of a crop, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from psdiff_jax.convert.backbone import load_backbone
from psdiff_jax.errors import InputError
from psdiff_jax.models.weights import assign, flatten_state, load_npz, read_npz
from psdiff_jax.teacher.batches import BalancedBatches
from psdiff_jax.teacher.crops import CropSet
from psdiff_jax.teacher.embed import embed_crops
from psdiff_jax.teacher.memory_bank import MemoryBank, init_memory_bank, memory_loss, update_memory_bank
from psdiff_jax.teacher.network import TeacherNetwork, apply_teacher, spread_over_devices
from psdiff_jax.teacher.options import TeacherOptions
from psdiff_jax.training.optimizer import step_decay, warmed_up

Batch = Mapping[str, Any]
Step = Callable[["TeacherState", Batch], tuple["TeacherState", dict[str, jax.Array]]]


class TeacherState(NamedTuple):
    """All that training changes: step int32 [], parameters, BatchNorm statistics, Adam's moments, the memory bank."""

    step: jax.Array
    params: Any
    stats: Any
    opt_state: Any
    memory_bank: MemoryBank


def new_state(options: TeacherOptions, seed: int = 0) -> Any:
    """The state of a teacher with random weights, or with those of `options.init_from`.

    That file is a teacher's (`save_npz`), or a backbone's (see `convert.backbone`).
    """
    if options.init_from and is_teacher(options.init_from):
        return load_npz(options.init_from, abstract_state(options))
    # XLA compiles the default generator for 9 s on one CPU core for a small network, this one for 2.
    state = jax.jit(lambda key: nnx.state(_module(options, key)))(jax.random.key(seed, impl="rbg"))
    if not options.init_from:
        return state
    if not options.steps and "project/kernel" in flatten_state(state):
        raise InputError(
            f"config.teacher.steps=0: {options.init_from} is a backbone alone and would get a head of random weights;"
            f" set config.teacher.embedding_dim={options.spec().channels[-1]}, its own width, or train"
        )
    backbone = load_backbone(options.init_from, abstract_state(options)["backbone"]).state
    return assign(state, flatten_state(backbone), options.init_from, "backbone")


def is_teacher(path: str | Path) -> bool:
    """Whether a file holds a whole teacher and not only a backbone."""
    return Path(path).suffix == ".npz" and "neck/scale" in read_npz(path)


def abstract_state(options: TeacherOptions) -> Any:
    """Names and shapes of a teacher's state, without values: what `models.weights.load_npz` fills."""
    return nnx.state(nnx.eval_shape(lambda: _module(options)))


def split(options: TeacherOptions, state: Any) -> tuple[nnx.GraphDef, Any, Any]:
    """(graphdef, parameters, statistics) of a teacher with the given state."""
    params, stats = nnx.split_state(state, nnx.Param, nnx.BatchStat)
    return nnx.graphdef(nnx.eval_shape(lambda: _module(options))), params, stats


def _module(options: TeacherOptions, key: jax.Array | int = 0) -> TeacherNetwork:
    return TeacherNetwork(options.spec(), options.embedding_dim, options.pooling, rngs=nnx.Rngs(key))


def embedder(options: TeacherOptions, state: Any, train: bool) -> Callable[[np.ndarray], jax.Array]:
    """Crops uint8 [B,h,w,3] -> embeddings [B,D]; see `teacher.network.spread_over_devices`."""
    graphdef, *arrays = split(options, state)
    return spread_over_devices(lambda both, crops: apply_teacher(graphdef, both[0], both[1], crops, train)[0], arrays)


def learning_rate(options: TeacherOptions) -> optax.Schedule:
    """Step -> learning rate."""
    peak, steps = options.learning_rate, options.steps
    decay = step_decay(peak, steps, options.decay_at if options.schedule == "step" else ())
    if options.schedule == "cosine":
        decay = optax.cosine_decay_schedule(peak, max(steps, 1))
    return warmed_up(decay, min(options.warmup_steps, steps // 2))


def make_optimizer(options: TeacherOptions) -> optax.GradientTransformation:
    """Adam with L2 (not AdamW), as re-ID training has it, but on kernels alone: HHCL's is on BatchNorm's scales too."""
    return optax.chain(
        optax.add_decayed_weights(options.weight_decay, mask=partial(jax.tree.map, lambda p: p.ndim > 1)),
        optax.adam(learning_rate(options)),
    )


def make_step(graphdef: nnx.GraphDef, options: TeacherOptions) -> Step:
    """The jitted step: (state, {"crops" uint8 [B,h,w,3], "labels" int32 [B]}) -> (state, scalars).

    The batch's leading axis may be sharded; the state that goes in is given up.
    """
    optimizer, schedule = make_optimizer(options), learning_rate(options)
    train, dtype = not options.freeze_statistics, jnp.bfloat16 if options.bfloat16 else jnp.float32

    def loss_fn(params: Any, state: TeacherState, batch: Batch) -> tuple[jax.Array, Any]:
        features, stats = apply_teacher(graphdef, params, state.stats, batch["crops"], train, dtype)
        bank = state.memory_bank
        loss, terms = memory_loss(features, batch["labels"], bank, options.temperature, options.hard_weight)
        return loss, (features, stats, terms)

    @partial(jax.jit, donate_argnums=0)
    def step(state: TeacherState, batch: Batch) -> tuple[TeacherState, dict[str, jax.Array]]:
        (loss, aux), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params, state, batch)
        features, stats, terms = aux
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        bank = update_memory_bank(state.memory_bank, features, batch["labels"], options.momentum)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": loss, **terms, "gradient_norm": optax.global_norm(gradients)}
        metrics["learning_rate"] = schedule(state.step)
        return TeacherState(state.step + 1, params, stats, opt_state, bank), metrics

    return step


def create_state(
    options: TeacherOptions, crops: CropSet, batches: BalancedBatches, seed: int = 0
) -> tuple[nnx.GraphDef, TeacherState]:
    """(graphdef, state at step 0): the network, and a memory bank of its embeddings of the crops as in training."""
    state = new_state(options, seed)
    # With rows that are normalised otherwise than training's features the start is worse than chance. Where each batch
    # has its own statistics, batches must be mixed.
    by_batch = not options.freeze_statistics
    order = np.random.default_rng(seed).permutation(len(crops)) if by_batch else None
    embeddings = embed_crops(embedder(options, state, by_batch), crops.crops, 256, "memory bank", order)
    # Negatives that no batch replaces would stay those of the network at its start.
    negatives = options.negatives if batches.unlabelled else 0
    bank = init_memory_bank(embeddings, batches.labels, batches.num_identities, negatives)
    graphdef, params, stats = split(options, state)
    return graphdef, TeacherState(jnp.zeros((), jnp.int32), params, stats, make_optimizer(options).init(params), bank)
