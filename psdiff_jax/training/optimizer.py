"""AdamW with warm-up, the paper's step decay (or cosine), and gradient clipping."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

PAPER_DECAY = (70 / 90, 84 / 90)  # section V-A3: divided by 10 at 70K and 84K of 90K iterations


@dataclass(frozen=True)
class OptimizerOptions:
    """steps: length of the run; warmup: steps of linear warm-up; schedule: "step", "cosine" or "constant"."""

    learning_rate: float = 2.5e-5
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    steps: int = 90_000
    warmup: int = 1_000
    schedule: str = "step"
    backbone_scale: float = 1.0


def learning_rate(spec: OptimizerOptions) -> optax.Schedule:
    """Learning rate as a function of the step."""
    if spec.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            0.0, spec.learning_rate, spec.warmup, spec.steps, 0.01 * spec.learning_rate
        )
    drops = {round(spec.steps * f): 0.1 for f in PAPER_DECAY} if spec.schedule == "step" else {}
    decay = optax.piecewise_constant_schedule(spec.learning_rate, drops)
    return lambda step: decay(step) * jnp.minimum(1.0, (step + 1) / max(spec.warmup, 1))


def make_optimizer(spec: OptimizerOptions) -> optax.GradientTransformation:
    """Clip by global norm, AdamW (no decay on biases and scales), backbone updates scaled by `backbone_scale`."""

    def is_matrix(params):
        # Swin's tables of relative positions are biases too (Liu et al. 2021 do not decay them).
        return jax.tree_util.tree_map_with_path(
            lambda path, p: p.ndim > 1 and "bias_table" not in jax.tree_util.keystr(path), params
        )

    def scale_backbone(updates, state, params=None):
        del params
        return jax.tree_util.tree_map_with_path(
            lambda path, u: u * spec.backbone_scale if "backbone" in jax.tree_util.keystr(path) else u, updates
        ), state

    return optax.chain(
        optax.clip_by_global_norm(spec.clip_norm),
        optax.adamw(learning_rate(spec), weight_decay=spec.weight_decay, mask=is_matrix),
        optax.GradientTransformation(lambda _: optax.EmptyState(), scale_backbone),
    )
