"""OSNet against a PyTorch implementation with random weights through the converter; windows of gates by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from psdiff_jax.convert.backbone import convert_backbone
from psdiff_jax.models.backbones import BACKBONES, abstract_backbone
from psdiff_jax.models.osnet import Grid, OSNetSpec
from psdiff_jax.models.padding import shrunk
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


@pytest.mark.parametrize("stride", [4, 8, 16])
@pytest.mark.parametrize("window", [(64, 32), (5000, 31), None])
def test_gates_average_over_the_valid_cells_of_a_window(stride, window):
    """By hand: over the map's valid cells in those 16x16 pixels that are at most half a window away."""
    x = np.random.default_rng(0).normal(size=(2, 9, 12, 3)).astype(np.float32)
    x[1, 5:], x[1, :, 7:] = 0, 0
    size = np.int32([[9 * stride, 12 * stride], [5 * stride - 3, 7 * stride - 1]])
    for sizes, (i, rows, columns) in ((size, (0, 9, 12)), (size, (1, 5, 7)), (None, (0, 9, 12))):
        grid = Grid(sizes, stride, window)
        means = grid.means(jnp.asarray(x))
        gates = np.asarray(jnp.broadcast_to(grid.spread(means, x), x.shape))[i]
        assert means.shape[1:3] == ((1, 1) if window is None else (-(-9 * stride // 16), -(-12 * stride // 16)))
        for r, c in np.ndindex(rows, columns):
            near = np.ones((rows, columns), bool)
            for axis, (place, length) in enumerate(((r, rows), (c, columns)) if window else ()):
                away = abs(np.arange(length) * stride // 16 - place * stride // 16) <= window[axis] // 32
                near &= away[:, None] if axis == 0 else away
            np.testing.assert_allclose(gates[r, c], x[i, :rows, :columns][near].mean(0), rtol=1e-4, atol=1e-6)


def test_average_pooling_at_the_border():
    x = np.random.default_rng(0).normal(size=(1, 5, 7, 2)).astype(np.float32)
    batch = np.pad(x, ((0, 0), (0, 3), (0, 1), (0, 0)), constant_values=9)
    got = np.asarray(shrunk(jnp.asarray(batch), np.int32([[17, 28]]), 2, 4))
    assert got.shape == (1, 4, 4, 2)
    for r, c in np.ndindex(3, 4):
        np.testing.assert_allclose(got[0, r, c], x[0, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean((0, 1)), rtol=1e-5)


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
