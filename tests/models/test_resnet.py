"""ResNet against transformers' (PyTorch) implementation, random weights through the converter."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest
from flax import nnx

from psdiff_jax.convert.resnet import convert_resnet
from psdiff_jax.models.resnet import ResNet, ResNetSpec

MEAN, STD = (120.0, 115.0, 100.0), (60.0, 58.0, 57.0)
BOTTLENECK = ResNetSpec((2, 1, 1, 1), (8, 8, 12, 16), bottleneck=True, stem_width=8, mean=MEAN, std=STD)
BASIC = dataclasses.replace(BOTTLENECK, bottleneck=False)


def torch_reference(spec: ResNetSpec, seed: int):
    """transformers' ResNetModel with random weights and statistics, and its state_dict with torchvision's names."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=spec.stem_width, hidden_sizes=list(spec.channels), depths=list(spec.depths),
        layer_type="bottleneck" if spec.bottleneck else "basic", downsample_in_bottleneck=spec.stride_in_1x1,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = transformers.ResNetModel(config).eval()
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = spec.epsilon
            for tensor, low, high in (
                (module.weight.data, 0.5, 1.5), (module.bias.data, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5), (module.running_var, 0.3, 2.0),
            ):  # fmt: skip
                tensor.uniform_(low, high, generator=generator)
    renamed = {}
    for name, tensor in model.state_dict().items():
        part = name.replace("embedder.embedder.convolution", "conv1").replace("embedder.embedder.normalization", "bn1")
        for stage in range(4):
            part = part.replace(f"encoder.stages.{stage}.layers.", f"layer{stage + 1}.")
        part = part.replace("shortcut.convolution", "downsample.0").replace("shortcut.normalization", "downsample.1")
        for i in range(3):
            part = part.replace(f"layer.{i}.convolution", f"conv{i + 1}")
            part = part.replace(f"layer.{i}.normalization", f"bn{i + 1}")
        renamed[part] = tensor.numpy()
    return model, renamed


@pytest.mark.parametrize(
    "spec",
    [
        BOTTLENECK,
        dataclasses.replace(BOTTLENECK, stride_in_1x1=True, epsilon=1e-3, std=(1.0, 1.0, 1.0)),
        BASIC,
    ],
    ids=["torchvision layout", "v1 layout", "basic blocks"],
)
def test_equals_transformers(spec):
    torch = pytest.importorskip("torch")
    reference, weights = torch_reference(spec, seed=1)
    graphdef, state = nnx.split(nnx.eval_shape(lambda: ResNet(spec, rngs=nnx.Rngs(0))))
    state, _ = convert_resnet(weights, state, "reference")
    images = np.random.default_rng(0).uniform(0, 255, (2, 75, 45, 3)).astype(np.float32)  # no multiples of 32
    ours = jax.jit(lambda s, x: nnx.merge(graphdef, s)(x))(state, images)

    scaled = torch.from_numpy(((images - spec.mean) / spec.std).transpose(0, 3, 1, 2).astype(np.float32))
    with torch.no_grad():
        theirs = reference(scaled, output_hidden_states=True).hidden_states[1:]
    assert len(ours) == len(theirs) == 4
    for mine, other in zip(ours, theirs, strict=True):
        other = other.numpy().transpose(0, 2, 3, 1)
        assert mine.shape == other.shape
        assert np.abs(np.asarray(mine) - other).max() < 1e-4 * np.abs(other).max()


def test_training_moves_the_statistics_and_inference_does_not():
    spec = dataclasses.replace(BASIC, stem="conv", depths=(1, 1, 1, 1))
    images = np.random.default_rng(0).uniform(0, 255, (2, 33, 17, 3)).astype(np.float32)

    @partial(jax.jit, static_argnums=0)
    def before_and_after(train, key, images):  # constants would be folded, slowly
        network = ResNet(spec, rngs=nnx.Rngs(key))
        before = nnx.as_pure(nnx.state(network, nnx.BatchStat))
        network(images, train=train)
        return before, nnx.as_pure(nnx.state(network, nnx.BatchStat))

    for train in (False, True):
        before, after = map(jax.tree.leaves, before_and_after(train, jax.random.key(0, impl="rbg"), images))
        assert all((a != b).all() == train and (a != b).any() == train for a, b in zip(before, after, strict=True))


def test_stage_sizes():
    for last_stride, rows in ((2, 3), (1, 5)):
        spec = dataclasses.replace(BASIC, stem="conv", last_stride=last_stride)
        image = jax.ShapeDtypeStruct((1, 75, 32, 3), np.float32)
        outputs = jax.eval_shape(lambda x, spec=spec: ResNet(spec, rngs=nnx.Rngs(0))(x), image)
        assert [o.shape[1] for o in outputs] == [19, 10, 5, rows]
        assert [o.shape[3] for o in outputs] == list(BASIC.channels)
