"""Learning rates at the steps that matter, and which weights decay."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from psdiff_jax import parallel
from psdiff_jax.models.backbones import BACKBONES
from psdiff_jax.training.optimizer import OptimizerOptions, Scales, learning_rate, make_optimizer


def rate(spec, *steps):
    schedule = learning_rate(spec)
    return [float(schedule(jnp.int32(step))) for step in steps]


def test_the_papers_schedule():
    """Section V-A3: 2.5e-5, divided by 10 at 70K and again at 84K of 90K iterations."""
    spec = OptimizerOptions()
    got = rate(spec, 0, 499, 999, 1000, 69_999, 70_001, 83_999, 84_001, 89_999)
    want = np.array([0.001, 0.5, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]) * 2.5e-5
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_other_schedules():
    spec = OptimizerOptions(1e-3, steps=100, warmup=10, schedule="constant")
    np.testing.assert_allclose(rate(spec, 0, 4, 9, 50, 99), [1e-4, 5e-4, 1e-3, 1e-3, 1e-3], rtol=1e-5)
    no_warmup = OptimizerOptions(1e-3, steps=100, warmup=0, schedule="constant")
    np.testing.assert_allclose(rate(no_warmup, 0, 99), 1e-3, rtol=1e-5)
    cosine = OptimizerOptions(1e-3, steps=110, warmup=10, schedule="cosine")
    np.testing.assert_allclose(rate(cosine, 10, 60, 110), [1e-3, (1e-3 + 1e-5) / 2, 1e-5], rtol=1e-3)
    assert 0 < rate(cosine, 5)[0] < 1e-3


PARAMS = {
    "backbone": {"conv": jnp.full((3, 3), 2.0), "bias": jnp.full(3, 2.0)},
    "head": {"kernel": jnp.full((3, 2), 2.0), "scale": jnp.full(2, 2.0)},
}


def zeros():
    return {group: {name: jnp.zeros_like(v) for name, v in values.items()} for group, values in PARAMS.items()}


def updates(spec, gradients):
    optimizer = make_optimizer(spec, {"backbone": BACKBONES["swin_toy"]})
    return jax.jit(lambda g: optimizer.update(g, optimizer.init(PARAMS), PARAMS)[0])(gradients)


def test_only_matrices_decay():
    spec = OptimizerOptions(1e-2, weight_decay=0.1, warmup=0, schedule="constant")
    got = updates(spec, zeros())
    for group in got.values():
        for name, value in group.items():
            np.testing.assert_allclose(value, -1e-2 * 0.1 * 2 if name in ("conv", "kernel") else 0, rtol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 0.1, 0.0])
def test_the_backbone_has_a_rate_of_its_own(scale):
    gradients = {group: {name: jnp.ones_like(v) for name, v in values.items()} for group, values in PARAMS.items()}
    got = updates(
        OptimizerOptions(1e-2, weight_decay=0.1, warmup=0, schedule="constant", scales=Scales(backbone=scale)),
        gradients,
    )
    # Adam's first step is the sign of the gradient, whatever its size; then decay.
    for group, matrix, vector, factor in (("backbone", "conv", "bias", scale), ("head", "kernel", "scale", 1.0)):
        np.testing.assert_allclose(got[group][vector], -1e-2 * factor, rtol=1e-3)
        np.testing.assert_allclose(got[group][matrix], -1e-2 * (1 + 0.2) * factor, rtol=1e-3)


def test_gradients_are_clipped_as_a_whole():
    """Adam's first moment after a huge gradient is (1 - 0.9) times one of norm clip_norm."""
    optimizer = make_optimizer(
        OptimizerOptions(1e-2, weight_decay=0.0, clip_norm=0.5, warmup=0, schedule="constant"),
        {"backbone": BACKBONES["swin_toy"]},
    )
    gradients = zeros() | {"head": {"kernel": jnp.full((3, 2), 3e6), "scale": jnp.full(2, 4e6)}}
    state = jax.jit(lambda g: optimizer.update(g, optimizer.init(PARAMS), PARAMS)[1])(gradients)
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.shape in ((3, 2), (2,)) and leaf.max() > 1e-3]
    assert len(moments) == 2
    norm = 0.1 * 0.5 / np.sqrt(6 * 3**2 + 2 * 4**2)
    np.testing.assert_allclose(moments[0], 3 * norm, rtol=1e-4)
    np.testing.assert_allclose(moments[1], 4 * norm, rtol=1e-4)


def test_on_divided_state_it_does_what_it_does_on_one_device():
    """Every module at a rate of its own, decay for matrices alone, moments divided among two devices."""
    spec = OptimizerOptions(
        1e-2, weight_decay=0.1, clip_norm=0.5, warmup=0, schedule="constant", scales=Scales(backbone=0.1)
    )
    optimizer, rng = make_optimizer(spec, {"backbone": BACKBONES["swin_toy"]}), np.random.default_rng(0)
    drawn = [jax.tree.map(lambda v: rng.normal(size=(512, *v.shape)).astype(np.float32), PARAMS) for _ in range(6)]
    params, *gradients = (
        jax.tree.map(lambda v: v.reshape(512, -1) if v.ndim > 2 else v.ravel(), each) for each in drawn
    )

    def trained(shards):
        mesh = parallel.make_mesh(shards)

        @jax.jit
        def step(params, state, gradients):
            update, state = optimizer.update(gradients, state, params)
            return parallel.scattered((optax.apply_updates(params, update), state), mesh)

        state = parallel.put_sharded((params, optimizer.init(params)), mesh)
        for each in gradients:
            state = step(*state, parallel.put_sharded(each, mesh))
        return state

    one, two = trained(1), trained(2)
    kernel = two[0]["head"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 2
    for ours, theirs in zip(jax.tree.leaves(two), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
