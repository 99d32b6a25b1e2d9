"""AdamW with warm-up, the paper's step decay (or cosine), and gradient clipping."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax

from psdiff_jax.models.backbone import BackboneSpec
from psdiff_jax.options import NOT_NEGATIVE, POSITIVE, Need

PAPER_DECAY = (70 / 90, 84 / 90)  # section V-A3: divided by 10 at 70K and 84K of 90K iterations


@dataclass(frozen=True)
class Scales:
    """config.train.scales: learning rates of the modules, relative to `learning_rate`."""

    backbone: Annotated[float, NOT_NEGATIVE, "the backbone's"] = 1.0
    fpn: Annotated[float, NOT_NEGATIVE, "the feature pyramid's"] = 1.0
    cdl: Annotated[float, NOT_NEGATIVE, "the denoising layers'"] = 1.0
    reid_backbone: Annotated[float, NOT_NEGATIVE, "the backbone's that the row read-out reads"] = 1.0
    readout: Annotated[float, NOT_NEGATIVE, "the row read-out's"] = 1.0


@dataclass(frozen=True)
class OptimizerOptions:
    """Optimizer and schedule (a part of config.train)."""

    learning_rate: Annotated[float, POSITIVE, "AdamW's, at its peak"] = 2.5e-5
    weight_decay: Annotated[float, NOT_NEGATIVE, "AdamW's, on kernels"] = 1e-4
    steps: Annotated[int, NOT_NEGATIVE, "training steps"] = 90_000
    warmup: Annotated[int, NOT_NEGATIVE, "steps of linear warm-up"] = 1_000
    schedule: Annotated[
        Literal["step", "cosine", "constant"], "after warm-up: divided by 10 at 70/90 and 84/90 of the steps, or others"
    ] = "step"
    clip_norm: Annotated[float, POSITIVE, "largest global norm of a gradient"] = 1.0
    scales: Scales = field(default_factory=Scales)

    def check(self, need: Need) -> None:
        need(self.steps == 0 or self.warmup < self.steps, "warmup", f"must be below config.train.steps={self.steps}")


def learning_rate(options: OptimizerOptions) -> optax.Schedule:
    """Learning rate as a function of the step."""
    peak, steps = options.learning_rate, options.steps
    if options.schedule == "cosine" and steps:  # a run of no steps keeps what it starts from
        return optax.warmup_cosine_decay_schedule(0.0, peak, options.warmup, steps, 0.01 * peak)
    return warmed_up(step_decay(peak, steps, PAPER_DECAY if options.schedule == "step" else ()), options.warmup)


def step_decay(peak: float, steps: int, fractions: tuple[float, ...]) -> optax.Schedule:
    """`peak`, divided by 10 at each of these fractions of the steps."""
    return optax.piecewise_constant_schedule(peak, {round(steps * fraction): 0.1 for fraction in fractions})


def warmed_up(schedule: optax.Schedule, warmup: int) -> optax.Schedule:
    """`schedule` times a factor that rises linearly to 1 in the first `warmup` steps."""
    return lambda step: schedule(step) * jnp.minimum(1.0, (step + 1) / max(warmup, 1))


def make_optimizer(options: OptimizerOptions, backbones: Mapping[str, BackboneSpec]) -> optax.GradientTransformation:
    """Clip by global norm, AdamW (no decay on biases and scales), each module's updates scaled by `options.scales`.

    backbones: by the names of their modules; each knows which of its weights decay.
    """

    def names_of(path: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(getattr(key, "key", getattr(key, "name", None)) for key in path)

    def is_decayed(path: tuple[Any, ...], value: Any) -> bool:
        module, *names = names_of(path)
        return value.ndim > 1 and (module not in backbones or backbones[module].is_decayed(tuple(names)))

    def scale(path: tuple[Any, ...], update: Any) -> Any:
        return update * getattr(options.scales, str(names_of(path)[0]), 1.0)

    each = jax.tree_util.tree_map_with_path
    return optax.chain(
        optax.clip_by_global_norm(options.clip_norm),
        optax.adamw(learning_rate(options), weight_decay=options.weight_decay, mask=partial(each, is_decayed)),
        optax.stateless(lambda updates, _: each(scale, updates)),
    )
