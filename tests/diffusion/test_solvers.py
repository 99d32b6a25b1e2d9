"""The tables of coefficients against diffusers, quadrature, closed-form solutions and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psdiff_jax.diffusion import samplers
from psdiff_jax.diffusion.noise import Diffusion, State
from psdiff_jax.diffusion.samplers import SamplerOptions, sample
from psdiff_jax.diffusion.schedule import cosine_alpha_bar, sampling_times
from psdiff_jax.diffusion.solvers import SOLVERS, multistep_weights, solver_table
from psdiff_jax.errors import InputError
from psdiff_jax.options import read

ALPHA_BAR = cosine_alpha_bar(1000)
STEPS = (1, 2, 3, 5, 8, 20)
advance = jax.jit(samplers.advance)


def follow(table, x, predict):
    """x at every time, [K+1,..]: the table's recurrence, written plainly. predict: (x, step) -> clean estimate."""
    past, states = [], [x]
    for i, (combine, remember) in enumerate(zip(table.combine, table.remember, strict=True)):
        known = [x, predict(x, i), *past[: table.order - 1]]
        row = combine[len(known) - 2]
        past.insert(0, remember[0] * x + remember[1] * known[1])
        x = sum(c * v for c, v in zip(row, known, strict=False))
        states.append(x)
    return np.stack(states)


def diffusers_dpm(monkeypatch, solver, order, times):
    """diffusers' scheduler on our signal powers and times, in float64: in float32 it loses 1e-3 of "dpmsolver" at T."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    monkeypatch.setattr(torch, "float32", torch.float64)  # it casts to float32 by name
    # Our rule: order 1 in the last step, nothing else lowered.
    scheduler = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=1000, trained_betas=1 - ALPHA_BAR[1:] / ALPHA_BAR[:-1], solver_order=order,
        prediction_type="sample", algorithm_type={"dpm": "dpmsolver", "dpm++": "dpmsolver++"}[solver],
        thresholding=False, solver_type="midpoint", lower_order_final=False, euler_at_final=True,
        final_sigmas_type="zero" if solver == "dpm++" else "sigma_min")  # fmt: skip
    scheduler.set_timesteps(timesteps=[int(t) - 1 for t in times[:-1]])
    a = ALPHA_BAR[times]
    sigmas = np.sqrt((1 - a) / a)
    np.testing.assert_allclose(scheduler.sigmas[:-1], sigmas[:-1], rtol=1e-6)
    if solver == "dpm":
        sigmas[-1] = 1e-12  # theirs has no limit to clean data
    scheduler.sigmas = torch.tensor(sigmas)

    def step(x0, i, x):
        return scheduler.step(torch.tensor(x0), scheduler.timesteps[i], torch.tensor(x)).prev_sample.numpy()

    return step


@pytest.mark.filterwarnings("ignore:.*dpmsolver:FutureWarning")  # they would drop it some day
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("solver", ["dpm", "dpm++"])
def test_dpm_solvers_are_diffusers(solver, order, monkeypatch):
    """Whole trajectories, of the sampler in float32 and of the table itself in float64."""
    for steps in STEPS:
        times = sampling_times(1000, steps)
        table = solver_table(solver, ALPHA_BAR[times], order)
        x, *predictions = np.random.default_rng(steps).normal(size=(steps + 1, 1, 10, 4)).astype(np.float32)
        path = samplers.begin(State(*[jnp.asarray(x)] * 2), order)
        x = np.float64(x)
        plain = follow(table, x, lambda x, i, predictions=predictions: np.float64(predictions[i]))
        step = diffusers_dpm(monkeypatch, solver, order, times)
        scale = 1.0
        for i in range(steps):
            x = step(np.float64(predictions[i]), i, x)
            scale = max(scale, np.abs(x).max())
            path = advance(path, State(*[predictions[i]] * 2), jax.tree.map(lambda v, i=i: jnp.float32(v[i]), table))
            np.testing.assert_allclose(plain[i + 1], x, atol=1e-9 * scale, err_msg=f"{steps} {i}")
            for half in path.x:
                np.testing.assert_allclose(half, x, rtol=0, atol=1e-5 * scale, err_msg=f"{steps} {i}")


@pytest.mark.parametrize("solver", ["dpm", "dpm++"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_the_last_step_is_the_estimate_and_a_path_begins_as_ddim(solver, order, power):
    for steps in (1, 2, 3, 8, 1000):
        alpha_bar = ALPHA_BAR[sampling_times(1000, steps, power)]
        table = solver_table(solver, alpha_bar, order)
        assert all(np.isfinite(v).all() for v in table) and not table.noise.any()
        np.testing.assert_array_equal(table.combine[-1], [[0, 1] + [0] * (order - 1)] * order)
        ddim = solver_table("ddim", alpha_bar, eta=0.0)
        np.testing.assert_allclose(table.combine[:, 0, :2], ddim.combine[:, 0], atol=1e-10)
        assert not table.combine[:, 0, 2:].any()
        # Clean data stay clean: x = sqrt(abar) x0 + sqrt(1 - abar) eps with the same x0 and eps all along.
        for x0, noise in ((1, 0), (0, 1)):
            known = np.stack(
                [
                    np.sqrt(alpha_bar) * x0 + np.sqrt(1 - alpha_bar) * noise,
                    np.full(steps + 1, x0),
                    *[np.full(steps + 1, noise if solver == "dpm" else x0)] * (order - 1),
                ]
            )
            got = np.einsum("koc,ck->ko", table.combine, known[:, :-1])
            np.testing.assert_allclose(got, np.tile(known[0, 1:, None], order), atol=1e-10)


def test_an_unknown_solver_is_refused():
    with pytest.raises(ValueError, match="ddim, dpm, dpm"):
        solver_table("euler", ALPHA_BAR[[1000, 0]])


def interpolating_weights(z, ratios):
    """The exact integral z int_0^1 e^(z (1 - v)) L_k(v) dv of the polynomials through the predictions."""
    nodes = -np.cumsum([0, *ratios])
    v, w = np.polynomial.legendre.leggauss(40)
    v, w = (v + 1) / 2, w / 2
    lagrange = [np.prod([(v - b) / (a - b) for b in nodes if b != a], axis=0) * np.ones(40) for a in nodes]
    return np.array([z * np.sum(w * np.exp(z * (1 - v)) * part) for part in lagrange])


@pytest.mark.parametrize("sign", [1, -1])
def test_weights_are_integrals_of_polynomials(sign):
    """Order 1 exactly; order 2 up to the midpoint rule; order 3 up to half of the curvature, as published."""
    for h in (0.01, 0.3, 2.0):
        z = sign * h
        np.testing.assert_allclose(multistep_weights(z, ()), interpolating_weights(z, ()), rtol=1e-12)
        difference = multistep_weights(z, (1.3,)) - interpolating_weights(z, (1.3,))
        assert difference.sum() == pytest.approx(0, abs=1e-12)
        assert np.abs(difference).max() < h**2 * np.exp(h) / 12 / 1.3
        exact = interpolating_weights(z, (1.3, 0.7))
        curvature = np.array([1 / 1.3, -1 / 1.3 - 1 / 0.7, 1 / 0.7]) / 2  # divided differences over a step
        half = (np.expm1(z) - z) / z**2 - 0.5
        np.testing.assert_allclose(multistep_weights(z, (1.3, 0.7)) + half * curvature, exact, atol=1e-10)


MEAN, DEVIATION = 0.6, 1.5


def gaussian_flow(alpha_bar, z):
    """Where the probability flow of x_0 ~ N(MEAN, DEVIATION^2) takes the quantile z: its closed form."""
    return np.sqrt(alpha_bar) * MEAN + np.sqrt(alpha_bar * DEVIATION**2 + 1 - alpha_bar) * z


def gaussian_estimate(x, alpha_bar):
    """E[x_0 | x_t] for that distribution."""
    gain = np.sqrt(alpha_bar) * DEVIATION**2 / (alpha_bar * DEVIATION**2 + 1 - alpha_bar)
    return MEAN + gain * (x - np.sqrt(alpha_bar) * MEAN)


def flow_error(solver, order, steps, doubled_curvature=False):
    """Largest error at lambda = 2 of `steps` even steps from lambda = -2, its earlier predictions taken as exact."""
    h = 4 / steps
    a = 1 / (1 + np.exp(-2 * (-2 + h * np.arange(1 - order, steps + 1))))
    table, z = solver_table(solver, a, order), np.linspace(-2, 2, 9)
    past, x = [], None
    for i in range(len(a) - 1):
        x = gaussian_flow(a[i], z) if i < order else x
        known = [x, gaussian_estimate(x, a[i]), *past]
        newest = table.remember[i, 0] * x + table.remember[i, 1] * known[1]
        if i >= order - 1:
            row = table.combine[i, order - 1].copy()
            x = sum(c * v for c, v in zip(row, known, strict=False))
            if doubled_curvature:
                s, scale = (h, -np.sqrt(1 - a[i + 1])) if solver == "dpm" else (-h, -np.sqrt(a[i + 1]))
                x = x + scale * ((np.expm1(s) - s) / s**2 - 0.5) * (newest - 2 * past[0] + past[1]) / 2
        past.insert(0, newest)
    return np.abs(x - gaussian_flow(a[-1], z)).max()


@pytest.mark.parametrize("solver", ["dpm", "dpm++"])
def test_orders_of_convergence(solver):
    """Halving the steps divides the error by 2^order. The published order 3 has half of the curvature: a smaller error
    than order 2, but one that goes down at its rate. With the other half it is of order 3."""

    def rate(order, **options):
        coarse, fine = (flow_error(solver, order, steps, **options) for steps in (80, 160))
        return np.log2(coarse / fine)

    assert rate(1) == pytest.approx(1, abs=0.05)
    assert rate(2) == pytest.approx(2, abs=0.05)
    assert rate(3) == pytest.approx(2, abs=0.1)
    assert rate(3, doubled_curvature=True) == pytest.approx(3, abs=0.2)
    errors = [flow_error(solver, order, 80) for order in (1, 2, 3)]
    assert errors[1] < errors[0] / 50 and errors[2] < errors[1] / 2.5


def test_a_solver_of_ones_own_is_one_entry(monkeypatch):
    """Half-way DDIM: half of the step that DDIM without randomness takes. Any config can name it."""

    def half_way(alpha_bar, order, eta):
        table = solver_table("ddim", alpha_bar, eta=0.0)
        stay = np.array([1.0, 0.0])
        return table._replace(combine=(table.combine + stay) / 2)

    monkeypatch.setitem(SOLVERS, "half way", half_way)
    options = read(SamplerOptions, {"solver": "half way", "num_proposals": 5, "renewal_threshold": 0.0})
    diffusion, keys = Diffusion(embedding_dim=3), jax.random.split(jax.random.key(0), 2)

    def denoise(state, t):
        return jax.tree.map(jnp.zeros_like, state), jnp.ones(state.box.shape[:2]), state.box

    boxes = sample(denoise, diffusion, options, keys, 3)
    table = half_way(cosine_alpha_bar(diffusion.timesteps)[sampling_times(diffusion.timesteps, 3, 1.0)], 1, 0.0)
    for k in (0, 1):  # the clean state is zero: only c_x is left
        np.testing.assert_allclose(boxes[k + 1], boxes[k] * table.combine[k, 0, 0], rtol=1e-5)
    with pytest.raises(InputError, match=r"config.solver=.euler.: choose from ddim, dpm, dpm\+\+, half way"):
        read(SamplerOptions, {"solver": "euler"})
