"""ResNet against transformers' (PyTorch) implementation, random weights through the converter; folded BatchNorm."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from psdiff_jax.convert.backbone import convert_backbone
from psdiff_jax.models.backbones import BACKBONES, abstract_backbone
from psdiff_jax.models.resnet import ResNet, ResNetSpec, fold_batch_norm

MEAN, STD = (120.0, 115.0, 100.0), (60.0, 58.0, 57.0)
BOTTLENECK = ResNetSpec((2, 1, 1, 1), (8, 8, 12, 16), bottleneck=True, stem_width=8, mean=MEAN, std=STD)
BASIC = dataclasses.replace(BOTTLENECK, bottleneck=False)


def torch_reference(spec: ResNetSpec, seed: int):
    """transformers' ResNetModel with random weights and statistics."""
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
    return model


def filled(spec: ResNetSpec, reference):
    """(graphdef, state) of our network with the weights of a torch module."""
    graphdef, state = nnx.split(abstract_backbone(spec))
    weights = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    return graphdef, convert_backbone(weights, state, "reference").state


@pytest.mark.parametrize(
    "spec",
    [
        BOTTLENECK,
        dataclasses.replace(BOTTLENECK, stride_in_1x1=True, epsilon=1e-3, std=(1.0, 1.0, 1.0)),
        BASIC,
        BACKBONES["resnet50"],
    ],
    ids=["torchvision layout", "v1 layout", "basic blocks", "ResNet-50"],
)
def test_equals_transformers(spec):
    torch = pytest.importorskip("torch")
    reference = torch_reference(spec, seed=1)
    graphdef, state = filled(spec, reference)
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


@pytest.mark.parametrize("spec", [BOTTLENECK, dataclasses.replace(BASIC, stem="conv")], ids=["bottleneck", "basic"])
def test_folded_batch_norm_gives_the_same(spec):
    graphdef, state = nnx.split(abstract_backbone(spec))
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        name = jax.tree_util.keystr(path)
        if "kernel" in name:
            return rng.normal(size=leaf.shape).astype(np.float32) / np.float32(np.sqrt(np.prod(leaf.shape[:-1])))
        return rng.uniform(0.3, 2, leaf.shape).astype(np.float32) * (1 if "var" in name else rng.choice([-1, 1]))

    state = jax.tree_util.tree_map_with_path(fill, state)
    images = rng.uniform(0, 255, (1, 45, 75, 3)).astype(np.float32)

    @jax.jit
    def both(state, images):
        network, folded = nnx.merge(graphdef, state), nnx.merge(graphdef, state)
        fold_batch_norm(folded)
        left = [jax.tree.leaves(nnx.state(part, nnx.BatchStat)) for part in (network, folded)]
        assert left[0] and not left[1]
        return network(images), folded(images)

    for plain, folded in zip(*both(state, images), strict=True):
        assert np.abs(plain - folded).max() < 1e-5 * np.abs(plain).max()
    half = jax.tree.map(lambda v: v.astype(jnp.bfloat16), state)
    kernels = jax.eval_shape(lambda s: _folded_state(graphdef, s), half)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(kernels))


def _folded_state(graphdef, state):
    network = nnx.merge(graphdef, state)
    fold_batch_norm(network)
    return nnx.state(network)


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
