"""The command: what it recognises, what it says, and one line for each thing that can be wrong."""

import numpy as np
import pytest
from flax import nnx

from psdiff_jax.convert import layouts
from psdiff_jax.convert.backbone import load_backbone, main
from psdiff_jax.models.backbones import BACKBONES, abstract_backbone
from psdiff_jax.models.weights import flatten_state


def stored(backbone, title, **changes):
    """Zeros with the names and shapes that a layout has for a backbone (of another window, say)."""
    layout = next(layout for layout in layouts.LAYOUTS if layout.title == title)
    arrays = {}
    for name, leaf in flatten_state(nnx.state(abstract_backbone(BACKBONES[backbone]))).items():
        theirs = layout.names(name)
        shape = leaf.shape
        if name.endswith("kernel"):
            shape = (shape[-1], shape[-2], *shape[:-2])
        if not name.startswith("norms/"):
            arrays |= {part: np.zeros((shape[0] // len(theirs), *shape[1:]), np.float32) for part in theirs}
    return arrays | changes


def converted(tmp_path, arrays, capsys, *options):
    """(exit status, lines on stdout, lines on stderr) of the command."""
    np.savez(tmp_path / "in.npz", **arrays)
    status = main([str(tmp_path / "in.npz"), str(tmp_path / "out.npz"), *options])
    said = capsys.readouterr()
    return status, said.out.strip().splitlines(), said.err.strip().splitlines()


def test_a_small_swin_is_found_out_and_converted(tmp_path, capsys):
    head = {
        "head.weight": np.zeros((10, 64)),
        "head.bias": np.zeros(10),
        "norm.weight": np.zeros(64),
        "norm.bias": np.zeros(64),
        "layers.0.blocks.1.attn_mask": np.zeros((4, 9, 9)),
        "layers.2.blocks.1.attn_mask": np.zeros((4, 9, 9)),
    }
    arrays = stored("swin_toy", "Microsoft's Swin", **head)
    status, out, err = converted(tmp_path, arrays, capsys)
    assert status == 0 and not err
    assert "Microsoft's Swin, 104 tensors -> swin_toy, 0.14 M numbers" in out[0]
    assert out[1] == "left out: head.weight, head.bias, norm.weight, norm.bias, layers.*.blocks.*.attn_mask (2)"
    state = nnx.state(abstract_backbone(BACKBONES["swin_toy"]))
    assert load_backbone(tmp_path / "out.npz", state).layout == "our own layout"


def test_resnet50_is_found_out(tmp_path, capsys):
    status, out, err = converted(tmp_path, stored("resnet50", "transformers' ResNet"), capsys)
    assert status == 0 and not err
    assert "transformers' ResNet, 265 tensors -> resnet50, 23.56 M numbers" in out[0]
    assert out[1].startswith("resnet50_v1 has the same tensors")
    assert out[2] == "left out: nothing"


def test_what_is_wrong_is_one_line(tmp_path, capsys):
    resnet18 = {"conv1.weight": np.zeros((64, 3, 7, 7))}
    for i, width in enumerate((64, 128, 256, 512), 1):
        for j in range(2):
            resnet18 |= {f"layer{i}.{j}.conv{k}.weight": np.zeros((width, width, 1, 1)) for k in (1, 2)}
            resnet18 |= {f"layer{i}.{j}.bn{k}.weight": np.zeros(width) for k in (1, 2)}
    toy = stored("swin_toy", "timm's Swin")
    for arrays, options, words in (
        (resnet18, [], ["basic blocks, depths (2, 2, 2, 2), widths (64, 128, 256, 512)", "none of resnet50,"]),
        (resnet18, ["--backbone", "resnet50"], ["basic blocks, depths (2, 2, 2, 2)", "lacks 'bn1.bias'"]),
        (toy, ["--backbone", "resnet50"], ["timm's Swin, but config.model.backbone (or reid_backbone) is a ResNet"]),
        (toy, ["--backbone", "swin_xxl"], ["--backbone swin_xxl: choose one of resnet50,"]),
        (resnet18 | {"rpn.head.conv.weight": np.zeros(1)}, [], ["a whole network", "'rpn.head.conv.weight'"]),
        ({"backbone/conv1/kernel": np.zeros(1), "cdl/0/x": np.zeros(1)}, [], ["config.train.init_from"]),
        ({"stem.0.weight": np.zeros(1)}, [], ["no layout", "'stem.0.weight'"]),
    ):
        status, out, err = converted(tmp_path, arrays, capsys, *options)
        assert status == 1 and not out and len(err) == 1 and err[0].startswith("error: ")
        assert all(word in err[0] for word in words), err[0]
        assert not (tmp_path / "out.npz").exists()
    (tmp_path / "cut.npz").write_bytes((tmp_path / "in.npz").read_bytes()[:-9])
    for source, target, word in (("cut.npz", "out.npz", "cut.npz"), ("in.npz", "out.pth", "is an .npz")):
        assert main([str(tmp_path / source), str(tmp_path / target)]) == 1
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and word in said[0]


@pytest.mark.parametrize("window, name", [(3, "swin_toy"), (5, "swin_toy")])
def test_another_window_is_said(tmp_path, capsys, window, name):
    arrays = stored("swin_toy", "torchvision's Swin")
    for key, array in arrays.items():
        if "bias_table" in key:
            arrays[key] = np.zeros(((2 * window - 1) ** 2, array.shape[1]), np.float32)
    status, out, err = converted(tmp_path, arrays, capsys)
    assert status == 0 and not err and f"-> {name}" in out[0]
    assert any("resized, window 5 to 3" in line for line in out) == (window == 5)
