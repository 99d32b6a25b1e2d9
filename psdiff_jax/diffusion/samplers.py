"""Sampling: from Gaussian states to people in a few denoising steps, one `jax.lax.scan` (paper Algorithm 2).

Legend: B image, N slot, D embedding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from psdiff_jax.diffusion.noise import Diffusion, State
from psdiff_jax.diffusion.schedule import sampling_times


@dataclass(frozen=True)
class SamplerSpec:
    """How to sample.

    slots: N_test. eta: DDIM's randomness (1 = DDPM-like, 0 = deterministic).
    renewal_threshold: slots whose score lies below it start anew from noise, box and embedding together (0 = never).
    time_power: how the times are spaced, see `schedule.sampling_times`.
    """

    slots: int = 300
    eta: float = 1.0
    renewal_threshold: float = 0.1
    time_power: float = 1.0


class Pin(NamedTuple):
    """Boxes held in slot 0 of every image: box [B,4] in the diffused form; active bool [B]."""

    box: jax.Array
    active: jax.Array


def ddim_step(diffusion: Diffusion, x: State, x0: State, t: jax.Array, t_next: jax.Array, noise: State,
              eta: float) -> State:
    """One DDIM step from t to t_next (Song et al. 2021, Eq. 12 and 16) for per-image times [B]."""
    a, a_next = (diffusion.alpha_bar(v)[:, None, None] for v in (t, t_next))
    # alpha_bar is 1 at t_next = 0, where both noise terms vanish.
    sigma = eta * jnp.sqrt((1 - a_next) / (1 - a) * jnp.maximum(1 - a / a_next, 0))
    # sqrt(1 - a_next - sigma^2), rewritten: at eta = 1 and T that difference is all rounding error in float32.
    share = 1 - eta**2 + eta**2 * (a / a_next) * (1 - a_next) / (1 - a)
    direction = jnp.sqrt((1 - a_next) * jnp.maximum(share, 0))
    return State(*(
        jnp.sqrt(a_next) * clean + direction * (noisy - jnp.sqrt(a) * clean) / jnp.sqrt(1 - a) + sigma * fresh
        for noisy, clean, fresh in zip(x, x0, noise, strict=True)
    ))


def renew(x: State, noise: State, scores: jax.Array, threshold: float) -> State:
    """Box renewal: slots [B,N] that score below the threshold become noise, in box and embedding alike."""
    poor = (scores < threshold)[..., None]
    return State(*(jnp.where(poor, fresh, kept) for kept, fresh in zip(x, noise, strict=True)))


def image_noise(diffusion: Diffusion, keys: jax.Array, slots: int, draw: jax.Array | int) -> State:
    """The `draw`-th Gaussian state of each image, from its own key [B]: independent of the batch it stands in."""
    return jax.vmap(lambda key: diffusion.gaussian(jax.random.fold_in(key, draw), slots))(keys)


def hold(x: State, pin: Pin | None) -> State:
    """Puts the pinned box back into slot 0; the slot's embedding goes on being denoised."""
    if pin is None:
        return x
    first = jnp.where(pin.active[:, None], pin.box, x.box[:, 0])
    return State(x.box.at[:, 0].set(first), x.embedding)


def sample(
    denoise: Callable[[State, jax.Array], tuple[State, jax.Array, object]],
    diffusion: Diffusion, spec: SamplerSpec, keys: jax.Array, steps: int, pin: Pin | None = None,
) -> object:
    """Runs DDIM.

    Args:
      denoise: (state, t [B]) -> (clean state, scores [B,N], output); clean as `Diffusion.clean` makes it.
      keys: [B] one random key for each image.
      steps: number of denoising steps, fixed when compiled.
      pin: query boxes to hold in slot 0.

    Returns:
      `output` of every step, stacked along a new leading axis [steps, ...]; the last one is the answer.
    """
    times = jnp.asarray(sampling_times(diffusion.timesteps, steps, spec.time_power))
    images = keys.shape[0]

    def step(x: State, moment: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[State, object]:
        index, now, following = moment
        x = hold(x, pin)
        t, t_next = jnp.full((images,), now), jnp.full((images,), following)
        x0, scores, output = denoise(x, t)
        fresh = image_noise(diffusion, keys, spec.slots, 2 * index + 1)
        moved = ddim_step(diffusion, x, hold(x0, pin), t, t_next, fresh, spec.eta)
        if spec.renewal_threshold > 0:
            restart = image_noise(diffusion, keys, spec.slots, 2 * index + 2)
            pinned = jnp.zeros_like(scores, bool) if pin is None else (
                pin.active[:, None] & (jnp.arange(spec.slots) == 0))
            moved = renew(moved, restart, jnp.where(pinned, jnp.inf, scores), spec.renewal_threshold)
        return moved, output

    start = image_noise(diffusion, keys, spec.slots, 0)
    _, outputs = jax.lax.scan(step, start, (jnp.arange(steps), times[:-1], times[1:]))
    return outputs
