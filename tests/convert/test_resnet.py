"""PyTorch's residual networks: names, every tensor accounted for. Values are compared in tests/models."""

import jax
import numpy as np
import pytest
from flax import nnx

from psdiff_jax.convert.backbone import convert_backbone, load_backbone
from psdiff_jax.convert.resnet import torchvision_names, transformers_names
from psdiff_jax.errors import InputError
from psdiff_jax.models.backbones import BACKBONES, abstract_backbone
from psdiff_jax.models.resnet import ResNetSpec
from psdiff_jax.models.weights import flatten_state, save_npz

from ..shared import SHARED

SPEC = ResNetSpec((1, 1, 1, 1), (4, 4, 4, 4), bottleneck=True, stem_width=4)
IMAGENET = SHARED / "weights" / "resnet50_v1_imagenet.npz"


@pytest.fixture(scope="module")
def state():
    return nnx.state(abstract_backbone(SPEC))


def made(state, names):
    """A state_dict in PyTorch's axes, with random values."""
    rng, arrays = np.random.default_rng(0), {}
    for name, leaf in flatten_state(state).items():
        shape = leaf.shape if leaf.ndim == 1 else (leaf.shape[3], leaf.shape[2], *leaf.shape[:2])
        (theirs,) = names(name)
        arrays[theirs] = rng.uniform(0.5, 1, shape).astype(np.float32)
    return arrays


@pytest.fixture
def arrays(state):
    return made(state, torchvision_names)


def test_names():
    for ours, torchvision, transformers in (
        ("conv1/kernel", "conv1.weight", "embedder.embedder.convolution.weight"),
        ("bn1/var", "bn1.running_var", "embedder.embedder.normalization.running_var"),
        (
            "layer3/0/bn2/mean",
            "layer3.0.bn2.running_mean",
            "encoder.stages.2.layers.0.layer.1.normalization.running_mean",
        ),
        (
            "layer1/0/downsample/0/kernel",
            "layer1.0.downsample.0.weight",
            "encoder.stages.0.layers.0.shortcut.convolution.weight",
        ),
        (
            "layer1/0/downsample/1/bias",
            "layer1.0.downsample.1.bias",
            "encoder.stages.0.layers.0.shortcut.normalization.bias",
        ),
    ):
        assert torchvision_names(ours) == (torchvision,) and transformers_names(ours) == (transformers,)


def test_ignored_tensors_are_named_and_prefixes_removed(state, arrays):
    arrays |= {"fc.weight": np.zeros((10, 16)), "fc.bias": np.zeros(10), "bn1.num_batches_tracked": np.zeros(())}
    loaded = convert_backbone({f"module.{name}": v for name, v in arrays.items()}, state, "file")
    assert loaded.left_out == ["module.fc.weight", "module.fc.bias", "module.bn1.num_batches_tracked"]
    assert loaded.count == len(arrays) - 3
    ours = flatten_state(loaded.state)
    kernel = arrays["layer2.0.conv2.weight"]
    np.testing.assert_array_equal(ours["layer2/0/conv2/kernel"][0, 2, 1, 3], kernel[3, 1, 0, 2])
    np.testing.assert_array_equal(ours["bn1/var"], arrays["bn1.running_var"])


def test_every_layout_gives_the_same(state, arrays, tmp_path):
    theirs = {f"resnet.{name}": array for name, array in made(state, transformers_names).items()}
    theirs |= {"classifier.1.weight": np.zeros((10, 16)), "classifier.1.bias": np.zeros(10)}
    expected = convert_backbone(arrays, state, "file").state
    save_npz(tmp_path / "ours.npz", expected)
    other, ours = convert_backbone(theirs, state, "file"), load_backbone(tmp_path / "ours.npz", state)
    assert other.layout == "transformers' ResNet" and other.left_out == ["classifier.1.weight", "classifier.1.bias"]
    assert ours.layout == "our own layout" and ours.left_out == []
    for loaded in (other, ours):
        assert all((flatten_state(loaded.state)[k] == v).all() for k, v in flatten_state(expected).items())


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: a.pop("layer1.0.bn2.running_var"), r"lacks 'layer1\.0\.bn2\.running_var'"),
        (lambda a: a.update({"layer5.0.bn1.bias": np.zeros(1)}), r"unknown to this backbone, 'layer5\.0\.bn1\.bias'"),
        (
            lambda a: a.update({"conv1.weight": np.zeros((4, 3, 3, 3))}),
            r"'conv1\.weight' has shape \(4, 3, 3, 3\), the backbone needs \(4, 3, 7, 7\)",
        ),
        (lambda a: a.update({"conv1.weight": np.zeros((4, 3))}), r"'conv1\.weight' has shape \(4, 3\)"),
        (lambda a: a.update({"bn1.bias": np.full(4, np.nan)}), r"'bn1\.bias' holds values that are not finite"),
    ],
)
def test_wrong_tensors_are_named(state, arrays, change, message):
    change(arrays)
    with pytest.raises(InputError, match=message):
        convert_backbone(arrays, state, "file.npz")


@pytest.mark.skipif(not IMAGENET.is_file(), reason="the ImageNet weights are not beside the project")
def test_imagenet_weights():
    graphdef, state = nnx.split(abstract_backbone(BACKBONES["resnet50_v1"]))
    loaded = load_backbone(IMAGENET, state)
    assert loaded.left_out == [] and loaded.count == 265
    image = np.random.default_rng(0).uniform(0, 255, (1, 64, 48, 3)).astype(np.float32)
    apply = jax.jit(lambda s, x: nnx.merge(graphdef, s)(x))
    first, again = apply(loaded.state, image), apply(loaded.state, image)
    for one, other in zip(first, again, strict=True):
        assert np.isfinite(one).all() and (one == other).all()
        # Trained on such input: were scaling or layout wrong, activations would die out or explode.
        assert 0.01 < float(np.mean(one)) < 10
