"""The states that training denoises: noised ground truths, and states that the sampler itself would meet.

Eq. 10 starts every proposal from a ground truth, so at small t every box that the model sees in training lies on a
person. A sampler's boxes do not: some lie on background, some were renewed from noise in the step before. A model
that has never seen those scores all of them as people, and more steps make detection worse. Two remedies (docs/paper.md
has the measurements): `random_fraction` of the proposals hold pure noise at every t, as renewal makes them, and with
`rollout_probability` an image's state is the sampler's own: noise the ground truth to a later time t' > t, denoise once
without gradient, step to t.

Legend: B image, N proposal, M ground truth (padded).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp

from psdiff_jax.diffusion.noise import Diffusion, State, repeat_gt
from psdiff_jax.diffusion.samplers import SamplerOptions, ddim_step, renew
from psdiff_jax.options import AT_LEAST_1, FRACTION, NOT_NEGATIVE, Need


@dataclass(frozen=True)
class NoiseOptions:
    """config.noise: the states that training denoises; fractions and probabilities of 0 are the paper's Algorithm 1."""

    num_proposals: Annotated[int, AT_LEAST_1, "proposals per training image (N_train)"] = 300
    random_fraction: Annotated[float, FRACTION, "fraction of the proposals that are pure noise at every t"] = 0.25
    rollout_probability: Annotated[float, FRACTION, "probability that an image's state is the sampler's own"] = 0.5
    gt_box_proposals: Annotated[
        int, NOT_NEGATIVE, "proposals with an exact ground-truth box and an embedding of pure noise, as queries have"
    ] = 1
    one_step: Annotated[bool, "no diffusion, t = T alone: the plain distillation of Table VI"] = False

    def check(self, need: Need) -> None:
        need(self.gt_box_proposals < self.num_proposals, "gt_box_proposals", "must be below config.noise.num_proposals")


def noised_gt(
    key: jax.Array, diffusion: Diffusion, batch: dict[str, jax.Array], t: jax.Array, spec: NoiseOptions
) -> State:
    """Repeats ground truths to N proposals and noises them to t [B] (Eq. 10)."""
    clean = diffusion.clean(batch["boxes"], batch["embeddings"], batch["image_size"])
    keys = jax.random.split(key, t.shape[0])
    noise = jax.vmap(lambda k: diffusion.gaussian(jax.random.fold_in(k, 0), spec.num_proposals))(keys)
    index = jax.vmap(lambda k, m: repeat_gt(jax.random.fold_in(k, 1), m, spec.num_proposals))(keys, batch["boxes_mask"])
    repeated = State(*(jnp.take_along_axis(v, index[..., None], axis=1) for v in clean))
    noisy = diffusion.add_noise(repeated, noise, t)

    proposal = jnp.arange(spec.num_proposals)
    is_random = proposal >= spec.num_proposals - round(spec.random_fraction * spec.num_proposals)
    is_random = is_random | ~batch["boxes_mask"].any(axis=1, keepdims=True)
    noisy = State(*(jnp.where(is_random[..., None], n, x) for x, n in zip(noisy, noise, strict=True)))
    exact = ((proposal < spec.gt_box_proposals) & ~is_random)[..., None]
    return State(jnp.where(exact, repeated.box, noisy.box), jnp.where(exact, noise.embedding, noisy.embedding))


def training_states(
    key: jax.Array,
    diffusion: Diffusion,
    batch: dict[str, jax.Array],
    denoise: Callable[[State, jax.Array], tuple[State, jax.Array]],
    spec: NoiseOptions,
    sampler: SamplerOptions,
) -> tuple[State, jax.Array]:
    """Noisy states and their times: State with [B,N,...], t int32 [B] in 1..T.

    denoise: (state, t) -> (clean state, scores [B,N]) of the current model; no gradient is taken through it.
    """
    images = batch["boxes"].shape[0]
    keys = jax.random.split(key, 6)
    t = jax.random.randint(keys[0], (images,), diffusion.timesteps if spec.one_step else 1, diffusion.timesteps + 1)
    state = noised_gt(keys[1], diffusion, batch, t, spec)
    if spec.rollout_probability == 0 or spec.one_step:
        return state, t

    # Half of the rollouts start at T, as the sampler does; the others anywhere after t.
    late = jax.random.uniform(keys[2], (2, images))
    later = t + jnp.ceil((diffusion.timesteps - t) * jnp.where(late[0] < 0.5, 1.0, late[1])).astype(jnp.int32)
    before = noised_gt(keys[3], diffusion, batch, later, spec)
    x0, scores = jax.lax.stop_gradient(denoise(before, later))
    image_keys = jax.random.split(keys[4], images)
    fresh, restart = (
        jax.vmap(lambda k, i=i: diffusion.gaussian(jax.random.fold_in(k, i), spec.num_proposals))(image_keys)
        for i in (0, 1)
    )
    eta = sampler.eta if sampler.solver == "ddim" else 0.0  # the others begin as DDIM without randomness
    rolled = renew(ddim_step(diffusion, before, x0, later, t, fresh, eta), restart, scores, sampler.renewal_threshold)
    use = (jax.random.uniform(keys[5], (images,)) < spec.rollout_probability) & (later > t)
    return State(*(jnp.where(use[:, None, None], r, s) for r, s in zip(rolled, state, strict=True))), t
