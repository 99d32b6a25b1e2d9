"""The whole model: arithmetic of boxes, independence of images, stacked layers."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from psdiff_jax.diffusion.noise import State
from psdiff_jax.models.psdiff import Condition, apply_deltas, merge
from psdiff_jax.ops.roi_align import roi_align

from ..jaxprs import products

pytestmark = pytest.mark.slow


def run(model, params, image, image_size, box, embedding, t):
    model = merge(model.graphdef, params, model.rest)
    condition = model.features(image, image_size)
    return condition, model.denoise(condition, State(box, embedding), t)


def random_states(images, num_proposals=6, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(images, num_proposals, 4)).astype(np.float32),
        3 * rng.normal(size=(images, num_proposals, 8)).astype(np.float32),
        rng.integers(1, 1001, images).astype(np.int32),
    )


@pytest.fixture(scope="module")
def forward(tiny):
    step = jax.jit(lambda *args: run(tiny, tiny.params, *args))
    return lambda batch, *state: step(batch["image"], batch["image_size"], *state)


def test_deltas_by_hand():
    box = jnp.float32([10, 20, 50, 100])  # centre 30, 60; sides 40, 80
    np.testing.assert_allclose(apply_deltas(box, jnp.zeros(4)), box)
    moved = apply_deltas(box, jnp.float32([1, -1, math.log(2), 0]))  # half a side right and up, twice as wide
    np.testing.assert_allclose(moved, [10, -20, 90, 60], rtol=1e-5)
    huge = apply_deltas(box, jnp.float32([0, 0, 50, 50]))
    np.testing.assert_allclose(huge[2:] - huge[:2], [40 * 1000 / 16, 80 * 1000 / 16], rtol=1e-3)
    grown = apply_deltas(jnp.float32([5, 5, 5, 5]), jnp.float32([0, 0, math.log(4), math.log(6)]))
    np.testing.assert_allclose(grown, [3, 2, 7, 8], rtol=1e-5)  # an empty box counts as one pixel


def test_estimates_are_deltas_of_the_decoded_boxes(forward, make_batch, tiny):
    """Estimates are boxes in pixels around the boxes that the state stands for, where the features were read."""
    batch, state = make_batch(2), random_states(2)
    condition, (estimate,) = forward(batch, *state)
    assert [p.shape for p in condition.pyramid] == [(2, 16, 24, 16), (2, 8, 12, 16), (2, 4, 6, 16), (2, 2, 3, 16)]
    unit = (np.clip(state[0], -2, 2) / 2 + 1) / 2
    size = np.array([96, 64, 96, 64])
    centre, sides = unit[..., :2] * size[:2], np.maximum(unit[..., 2:] * size[:2], 1)
    boxes = np.asarray(estimate.boxes)
    moved = ((boxes[..., :2] + boxes[..., 2:]) / 2 - centre) / sides
    scale = np.log((boxes[..., 2:] - boxes[..., :2]) / sides)
    half = unit[..., 2:] * size[:2] / 2
    pixels = np.float32(np.concatenate([centre - half, centre + half], -1))

    @jax.jit
    def deltas_of(pyramid, pixels):
        cells = roi_align(pyramid, pixels, side=3, canonical_size=24.0, backend="gather")
        layer = nnx.merge(tiny.graphdef, tiny.params, tiny.rest).cdl[0]
        return layer(cells.reshape(2, 6, 9, 16), state[1] / 3, state[2]).deltas

    deltas = np.asarray(deltas_of(condition.pyramid, pixels))
    assert np.abs(deltas).max() > 0.1
    np.testing.assert_allclose(moved, deltas[..., :2] / 2, atol=2e-3)
    np.testing.assert_allclose(scale, deltas[..., 2:], atol=2e-3)


def test_other_images_in_the_batch_change_nothing(forward, make_batch):
    batch, state = make_batch(4), random_states(4)
    condition, (whole,) = forward(batch, *state)
    half_condition, (half,) = forward({k: v[:2] for k, v in batch.items()}, *(v[:2] for v in state))
    for got, want in zip(half_condition.pyramid, condition.pyramid, strict=True):
        np.testing.assert_allclose(got, want[:2], atol=1e-4)
    np.testing.assert_allclose(half.boxes, whole.boxes[:2], atol=5e-3)
    np.testing.assert_allclose(half.logits, whole.logits[:2], atol=1e-4)
    np.testing.assert_allclose(half.embeddings, whole.embeddings[:2], atol=1e-4)


def test_what_the_padding_holds_changes_nothing(forward, make_batch):
    batch, state = make_batch(2), random_states(2)
    batch["image_size"] = np.int32([[40, 70], [64, 50]])
    rows, columns = np.arange(64)[:, None], np.arange(96)
    padding = np.stack([(rows >= h) | (columns >= w) for h, w in batch["image_size"]])
    other = np.where(padding[..., None], 255, batch["image"])
    assert (other != batch["image"]).any()
    a, b = (forward(batch | {"image": image.astype(np.uint8)}, *state) for image in (batch["image"], other))
    for got, want in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(got, want)
    inside = np.where(padding[..., None], batch["image"], 255 - batch["image"])
    c = forward(batch | {"image": inside.astype(np.uint8)}, *state)
    assert np.abs(c[1][0].logits - a[1][0].logits).max() > 1e-3


def test_stacked_layers_refine_one_another(tiny):
    """The second layer is the first one's code on the first one's answer, and teaches it nothing through that."""
    model = tiny.make(dataclasses.replace(tiny.options, num_cdl=2))
    box, embedding, t = random_states(2)
    rng = np.random.default_rng(1)
    pyramid = tuple(np.float32(rng.normal(size=(2, 64 // s, 96 // s, 16))) for s in (4, 8, 16, 32))
    condition = Condition(pyramid, np.int32([[64, 96]] * 2))

    def denoise(params, layers, state):
        merged = merge(model.graphdef, params, model.rest)
        merged.cdl = nnx.List([merged.cdl[i] for i in layers])
        return merged.denoise(condition, state, t)

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def teach_second(params):
        estimates = denoise(params, (0, 1), State(box, embedding))
        return sum(jnp.sum(v**2) for v in estimates[1]) / 1e3, estimates

    gradient, estimates = teach_second(model.params)
    assert len(estimates) == 2 and not np.allclose(estimates[0].boxes, estimates[1].boxes, atol=0.1)
    first, second = (jax.tree.leaves(gradient["cdl"][i]) for i in (0, 1))
    assert not any(np.any(v) for v in first)
    assert all(np.isfinite(v).all() for v in second) and any(np.any(v) for v in second)

    clipped = np.clip(estimates[0].boxes, 0, [96, 64, 96, 64])
    unit = np.concatenate([(clipped[..., :2] + clipped[..., 2:]) / 2, clipped[..., 2:] - clipped[..., :2]], -1)
    state = State(np.float32((unit / [96, 64, 96, 64] * 2 - 1) * 2), 3 * np.asarray(estimates[0].embeddings))
    (again,) = jax.jit(denoise, static_argnums=1)(model.params, (1,), state)
    np.testing.assert_allclose(again.boxes, estimates[1].boxes, atol=2e-2)
    np.testing.assert_allclose(again.embeddings, estimates[1].embeddings, atol=1e-3)


def test_bfloat16_computes_in_bfloat16(tiny, make_batch):
    """flax promotes bfloat16 inputs and float32 parameters to float32: the parameters must be cast as well."""
    batch, states = make_batch(1), random_states(1)
    model = tiny.make(dataclasses.replace(tiny.options, dtype="bfloat16"))

    def loss(params):
        condition, (estimate,) = run(model, params, batch["image"], batch["image_size"], *states)
        return jnp.sum(estimate.embeddings), (condition, estimate)

    closed, (_, (condition, estimate)) = jax.make_jaxpr(loss, return_shape=True)(model.params)
    assert all(level.dtype == jnp.bfloat16 for level in condition.pyramid)
    assert all(v.dtype == jnp.float32 for v in estimate)  # boxes and losses stay exact
    kinds = list(products(closed.jaxpr))
    wide = [kind for kind in kinds if kind != ("bfloat16", "bfloat16")]
    assert len(kinds) > 25 and len(wide) <= 2  # the two layers of the time code
    gradient = jax.eval_shape(jax.grad(loss, has_aux=True), model.params)[0]
    assert all(v.dtype == jnp.float32 for v in jax.tree.leaves(gradient))
