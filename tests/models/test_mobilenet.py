"""MobileNetV2 against a PyTorch implementation with random weights through the converter."""

import jax
import numpy as np
import pytest
from flax import nnx

from psdiff_jax.convert.backbone import convert_backbone
from psdiff_jax.models.backbones import BACKBONES, abstract_backbone
from psdiff_jax.models.mobilenet import MobileNetV2Spec

SMALL = MobileNetV2Spec(True, 4, (4, 6, 8, 8, 10, 12, 16), (1, 2, 1, 2, 1, 1, 1))


@pytest.mark.parametrize("size", [(128, 96), (75, 109), (61, 45)])
def test_equals_pytorch(size):
    torch = pytest.importorskip("torch")
    from .torch_mobilenet import MobileNetV2

    torch.manual_seed(1)
    network, spec = MobileNetV2(), BACKBONES["mobilenet_v2"]
    graphdef, state = nnx.split(abstract_backbone(spec))
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    loaded = convert_backbone(weights, state, "reference")
    left_out = [n for n in weights if n.startswith(("classifier.", "features.18.")) or n.endswith("batches_tracked")]
    assert loaded.left_out == left_out and loaded.count == len(weights) - len(left_out)

    images = np.random.default_rng(0).uniform(0, 255, (2, *size, 3)).astype(np.float32)
    ours = jax.jit(lambda s, x: nnx.merge(graphdef, s)(x))(loaded.state, images)
    scaled = torch.from_numpy(((images - spec.mean) / spec.std).transpose(0, 3, 1, 2).astype(np.float32))
    with torch.no_grad():
        theirs = [x.numpy().transpose(0, 2, 3, 1) for x in network(scaled)]
    for mine, other, channels in zip(ours, theirs, spec.channels, strict=True):
        assert mine.shape == other.shape and mine.shape[-1] == channels
        assert np.abs(np.asarray(mine) - other).max() < 1e-4 * np.abs(other).max()


@pytest.mark.parametrize("name, parameters", [("mobilenet_v2", 1_811_712), ("mobilenet_v2_omz", 1_812_800)])
def test_number_of_parameters(name, parameters):
    """torchvision's 3,504,872 less the last convolution with its BatchNorm and the classifier of 1000 classes."""
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(abstract_backbone(BACKBONES[name]), nnx.Param)))
    assert count == parameters
    assert 3_504_872 - (320 * 1280 + 2 * 1280) - 1281 * 1000 == 1_811_712
    assert 1_811_712 + 32 * 32 + 2 * 32 == 1_812_800  # a 1x1 convolution in the first block


def test_what_is_trained_and_folded():
    """BatchNorm stays frozen, and is gone after folding, which changes nothing."""
    network = abstract_backbone(SMALL)
    graphdef, state = nnx.split(network)
    rng = np.random.default_rng(0)
    state = jax.tree.map(lambda v: rng.uniform(0.1, 0.5, v.shape).astype(np.float32), state)
    image = rng.uniform(0, 255, (1, 45, 75, 3)).astype(np.float32)

    @jax.jit
    def both(state, image):
        plain, folded = nnx.merge(graphdef, state), nnx.merge(graphdef, state)
        SMALL.fold(folded)
        assert not jax.tree.leaves(nnx.state(folded, nnx.BatchStat))
        return plain(image), folded(image)

    for plain, folded in zip(*both(state, image), strict=True):
        assert np.abs(plain - folded).max() < 1e-5 * np.abs(plain).max()
    parameters = nnx.to_flat_state(nnx.state(network, nnx.Param))
    norms = [path for path, _ in parameters if path[-2] == "bn"]
    assert norms and all(SMALL.is_trained(path) != (path in norms) for path, _ in parameters)


def test_for_crops_the_last_stages_stay_at_stride_16():
    graphdef, state = nnx.split(abstract_backbone(SMALL.for_reid()))
    image = jax.ShapeDtypeStruct((1, 64, 32, 3), np.float32)
    maps = jax.eval_shape(lambda s, x: nnx.merge(graphdef, s)(x), state, image)
    assert [m.shape[1:] for m in maps] == [(16, 8, 6), (8, 4, 8), (4, 2, 10), (4, 2, 16)]


def test_training_updates_the_statistics():
    network = SMALL.make(rngs=nnx.Rngs(0))
    before = np.asarray(network.blocks[0].expand.bn.mean[...])
    network(np.full((2, 32, 32, 3), 99, np.float32), train=True)
    assert np.abs(np.asarray(network.blocks[0].expand.bn.mean[...]) - before).max() > 0
