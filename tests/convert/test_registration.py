"""A backbone and a published layout that are registered from outside of the package are used as its own are."""

import jax
import numpy as np
import pytest
from flax import nnx

from psdiff_jax.config import from_values
from psdiff_jax.convert.backbone import main
from psdiff_jax.convert.layouts import LAYOUTS
from psdiff_jax.errors import InputError
from psdiff_jax.models.backbones import BACKBONES
from psdiff_jax.models.weights import flatten_state
from psdiff_jax.teacher.step import new_state
from psdiff_jax.training.train import build_model

from . import toy

pytestmark = pytest.mark.slow

MODEL = {
    "backbone": "toy", "dim": 16, "side": 3, "heads": 2, "dynamic_width": 4, "embedding_dim": 8, "time_dim": 16,
}  # fmt: skip


@pytest.fixture
def weights(monkeypatch, tmp_path):
    monkeypatch.setitem(BACKBONES, "toy", toy.ToySpec(6))
    monkeypatch.setitem(BACKBONES, "toy_wide", toy.ToySpec(8))
    LAYOUTS.append(toy.LAYOUT)
    np.savez(tmp_path / "in.npz", **toy.published())
    yield tmp_path / "in.npz"
    LAYOUTS.remove(toy.LAYOUT)


def test_the_command_recognises_and_converts_it(weights, tmp_path, capsys):
    assert main([str(weights), str(tmp_path / "out.npz")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert "toy library's Toy, 8 tensors -> toy, 0.00 M numbers" in out[0] and out[1] == "left out: head.weight"
    np.testing.assert_array_equal(
        np.load(tmp_path / "out.npz")["maps/2/kernel"], toy.published()["stage2.weight"].transpose(2, 3, 1, 0)
    )
    np.savez(weights, **toy.published(7))
    assert main([str(weights), str(tmp_path / "out.npz")]) == 1
    assert "toy library's Toy (1,540 numbers), which is none of resnet50, " in capsys.readouterr().err


def test_a_run_and_a_teacher_begin_with_it(weights, tmp_path):
    assert main([str(weights), str(tmp_path / "out.npz")]) == 0
    expected = np.load(tmp_path / "out.npz")
    images = np.random.default_rng(1).uniform(0, 255, (1, 64, 64, 3)).astype(np.float32)
    maps = []
    for file in ("in.npz", "out.npz"):  # the library's file and our own
        model = build_model(from_values({"model": MODEL | {"backbone_weights": str(tmp_path / file)}}), tmp_path)
        for name, value in flatten_state(nnx.state(model.backbone)).items():
            np.testing.assert_array_equal(value, expected[name])
        maps.append(jax.jit(lambda x, backbone=model.backbone: backbone(x))(images))
    assert [m.shape for m in maps[0]] == [(1, 16, 16, 6), (1, 8, 8, 6), (1, 4, 4, 6), (1, 2, 2, 6)]
    np.testing.assert_array_equal(maps[0][3], maps[1][3])
    for backbone in ("toy", {"width": 6}):  # by name, or by the fields of its spec
        teacher = from_values(
            {"teacher": {"backbone": backbone, "init_from": str(weights), "embedding_dim": 6}}
        ).teacher
        state = flatten_state(new_state(teacher))
        np.testing.assert_array_equal(state["backbone/maps/3/bias"], toy.published()["stage3.bias"])


def test_the_wrong_family_is_named(weights):
    message = r"in\.npz: toy library's Toy, but config\.model\.backbone \(or reid_backbone\) is a ResNet"
    with pytest.raises(InputError, match=message):
        build_model(from_values({"model": MODEL | {"backbone": "tiny", "backbone_weights": str(weights)}}), weights)
