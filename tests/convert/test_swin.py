"""Swin in every published layout: the same weights give the same network; tables of other windows."""

import numpy as np
import pytest
from flax import nnx

from psdiff_jax.convert.backbone import convert_backbone, load_backbone
from psdiff_jax.convert.swin import resize_table, timm_names, torchvision_names, transformers_names
from psdiff_jax.errors import InputError
from psdiff_jax.models.backbones import BACKBONES, abstract_backbone
from psdiff_jax.models.weights import flatten_state, save_npz

from . import published

pytestmark = pytest.mark.slow

SPEC = BACKBONES["swin_toy"]


@pytest.fixture(scope="module")
def network():
    return nnx.split(abstract_backbone(SPEC))


@pytest.fixture(scope="module")
def weights():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    return published.transformers_swin(SPEC)


@pytest.fixture(scope="module")
def expected(network, weights):
    return flatten_state(convert_backbone(weights[0], network[1], "file").state)


def test_names():
    assert timm_names("stages/0/merge/norm/scale") == ("layers.1.downsample.norm.weight",)
    assert torchvision_names("stages/2/blocks/5/mlp/fc2/bias") == ("features.5.5.mlp.3.bias",)
    assert torchvision_names("stages/1/merge/reduction/kernel") == ("features.4.reduction.weight",)
    assert transformers_names("stages/3/blocks/1/attn/qkv/bias") == tuple(
        f"encoder.layers.3.blocks.1.attention.self.{part}.bias" for part in ("query", "key", "value")
    )
    assert transformers_names("norms/0/scale") == ("hidden_states_norms.stage1.weight",)


@pytest.mark.parametrize(
    "layout, title", [("microsoft", "Microsoft's Swin"), ("timm", "timm's Swin"), ("torchvision", "torchvision's Swin")]
)
def test_every_layout_gives_the_same(layout, title, network, weights, expected):
    """tests/models/test_swin.py shows that what transformers' layout gives is right."""
    arrays = getattr(published, layout)(weights[0])
    loaded = convert_backbone({f"module.{name}": v for name, v in arrays.items()}, network[1], "file")
    ours = flatten_state(loaded.state)
    assert loaded.layout == title and ours.keys() == expected.keys()
    assert all((ours[name] == expected[name]).all() for name in expected)
    assert loaded.count + len(loaded.left_out) == len(arrays) and not loaded.notes
    buffers = ("relative_position_index", "attn_mask")
    left = {name.removeprefix("module.") for name in loaded.left_out if not name.endswith(buffers)}
    head = "head.fc" if layout == "timm" else "head"
    assert left == {"norm.weight", "norm.bias", f"{head}.weight", f"{head}.bias"}


def test_what_transformers_saves_and_what_we_save(network, weights, expected, tmp_path):
    weights[1].save_pretrained(tmp_path)  # its files have other names than its modules
    loaded = load_backbone(tmp_path / "model.safetensors", network[1])
    assert loaded.layout == "transformers' Swin"
    save_npz(tmp_path / "ours.npz", loaded.state)
    again = load_backbone(tmp_path / "ours.npz", network[1])
    assert again.layout == "our own layout" and again.left_out == []
    for state in (loaded.state, again.state):
        ours = flatten_state(state)
        assert all((ours[name] == expected[name]).all() for name in expected)


def test_output_norms(network, weights):
    """Classifiers have none: the identity. Detectors' files have them."""
    arrays = published.microsoft(weights[0])
    fresh = flatten_state(convert_backbone(arrays, network[1], "file").state)
    assert all((fresh[f"norms/{i}/scale"] == 1).all() and (fresh[f"norms/{i}/bias"] == 0).all() for i in range(4))
    arrays |= {f"norm{i}.{leaf}": np.full(8 * 2**i, i + 2.0) for i in range(4) for leaf in ("weight", "bias")}
    given = flatten_state(convert_backbone(arrays, network[1], "file").state)
    assert all((given[f"norms/{i}/{leaf}"] == i + 2).all() for i in range(4) for leaf in ("scale", "bias"))


def test_tables_are_resized_as_torch_does(network, weights, capsys, tmp_path):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    for old, new in ((12, 7), (7, 12), (3, 4)):
        table = rng.normal(size=((2 * old - 1) ** 2, 3)).astype(np.float32)
        square = torch.tensor(table).T.reshape(1, 3, 2 * old - 1, 2 * old - 1)
        want = torch.nn.functional.interpolate(square, size=(2 * new - 1,) * 2, mode="bicubic", align_corners=False)
        want = want.reshape(3, -1).T.numpy()
        np.testing.assert_allclose(resize_table(table, (2 * new - 1) ** 2), want, atol=1e-5)
    arrays = published.microsoft(weights[0])
    names = [name for name in arrays if name.endswith("bias_table")]
    arrays |= {name: rng.normal(size=(81, arrays[name].shape[1])).astype(np.float32) for name in names}
    np.savez(tmp_path / "other.npz", **arrays)
    loaded = load_backbone(tmp_path / "other.npz", network[1])
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "7 tables of relative positions resized, window 5 to 3" in said[0]
    ours = flatten_state(loaded.state)["stages/0/blocks/0/attn/bias_table"]
    np.testing.assert_array_equal(ours, resize_table(arrays[names[0]], 25))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: a.pop("layers.1.blocks.0.mlp.fc1.bias"), r"lacks 'layers\.1\.blocks\.0\.mlp\.fc1\.bias'"),
        (
            lambda a: a.update({"absolute_pos_embed": np.zeros((1, 9, 8))}),
            "unknown to this backbone, 'absolute_pos_embed'",
        ),
        (
            lambda a: a.update({"layers.0.blocks.0.attn.qkv.weight": np.zeros((24, 9))}),
            r"'layers\.0\.blocks\.0\.attn\.qkv\.weight' has shape \(24, 9\), the backbone needs \(24, 8\)",
        ),
        (
            lambda a: a.update({"layers.0.blocks.1.attn.relative_position_bias_table": np.zeros((25, 2))}),
            r"relative_position_bias_table' has shape \(25, 2\), the backbone needs \(25, 1\)",
        ),
        (lambda a: a.update({"patch_embed.norm.bias": np.full(8, np.inf)}), "'patch_embed.norm.bias' holds values"),
    ],
)
def test_wrong_tensors_are_named(change, message, network, weights):
    arrays = published.microsoft(weights[0])
    change(arrays)
    with pytest.raises(InputError, match=message) as error:
        convert_backbone(arrays, network[1], "file.pth")
    assert "\n" not in str(error.value) and str(error.value).startswith("file.pth: ")
