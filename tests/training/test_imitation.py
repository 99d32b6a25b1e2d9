"""A backbone that learns the maps of another network: the loss in NumPy, and that it learns on two devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from psdiff_jax import parallel
from psdiff_jax.models.backbones import BACKBONES
from psdiff_jax.training.imitation import Imitator, blend, create_state, differences, make_step


def test_the_loss_counts_in_standard_deviations_of_each_channel():
    rng = np.random.default_rng(0)
    wanted = rng.normal(size=(2, 4, 6, 3)) * [1.0, 10.0, 3.0] + [0, 5, -2]
    found = wanted + rng.normal(size=wanted.shape)
    variance = wanted.var((0, 1, 2))
    expected = ((found - wanted) ** 2 / (variance + 0.01 * variance.mean())).mean()
    constant = np.full(wanted.shape, wanted.mean((0, 1, 2)))
    terms = differences([jnp.float32(found), jnp.float32(constant)], [jnp.float32(wanted)] * 2)
    np.testing.assert_allclose(terms[0], expected, rtol=1e-4)
    np.testing.assert_allclose(terms[1], 1, rtol=0.2)  # each channel's mean
    [pooled] = differences([jnp.zeros((2, 2, 3, 3))], [jnp.float32(np.repeat(wanted[:, ::2, ::2], 2, 1).repeat(2, 2))])
    assert np.isfinite(pooled)


def test_every_other_image_is_mixed_with_the_one_before_it():
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    mixed = blend(images, np.random.default_rng(0))
    np.testing.assert_array_equal(mixed[[0, 2]], images[[0, 2]])
    for i in (1, 3):
        other = images[i - 1] - images[i].astype(float)
        share = ((mixed[i].astype(float) - images[i]) * other).sum() / (other**2).sum()
        assert 0 < share < 0.5
        np.testing.assert_allclose(mixed[i], images[i] + share * other, atol=1)


@pytest.mark.slow
@pytest.mark.parametrize(("widths", "adapts"), [((16, 24, 32, 48), False), ((8, 24, 32, 48), True)])
def test_a_new_backbone_comes_to_resemble_the_one_it_imitates(widths, adapts):
    spec, mesh = BACKBONES["tiny"], parallel.make_mesh()
    published = spec.make(rngs=nnx.Rngs(0))
    maps = jax.jit(lambda images: published(images.astype(jnp.float32)))
    rng = np.random.default_rng(0)

    def lesson():
        texture = rng.integers(0, 256, (8, 4, 4, 3)).repeat(16, 1).repeat(16, 2) + rng.normal(size=(8, 64, 64, 3)) * 30
        images = np.clip(texture, 0, 255).astype(np.uint8)
        wanted = zip(maps(images), widths, strict=True)
        return {"image": images, "maps": tuple(np.asarray(x)[..., :width] for x, width in wanted)}

    imitator = Imitator(spec, lesson()["maps"], rngs=nnx.Rngs(1))
    assert (imitator.adapt is not None) == adapts
    optimizer = optax.adamw(3e-3)
    graphdef, state = create_state(imitator, optimizer)
    state = parallel.put_replicated(state, mesh)
    before = jax.tree.map(np.array, parallel.fetch(state.stats))
    step = make_step(graphdef, optimizer, optax.constant_schedule(3e-3), mesh)
    losses = []
    for _ in range(30):
        state, metrics = step(state, parallel.put_batch(lesson(), mesh))
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    before, after = (jax.tree.leaves(stats["backbone"]) for stats in (before, state.stats))
    assert all((a != b).any() for a, b in zip(before, after, strict=True))
