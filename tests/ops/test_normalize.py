"""Vectors of length one: against NumPy's norm, zero vectors, and what is not of length one."""

import jax
import jax.numpy as jnp
import numpy as np

from psdiff_jax.ops.normalize import first_off_unit, normalize, unit_rows

ROWS = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)


def test_jax_and_numpy_give_vectors_of_length_one():
    expected = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)
    np.testing.assert_array_equal(unit_rows(ROWS), expected)
    np.testing.assert_allclose(normalize(jnp.asarray(ROWS)), expected, rtol=1e-6)
    assert unit_rows(ROWS).dtype == np.float32 and first_off_unit(expected) is None


def test_zero_vectors_stay_zero_and_have_a_finite_gradient():
    assert not unit_rows(np.zeros((2, 3))).any() and not normalize(jnp.zeros((2, 3))).any()
    assert jnp.isfinite(jax.grad(lambda x: normalize(x).sum())(jnp.zeros(6))).all()


def test_what_is_not_of_length_one_is_found():
    for value in (0.0, np.nan, np.inf, 1.1):
        rows = unit_rows(ROWS)
        rows[3] *= value
        assert first_off_unit(rows) == 3
