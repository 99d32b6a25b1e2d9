"""The row read-out: what it reads of a box, how long its embeddings are, and what it adds to the model."""

import dataclasses

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from psdiff_jax.diffusion.noise import State
from psdiff_jax.errors import InputError
from psdiff_jax.models.padding import enlarged, shrunk
from psdiff_jax.models.psdiff import PSDiff, PSDiffOptions, merge
from psdiff_jax.models.readout import RowReadout
from psdiff_jax.ops.roi_align import roi_align
from psdiff_jax.options import read
from psdiff_jax.training.closed_form import box_features, start_readout
from psdiff_jax.training.step import is_trained


def test_rows_of_a_linear_map():
    """The mean of a linear function over a rectangle is its value at the centre: rows have centres of their own."""
    rows, columns = jnp.meshgrid(jnp.arange(32.0), jnp.arange(40.0), indexing="ij")
    maps = [
        jnp.stack([a * rows + columns, columns - rows], -1)[None, : 32 // s, : 40 // s] for a, s in ((1, 1), (3, 2))
    ]
    boxes = np.float32([[[8, 16, 40, 80], [40, 20, 60, 100]]])
    readout = RowReadout((2, 2), rows=4, hidden=4, embedding_dim=3, rngs=nnx.Rngs(0))
    got = readout.features(maps, boxes, (4, 8), np.int32([[128, 160]]))
    assert got.shape == (1, 2, 16)
    for box, features in zip(boxes[0], np.asarray(got[0]), strict=True):
        y = box[1] + (box[3] - box[1]) * (np.arange(4) + 0.5) / 4
        x = np.full(4, (box[0] + box[2]) / 2)
        want = [np.stack([a * (y / s - 0.5) + (x / s - 0.5), (x - y) / s], -1).ravel() for a, s in ((1, 4), (3, 8))]
        np.testing.assert_allclose(features, np.concatenate(want), rtol=1e-5)


def test_embeddings_are_no_longer_than_the_gate_lets_them():
    readout = RowReadout((2,), rows=2, hidden=4, embedding_dim=3, rngs=nnx.Rngs(0))
    readout.linear.kernel[...] = jnp.eye(4, 3)
    readout.norm.mean[...], readout.norm.var[...] = jnp.ones(4), jnp.full(4, 4.0)
    features = jnp.float32([[[1.6, 1.8, 1, 9], [41, 1, 61, 9]]])
    got = np.asarray(readout(features, jnp.zeros((1, 2, 4))))[0]
    gate = 1 / (1 + np.exp(-2))
    np.testing.assert_allclose(got[0], [0.3 * gate, 0.4 * gate, 0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got[1], np.float32([20, 0, 30]) / np.sqrt(1300) * gate, rtol=1e-4, atol=1e-6)


def test_what_the_head_says_is_added_as_it_is():
    readout = RowReadout((2,), rows=2, hidden=4, embedding_dim=3, with_head=True, rngs=nnx.Rngs(0))
    readout.linear.kernel[...] = jnp.eye(4, 3)
    features = jnp.float32([[0.3, 0.1, 0, 9, 0.1, 0.2, 0.4], [3, 0, 0, 9, 0, 4, 0]])
    got = np.asarray(readout.embed(features))
    np.testing.assert_allclose(got, [[0.4, 0.3, 0.4], [0.6, 0.8, 0]], rtol=1e-4)


@pytest.mark.parametrize("times", [2, 4])
def test_enlarged_is_opencvs_inside_the_image(times):
    """Bilinear between pixel centres; what lies beyond the image does not count."""
    rng = np.random.default_rng(0)
    images, sizes = rng.uniform(0, 255, (2, 13, 17, 3)).astype(np.float32), np.int32([[13, 17], [9, 12]])
    got = np.asarray(jax.jit(enlarged, static_argnums=2)(images, sizes, times))
    assert got.shape == (2, 13 * times, 17 * times, 3)
    for image, (h, w), large in zip(images, sizes, got, strict=True):
        want = cv2.resize(image[:h, :w], None, fx=times, fy=times, interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(large[: h * times, : w * times], want, atol=1e-2)


@pytest.fixture(scope="module")
def model(tiny):
    """A tiny PSDiff at half resolution that reads rows of a second backbone's maps, and its functions jitted."""
    options = dataclasses.replace(tiny.options, reid_backbone="tiny", readout_rows=2, downsample=2)
    made = tiny.make(options)
    made.features = jax.jit(lambda image, size: merge(made.graphdef, made.params, made.rest).features(image, size))
    made.denoise = jax.jit(
        lambda condition, state, t, held: merge(made.graphdef, made.params, made.rest).denoise(
            condition, state, t, held
        )
    )
    return made


def test_the_backbone_sees_half_the_resolution(model, tiny, make_batch):
    batch = make_batch(2)
    image, size = batch["image"], np.int32([[64, 96], [37, 51]])
    condition = model.features(image, size)
    assert [x.shape[1:3] for x in condition.pyramid] == [(8, 12), (4, 6), (2, 3), (1, 2)]
    assert [x.shape[1:3] for x in condition.maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    network = nnx.merge(model.graphdef, model.params, model.rest)
    small = np.asarray(shrunk(jnp.float32(image), size, 2))
    np.testing.assert_allclose(small[1, 18, :25], image[1, 36, :50].reshape(25, 2, 3).mean(1), rtol=1e-5)
    np.testing.assert_array_equal(small[1, 19:], 0)
    stages = network.backbone(small, image_size=np.int32([[32, 48], [19, 26]]))
    want = network.fpn(stages, np.int32([[32, 48], [19, 26]]))
    for level, expected in zip(condition.pyramid, want, strict=True):
        np.testing.assert_allclose(level, expected, atol=1e-4)


def test_rows_are_read_at_the_predicted_box_or_at_a_held_one(model, make_batch):
    batch, rng = make_batch(2), np.random.default_rng(0)
    condition = model.features(batch["image"], batch["image_size"])
    state = State(*(rng.normal(size=(2, 5, width)).astype(np.float32) for width in (4, 8)))
    t, held = np.int32([700, 20]), np.arange(5) < np.int32([[1], [0]])
    free, some = (model.denoise(condition, state, t, each)[-1] for each in (np.zeros((2, 5), bool), held))
    np.testing.assert_allclose(free.boxes, some.boxes)
    changed = np.abs(free.embeddings - some.embeddings).max(-1) > 1e-5
    np.testing.assert_array_equal(changed, held)


def test_it_starts_from_the_closed_form(model, make_batch):
    """Targets that are a linear map of what is read are met at once, by what the layers add nothing to."""
    network = nnx.merge(model.graphdef, *jax.tree.map(jnp.asarray, (model.params, model.rest)))
    rng, batches = np.random.default_rng(0), []
    mixing = None
    for seed in range(30):
        batch = make_batch(4, 3, seed=seed)
        features = np.asarray(network.read(model.features(batch["image"], batch["image_size"]), batch["boxes"]))
        mixing = rng.normal(size=(features.shape[-1], 8)) if mixing is None else mixing
        targets = (features - 0.1) @ mixing
        batch["embeddings"] = (targets / np.linalg.norm(targets, axis=-1, keepdims=True)).astype(np.float32)
        batch["person_ids"] = rng.integers(0, 10, (4, 3))
        batches.append(batch)
    found = start_readout(network, batches)
    assert found.boxes == sum(int(batch["boxes_mask"].sum()) for batch in batches)
    read_out = network.readout
    assert read_out is not None
    layer = network.cdl[0].embedding_head
    assert not np.any(layer.kernel[...]) and not np.any(layer.bias[...])
    inside = batches[0]["boxes_mask"]
    condition = model.features(batches[0]["image"], batches[0]["image_size"])
    got = np.asarray(read_out(network.read(condition, batches[0]["boxes"]), jnp.zeros((4, 3, 32))))[inside]
    cosine = (got * batches[0]["embeddings"][inside]).sum(-1) / np.linalg.norm(got, axis=-1)
    assert cosine.mean() > 0.8


def test_frozen_statistics_and_two_backbones(model):
    network = nnx.merge(model.graphdef, model.params, model.rest)
    trained = {path[0] for path, _ in nnx.to_flat_state(nnx.split(network, is_trained(network), ...)[1])}
    assert trained == {"backbone", "reid_backbone", "fpn", "cdl", "readout"}
    frozen = nnx.to_flat_state(nnx.split(network, is_trained(network, ("reid_backbone",)), ...)[1])
    assert "reid_backbone" not in {path[0] for path, _ in frozen}
    assert ("readout", "norm", "mean") not in {path for path, _ in nnx.to_flat_state(nnx.state(network, nnx.Param))}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"reid_backbone": "nothing"}, r"config\.model\.reid_backbone='nothing': choose one of .*, or '' for none"),
        (
            {"reid_backbone": "tiny"},
            r"config\.model\.readout_rows=0: must be 1 or more to read reid_backbone, unless reid_crops is",
        ),
        ({"downsample": 0}, r"config\.model\.downsample=0: must be 1 or more"),
    ],
)
def test_options_that_make_no_sense(values, message):
    with pytest.raises(InputError, match=message):
        read(PSDiffOptions, values, "config.model")


def test_without_it_there_is_no_trace_of_it(tiny):
    network = nnx.eval_shape(lambda: PSDiff(tiny.options, rngs=nnx.Rngs(0)))
    assert {path[0] for path, _ in nnx.to_flat_state(nnx.state(network))} == {"backbone", "fpn", "cdl"}


@pytest.fixture(scope="module")
def headed(tiny, tiny_head):
    """One whose second backbone sees images at twice the resolution and has a head of its own."""
    options = dataclasses.replace(
        tiny.options, reid_backbone=tiny_head, readout_rows=2, readout_strides=(16,), reid_scale=2, reid_head=True
    )
    made = tiny.make(options)
    return nnx.merge(made.graphdef, *jax.tree.map(jnp.asarray, (made.params, made.rest)))


def test_a_head_reads_the_boxes_in_the_enlarged_image(headed, make_batch):
    """As on the map that the backbone itself makes of an image that was enlarged before."""
    batch = make_batch(2)
    image, size = jnp.float32(batch["image"]), np.int32([[64, 96], [37, 51]])
    boxes = np.float32([[[4, 6, 30, 60]], [[1, 2, 20, 35]]])
    got = np.asarray(headed.read(headed.features(batch["image"], size), boxes))
    width = 2 * 32
    assert got.shape == (2, 1, width + 8)
    np.testing.assert_allclose(np.linalg.norm(got[..., width:], axis=-1), 1, rtol=1e-3)
    for row, (h, w) in enumerate(size):
        large = jax.image.resize(image[row : row + 1, :h, :w], (1, 2 * h, 2 * w, 3), "linear")
        network = headed.reid_backbone
        *_, conv4, _, conv5 = network(large, image_size=2 * size[row : row + 1])
        cells = roi_align((conv5,), 2 * boxes[row : row + 1], strides=(16,), side=(16, 8), sampling_ratio=1)
        np.testing.assert_allclose(got[row, 0, width:], network.head(cells)[0, 0], atol=1e-4)
        rows = roi_align((conv4,), 2 * boxes[row : row + 1], strides=(16,), side=2)[0, 0].mean(1)
        np.testing.assert_allclose(got[row, 0, :width], rows.ravel(), rtol=1e-3, atol=1e-4)


def test_the_closed_form_departs_from_what_the_head_says(headed, make_batch):
    """Targets that the head meets already leave nothing to fit."""
    rng, batches = np.random.default_rng(0), [make_batch(4, 3, seed=seed) for seed in range(8)]
    for batch in batches:
        batch["person_ids"] = rng.integers(0, 10, (4, 3))
        batch["embeddings"] = np.zeros((4, 3, 8), np.float32)
    for batch, (features, _, _) in zip(batches, list(box_features(headed, batches)), strict=True):
        batch["embeddings"][batch["boxes_mask"]] = headed.readout.split(features)[1]
    linear = headed.readout.linear  # as it is new; otherwise it is departed from as well
    linear.kernel[...], linear.bias[...] = jnp.zeros_like(linear.kernel[...]), jnp.zeros_like(linear.bias[...])
    found = start_readout(headed, batches)
    np.testing.assert_allclose(found.kernel, 0, atol=1e-4)
    np.testing.assert_allclose(found.bias, 0, atol=1e-4)


def test_a_head_that_is_not_there(tiny):
    for wrong in ({"reid_backbone": "tiny", "readout_rows": 2}, {}):
        with pytest.raises(InputError, match=r"config\.model\.reid_head=True: needs .* osnet_omz \(256\)"):
            read(PSDiffOptions, {"reid_head": True, **wrong}, "config.model")
    with pytest.raises(
        InputError, match=r"config\.model\.reid_scale=2: must be 1 without a reid_backbone that reads images"
    ):
        read(PSDiffOptions, {"reid_scale": 2}, "config.model")
