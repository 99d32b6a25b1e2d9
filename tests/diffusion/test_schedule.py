"""The noise schedule against its formula and diffusers' table."""

import math

import numpy as np
import pytest

from psdiff_jax.diffusion.noise import Diffusion
from psdiff_jax.diffusion.schedule import cosine_alpha_bar, sampling_times


@pytest.mark.parametrize("timesteps", [1000, 50])
def test_alpha_bar_is_the_cosine_formula(timesteps):
    got = cosine_alpha_bar(timesteps)
    assert got.shape == (timesteps + 1,) and got.dtype == np.float64

    def f(t):
        return math.cos((t / timesteps + 0.008) / 1.008 * math.pi / 2) ** 2

    for t in range(timesteps):  # only the last beta is clipped
        assert got[t] == pytest.approx(f(t) / f(0), rel=1e-9)
    assert got[-1] == pytest.approx(got[-2] * 0.001, rel=1e-9)
    assert (np.diff(got) < 0).all()


def test_alpha_bar_is_diffusers_table():
    diffusers = pytest.importorskip("diffusers")
    table = diffusers.DDIMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod.numpy()
    np.testing.assert_allclose(cosine_alpha_bar(1000)[1:], table, rtol=2e-4, atol=1e-6)  # theirs is float32
    np.testing.assert_allclose(Diffusion(embedding_dim=8).alpha_bar(np.arange(1, 1001)), table, rtol=2e-4, atol=1e-6)
    assert Diffusion(embedding_dim=8).alpha_bar(np.int32(0)) == 1


def test_sampling_times():
    np.testing.assert_array_equal(sampling_times(1000, 1), [1000, 0])
    np.testing.assert_array_equal(sampling_times(1000, 4), [1000, 750, 500, 250, 0])
    for steps in (3, 7, 8, 999, 1000):
        times = sampling_times(1000, steps)
        assert times[0] == 1000 and times[-1] == 0 and len(times) == steps + 1
        assert np.diff(times).max() < 0 and np.ptp(np.diff(times)) <= 1


@pytest.mark.parametrize("power", [1.5, 3.0, 10.0])
def test_sampling_times_of_a_power_fall_strictly(power):
    for steps in (1, 5, 40, 1000):
        times = sampling_times(1000, steps, power)
        assert times[0] == 1000 and times[-1] == 0 and np.diff(times).max() < 0
        want = 1000 * (1 - np.arange(steps + 1) / steps) ** power
        assert np.abs(times - want)[want > steps].max(initial=0) <= 0.5


def test_sampling_times_of_a_power_look_closer_at_the_end():
    np.testing.assert_array_equal(sampling_times(1000, 4, power=2.0), [1000, 562, 250, 62, 0])
    for power in (1.5, 2.0, 5.0):
        for steps in (1, 7, 50, 1000):
            times = sampling_times(1000, steps, power)
            assert times[0] == 1000 and times[-1] == 0
            assert (np.diff(times) < 0).all()
