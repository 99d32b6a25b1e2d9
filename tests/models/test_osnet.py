"""OSNet against a PyTorch implementation with random weights through the converter; windows of gates by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from psdiff_jax.convert.backbone import convert_backbone
from psdiff_jax.models.backbones import BACKBONES, abstract_backbone
from psdiff_jax.models.osnet import Depthwise, OSNetSpec, halved, window_mean
from psdiff_jax.models.resnet import max_pool

SMALL = OSNetSpec(8, (16, 24, 32))


def reference(spec, seed):
    """(PyTorch's network, graphdef and state of ours with the same weights)."""
    torch = pytest.importorskip("torch")
    from .torch_osnet import OSNet

    torch.manual_seed(seed)
    network = OSNet(spec)
    graphdef, state = nnx.split(abstract_backbone(spec))
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    loaded = convert_backbone(weights, state, "reference")
    assert all(name.startswith("fc.") or name.endswith("num_batches_tracked") for name in loaded.left_out)
    assert loaded.count + len(loaded.left_out) == len(weights)
    return network, graphdef, loaded.state


@pytest.mark.parametrize(
    "name, size",
    [("osnet_x0_25", (256, 128)), ("osnet_x0_25", (75, 109)), ("osnet_x0_75", (61, 45)), ("osnet_x1_0", (128, 64))],
)
def test_equals_pytorch_with_gates_over_the_whole_map(name, size):
    torch = pytest.importorskip("torch")
    spec = dataclasses.replace(BACKBONES[name], gate_window=None)
    network, graphdef, state = reference(spec, seed=1)
    images = np.random.default_rng(0).uniform(0, 255, (2, *size, 3)).astype(np.float32)
    ours = jax.jit(lambda s, x: nnx.merge(graphdef, s)(x))(state, images)
    graphdef = nnx.graphdef(abstract_backbone(BACKBONES[name].for_reid()))
    reid = jax.jit(lambda s, x: nnx.merge(graphdef, s)(x))(state, images)

    scaled = torch.from_numpy(((images - spec.mean) / spec.std).transpose(0, 3, 1, 2).astype(np.float32))
    with torch.no_grad():
        theirs = [x.numpy().transpose(0, 2, 3, 1) for x in network(scaled)]
    for maps, last in ((ours, max_pool(theirs[-1])), (reid, theirs[-1])):
        for mine, other, channels in zip(maps, [*theirs[:-1], last], spec.channels, strict=True):
            assert mine.shape == other.shape and mine.shape[-1] == channels
            assert np.abs(np.asarray(mine) - other).max() < 1e-4 * np.abs(other).max()


@pytest.mark.parametrize(
    "name, parameters, published",
    [
        ("osnet_x0_25", 134_792, 0.2),
        ("osnet_x0_5", 497_426, 0.6),
        ("osnet_x0_75", 1_087_610, 1.3),
        ("osnet_x1_0", 1_905_828, 2.2),
    ],
)
def test_number_of_parameters(name, parameters, published):
    """The paper's (in millions) counts the layer from the pooled map to 512 features and its BatchNorm too."""
    spec = BACKBONES[name]
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(abstract_backbone(spec), nnx.Param)))
    assert count == parameters
    assert round((count + spec.widths[-1] * 512 + 3 * 512) / 1e6, 1) == published


@pytest.mark.parametrize("window", [(32, 16), (5000, 16), None])
def test_gates_average_over_the_valid_cells_of_a_window(window):
    x = np.random.default_rng(0).normal(size=(2, 9, 12, 3)).astype(np.float32)
    size = np.int32([[9 * 4, 12 * 4], [5 * 4 - 3, 7 * 4 - 1]])
    for i, (rows, columns) in enumerate(((9, 12), (5, 7))):
        x[i, rows:], x[i, :, columns:] = 0, 0
        for sizes in (size, None) if i == 0 else (size,):
            means = np.asarray(window_mean(jnp.asarray(x), sizes, 4, window))[i]
            assert means.shape == ((1, 1, 3) if window is None else (9, 12, 3))
            for r, c in np.ndindex(means.shape[:2]) if window is None else np.ndindex(rows, columns):
                h, w = (9000, 9000) if window is None else (window[0] // 8, window[1] // 8)
                near = x[i, max(r - h, 0) : min(r + h + 1, rows), max(c - w, 0) : min(c + w + 1, columns)]
                np.testing.assert_allclose(means[r, c], near.mean((0, 1)), rtol=1e-4, atol=1e-6)


def test_average_pooling_at_the_border():
    x = np.random.default_rng(0).normal(size=(1, 5, 7, 2)).astype(np.float32)
    batch = np.pad(x, ((0, 0), (0, 3), (0, 1), (0, 0)), constant_values=9)
    got = np.asarray(halved(jnp.asarray(batch), np.int32([[17, 28]]), 4))
    assert got.shape == (1, 4, 4, 2)
    for r, c in np.ndindex(3, 4):
        np.testing.assert_allclose(got[0, r, c], x[0, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean((0, 1)), rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_depthwise_convolution(dtype):
    """As XLA's own, in value, gradient and dtype."""
    graphdef, state = nnx.split(Depthwise(6, rngs=nnx.Rngs(0)))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 7, 6)), dtype)
    state = jax.tree.map(lambda v: v.astype(dtype), state)

    def ours(x, state):
        return nnx.merge(graphdef, state)(x)

    def plain(x, state):
        axes = ("NHWC", "HWIO", "NHWC")
        kernel = state["kernel"][...]
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=axes, feature_group_count=6)

    assert ours(x, state).dtype == dtype
    tolerance = 1e-5 if dtype == jnp.float32 else 3e-2
    np.testing.assert_allclose(*(np.float32(f(x, state)) for f in (ours, plain)), atol=tolerance)
    if dtype == jnp.float32:
        gradients = [jax.grad(lambda *a, f=f: (f(*a) ** 2).sum(), (0, 1))(x, state) for f in (ours, plain)]
        for one, other in zip(*map(jax.tree.leaves, gradients), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_what_is_trained_and_folded():
    """BatchNorm stays frozen, and is gone after folding, which changes nothing."""
    network = abstract_backbone(SMALL)
    graphdef, state = nnx.split(network)
    rng = np.random.default_rng(0)
    state = jax.tree.map(lambda v: rng.uniform(0.1, 1.0, v.shape).astype(np.float32), state)
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
    assert SMALL.for_reid().gate_window is None and SMALL.for_reid().last_stride == 1
