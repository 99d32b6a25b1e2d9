"""Sampling: from Gaussian states to people in a few denoising steps, one `jax.lax.scan` (paper Algorithm 2).

Sampling may also begin from people that are known, as those of the frame before in a video (`Known`): noised to a small
time, they are found again in a step or two.

Legend: B image, N proposal, M known person (padded), D embedding, O order of the solver.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from psdiff_jax.diffusion.noise import Diffusion, State, repeat_gt
from psdiff_jax.diffusion.schedule import cosine_alpha_bar, sampling_times
from psdiff_jax.diffusion.solvers import SOLVERS, Table, ddim_coefficients, solver_table
from psdiff_jax.options import AT_LEAST_1, FRACTION, NOT_NEGATIVE, Need, Range


@dataclass(frozen=True)
class SamplerOptions:
    """config.sampler: how to sample."""

    num_proposals: Annotated[int, AT_LEAST_1, "proposals per image (N_test)"] = 300
    eta: Annotated[float, NOT_NEGATIVE, "randomness of ddim: 1 = DDPM-like, 0 = deterministic; others ignore it"] = 1.0
    renewal_threshold: Annotated[
        float, FRACTION, "box renewal: proposals that score lower restart from noise, box and embedding; 0 = never"
    ] = 0.1
    time_power: Annotated[float, Range(1), "spacing of the times: 1 = even, above 1 = denser near 0"] = 1.0
    solver: Annotated[str, f"{', '.join(SOLVERS)} (`solvers.solver_table`)"] = "ddim"
    order: Annotated[Literal[1, 2, 3], "order of dpm and dpm++; ddim ignores it"] = 2
    ensemble: Annotated[bool, "pool the predictions of all steps before NMS"] = False
    nms_threshold: Annotated[float, FRACTION, "IoU above which NMS drops the lower score"] = 0.5
    average_threshold: Annotated[
        float, FRACTION, "IoU from which on proposals average their boxes and embeddings before NMS; 1 = none do"
    ] = 1.0
    same_person: Annotated[
        float, FRACTION, "cosine above which boxes that overlap are one person's, and the best stays; 1 = none are"
    ] = 1.0
    warm_time: Annotated[float, FRACTION, "time that a warm start begins at, as a fraction of T"] = 0.06
    warm_share: Annotated[float, FRACTION, "fraction of the proposals that a warm start puts on known people"] = 0.5

    def check(self, need: Need) -> None:
        need(self.solver in SOLVERS, "solver", f"choose from {', '.join(SOLVERS)}")


# One random key for each image [B], or the draws themselves: a State with [B,`num_draws`,N,..].
Noise = jax.Array | State


class QueryBox(NamedTuple):
    """Boxes held in proposal 0 of every image: box [B,4] in the diffused form; active bool [B]."""

    box: jax.Array
    active: jax.Array

    def held(self, num_proposals: int) -> jax.Array:
        """Which proposals [B,N] hold a box."""
        return self.active[:, None] & (jnp.arange(num_proposals) == 0)


class Known(NamedTuple):
    """People to begin from: their clean state [B,M,..] as `Diffusion.clean` makes it; which are any, bool [B,M]."""

    people: State
    valid: jax.Array


class Path(NamedTuple):
    """A solver's state: x; predictions of earlier steps, newest first; how many of those are a proposal's own [B,N].

    A renewed proposal starts a new path: its earlier predictions do not belong to it.
    """

    x: State
    past: tuple[State, ...]
    length: jax.Array


def begin(x: State, order: int) -> Path:
    """A path that starts at x: a solver of order O looks back at O - 1 predictions, of which there are none yet."""
    nothing = jax.tree.map(jnp.zeros_like, x)
    return Path(x, (nothing,) * (order - 1), jnp.zeros(x.box.shape[:2], jnp.int32))


def advance(path: Path, x0: State, numbers: Table, noise: State | None = None) -> Path:
    """One step of any solver: the combination of x, x0 and earlier predictions that one row of its table tells.

    numbers: one step's `Table`. Proposals with shorter paths use the lower order that they allow.
    noise: fresh noise for solvers that are random.
    """
    c = numbers.combine[path.length]  # [B,N,O+1]

    def combine(*known: jax.Array) -> jax.Array:
        return jnp.asarray(sum(c[..., i, None] * v for i, v in enumerate(known)))

    x = jax.tree.map(combine, path.x, x0, *path.past)
    if noise is not None:
        x = jax.tree.map(lambda moved, fresh: moved + numbers.noise * fresh, x, noise)
    newest = jax.tree.map(lambda *both: numbers.remember[0] * both[0] + numbers.remember[1] * both[1], path.x, x0)
    kept = len(path.past)
    return Path(x, (newest, *path.past)[:kept], jnp.minimum(path.length + 1, kept))


def ddim_step(
    diffusion: Diffusion, x: State, x0: State, t: jax.Array, t_next: jax.Array, noise: State, eta: float
) -> State:
    """One DDIM step from t to t_next with a time for each image [B], as training's rollouts need it."""
    a, a_next = (diffusion.alpha_bar(v)[:, None, None] for v in (t, t_next))
    c_x, c_0, c_noise = ddim_coefficients(a, a_next, eta)
    return State(
        *(c_x * noisy + c_0 * clean + c_noise * fresh for noisy, clean, fresh in zip(x, x0, noise, strict=True))
    )


def renew(x: State, noise: State, scores: jax.Array, threshold: float) -> State:
    """Box renewal: proposals [B,N] that score below the threshold become noise, in box and embedding alike."""
    poor = (scores < threshold)[..., None]
    return State(*(jnp.where(poor, fresh, kept) for kept, fresh in zip(x, noise, strict=True)))


def num_draws(steps: int) -> int:
    """How many Gaussian states of an image the result of `sample` depends on: the last step's own are not seen."""
    return 2 * steps - 1


def image_noise(diffusion: Diffusion, keys: Noise, num_proposals: int, draw: jax.Array | int) -> State:
    """The `draw`-th Gaussian state of each image, from its own key [B]: independent of the batch it stands in."""
    if isinstance(keys, State):
        last = keys.box.shape[1] - 1  # what would come after it is not seen
        return State(*(jax.lax.dynamic_index_in_dim(v, jnp.minimum(draw, last), 1, keepdims=False) for v in keys))
    return jax.vmap(lambda key: diffusion.gaussian(jax.random.fold_in(key, draw), num_proposals))(keys)


def warm_state(diffusion: Diffusion, keys: jax.Array, known: Known, t: int, noise: State, share: float) -> State:
    """The first state of a warm start: known people, repeated evenly over `share` of the proposals and noised to t.

    The other proposals stay noise [B,N,..], as renewal leaves them, and find who is new. Images without known people
    are noise alone.
    """
    proposals = noise.box.shape[1]
    order = jax.vmap(lambda key, valid: repeat_gt(key, valid, proposals))(keys, known.valid)
    repeated = State(*(jnp.take_along_axis(v, order[..., None], axis=1) for v in known.people))
    noised = diffusion.add_noise(repeated, noise, jnp.full(keys.shape, t))
    taken = (jnp.arange(proposals) < round(share * proposals)) & known.valid.any(axis=1, keepdims=True)
    return State(*(jnp.where(taken[..., None], x, fresh) for x, fresh in zip(noised, noise, strict=True)))


def hold(x: State, query_box: QueryBox | None) -> State:
    """Puts the query's box back into proposal 0; the proposal's embedding is denoised like any other."""
    if query_box is None:
        return x
    held = query_box.held(x.box.shape[1])[..., None]
    return State(jnp.where(held, query_box.box[:, None], x.box), x.embedding)


def sample(
    denoise: Callable[[State, jax.Array], tuple[State, jax.Array, object]],
    diffusion: Diffusion,
    spec: SamplerOptions,
    keys: Noise,
    steps: int,
    query_box: QueryBox | None = None,
    known: Known | None = None,
) -> Any:
    """Runs `spec.solver`, one evaluation of the network a step.

    The number of steps is no part of a model: any number from 1 to T goes with one checkpoint, and each compiles once.

    Args:
      denoise: (state, t [B]) -> (clean state, scores [B,N], output); clean as `Diffusion.clean` makes it.
      keys: [B] one random key for each image, or the noise itself.
      steps: number of denoising steps.
      query_box: boxes to hold in proposal 0.
      known: people to begin from, at `spec.warm_time`; None: noise at T.

    Returns:
      `output` of every step, stacked along a new leading axis [steps, ...]; the last one is the answer.
    """
    first = diffusion.timesteps if known is None else max(steps, round(spec.warm_time * diffusion.timesteps))
    times = sampling_times(first, steps, spec.time_power)
    table = solver_table(spec.solver, cosine_alpha_bar(diffusion.timesteps)[times], spec.order, spec.eta)
    is_random = bool(table.noise.any())
    held = False if query_box is None else query_box.held(spec.num_proposals)

    def step(path: Path, moment: tuple[jax.Array, jax.Array, Table]) -> tuple[Path, object]:
        index, now, numbers = moment
        path = path._replace(x=hold(path.x, query_box))
        x0, scores, output = denoise(path.x, jnp.full(path.x.box.shape[:1], now))
        fresh = image_noise(diffusion, keys, spec.num_proposals, 2 * index + 1) if is_random else None
        path = advance(path, x0, numbers, fresh)
        if spec.renewal_threshold > 0:
            restart = image_noise(diffusion, keys, spec.num_proposals, 2 * index + 2)
            scores = jnp.where(held, jnp.inf, scores)
            length = jnp.where(scores < spec.renewal_threshold, 0, path.length)
            path = path._replace(x=renew(path.x, restart, scores, spec.renewal_threshold), length=length)
        return path, output

    start = image_noise(diffusion, keys, spec.num_proposals, 0)
    if known is not None:
        assert isinstance(keys, jax.Array), "a warm start draws its noise"
        start = warm_state(diffusion, keys, known, first, start, spec.warm_share)
    numbers = jax.tree.map(jnp.float32, table)
    _, outputs = jax.lax.scan(step, begin(start, table.order), (jnp.arange(steps), jnp.asarray(times[:-1]), numbers))
    return outputs
