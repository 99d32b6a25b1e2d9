"""Reading PyTorch weights: every kind of file, every tensor accounted for. Values are compared in tests/models."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from psdiff_jax.convert.resnet import convert_resnet, load_resnet, read_state_dict, torch_name
from psdiff_jax.errors import InputError
from psdiff_jax.models.resnet import SPECS, ResNet, ResNetSpec
from psdiff_jax.models.weights import flatten_state

SPEC = ResNetSpec((1, 1, 1, 1), (4, 4, 4, 4), bottleneck=True, stem_width=4)
SHARED = Path(__file__).parents[3] / "shared" / "data" / "weights" / "resnet50_v1_imagenet.npz"


@pytest.fixture(scope="module")
def state():
    return nnx.state(nnx.eval_shape(lambda: ResNet(SPEC, rngs=nnx.Rngs(0))))


@pytest.fixture
def arrays(state):
    """A state_dict with PyTorch's names and axes, with random values."""
    rng, made = np.random.default_rng(0), {}
    for name, leaf in flatten_state(state).items():
        shape = leaf.shape if leaf.ndim == 1 else (leaf.shape[3], leaf.shape[2], *leaf.shape[:2])
        made[torch_name(name)] = rng.uniform(0.5, 1, shape).astype(np.float32)
    return made


def test_names():
    assert torch_name("conv1/kernel") == "conv1.weight"
    assert torch_name("layer3/0/bn2/mean") == "layer3.0.bn2.running_mean"
    assert torch_name("layer1/0/downsample/0/kernel") == "layer1.0.downsample.0.weight"
    assert torch_name("layer1/0/downsample/1/var") == "layer1.0.downsample.1.running_var"


def test_ignored_tensors_are_named_and_prefixes_removed(state, arrays):
    arrays |= {"fc.weight": np.zeros((10, 16)), "fc.bias": np.zeros(10), "bn1.num_batches_tracked": np.zeros(())}
    filled, left_out = convert_resnet({f"module.{name}": v for name, v in arrays.items()}, state, "file")
    assert left_out == ["fc.weight", "fc.bias", "bn1.num_batches_tracked"]
    ours = flatten_state(filled)
    kernel = arrays["layer2.0.conv2.weight"]
    np.testing.assert_array_equal(ours["layer2/0/conv2/kernel"][0, 2, 1, 3], kernel[3, 1, 0, 2])
    np.testing.assert_array_equal(ours["bn1/var"], arrays["bn1.running_var"])


def test_every_kind_of_file_gives_the_same(state, arrays, tmp_path):
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.numpy")
    np.savez(tmp_path / "a.npz", **arrays)
    safetensors.save_file(arrays, tmp_path / "b.safetensors")
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "c.pth")
    expected = flatten_state(convert_resnet(arrays, state, "file")[0])
    for name in ("a.npz", "b.safetensors", "c.pth"):
        loaded = flatten_state(load_resnet(tmp_path / name, state)[0])
        assert loaded.keys() == expected.keys()
        assert all((loaded[key] == expected[key]).all() for key in expected)


def test_bfloat16_safetensors(tmp_path):
    torch = pytest.importorskip("torch")
    save_file = pytest.importorskip("safetensors.torch").save_file
    tensor = torch.randn(3, 5).to(torch.bfloat16)
    save_file({"x": tensor}, tmp_path / "a.safetensors")
    np.testing.assert_array_equal(read_state_dict(tmp_path / "a.safetensors")["x"], tensor.float().numpy())


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: a.pop("layer1.0.bn2.running_var"), r"lacks 'layer1\.0\.bn2\.running_var'"),
        (lambda a: a.update({"layer5.0.bn1.bias": np.zeros(1)}), r"unknown to this backbone, 'layer5\.0\.bn1\.bias'"),
        (lambda a: a.update({"conv1.weight": np.zeros((4, 3, 3, 3))}), r"'conv1/kernel' has shape \(3, 3, 3, 4\)"),
        (lambda a: a.update({"bn1.bias": np.full(4, np.nan)}), r"'bn1/bias' holds values that are not finite"),
    ],
)
def test_wrong_tensors_are_named(state, arrays, change, message):
    change(arrays)
    with pytest.raises(InputError, match=message):
        convert_resnet(arrays, state, "file.npz")


class Foreign:
    """What a hostile pickle would hold: something that runs when it is loaded."""

    def __reduce__(self):
        return (print, ("executed",))


def test_damaged_and_foreign_files(arrays, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    torch.save({"state_dict": Foreign()}, tmp_path / "foreign.pth")
    with pytest.raises(InputError, match=r"foreign\.pth: holds more than tensors"):
        read_state_dict(tmp_path / "foreign.pth")
    assert "executed" not in capsys.readouterr().out

    np.savez(tmp_path / "whole.npz", **arrays)
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, tmp_path / "whole.pth")
    header = json.dumps({"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    (tmp_path / "whole.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    for name in ("whole.npz", "whole.pth", "whole.safetensors"):
        content = (tmp_path / name).read_bytes()
        assert read_state_dict(tmp_path / name)
        (tmp_path / name).write_bytes(content[:-7])
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            read_state_dict(tmp_path / name)
    for name in ("missing.npz", "missing.ckpt"):
        with pytest.raises(InputError, match="no such file"):
            read_state_dict(tmp_path / name)


@pytest.mark.skipif(not SHARED.is_file(), reason="the ImageNet weights are not beside the project")
def test_imagenet_weights():
    graphdef, state = nnx.split(nnx.eval_shape(lambda: ResNet(SPECS["resnet50_v1"], rngs=nnx.Rngs(0))))
    state, left_out = load_resnet(SHARED, state)
    assert left_out == []
    image = np.random.default_rng(0).uniform(0, 255, (1, 64, 48, 3)).astype(np.float32)
    apply = jax.jit(lambda s, x: nnx.merge(graphdef, s)(x))
    first, again = apply(state, image), apply(state, image)
    for one, other in zip(first, again, strict=True):
        assert np.isfinite(one).all() and (one == other).all()
        # Trained on such input: were scaling or layout wrong, activations would die out or explode.
        assert 0.01 < float(np.mean(one)) < 10
