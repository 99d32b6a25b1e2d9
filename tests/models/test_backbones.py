"""Padding is exact: an image alone, and in a batch that is padded further, has the same features and pyramid."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from psdiff_jax.models.backbones import BACKBONES, abstract_backbone
from psdiff_jax.models.fpn import FPN, STRIDES
from psdiff_jax.models.resnet import ResNetSpec, fold_batch_norm

BOTTLENECK = ResNetSpec((1, 1, 2, 1), (8, 8, 12, 16), bottleneck=True, stem_width=8)
NETWORKS = {
    "basic blocks": BACKBONES["tiny"],
    "bottlenecks, stride in the first": dataclasses.replace(BOTTLENECK, stride_in_1x1=True),
    "swin": dataclasses.replace(BACKBONES["swin_toy"], depths=(2, 1, 2, 1)),  # shifted in stages of both parities
}


def make(spec):
    """A backbone and its FPN with weights from NumPy: stages and levels as one jitted function of images and sizes."""
    fpn = nnx.eval_shape(lambda: FPN(spec.channels, 8, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(nnx.List([abstract_backbone(spec), fpn]))
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        name = jax.tree_util.keystr(path)
        draw = rng.normal(size=leaf.shape)
        if "kernel" in name:
            draw /= np.sqrt(np.prod(leaf.shape[:-1]))
        elif "scale" in name or "var" in name:
            draw = 1 + 0.2 * np.abs(draw)
        return draw.astype(np.float32)

    state = jax.tree_util.tree_map_with_path(fill, state)

    @jax.jit
    def run(state, images, image_size):
        backbone, fpn = nnx.merge(graphdef, state)
        stages = backbone(images, image_size=image_size)
        return stages, fpn(stages, image_size)

    return lambda images, image_size: run(state, images, image_size)


@pytest.mark.parametrize("name", NETWORKS)
def test_padding_a_batch_changes_nothing(name):
    network = make(NETWORKS[name])
    rng = np.random.default_rng(1)
    padded = (75, 90)
    for size in ((61, 43), (5, 64)):
        batch = rng.uniform(0, 255, (2, *padded, 3)).astype(np.float32)  # noise in the padding
        sizes = np.int32([size, [padded[0] - 1, padded[1] // 2]])
        alone = network(batch[:1, : size[0], : size[1]], None)
        within, ignored = network(batch, sizes), network(batch, np.int32([padded, padded]))
        for part in (0, 1):
            for i, stride in enumerate(STRIDES):
                rows, columns = (-(-length // stride) for length in size)
                want = np.asarray(alone[part][i])[0]
                assert want.shape[:2] == (rows, columns)
                scale = np.abs(want).max()
                np.testing.assert_allclose(within[part][i][0, :rows, :columns], want, atol=1e-5 * scale)
                # The test would notice if sizes were not looked at.
                assert np.abs(ignored[part][i][0, :rows, :columns] - want).max() > 1e-2 * scale
        for level, stride in zip(within[1], STRIDES, strict=True):
            for got, (height, width) in zip(level, sizes, strict=True):
                assert not np.any(got[-(-height // stride) :]) and not np.any(got[:, -(-width // stride) :])


def test_padding_is_exact_with_folded_batch_norm():
    """Without its norms a convolution has a bias, which makes the padding other than zero in between."""
    graphdef, state = nnx.split(abstract_backbone(BOTTLENECK))
    rng = np.random.default_rng(2)
    state = jax.tree.map(lambda v: rng.uniform(0.05, 0.3, v.shape).astype(np.float32), state)

    @jax.jit
    def run(state, images, image_size):
        network = nnx.merge(graphdef, state)
        fold_batch_norm(network)
        return network(images, image_size=image_size)

    image = rng.uniform(0, 255, (1, 37, 45, 3)).astype(np.float32)
    batch = np.pad(image, ((0, 0), (0, 13), (0, 7), (0, 0)))
    for want, got in zip(run(state, image, None), run(state, batch, np.int32([[37, 45]])), strict=True):
        got = got[:, : want.shape[1], : want.shape[2]]
        assert np.abs(got - want).max() < 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("name", BACKBONES)
def test_specs(name):
    """What a config can name has what the model asks of it: four maps of the channels that the spec says."""
    spec = BACKBONES[name]
    assert len(spec.channels) == 4 and len(spec.mean) == len(spec.std) == 3
    graphdef, state = nnx.split(abstract_backbone(spec))
    image = jax.ShapeDtypeStruct((1, 64, 96, 3), np.float32)
    outputs = jax.eval_shape(lambda s, x: nnx.merge(graphdef, s)(x), state, image)
    assert [o.shape for o in outputs] == [(1, 64 // s, 96 // s, c) for s, c in zip(STRIDES, spec.channels, strict=True)]
