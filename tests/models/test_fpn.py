"""The feature pyramid against a torch functional one with the same weights, on odd sizes too."""

import jax
import numpy as np
import pytest
from flax import nnx

from psdiff_jax.models.fpn import FPN

CHANNELS, DIM = (3, 4, 5, 6), 7


@pytest.mark.parametrize(
    "sizes",
    [
        ((25, 34), (13, 17), (7, 9), (4, 5)),  # what stride-2 convolutions make of 100 x 136
        ((16, 24), (8, 12), (4, 6), (2, 3)),
    ],
)
def test_against_torch(sizes):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    rng = np.random.default_rng(0)
    graphdef, state = nnx.split(nnx.eval_shape(lambda: FPN(CHANNELS, DIM, rngs=nnx.Rngs(0))))
    state = jax.tree.map(lambda v: rng.normal(size=v.shape).astype(np.float32) * 0.3, state)
    stages = [rng.normal(size=(2, *size, c)).astype(np.float32) for size, c in zip(sizes, CHANNELS, strict=True)]
    ours = jax.jit(lambda state, stages: nnx.merge(graphdef, state)(stages))(state, stages)

    def convolve(x, layer, padding):
        kernel = torch.tensor(np.asarray(layer.kernel[...])).permute(3, 2, 0, 1)
        return functional.conv2d(x, kernel, torch.tensor(np.asarray(layer.bias[...])), padding=padding)

    fpn = nnx.merge(graphdef, state)
    maps = [torch.tensor(x).permute(0, 3, 1, 2) for x in stages]
    merged = [convolve(x, layer, 0) for x, layer in zip(maps, fpn.lateral, strict=True)]
    for i in (2, 1, 0):
        merged[i] = merged[i] + functional.interpolate(merged[i + 1], size=merged[i].shape[-2:], mode="nearest")
    wanted = [convolve(x, layer, 1) for x, layer in zip(merged, fpn.output, strict=True)]
    assert len(ours) == 4
    for got, want in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(got, want.permute(0, 2, 3, 1).numpy(), atol=2e-5)


def test_image_size_clears_what_lies_outside():
    """Cells outside an image neither reach its levels nor hold anything."""
    rng = np.random.default_rng(1)
    graphdef, state = nnx.split(nnx.eval_shape(lambda: FPN(CHANNELS, DIM, rngs=nnx.Rngs(0))))
    state = jax.tree.map(lambda v: rng.normal(size=v.shape).astype(np.float32), state)
    sizes = [(16, 24), (8, 12), (4, 6), (2, 3)]
    stages = [rng.normal(size=(1, *size, c)).astype(np.float32) for size, c in zip(sizes, CHANNELS, strict=True)]
    run = jax.jit(lambda state, stages, size: nnx.merge(graphdef, state)(stages, size))
    image_size = np.int32([[42, 61]])
    cut = [stage[:, : -(-42 // s), : -(-61 // s)] for stage, s in zip(stages, (4, 8, 16, 32), strict=True)]
    for got, want in zip(run(state, stages, image_size), run(state, cut, None), strict=True):
        np.testing.assert_allclose(got[:, : want.shape[1], : want.shape[2]], want, atol=1e-4)
        assert not np.any(got[:, want.shape[1] :]) and not np.any(got[:, :, want.shape[2] :])
