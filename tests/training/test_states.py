"""The states that training denoises, against Eq. 10."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psdiff_jax.diffusion.noise import Diffusion, State
from psdiff_jax.diffusion.samplers import SamplerOptions
from psdiff_jax.training import states
from psdiff_jax.training.states import NoiseOptions, training_states

DIFFUSION = Diffusion(embedding_dim=8)
noised_gt = jax.jit(states.noised_gt, static_argnums=(1, 4))
SAMPLER = SamplerOptions(slots=12, eta=1.0, renewal_threshold=0.5)
SLOTS = 12


@pytest.fixture(scope="module")
def truths():
    """Four photographs of 64x96 with 3, 2, 1 and 0 truths: encoded boxes, embeddings times 3, and the batch."""
    rng = np.random.default_rng(0)
    unit = np.concatenate([rng.uniform(0.3, 0.7, (4, 3, 2)), rng.uniform(0.1, 0.4, (4, 3, 2))], -1)
    low, high = unit[..., :2] - unit[..., 2:] / 2, unit[..., :2] + unit[..., 2:] / 2
    embeddings = rng.normal(size=(4, 3, 8))
    embeddings /= np.linalg.norm(embeddings, axis=-1, keepdims=True)
    batch = {
        "boxes": np.float32(np.concatenate([low, high], -1) * [96, 64, 96, 64]),
        "embeddings": np.float32(embeddings),
        "boxes_mask": np.arange(3) < np.array([3, 2, 1, 0])[:, None],
        "image_size": np.tile(np.int32([64, 96]), (4, 1)),
    }
    return (unit * 2 - 1) * 2, embeddings * 3, {k: jnp.asarray(v) for k, v in batch.items()}


def which(state, truths, t):
    """The truth nearest to each slot's box, in distances [B,N] of box and embedding from sqrt(abar) x_0."""
    a = np.sqrt(np.asarray(DIFFUSION.alpha_bar(t), np.float64))[:, None, None, None]
    distances = [
        np.linalg.norm(np.asarray(half)[:, :, None] - a * truth[:, None], axis=-1)
        for half, truth in zip(state, truths[:2], strict=True)
    ]
    index = np.argmin(distances[1], -1)
    return index, *(np.take_along_axis(d, index[..., None], -1)[..., 0] for d in distances)


def test_states_are_eq_10_on_evenly_repeated_truths(truths):
    t = jnp.full(4, 3)
    state = noised_gt(jax.random.key(0), DIFFUSION, truths[2], t, NoiseOptions(SLOTS))
    index, box_distance, embedding_distance = which(state, truths, t)
    for image, people in enumerate((3, 2, 1)):
        assert list(np.bincount(index[image], minlength=3)) == [12 // people] * people + [0] * (3 - people)
        # abar_3 is 0.9998: what is left of the noise is below 0.02 a number. Box and embedding are the same truth's.
        assert 0 < box_distance[image].max() < 0.15 and 0 < embedding_distance[image].max() < 0.2
    assert np.abs(np.asarray(state.box)[3]).max() > 1  # no people: pure noise, at every t


def test_noise_has_the_law_of_eq_10(truths):
    t, spec = jnp.int32([200, 500, 800, 1000]), NoiseOptions(SLOTS)
    batch = truths[2] | {"boxes_mask": jnp.tile(jnp.array([True, False, False]), (4, 1))}
    draws = jax.vmap(lambda key: noised_gt(key, DIFFUSION, batch, t, spec))(jax.random.split(jax.random.key(1), 300))
    abar = np.asarray(DIFFUSION.alpha_bar(t), np.float64)[:, None]
    for half, truth in zip(draws, truths[:2], strict=True):
        half = np.asarray(half, np.float64)  # [300, image, slot, numbers]
        np.testing.assert_allclose(half.mean((0, 2)), np.sqrt(abar) * truth[:, 0], atol=5 / 60)
        np.testing.assert_allclose(half.std((0, 2)), np.broadcast_to(np.sqrt(1 - abar), truth[:, 0].shape), rtol=0.07)


@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
def test_a_fraction_of_the_slots_is_pure_noise(truths, fraction):
    t = jnp.full(4, 1)
    state = noised_gt(jax.random.key(2), DIFFUSION, truths[2], t, NoiseOptions(SLOTS, random_fraction=fraction))
    far = which(state, truths, t)[2] > 1
    np.testing.assert_array_equal(far[:3].sum(1), round(fraction * SLOTS))
    assert far[3].all()


def test_exact_slots_hold_a_truth_without_noise_and_an_embedding_of_noise(truths):
    t = jnp.full(4, 900)
    exact, plain = (
        noised_gt(jax.random.key(3), DIFFUSION, truths[2], t, NoiseOptions(SLOTS, gt_box_proposals=n)) for n in (2, 0)
    )
    for image in range(3):
        boxes = truths[0][image, : 3 - image]
        distance = np.abs(np.asarray(exact.box)[image, :, None] - boxes).max(-1).min(-1)
        assert (distance[:2] < 1e-5).all() and (distance[2:] > 1e-3).all()
    assert np.abs(np.asarray(exact.embedding)[:3, :2] - np.asarray(plain.embedding)[:3, :2]).max() > 0.1
    for a, b in zip(exact, plain, strict=True):  # all else, and photographs without people, as before
        np.testing.assert_array_equal(a[:, 2:], b[:, 2:])
        np.testing.assert_array_equal(a[3], b[3])
    many = jax.vmap(lambda key: noised_gt(key, DIFFUSION, truths[2], t, NoiseOptions(1, gt_box_proposals=1)))(
        jax.random.split(jax.random.key(4), 400)
    )
    noise = np.asarray(many.embedding)[:, :3]
    assert np.abs(noise.mean(0)).max() < 0.25 and np.abs(noise.std(0) - 1).max() < 0.2


def toy_denoise(weight, state, t):
    """A denoiser with a parameter; slots whose box lies right of the middle score high."""
    return State(*(jnp.tanh(weight * v) for v in state)), jax.nn.sigmoid(5 * state.box[..., 0])


@pytest.fixture(scope="module")
def rolled(truths):
    @partial(jax.jit, static_argnums=(0, 3))
    def run(spec, key, weight, sampler=SAMPLER):
        return training_states(key, DIFFUSION, truths[2], partial(toy_denoise, weight), spec, sampler)

    return run


def test_times_are_uniform_in_1_to_T_and_states_follow_the_key(rolled):
    times = jax.jit(jax.vmap(lambda key: rolled(NoiseOptions(SLOTS), key, 1.0)[1]))(
        jax.random.split(jax.random.key(0), 1000)
    )
    times = np.asarray(times).ravel()
    assert times.min() >= 1 and times.max() == 1000 and times.min() <= 5
    assert abs(times.mean() - 500.5) < 5 * 289 / np.sqrt(4000)
    a, b, c = (rolled(NoiseOptions(SLOTS), jax.random.key(k), 1.0)[0].box for k in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.allclose(a, c)


def test_no_rollout_asks_nothing_of_the_model(truths):
    def refuse(state, t):
        raise AssertionError("the model was asked")

    state, t = jax.jit(lambda key: training_states(key, DIFFUSION, truths[2], refuse, NoiseOptions(SLOTS), SAMPLER))(
        jax.random.key(7)
    )
    distance = which(state, truths, t)[2][:3] / np.sqrt(1 - np.asarray(DIFFUSION.alpha_bar(t)))[:3, None]
    assert distance.max() < 6  # the norm of 8 standard normal numbers: Eq. 10 at the times returned


def test_without_diffusion_every_state_is_noise_at_T(truths):
    def refuse(state, t):
        raise AssertionError("a model without diffusion has no states of a sampler")

    spec = NoiseOptions(SLOTS, rollout_probability=0.5, gt_box_proposals=1, one_step=True)
    for seed in range(4):
        state, t = training_states(jax.random.key(seed), DIFFUSION, truths[2], refuse, spec, SAMPLER)
        assert np.all(np.asarray(t) == DIFFUSION.timesteps)
        other = dict(truths[2], boxes=truths[2]["boxes"] * 0.5, embeddings=-truths[2]["embeddings"])
        again, _ = training_states(jax.random.key(seed), DIFFUSION, other, refuse, spec, SAMPLER)
        # nothing of the truths is left in any slot but the pinned one's box
        np.testing.assert_allclose(state.embedding, again.embedding, atol=1e-3)
        np.testing.assert_allclose(state.box[:, 1:], again.box[:, 1:], atol=1e-3)
        assert np.abs(np.asarray(state.box[:, 0] - again.box[:, 0])).max() > 0.1


def test_rollouts_are_finite_follow_the_model_and_carry_no_gradient(rolled):
    spec = NoiseOptions(SLOTS, random_fraction=0.25, rollout_probability=1.0, gt_box_proposals=1)
    for seed in range(20):
        state, t = rolled(spec, jax.random.key(seed), 1.0)
        assert all(np.isfinite(v).all() for v in state) and (np.asarray(t) >= 1).all()
        assert max(np.abs(v).max() for v in state) < 12
    key = jax.random.key(0)
    assert not np.allclose(rolled(spec, key, 1.0)[0].box, rolled(spec, key, -1.0)[0].box)
    gradient = jax.grad(lambda w: sum(jnp.sum(v**2) for v in rolled(spec, key, w)[0]))(1.0)
    assert gradient == 0


def test_rollouts_mix_by_image_and_are_the_samplers(rolled):
    """With a model that answers 0, no renewal and eta 0, a rolled state is sqrt((1 - abar_t) / (1 - abar_t')) of the
    earlier one: no longer around the truths. Half of the images are rolled at probability one half."""
    sampler = SamplerOptions(SLOTS, eta=0.0, renewal_threshold=0.0)
    spec = NoiseOptions(SLOTS, rollout_probability=0.5)
    keys = jax.random.split(jax.random.key(0), 200)
    (plain, t), (mixed, same_t) = (
        jax.jit(jax.vmap(lambda k, s=s: rolled(s, k, 0.0, sampler)))(keys) for s in (NoiseOptions(SLOTS), spec)
    )
    np.testing.assert_array_equal(t, same_t)
    changed = np.abs(np.asarray(plain.embedding) - mixed.embedding).reshape(200, 4, -1).max(-1) > 1e-5
    whole = np.abs(np.asarray(plain.box) - mixed.box).reshape(200, 4, -1).max(-1) > 1e-5
    np.testing.assert_array_equal(changed, whole)
    assert 0.4 < changed.mean() < 0.6
    # Photographs without people (the last): pure noise, shrunk by that factor where it was rolled.
    noise = np.asarray(mixed.embedding, np.float64)[:, 3]
    early = np.asarray(t)[:, 3] < 300
    assert noise[changed[:, 3] & early].std() < 0.75
    assert noise[~changed[:, 3]].std() == pytest.approx(1, abs=0.05)


def test_poor_slots_of_a_rollout_start_anew(rolled):
    """All slots score 0: with renewal every rolled state is fresh noise, whatever the model answers."""
    spec = NoiseOptions(SLOTS, rollout_probability=1.0)
    key = jax.random.key(3)
    always = SamplerOptions(SLOTS, renewal_threshold=1.0)
    one, two = (rolled(spec, key, w, always)[0] for w in (1.0, 0.3))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    assert abs(float(one.embedding.std()) - 1) < 0.15
