"""The depthwise convolution against XLA's grouped one: values, gradients and dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psdiff_jax.ops.depthwise import depthwise


def grouped(x, kernel):
    axes, kernel = ("NHWC", "HWIO", "NHWC"), kernel[:, :, None]
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=axes, feature_group_count=x.shape[-1]
    )


@pytest.mark.parametrize("shape", [(2, 5, 7, 6), (1, 1, 4, 3), (1, 3, 1, 1)])
def test_equals_a_grouped_convolution(shape):
    rng = np.random.default_rng(0)
    x, weight = (jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2))
    kernel = jnp.asarray(rng.normal(size=(3, 3, shape[-1])), jnp.float32)
    np.testing.assert_allclose(jax.jit(depthwise)(x, kernel), grouped(x, kernel), atol=1e-5)
    gradients = [
        jax.jit(jax.grad(lambda x, kernel, f=f: (f(x, kernel) * weight).sum(), (0, 1)))(x, kernel)
        for f in (depthwise, grouped)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_bfloat16_sums_in_float32():
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=size), jnp.bfloat16) for size in ((1, 40, 50, 4), (3, 3, 4)))
    exact = grouped(x.astype(jnp.float32), kernel.astype(jnp.float32))
    got, pull = jax.vjp(depthwise, x, kernel)
    gradients = pull(got)
    assert all(array.dtype == jnp.bfloat16 for array in (got, *gradients))
    np.testing.assert_allclose(got.astype(jnp.float32), exact, rtol=2**-8)
    _, pull = jax.vjp(grouped, x.astype(jnp.float32), kernel.astype(jnp.float32))
    for ours, theirs in zip(gradients, pull(got.astype(jnp.float32)), strict=True):
        np.testing.assert_allclose(ours.astype(jnp.float32), theirs, rtol=2**-8, atol=1e-3)
