"""One training step as a pure function of (state, batch)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from psdiff_jax import parallel
from psdiff_jax.diffusion.noise import State
from psdiff_jax.diffusion.samplers import SamplerOptions
from psdiff_jax.models.psdiff import PSDiff, merge
from psdiff_jax.ops import boxes as box_ops
from psdiff_jax.training.frozen_features import maps_of
from psdiff_jax.training.losses import embedding_loss, set_loss
from psdiff_jax.training.matcher import MatchOptions
from psdiff_jax.training.states import NoiseOptions, training_states

Recomputed = Literal["backbone", "cdl"]  # what `remat` may name
KEPT = jax.checkpoint_policies.save_only_these_names("block", "cells")  # of what is computed again
BOX_JITTER = 0.04  # standard deviation of the edges of a box, as a share of its width and height


class TrainState(NamedTuple):
    """Everything that training changes.

    step: int32; params: trained parameters; rest: frozen ones (BatchNorm); opt_state: optax's; ema: the moving
    average of params, or None; key: the run's base random key.
    """

    step: jax.Array
    params: Any
    rest: Any
    opt_state: Any
    ema: Any
    key: jax.Array


def loss_fn(
    params: Any,
    rest: Any,
    graphdef: nnx.GraphDef,
    key: jax.Array,
    batch: dict[str, jax.Array],
    noise: NoiseOptions,
    matching: MatchOptions,
    sampler: SamplerOptions,
    remat: Sequence[Recomputed] = (),
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss (Eq. 13, summed over the stacked layers) and its terms, those of the last layer by name.

    batch: of images, or of the maps that frozen backbones made of them (`training.frozen_features`).
    remat: modules whose activations are not kept for the backward pass, but for the outputs of the backbone's blocks
    and the cells of the boxes.
    """
    model = merge(graphdef, params, rest)

    def again(part: Recomputed, function: Callable[..., Any]) -> Callable[..., Any]:
        return jax.checkpoint(function, policy=KEPT) if part in remat else function

    if "image" in batch:
        condition = again("backbone", model.features)(batch["image"], batch["image_size"])
    else:
        condition = model.condition(maps_of(batch, jnp.dtype(model.options.dtype)), batch["image_size"])
    frozen = jax.lax.stop_gradient(condition)

    def denoise(state: State, t: jax.Array) -> tuple[State, jax.Array]:
        return model.clean(frozen, model.denoise(frozen, state, t)[-1])

    state, t = training_states(key, model.diffusion, batch, denoise, noise, sampler)
    layers = [set_loss(estimate, batch, matching) for estimate in again("cdl", model.denoise)(condition, state, t)]
    total = jnp.asarray(sum(sum(terms.values()) for terms in layers))
    return total, layers[-1]


def readout_loss(
    params: Any, rest: Any, graphdef: nnx.GraphDef, key: jax.Array, batch: dict[str, jax.Array], *_: Any, **__: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The row read-out alone (`models.readout`): its embeddings of the ground truths, whose boxes are a little off, as
    predicted ones are."""
    model = merge(graphdef, params, rest)
    assert model.readout is not None
    boxes, size = batch["boxes"], batch["image_size"]
    extent = jnp.tile(boxes[..., 2:] - boxes[..., :2], 2)
    boxes = box_ops.clip(boxes + BOX_JITTER * extent * jax.random.normal(key, boxes.shape), size)
    embeddings = model.readout.embed(model.read(model.features(batch["image"], size), boxes))
    loss = embedding_loss(embeddings, batch)
    return loss, {"reid": loss}


OBJECTIVES = {"denoising": loss_fn, "readout": readout_loss}


def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    noise: NoiseOptions,
    matching: MatchOptions,
    sampler: SamplerOptions,
    ema_decay: float = 0.0,
    schedule: optax.Schedule | None = None,
    objective: str = "denoising",
    accumulate: int = 1,
    remat: Sequence[Recomputed] = (),
    mesh: Mesh | None = None,
) -> Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]:
    """The jitted step: (state, batch) -> (state, metrics). The batch's leading axis may be sharded.

    Args:
      schedule: the optimizer's learning rate, reported as a metric.
      objective: one of `OBJECTIVES`.
      accumulate: the batch is processed in so many parts, one after the other; losses and gradients are their means.
      remat: as `loss_fn` takes it.
      mesh: with devices in its second axis, the state is placed by `parallel.put_sharded`: each parameter is gathered
        before use, and each device updates its part of it.
    """
    objective_fn = partial(OBJECTIVES[objective], remat=tuple(remat))
    shared = mesh if mesh is not None and mesh.shape["model"] > 1 else None  # whose devices share a state

    def gradients_of(params: Any, rest: Any, key: jax.Array, batch: dict[str, jax.Array]) -> Any:
        return jax.value_and_grad(objective_fn, has_aux=True)(
            params, rest, graphdef, key, batch, noise, matching, sampler
        )

    def in_parts(params: Any, rest: Any, key: jax.Array, batch: dict[str, jax.Array]) -> Any:
        # Every part has rows of all devices: row i goes to part i % accumulate, so that none moves to another device.
        parts = jax.tree.map(lambda v: jnp.moveaxis(v.reshape(-1, accumulate, *v.shape[1:]), 1, 0), batch)
        keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(accumulate))
        shapes = jax.eval_shape(gradients_of, params, rest, key, jax.tree.map(lambda v: v[0], parts))
        zeros = jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), shapes)

        def add(total: Any, part: Any) -> tuple[Any, None]:
            found = gradients_of(params, rest, *part)
            found = found if shared is None else (found[0], parallel.scattered(found[1], shared))
            return jax.tree.map(lambda a, b: a + b / accumulate, total, found), None

        return jax.lax.scan(add, zeros, (keys, parts))[0]

    @partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(state.key, state.step)
        whole, rest = state.params, state.rest
        if shared is not None:
            whole, rest = parallel.gathered((whole, rest), shared)
        compute = gradients_of if accumulate == 1 else in_parts
        (total, terms), gradients = compute(whole, rest, key, batch)
        if shared is not None:
            gradients = parallel.scattered(gradients, shared)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema_decay:
            # Short memory at first, so that the average does not drag the initial weights along.
            decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
            ema = jax.tree.map(lambda average, new: decay * average + (1 - decay) * new, ema, params)
        metrics = {"loss": total, **terms, "gradient_norm": optax.global_norm(gradients)}
        if schedule is not None:
            metrics["learning_rate"] = jnp.asarray(schedule(state.step))
        if shared is not None:  # placed as they came, or the next step would be another program
            params, opt_state, ema = parallel.scattered((params, opt_state, ema), shared)
        return TrainState(state.step + 1, params, state.rest, opt_state, ema, state.key), metrics

    return step


def leaving_out(
    step: Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]],
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]:
    """A step that counts but changes nothing else where its loss or gradient is not finite."""

    @partial(jax.jit, donate_argnums=0)
    def guarded(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        new, metrics = step(state, batch)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
        kept = jax.tree.map(lambda after, before: jnp.where(finite, after, before), new, state)
        return kept._replace(step=new.step), metrics

    return guarded


def is_trained(model: PSDiff, frozen: Sequence[str] = ()) -> Callable[[tuple[Any, ...], Any], bool]:
    """A filter (path, value) of the variables that are trained: all parameters but those that a backbone keeps frozen
    and those of the modules named in `frozen`, or of a backbone that reads crops alone: no loss depends on it."""
    if model.options.reid_crops:
        frozen = (*frozen, "reid_backbone")

    def trained(path: tuple[Any, ...], value: Any) -> bool:
        if not isinstance(value, nnx.Param) or path[0] in frozen:
            return False
        backbone = model.backbone_specs.get(path[0])
        return backbone is None or backbone.is_trained(path[1:])

    return trained


def create_state(
    model: PSDiff, optimizer: optax.GradientTransformation, key: jax.Array, ema: bool, frozen: Sequence[str] = ()
) -> tuple[nnx.GraphDef, TrainState]:
    """Splits the model once: (graphdef, state at step 0). frozen: modules ("backbone", "fpn") that are not trained."""
    graphdef, params, rest = nnx.split(model, is_trained(model, frozen), ...)
    average = jax.tree.map(jnp.copy, params) if ema else None
    return graphdef, TrainState(jnp.zeros((), jnp.int32), params, rest, optimizer.init(params), average, key)
