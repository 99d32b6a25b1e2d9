"""The forward process (Eq. 10) and the form in which boxes and embeddings are diffused."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from psdiff_jax.diffusion.noise import Diffusion, State, repeat_gt
from psdiff_jax.ops.normalize import normalize

DIFFUSION = Diffusion(embedding_dim=6)


def test_encoding_of_boxes_by_hand():
    size = jnp.int32([[100, 200]])  # height, width
    whole, corner = [0, 0, 200, 100], [50, 50, 100, 100]
    got = DIFFUSION.encode_boxes(jnp.float32([[whole, corner]]), size)
    # Centre and sides in units of the image, then 2 (2 x - 1).
    np.testing.assert_allclose(got[0], [[0, 0, 2, 2], [-0.5, 1, -1, 0]], atol=1e-6)


def test_decoding_inverts_encoding():
    rng = np.random.default_rng(0)
    size = np.int32([[480, 640], [800, 1333]])
    low = rng.uniform(0, 0.6, (2, 50, 2))
    unit = np.concatenate([low, low + rng.uniform(0.001, 0.4, low.shape)], -1)
    boxes = (unit * np.concatenate([size[:, ::-1]] * 2, -1)[:, None]).astype(np.float32)
    state = DIFFUSION.encode_boxes(boxes, size)
    assert np.abs(state).max() <= 2
    np.testing.assert_allclose(DIFFUSION.decode_boxes(state, size), boxes, atol=2e-3)
    # Beyond the scale a state is clamped: sides never get negative.
    wild = DIFFUSION.decode_boxes(jnp.float32([[[9, -9, -9, 9]]]), jnp.int32([[100, 200]]))
    np.testing.assert_allclose(wild[0, 0], [200, -50, 200, 50], atol=1e-4)


def test_clean_states_are_bounded():
    boxes = jnp.float32([[[-500, -500, 900, 900], [0, 0, 10, 10]]])
    clean = DIFFUSION.clean(boxes, jnp.float32([[[3, 4, 0, 0, 0, 0], [0] * 6]]), jnp.int32([[100, 100]]))
    assert jnp.abs(clean.box).max() <= 2
    np.testing.assert_allclose(clean.embedding[0, 0], [1.8, 2.4, 0, 0, 0, 0], rtol=1e-6)
    np.testing.assert_array_equal(clean.embedding[0, 1], np.zeros(6))  # a ground truth without an embedding
    assert jnp.isfinite(jax.grad(lambda x: normalize(x).sum())(jnp.zeros(6))).all()


def test_forward_process_has_the_mean_and_variance_of_eq_10_at_every_t():
    t, draws = np.arange(1001), 1000
    x0 = State(jnp.float32([-2, 0.5, 1, 2]), jnp.arange(6.0) / 3)
    noise = jax.vmap(partial(DIFFUSION.gaussian, num_proposals=draws))(jax.random.split(jax.random.key(0), len(t)))
    clean = State(*(jnp.broadcast_to(v, (len(t), draws, len(v))) for v in x0))
    noisy = jax.jit(DIFFUSION.add_noise)(clean, noise, t)
    abar = np.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    spread = np.sqrt(1 - abar)[:, None]
    for gt, x in zip(x0, noisy, strict=True):
        mean, deviation = np.float64(x).mean(1), np.float64(x).std(1)
        wrong = np.abs(mean - np.sqrt(abar)[:, None] * np.float64(gt)) - 1e-4  # its last beta is clipped
        assert (wrong <= 5.5 * spread / math.sqrt(draws)).all(), t[(wrong > 5.5 * spread / math.sqrt(draws)).any(1)]
        assert (np.abs(deviation - spread) <= 5.5 * spread / math.sqrt(2 * draws) + 1e-6).all()
        # All coordinates together tell the variance to a percent or so.
        np.testing.assert_allclose(np.sqrt((deviation[1:] ** 2).mean(1)), spread[1:, 0], rtol=0.06)
    np.testing.assert_array_equal(noisy.box[0], clean.box[0])


def test_boxes_embeddings_slots_and_images_have_noises_of_their_own():
    draws = 4000
    noise = jax.vmap(partial(DIFFUSION.gaussian, num_proposals=3))(jax.random.split(jax.random.key(1), draws))
    flat = np.concatenate([np.reshape(n, (draws, -1)) for n in noise], 1)
    correlation = np.corrcoef(flat.T) - np.eye(flat.shape[1])
    assert np.abs(correlation).max() < 6 / math.sqrt(draws)
    assert np.abs(np.corrcoef(flat[:50]) - np.eye(50)).max() < 0.95


def test_each_image_has_its_own_time():
    one, zero = (State(jnp.full((2, 1, 4), v), jnp.full((2, 1, 6), v)) for v in (1.0, 0.0))
    t = jnp.int32([10, 900])
    got = DIFFUSION.add_noise(one, zero, t).box[:, 0, 0]
    np.testing.assert_allclose(got, np.sqrt(DIFFUSION.alpha_bar(t)), rtol=1e-6)
    assert got[0] > 0.99 and got[1] < 0.2


def test_repeat_truths_is_even_and_shuffled():
    rng = np.random.default_rng(0)
    masks = rng.uniform(size=(100, 7)) < rng.uniform(size=(100, 1))
    masks[0], masks[1] = False, True
    for num_proposals in (5, 20):
        index = np.asarray(
            jax.vmap(partial(repeat_gt, num_proposals=num_proposals))(
                jax.random.split(jax.random.key(num_proposals), 100), jnp.asarray(masks)
            )
        )
        assert index.shape == (100, num_proposals) and index.min() >= 0 and index.max() < 7
        for mask, chosen in zip(masks[1:], index[1:], strict=True):
            if mask.any():
                counts = np.bincount(chosen, minlength=7)
                assert counts[~mask].sum() == 0 and np.ptp(counts[mask]) <= 1
    # Which ground truths get the proposals that are left over, and where they stand, is drawn anew each time.
    orders = jax.vmap(lambda k: repeat_gt(k, jnp.ones(4, bool), 6))(jax.random.split(jax.random.key(0), 200))
    first = np.bincount(np.asarray(orders[:, 0]), minlength=4)
    assert first.min() > 20
