"""A kind of teacher and a family of re-ID networks that are registered from outside of the package."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from psdiff_jax.config import from_values
from psdiff_jax.errors import InputError
from psdiff_jax.ops.normalize import normalize, unit_rows
from psdiff_jax.teacher.convert import load_teacher, main
from psdiff_jax.teacher.crop_teacher import CropTeacher
from psdiff_jax.teacher.families import FAMILIES
from psdiff_jax.teacher.family import Family
from psdiff_jax.teacher.kinds import KINDS, Kind, open_targets, open_teacher

from .test_kinds import Dataset

pytestmark = pytest.mark.slow


def mean_colour(crops):
    return unit_rows(crops.reshape(len(crops), -1, 3).mean(1) + 1.0).astype(np.float32)


def open_toy(options, train_set, folder, **training):
    return CropTeacher(mean_colour, 3, f"toy of {options.file}", options.crop_size, "mean colours")


def test_a_kind(monkeypatch, tmp_path):
    monkeypatch.setitem(KINDS, "toy", Kind(open_toy, "whatever it is"))
    options = from_values({"teacher": {"kind": "toy", "file": "x.toy", "crop_size": (32, 16)}}).teacher
    dataset = Dataset()
    targets = open_targets(options, dataset, tmp_path, ("train", "gallery"), embedding_dim=3)
    pixels = np.stack([record["image"] for record in _decoded(dataset.gallery_source)])
    np.testing.assert_allclose(targets.all("gallery"), mean_colour(pixels), atol=1e-6)
    assert targets.source == "mean colours (toy of x.toy)"
    assert open_targets(options, dataset, tmp_path, embedding_dim=2).dim == 2
    with pytest.raises(InputError, match=r"config\.teacher\.file='': name whatever it is"):
        from_values({"teacher": {"kind": "toy"}})
    with pytest.raises(InputError, match=r"config\.teacher\.kind='toys': choose one of trained, .*, file, none, toy"):
        from_values({"teacher": {"kind": "toys"}})


def _decoded(source):
    from psdiff_jax.data.transforms import decode_image

    return [{"image": decode_image(record["image"], "")} for record in source]


@dataclass(frozen=True)
class ToySpec:
    """The mean colour through a linear layer."""

    dim: int
    least_size: tuple[int, int] = (8, 8)

    def make(self, *, rngs):
        return ToyNetwork(self, rngs=rngs)

    def describe(self):
        return "one layer"


class ToyNetwork(nnx.Module):
    def __init__(self, spec, *, rngs):
        self.linear = nnx.Linear(3, spec.dim, rngs=rngs)

    def __call__(self, crops):
        return normalize(self.linear(crops.astype(jnp.float32).mean((1, 2)) / 255))


@dataclass(frozen=True)
class ToyFamily(Family):
    spec_type = ToySpec

    def spec(self, file, pooling):
        return ToySpec(file.shape("linear/kernel", 2)[0])


FAMILY = ToyFamily(
    "toy project",
    (r"fc\.weight",),
    lambda ours: ({"linear/kernel": "fc.weight", "linear/bias": "fc.bias"}[ours],),
    left_out=r"classifier\.weight",
    crop_size=(40, 20),
)


@pytest.fixture
def family():
    FAMILIES.append(FAMILY)
    yield FAMILY
    FAMILIES.remove(FAMILY)


def test_a_family(family, tmp_path, capsys):
    rng = np.random.default_rng(0)
    arrays = {
        "fc.weight": rng.normal(size=(5, 3)),
        "fc.bias": rng.normal(size=5),
        "classifier.weight": np.zeros((9, 5)),
    }
    np.savez(tmp_path / "in.npz", **{f"module.{name}": array for name, array in arrays.items()})
    assert main([str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]) == 0
    out = capsys.readouterr().out
    assert "in.npz: toy project, one layer; 2 tensors" in out and "1 of training alone (module.classifier)" in out
    assert "crops of 40 x 20" in out and "not compared with PyTorch: there is no reference for toy project" in out

    crops = np.random.default_rng(1).integers(0, 256, (4, 40, 20, 3), np.uint8)
    expected = unit_rows(crops.mean((1, 2)) / 255 @ arrays["fc.weight"].T + arrays["fc.bias"])
    for file in ("in.npz", "out.npz"):  # the project's file and the converted one
        options = from_values({"teacher": {"kind": "network", "file": str(tmp_path / file)}}).teacher
        teacher = open_teacher(options, Dataset(), tmp_path)
        assert teacher.title == f"{file} (toy project, one layer)"
        np.testing.assert_allclose(teacher.embed(crops), expected, atol=1e-5)
    assert open_targets(options, Dataset(), tmp_path, embedding_dim=5).all("train").shape == (8, 5)


def test_a_converted_file_of_a_family_that_is_not_registered_is_named(family, tmp_path):
    np.savez(tmp_path / "in.npz", **{"fc.weight": np.ones((5, 3)), "fc.bias": np.ones(5)})
    assert main([str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]) == 0
    FAMILIES.remove(FAMILY)
    try:
        with pytest.raises(InputError, match=r"out\.npz: of a family that is not registered here, toy project"):
            load_teacher(tmp_path / "out.npz")
    finally:
        FAMILIES.append(FAMILY)
