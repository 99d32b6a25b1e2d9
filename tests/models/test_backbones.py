"""Padding is exact: an image alone, and in a batch that is padded further, has the same features and pyramid."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from psdiff_jax.errors import InputError
from psdiff_jax.models.backbone import BackboneSpec
from psdiff_jax.models.backbones import BACKBONES, abstract_backbone
from psdiff_jax.models.fpn import FPN, STRIDES
from psdiff_jax.models.mobilenet import MobileNetV2Spec
from psdiff_jax.models.osnet import OSNetSpec
from psdiff_jax.models.psdiff import PSDiff, PSDiffOptions, merge
from psdiff_jax.models.resnet import ResNetSpec
from psdiff_jax.options import read
from psdiff_jax.training.optimizer import OptimizerOptions, make_optimizer
from psdiff_jax.training.step import create_state

pytestmark = pytest.mark.slow

BOTTLENECK = ResNetSpec((1, 1, 2, 1), (8, 8, 12, 16), bottleneck=True, stem_width=8)
OSNET = OSNetSpec(8, (16, 24, 32), gate_window=(32, 31))  # of 48x16 pixels
OSNET_OMZ = OSNetSpec(8, (128, 192, 256), gate_window=(32, 31), instance_norm=True, context_gates=True)
MOBILENET = MobileNetV2Spec(True, 8, (8, 8, 10, 12, 12, 14, 16), (1, 2, 1, 1, 1, 2, 1))
NETWORKS = {
    "basic blocks": BACKBONES["tiny"],
    "bottlenecks, stride in the first": dataclasses.replace(BOTTLENECK, stride_in_1x1=True),
    "osnet": OSNET,
    "osnet_omz": OSNET_OMZ,
    "mobilenet": MOBILENET,
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

    # Its norms of single images enlarge what sums one by one round; the others need no optimised programs.
    optimised = {"xla_backend_optimization_level": 3} if spec is OSNET_OMZ else None

    @partial(jax.jit, compiler_options=optimised)
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


@pytest.mark.parametrize("spec", [BOTTLENECK, OSNET, MOBILENET], ids=["bottlenecks", "osnet", "mobilenet"])
def test_padding_is_exact_with_folded_batch_norm(spec):
    """Without its norms a convolution has a bias, which makes the padding other than zero in between."""
    graphdef, state = nnx.split(abstract_backbone(spec))
    rng = np.random.default_rng(2)
    state = jax.tree.map(lambda v: rng.uniform(0.05, 0.3, v.shape).astype(np.float32), state)

    @jax.jit
    def run(state, images, image_size):
        network = nnx.merge(graphdef, state)
        spec.fold(network)
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


def test_an_abstract_backbone_is_a_new_one_each_time():
    filled = abstract_backbone(BOTTLENECK)
    nnx.update(filled, jax.tree.map(lambda v: np.zeros(v.shape, v.dtype), nnx.state(filled)))
    filled.conv1 = None
    other = abstract_backbone(BOTTLENECK)
    assert other.conv1 is not None
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(nnx.state(other)))


class Patches(nnx.Module):
    """A backbone from outside the package: one linear layer over the patches of each stride, times a frozen gain."""

    def __init__(self, widths, *, rngs):
        self.layers = nnx.List([nnx.Linear(3, width, rngs=rngs) for width in widths])
        self.gain, self.table = nnx.Param(jnp.full((1,), 2.0)), nnx.Param(jnp.ones((2, 2)))

    def __call__(self, images, train=False, dtype=jnp.float32, image_size=None):
        maps = []
        for stride, layer in zip((4, 8, 16, 32), self.layers, strict=True):
            pixels = jax.image.resize(
                images / 255, (len(images), *(-(-s // stride) for s in images.shape[1:3]), 3), "linear"
            )
            maps.append((layer(pixels) * self.gain[...] * self.table[...].mean()).astype(dtype))
        return tuple(maps)


@dataclasses.dataclass(frozen=True)
class PatchesSpec(BackboneSpec):
    widths: tuple[int, ...] = (4, 5, 6, 7)

    @property
    def channels(self):
        return self.widths

    def make(self, *, rngs):
        return Patches(self.widths, rngs=rngs)

    def is_trained(self, path):
        return path[0] != "gain"

    def is_decayed(self, path):
        return path[0] != "table"

    def fold(self, network):
        network.table, network.gain = (
            nnx.Param(jnp.ones((2, 2))),
            nnx.Param(network.gain[...] * network.table[...].mean()),
        )


def test_a_backbone_of_ones_own_is_one_class_and_one_entry(monkeypatch, make_batch):
    """It is built, trained, decayed and folded as its spec says, by its name in a config."""
    monkeypatch.setitem(BACKBONES, "patches", PatchesSpec())
    small = {"dim": 16, "side": 3, "heads": 2, "dynamic_width": 4, "embedding_dim": 8, "time_dim": 16}
    options = read(PSDiffOptions, {"backbone": "patches", "dtype": "float32", **small})
    model = PSDiff(options, rngs=nnx.Rngs(0))
    optimizer = make_optimizer(OptimizerOptions(1e-2, weight_decay=0.5, warmup=0), model.backbone_specs)
    graphdef, state = create_state(model, optimizer, jax.random.key(0), ema=False)
    assert "gain" in state.rest["backbone"] and "gain" not in state.params["backbone"]
    nothing = jax.tree.map(jnp.zeros_like, state.params)
    updates = optimizer.update(nothing, state.opt_state, state.params)[0]["backbone"]
    assert not updates["table"][...].any() and updates["layers"][0]["kernel"][...].any()
    batch = make_batch()
    plain, folded = (
        merge(graphdef, state.params, state.rest, folded=f).features(batch["image"], batch["image_size"])
        for f in (False, True)
    )
    for ours, theirs in zip(plain.pyramid, folded.pyramid, strict=True):
        assert ours.any()
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    with pytest.raises(InputError, match=r"config\.backbone='nothing': choose one of resnet50, .*patches"):
        read(PSDiffOptions, {"backbone": "nothing"})
