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

pytestmark = pytest.mark.slow

DIFFUSION = Diffusion(embedding_dim=8)
noised_gt = jax.jit(states.noised_gt, static_argnums=(1, 4))
PLAIN = {"random_fraction": 0.0, "rollout_probability": 0.0, "gt_box_proposals": 0}  # Algorithm 1
SAMPLER = SamplerOptions(num_proposals=12, eta=1.0, renewal_threshold=0.5)
PROPOSALS = 12


def noise_options(num_proposals, **changes):
    return NoiseOptions(num_proposals, **PLAIN | changes)


@pytest.fixture(scope="module")
def gts():
    """Four images of 64x96 with 3, 2, 1 and 0 ground truths: encoded boxes, embeddings times 3, and the batch."""
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


def which(state, gts, t):
    """The ground truth nearest to each proposal's box, in distances [B,N] of box and embedding from sqrt(abar) x_0."""
    a = np.sqrt(np.asarray(DIFFUSION.alpha_bar(t), np.float64))[:, None, None, None]
    distances = [
        np.linalg.norm(np.asarray(half)[:, :, None] - a * gt[:, None], axis=-1)
        for half, gt in zip(state, gts[:2], strict=True)
    ]
    index = np.argmin(distances[1], -1)
    return index, *(np.take_along_axis(d, index[..., None], -1)[..., 0] for d in distances)


def test_states_are_eq_10_on_evenly_repeated_truths(gts):
    t = jnp.full(4, 3)
    state = noised_gt(jax.random.key(0), DIFFUSION, gts[2], t, noise_options(PROPOSALS))
    index, box_distance, embedding_distance = which(state, gts, t)
    for image, people in enumerate((3, 2, 1)):
        assert list(np.bincount(index[image], minlength=3)) == [12 // people] * people + [0] * (3 - people)
        # abar_3 is 0.9998: what is left of the noise is below 0.02 a number. Box and embedding are one person's.
        assert 0 < box_distance[image].max() < 0.15 and 0 < embedding_distance[image].max() < 0.2
    assert np.abs(np.asarray(state.box)[3]).max() > 1  # no people: pure noise, at every t


def test_noise_has_the_law_of_eq_10(gts):
    t, spec = jnp.int32([200, 500, 800, 1000]), noise_options(PROPOSALS)
    batch = gts[2] | {"boxes_mask": jnp.tile(jnp.array([True, False, False]), (4, 1))}
    draws = jax.vmap(lambda key: noised_gt(key, DIFFUSION, batch, t, spec))(jax.random.split(jax.random.key(1), 300))
    abar = np.asarray(DIFFUSION.alpha_bar(t), np.float64)[:, None]
    for half, gt in zip(draws, gts[:2], strict=True):
        half = np.asarray(half, np.float64)  # [300, image, proposal, numbers]
        np.testing.assert_allclose(half.mean((0, 2)), np.sqrt(abar) * gt[:, 0], atol=5 / 60)
        np.testing.assert_allclose(half.std((0, 2)), np.broadcast_to(np.sqrt(1 - abar), gt[:, 0].shape), rtol=0.07)


@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
def test_a_fraction_of_the_slots_is_pure_noise(gts, fraction):
    t = jnp.full(4, 1)
    state = noised_gt(jax.random.key(2), DIFFUSION, gts[2], t, noise_options(PROPOSALS, random_fraction=fraction))
    far = which(state, gts, t)[2] > 1
    np.testing.assert_array_equal(far[:3].sum(1), round(fraction * PROPOSALS))
    assert far[3].all()


def test_exact_slots_hold_a_truth_without_noise_and_an_embedding_of_noise(gts):
    t = jnp.full(4, 900)
    exact, plain = (
        noised_gt(jax.random.key(3), DIFFUSION, gts[2], t, noise_options(PROPOSALS, gt_box_proposals=n)) for n in (2, 0)
    )
    for image in range(3):
        boxes = gts[0][image, : 3 - image]
        distance = np.abs(np.asarray(exact.box)[image, :, None] - boxes).max(-1).min(-1)
        assert (distance[:2] < 1e-5).all() and (distance[2:] > 1e-3).all()
    assert np.abs(np.asarray(exact.embedding)[:3, :2] - np.asarray(plain.embedding)[:3, :2]).max() > 0.1
    for a, b in zip(exact, plain, strict=True):  # all else, and images without people, as before
        np.testing.assert_array_equal(a[:, 2:], b[:, 2:])
        np.testing.assert_array_equal(a[3], b[3])
    many = jax.vmap(lambda key: noised_gt(key, DIFFUSION, gts[2], t, noise_options(1, gt_box_proposals=1)))(
        jax.random.split(jax.random.key(4), 400)
    )
    noise = np.asarray(many.embedding)[:, :3]
    assert np.abs(noise.mean(0)).max() < 0.25 and np.abs(noise.std(0) - 1).max() < 0.2


def toy_denoise(weight, state, t):
    """A denoiser with a parameter; proposals whose box lies right of the middle score high."""
    return State(*(jnp.tanh(weight * v) for v in state)), jax.nn.sigmoid(5 * state.box[..., 0])


@pytest.fixture(scope="module")
def rolled(gts):
    @partial(jax.jit, static_argnums=(0, 3))
    def run(spec, key, weight, sampler=SAMPLER):
        return training_states(key, DIFFUSION, gts[2], partial(toy_denoise, weight), spec, sampler)

    return run


def test_times_are_uniform_in_1_to_T_and_states_follow_the_key(rolled):
    times = jax.jit(jax.vmap(lambda key: rolled(noise_options(PROPOSALS), key, 1.0)[1]))(
        jax.random.split(jax.random.key(0), 1000)
    )
    times = np.asarray(times).ravel()
    assert times.min() >= 1 and times.max() == 1000 and times.min() <= 5
    assert abs(times.mean() - 500.5) < 5 * 289 / np.sqrt(4000)
    a, b, c = (rolled(noise_options(PROPOSALS), jax.random.key(k), 1.0)[0].box for k in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.allclose(a, c)


def test_no_rollout_asks_nothing_of_the_model(gts):
    def refuse(state, t):
        raise AssertionError("the model was asked")

    state, t = jax.jit(lambda key: training_states(key, DIFFUSION, gts[2], refuse, noise_options(PROPOSALS), SAMPLER))(
        jax.random.key(7)
    )
    distance = which(state, gts, t)[2][:3] / np.sqrt(1 - np.asarray(DIFFUSION.alpha_bar(t)))[:3, None]
    assert distance.max() < 6  # the norm of 8 standard normal numbers: Eq. 10 at the times returned


def test_without_diffusion_every_state_is_noise_at_T(gts):
    def refuse(state, t):
        raise AssertionError("a model without diffusion has no states of a sampler")

    spec = noise_options(PROPOSALS, rollout_probability=0.5, gt_box_proposals=1, one_step=True)
    for seed in range(4):
        state, t = training_states(jax.random.key(seed), DIFFUSION, gts[2], refuse, spec, SAMPLER)
        assert np.all(np.asarray(t) == DIFFUSION.timesteps)
        other = dict(gts[2], boxes=gts[2]["boxes"] * 0.5, embeddings=-gts[2]["embeddings"])
        again, _ = training_states(jax.random.key(seed), DIFFUSION, other, refuse, spec, SAMPLER)
        # nothing of the ground truths is left in any proposal but the held one's box
        np.testing.assert_allclose(state.embedding, again.embedding, atol=1e-3)
        np.testing.assert_allclose(state.box[:, 1:], again.box[:, 1:], atol=1e-3)
        assert np.abs(np.asarray(state.box[:, 0] - again.box[:, 0])).max() > 0.1


def test_rollouts_are_finite_follow_the_model_and_carry_no_gradient(rolled):
    spec = noise_options(PROPOSALS, random_fraction=0.25, rollout_probability=1.0, gt_box_proposals=1)
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
    earlier one: no longer around the ground truths. Half of the images are rolled at probability one half."""
    sampler = SamplerOptions(PROPOSALS, eta=0.0, renewal_threshold=0.0)
    spec = noise_options(PROPOSALS, rollout_probability=0.5)
    keys = jax.random.split(jax.random.key(0), 200)
    (plain, t), (mixed, same_t) = (
        jax.jit(jax.vmap(lambda k, s=s: rolled(s, k, 0.0, sampler)))(keys) for s in (noise_options(PROPOSALS), spec)
    )
    np.testing.assert_array_equal(t, same_t)
    changed = np.abs(np.asarray(plain.embedding) - mixed.embedding).reshape(200, 4, -1).max(-1) > 1e-5
    whole = np.abs(np.asarray(plain.box) - mixed.box).reshape(200, 4, -1).max(-1) > 1e-5
    np.testing.assert_array_equal(changed, whole)
    assert 0.4 < changed.mean() < 0.6
    # Images without people (the last): pure noise, shrunk by that factor where it was rolled.
    noise = np.asarray(mixed.embedding, np.float64)[:, 3]
    early = np.asarray(t)[:, 3] < 300
    assert noise[changed[:, 3] & early].std() < 0.75
    assert noise[~changed[:, 3]].std() == pytest.approx(1, abs=0.05)


def test_poor_slots_of_a_rollout_start_anew(rolled):
    """All proposals score 0: with renewal every rolled state is fresh noise, whatever the model answers."""
    spec = noise_options(PROPOSALS, rollout_probability=1.0)
    key = jax.random.key(3)
    always = SamplerOptions(PROPOSALS, renewal_threshold=1.0)
    one, two = (rolled(spec, key, w, always)[0] for w in (1.0, 0.3))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    assert abs(float(one.embedding.std()) - 1) < 0.15
