"""The depthwise convolution against XLA's grouped one: values, gradients and dtypes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psdiff_jax import parallel
from psdiff_jax.ops.depthwise import depthwise


def grouped(x, kernel, stride=1):
    axes, kernel = ("NHWC", "HWIO", "NHWC"), kernel[:, :, None]
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=axes, feature_group_count=x.shape[-1]
    )


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("shape", [(2, 5, 7, 6), (1, 1, 4, 3), (1, 3, 1, 1), (1, 6, 8, 2)])
def test_equals_a_grouped_convolution(shape, stride):
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in (shape, (3, 3, shape[-1])))
    expected = grouped(x, kernel, stride)
    weight = jnp.asarray(rng.normal(size=expected.shape), jnp.float32)
    np.testing.assert_allclose(jax.jit(depthwise, static_argnums=2)(x, kernel, stride), expected, atol=1e-5)
    gradients = [
        jax.jit(jax.grad(lambda x, kernel, f=f: (f(x, kernel, stride) * weight).sum(), (0, 1)))(x, kernel)
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


def test_images_spread_over_devices_are_summed_once():
    """An exchange inside the loop over bands would come once a band, and two of them can wait for each other."""
    mesh = parallel.make_mesh()
    assert mesh.size > 1
    spread, whole = parallel.batch_sharding(mesh), parallel.replicated(mesh)
    gradient = jax.jit(jax.grad(lambda kernel, x: (depthwise(x, kernel) ** 2).sum()), in_shardings=(whole, spread))
    rng = np.random.default_rng(0)
    kernel, x = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((3, 3, 4), (2 * mesh.size, 12, 5, 4)))
    program = gradient.lower(kernel, x).compile().as_text()
    computation, exchanges = "", []
    for line in program.splitlines():
        computation = line if re.match(r"(ENTRY )?%[\w.-]+ \(", line) else computation
        exchanges += [computation] * bool(re.search(r" (all-reduce|all-gather|all-to-all)\(", line))
    assert [each.startswith("ENTRY") for each in exchanges] == [True]
    alone = jax.grad(lambda kernel: (grouped(x, kernel) ** 2).sum())(kernel)
    np.testing.assert_allclose(gradient(kernel, x), alone, rtol=1e-4, atol=1e-4)
