"""A backbone that learns another's maps: the loss in NumPy, and that it learns on one device as on two."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from psdiff_jax import parallel
from psdiff_jax.errors import InputError
from psdiff_jax.models.backbones import BACKBONES
from psdiff_jax.training.imitation import blend, check_same_maps, create_state, difference, make_step


def test_the_loss_counts_in_standard_deviations_of_each_channel():
    rng = np.random.default_rng(0)
    wanted = rng.normal(size=(2, 4, 5, 3)) * [1.0, 10.0, 3.0] + [0, 5, -2]
    found = wanted + rng.normal(size=wanted.shape)
    [loss] = difference((jnp.float32(found),), (jnp.float32(wanted),))
    variance = wanted.var((0, 1, 2))
    np.testing.assert_allclose(loss, ((found - wanted) ** 2 / (variance + 0.01 * variance.mean())).mean(), rtol=1e-4)
    [of_means] = difference((jnp.full(wanted.shape, wanted.mean((0, 1, 2)), jnp.float32),), (jnp.float32(wanted),))
    np.testing.assert_allclose(of_means, 1, rtol=0.2)


def test_every_other_image_is_mixed_with_the_one_before_it():
    images = np.random.default_rng(0).integers(0, 256, (4, 2, 2, 3), dtype=np.uint8)
    mixed = np.asarray(blend(jax.random.key(0), jnp.asarray(images)))
    np.testing.assert_array_equal(mixed[[0, 2]], images[[0, 2]])
    for i in (1, 3):
        share = (mixed[i] - images[i]) / (images[i - 1] - images[i].astype(np.float32))
        assert 0 < share.mean() < 0.5 and np.ptp(share) < 1e-4


@pytest.mark.slow
def test_a_new_backbone_comes_to_resemble_the_one_it_imitates():
    spec, mesh = BACKBONES["tiny"], parallel.make_mesh()
    imitated, learner = (spec.make(rngs=nnx.Rngs(seed)) for seed in (0, 1))
    optimizer = optax.adamw(3e-3)
    graphdef, state = create_state(learner, optimizer, jax.random.key(0))
    state = parallel.put_replicated(state, mesh)
    before = jax.tree.map(np.array, parallel.fetch(state.stats))
    step = make_step(graphdef, imitated, optimizer, optax.constant_schedule(3e-3), mesh)
    rng, losses = np.random.default_rng(0), []
    for _ in range(30):
        images = rng.integers(0, 256, (8, 4, 4, 3)).repeat(16, 1).repeat(16, 2) + rng.normal(size=(8, 64, 64, 3)) * 30
        batch = parallel.put_batch({"image": np.clip(images, 0, 255).astype(np.uint8)}, mesh)
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    assert all((a != b).any() for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(state.stats), strict=True))


def test_maps_of_other_widths_are_refused():
    with pytest.raises(InputError, match=r"config\.model\.backbone: its maps have \(16, 24, 32, 48\) channels"):
        check_same_maps(BACKBONES["tiny"], BACKBONES["mobilenet_v2_omz"])
