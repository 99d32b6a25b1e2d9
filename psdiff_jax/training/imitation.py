"""A new backbone learns to make the maps of a published one (Romero et al. 2015, "FitNets"): no weight is taken over.

    L = mean over the four strides of mean(((f_theta(x) - g(x)) / sd_c)^2)

with f_theta the learner, g the one that is imitated, and sd_c the standard deviation of g's channel c in the batch (a
little more, for channels that hardly vary): a learner that puts out each channel's mean has L = 1. Both have maps of
the same widths. The learner's BatchNorm is trained with statistics of its own, and frozen when it is done, as it is
everywhere else.

Legend: B image, H W pixels, C channel.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from psdiff_jax.errors import InputError
from psdiff_jax.models.backbone import Backbone, BackboneSpec
from psdiff_jax.parallel import AXES

Batch = dict[str, jax.Array]
DEAD = 0.01  # of the mean variance: what a channel counts with that does not vary


class ImitationState(NamedTuple):
    """Everything that training changes: step int32, parameters, BatchNorm statistics, the optimizer's state, a key."""

    step: jax.Array
    params: Any
    stats: Any
    opt_state: Any
    key: jax.Array


def check_same_maps(learner: BackboneSpec, imitated: BackboneSpec) -> None:
    """Raises InputError where the maps of two backbones differ in width."""
    if learner.channels != imitated.channels:
        raise InputError(
            f"config.model.backbone: its maps have {learner.channels} channels, those to be imitated "
            f"{imitated.channels}; choose one with equal maps"
        )


def blend(key: jax.Array, images: jax.Array) -> jax.Array:
    """Images [B,H,W,3] of which every other is mixed with its neighbour, in a share of 0 to 0.5.

    Maps are imitated, not labels, so any picture is a lesson: what is mixed has textures that drawn scenes lack.
    """
    count = images.shape[0]
    share = jax.random.uniform(key, (count, 1, 1, 1), maxval=0.5) * (jnp.arange(count) % 2)[:, None, None, None]
    pixels = images.astype(jnp.float32)
    return (1 - share) * pixels + share * jnp.roll(pixels, 1, axis=0)


def difference(maps: tuple[jax.Array, ...], wanted: tuple[jax.Array, ...]) -> jax.Array:
    """The terms of L for maps [B,H/s,W/s,C], one a stride."""
    each = []
    for found, target in zip(maps, wanted, strict=True):
        variance = target.var(axis=(0, 1, 2))
        each.append(jnp.mean((found - target) ** 2 / (variance + DEAD * variance.mean())))
    return jnp.stack(each)


def create_state(
    learner: Backbone, optimizer: optax.GradientTransformation, key: jax.Array
) -> tuple[nnx.GraphDef, ImitationState]:
    """(graphdef, state at step 0). All parameters are trained, those of BatchNorm too."""
    graphdef, params, stats = nnx.split(learner, nnx.Param, nnx.BatchStat)
    return graphdef, ImitationState(jnp.zeros((), jnp.int32), params, stats, optimizer.init(params), key)


def make_step(
    graphdef: nnx.GraphDef,
    imitated: Backbone,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    mesh: Mesh,
) -> Callable[[ImitationState, Batch], tuple[ImitationState, dict[str, jax.Array]]]:
    """The jitted step: (state, batch with image uint8 [B,H,W,3], spread over the mesh) -> (state, metrics).

    Each device has BatchNorm statistics of its own images, as is common; their running averages are means over devices.
    """
    fixed, weights = nnx.split(imitated)

    def loss_fn(params: Any, stats: Any, images: jax.Array) -> tuple[jax.Array, Any]:
        learner = nnx.merge(graphdef, params, stats, copy=True)  # statistics of an outer trace cannot be updated
        each = difference(learner(images, train=True), nnx.merge(fixed, weights)(images))
        return each.mean(), (each, nnx.state(learner, nnx.BatchStat))

    def local(params: Any, stats: Any, key: jax.Array, images: jax.Array) -> Any:
        own = jax.random.fold_in(key, jax.lax.axis_index(AXES[0]))
        found = jax.value_and_grad(loss_fn, has_aux=True)(params, stats, blend(own, images))
        return jax.lax.pmean(found, AXES[0])

    whole, spread = PartitionSpec(), PartitionSpec(AXES[0])
    gradients_of = jax.shard_map(
        local, mesh=mesh, in_specs=(whole, whole, whole, spread), out_specs=whole, check_vma=False
    )

    @partial(jax.jit, donate_argnums=0)
    def step(state: ImitationState, batch: Batch) -> tuple[ImitationState, dict[str, jax.Array]]:
        key = jax.random.fold_in(state.key, state.step)
        (loss, (each, stats)), gradients = gradients_of(state.params, state.stats, key, batch["image"])
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": loss} | {f"stride_{4 * 2**i}": value for i, value in enumerate(each)}
        metrics |= {"gradient_norm": optax.global_norm(gradients), "learning_rate": jnp.asarray(schedule(state.step))}
        return ImitationState(state.step + 1, params, stats, opt_state, state.key), metrics

    return step
