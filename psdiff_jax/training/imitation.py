"""A new backbone learns to make the maps of a published network (Romero et al. 2015, "FitNets").

    L = mean over the maps of mean(((A f_theta(x) - g(x)) / sd_c)^2)

with f_theta the learner, A a linear layer for each of its maps (left out where all widths are equal: then the learner
can stand in for the other), g the network that is imitated, and sd_c the standard deviation of g's channel c in the
batch (a little more, for channels that hardly vary): a learner that puts out each channel's mean has L = 1. No weight
is taken over. The learner's BatchNorm is trained with statistics of its own, and frozen when it is done, as elsewhere.

Legend: B image, H W pixels, C channel.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from psdiff_jax.models.backbone import BackboneSpec
from psdiff_jax.models.resnet import max_pool
from psdiff_jax.parallel import AXES

Batch = Mapping[str, Any]
DEAD = 0.01  # of the mean variance: what a channel counts with that does not vary


class Imitator(nnx.Module):
    """A new backbone and the layers that compare its maps with others, of which `sample` [B,H/s,W/s,C] are some.

    What a layer puts out is scaled to the mean and the deviation of each channel in the sample.
    """

    def __init__(self, spec: BackboneSpec, sample: Sequence[np.ndarray], *, rngs: nnx.Rngs):
        self.backbone = spec.make(rngs=rngs)
        widths = [each.shape[-1] for each in sample]
        adapts = list(spec.channels) != widths
        pairs = zip(spec.channels, widths, strict=True)
        self.adapt = nnx.List([nnx.Linear(*pair, rngs=rngs) for pair in pairs]) if adapts else None
        moments = [(each.mean((0, 1, 2)), each.std((0, 1, 2))) for each in sample] if adapts else []
        self.moments = nnx.List([nnx.BatchStat(jnp.asarray(each)) for each in moments])

    def __call__(self, images: jax.Array) -> tuple[jax.Array, ...]:
        """Images [B,H,W,3] -> what is compared: maps [B,H/s,W/s,C]."""
        maps = self.backbone(images.astype(jnp.float32), train=True)
        if self.adapt is None:
            return maps
        adapted = zip(self.adapt, self.moments, maps, strict=True)
        return tuple(moments[0] + moments[1] * layer(x) for layer, moments, x in adapted)


class ImitationState(NamedTuple):
    """Everything that training changes: step int32, parameters, BatchNorm statistics, the optimizer's state."""

    step: jax.Array
    params: Any
    stats: Any
    opt_state: Any


def blend(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 [B,H,W,3], every other image mixed with the one before it, in a share of 0 to 0.5.

    Maps are imitated, not labels, so any picture is a lesson: what is mixed has textures that drawn scenes lack.
    """
    share = rng.uniform(0, 0.5, (len(images), 1, 1, 1)).astype(np.float32)
    share[::2] = 0
    return ((1 - share) * images + share * np.roll(images, 1, axis=0) + 0.5).astype(np.uint8)


def differences(found: Sequence[jax.Array], wanted: Sequence[jax.Array]) -> jax.Array:
    """The terms of L, one a map [B,H/s,W/s,C]. A wanted map of twice the resolution is max-pooled to that found."""
    each = []
    for mine, other in zip(found, wanted, strict=True):
        other = max_pool(other) if other.shape[1] > mine.shape[1] else other
        variance = other.var(axis=(0, 1, 2))
        each.append(jnp.mean((mine - other) ** 2 / (variance + DEAD * variance.mean())))
    return jnp.stack(each)


def create_state(imitator: Imitator, optimizer: optax.GradientTransformation) -> tuple[nnx.GraphDef, ImitationState]:
    """(graphdef, state at step 0). All parameters are trained, those of BatchNorm too."""
    graphdef, params, stats = nnx.split(imitator, nnx.Param, nnx.BatchStat)
    return graphdef, ImitationState(jnp.zeros((), jnp.int32), params, stats, optimizer.init(params))


def make_step(
    graphdef: nnx.GraphDef, optimizer: optax.GradientTransformation, schedule: optax.Schedule, mesh: Mesh
) -> Callable[[ImitationState, Batch], tuple[ImitationState, dict[str, jax.Array]]]:
    """The jitted step: (state, batch) -> (state, metrics), the batch spread over the mesh.

    batch: image uint8 [B,H,W,3], maps: those to be made, [B,H/s,W/s,C] each. Each device has BatchNorm statistics of
    its own images, as is common; their running averages are means over devices.
    """

    def loss_fn(params: Any, stats: Any, batch: Batch) -> tuple[jax.Array, Any]:
        imitator = nnx.merge(graphdef, params, stats, copy=True)  # statistics of an outer trace cannot be updated
        each = differences(imitator(batch["image"]), batch["maps"])
        return each.mean(), (each, nnx.state(imitator, nnx.BatchStat))

    def local(params: Any, stats: Any, batch: Batch) -> Any:
        return jax.lax.pmean(jax.value_and_grad(loss_fn, has_aux=True)(params, stats, batch), AXES[0])

    whole, spread = PartitionSpec(), PartitionSpec(AXES[0])
    gradients_of = jax.shard_map(local, mesh=mesh, in_specs=(whole, whole, spread), out_specs=whole, check_vma=False)

    @partial(jax.jit, donate_argnums=0)
    def step(state: ImitationState, batch: Batch) -> tuple[ImitationState, dict[str, jax.Array]]:
        (loss, (each, stats)), gradients = gradients_of(state.params, state.stats, batch)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": loss} | {f"map_{i}": value for i, value in enumerate(each)}
        metrics |= {"gradient_norm": optax.global_norm(gradients), "learning_rate": jnp.asarray(schedule(state.step))}
        return ImitationState(state.step + 1, params, stats, opt_state), metrics

    return step
