"""Every kind of teacher behind one interface; a width that the model has not goes through a PCA of the train split."""

import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx

from psdiff_jax.config import from_values
from psdiff_jax.configs.base import get_config
from psdiff_jax.data.schema import Annotations
from psdiff_jax.errors import InputError
from psdiff_jax.models.backbones import abstract_backbone
from psdiff_jax.models.weights import flatten_state, save_npz
from psdiff_jax.teacher import onnx as onnx_teacher
from psdiff_jax.teacher import openvino as openvino_teacher
from psdiff_jax.teacher.batches import BalancedBatches
from psdiff_jax.teacher.crop_teacher import CropTeacher
from psdiff_jax.teacher.kinds import open_targets, open_teacher
from psdiff_jax.teacher.memory_bank import init_memory_bank
from psdiff_jax.teacher.network import apply_teacher
from psdiff_jax.teacher.options import TeacherOptions
from psdiff_jax.teacher.step import (
    TeacherState,
    create_state,
    learning_rate,
    make_optimizer,
    make_step,
    new_state,
    split,
)
from psdiff_jax.teacher.train import train_teacher

from ..stored import stored
from .test_train import CONFIG as SMALL
from .test_train import SWIN, options_of, striped_people

pytestmark = pytest.mark.slow

CONFIG = {"backbone": "tiny", "embedding_dim": 48, "crop_size": (32, 16), "steps": 0}


class Dataset:
    """One coloured person an image, eight a split."""

    name = "colours"

    def __init__(self):
        colours = np.random.default_rng(0).integers(0, 256, (2, 8, 3))
        for part, own in zip(("train", "gallery"), colours, strict=True):
            pictures = [np.tile(colour.astype(np.uint8), (20, 10, 1)) for colour in own]
            setattr(self, f"{part}_source", [stored(p) for p in pictures])

    def source(self, split: str):
        return getattr(self, f"{split}_source")

    def annotations(self, split: str) -> Annotations:
        return Annotations(
            tuple(f"{split}{i}.png" for i in range(8)), np.full((8, 2), (20, 10), np.int32), np.zeros(8, np.int32),
            np.arange(8), (np.asarray([[0, 0, 10, 20]], np.float32),) * 8, tuple(np.asarray([i]) for i in range(8)),
        )  # fmt: skip


def colour_teacher(path, crop_size=(24, 12), *rest) -> CropTeacher:
    """Three numbers a crop: what `load_teacher`, `load_onnx` and `load_openvino` give."""

    def embed(crops):
        x = crops.reshape(len(crops), -1, 3).mean(1) + 1.0
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    return CropTeacher(embed, 3, f"{path}{rest}", crop_size, f"colours of {path}")


def backbone_file(tmp_path, name="tiny", seed=3):
    state = nnx.state(abstract_backbone(TeacherOptions(backbone=name).spec()))
    rng = np.random.default_rng(seed)
    values = {  # variances, scales and biases of a network that neither dies nor explodes
        key: rng.uniform(0.5, 1.5, leaf.shape) if leaf.ndim == 1 else rng.normal(0, 0.1, leaf.shape)
        for key, leaf in flatten_state(state).items()
    }
    np.savez(tmp_path / "backbone.npz", **{key: value.astype(np.float32) for key, value in values.items()})
    return str(tmp_path / "backbone.npz"), values


@pytest.mark.parametrize(
    "kind, size, rest",
    [
        ("network", (24, 12), ()),
        ("onnx", (32, 16), ("unit", "bilinear")),
        ("openvino", (32, 16), ("unit", "bilinear")),
    ],
)
def test_teachers_brought_along_are_loaded_by_their_kind(kind, size, rest, monkeypatch, tmp_path):
    monkeypatch.setattr(onnx_teacher, "load_onnx", colour_teacher)
    monkeypatch.setattr(openvino_teacher, "load_openvino", colour_teacher)
    monkeypatch.setitem(sys.modules, "psdiff_jax.teacher.convert", SimpleNamespace(load_teacher=colour_teacher))
    given = {"crop_size": (32, 16), "preprocessing": "unit", "interpolation": "bilinear"}
    options = options_of({"kind": kind, "file": "x.bin"} | given)
    teacher = open_teacher(options, Dataset(), tmp_path)
    assert (teacher.dim, teacher.crop_size, teacher.hash) == (3, size, f"x.bin{rest}")

    dataset = Dataset()
    own = open_targets(options, dataset, tmp_path, ("gallery",), embedding_dim=None)
    assert own.dim == 3
    narrow = open_targets(options, dataset, tmp_path, ("gallery",), embedding_dim=2)
    assert narrow.dim == 2 and (tmp_path / "projection.npz").is_file()
    # An independent PCA: the two main directions of the train split's embeddings, found by an SVD of the rows.
    train = open_targets(options, dataset, tmp_path, embedding_dim=None).all("train")
    directions = np.linalg.svd(train - train.mean(0))[2][:2]
    expected = (own.all("gallery") - train.mean(0)) @ directions.T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    rows = narrow.all("gallery")
    np.testing.assert_allclose(rows @ rows.T, expected @ expected.T, atol=1e-4)


def test_embeddings_of_a_file_are_projected_too_and_are_no_network(tmp_path):
    dataset, rng = Dataset(), np.random.default_rng(1)
    names = [f"{split}{i}.png" for split in ("train", "gallery") for i in range(8)]
    np.savez(
        tmp_path / "t.npz",
        image_name=names,
        box_xywh=np.tile(np.float32([0, 0, 10, 20]), (16, 1)),
        embedding=rng.normal(size=(16, 6)),
    )
    options = options_of({"kind": "file", "file": str(tmp_path / "t.npz")})
    assert open_targets(options, dataset, tmp_path, ("gallery",), embedding_dim=6).dim == 6
    targets = open_targets(options, dataset, tmp_path, ("gallery",), embedding_dim=4)
    assert targets.dim == 4 and targets.lookup("gallery", 3).shape == (1, 4)
    np.testing.assert_allclose(np.linalg.norm(targets.all("gallery"), axis=1), 1, atol=1e-5)
    np.savez(
        tmp_path / "t.npz",
        image_name=names[8:],
        box_xywh=np.tile(np.float32([0, 0, 10, 20]), (8, 1)),
        embedding=rng.normal(size=(8, 6)),
    )
    with pytest.raises(InputError, match=r"no embedding for train0\.png .*PCA to 4-d is fitted on the train split.*=6"):
        open_targets(options, dataset, tmp_path, ("gallery",), embedding_dim=4)
    with pytest.raises(InputError, match=r"kind=file: .*t\.npz holds embeddings, not a network"):
        open_teacher(options, dataset, tmp_path).embed(np.zeros((1, 32, 16, 3), np.uint8))


def test_a_backbone_alone_is_a_teacher_of_its_own_width(tmp_path):
    """What ImageNet's features are worth: pooled, of unit length, no head and a neck that changes nothing."""
    path, values = backbone_file(tmp_path)
    state = new_state(options_of(CONFIG | {"init_from": path}))
    for name, value in values.items():
        np.testing.assert_array_equal(flatten_state(state)[f"backbone/{name}"], value.astype(np.float32))
    teacher = train_teacher(options_of(CONFIG | {"init_from": path}), Dataset(), tmp_path / "w")
    crops = np.random.default_rng(0).integers(0, 256, (4, 32, 16, 3), np.uint8)
    graphdef = nnx.graphdef(abstract_backbone(teacher.options.spec()))
    maps = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state["backbone"], crops.astype(np.float32))
    pooled = np.asarray(maps[-1]).mean((1, 2))
    expected = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    np.testing.assert_allclose(teacher.embed(crops), expected, atol=1e-5)
    assert "backbone.npz" in teacher.as_crop_teacher().title
    with pytest.raises(InputError, match=r"steps=0: .*backbone\.npz is a backbone alone.*embedding_dim=48"):
        new_state(options_of(CONFIG | {"init_from": path, "embedding_dim": 32}))


def test_a_swin_is_a_backbone_of_a_teacher_too():
    """Pooled and projected like any other; in training only the neck has statistics. (No compiled step: it is slow.)"""
    options = options_of(SMALL | {"backbone": SWIN})
    state, crops = new_state(options), striped_people().crops[:8]
    names = flatten_state(state)
    assert "backbone/stages/0/blocks/0/attn/bias_table" in names and names["project/kernel"].shape == (16, 12)
    graphdef, params, stats = split(options, state)
    assert set(flatten_state(stats)) == {"neck/mean", "neck/var"}

    backbone = nnx.graphdef(abstract_backbone(options.spec()))
    both = jax.jit(lambda p, s, c, b: (apply_teacher(graphdef, p, s, c, True), nnx.merge(backbone, b)(c)))
    (embeddings, after), maps = both(params, stats, crops.astype(np.float32), state["backbone"])
    x = np.asarray(maps[-1]).mean((1, 2)) @ np.asarray(names["project/kernel"])
    np.testing.assert_allclose(flatten_state(after)["neck/mean"], 0.1 * x.mean(0), atol=1e-5)
    x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    np.testing.assert_allclose(embeddings, x / np.linalg.norm(x, axis=1, keepdims=True), atol=1e-4)

    memory = init_memory_bank(np.eye(2, 12, dtype=np.float32), np.asarray([0, 1]), 2)
    start = TeacherState(np.int32(0), params, stats, make_optimizer(options).init(params), memory)
    batch = {"crops": crops, "labels": np.zeros(8, np.int32)}
    end, metrics = jax.eval_shape(make_step(graphdef, options), start, batch)
    assert jax.tree.map(np.shape, end) == jax.tree.map(np.shape, start) and metrics["loss"].shape == ()


def test_the_memory_bank_begins_with_what_training_will_see(tmp_path):
    """By the batch's statistics, also where a teacher is fine-tuned that has running ones of other crops."""
    crops = striped_people(unlabelled=0)
    save_npz(tmp_path / "t.npz", new_state(options_of(SMALL)))
    options = options_of(SMALL | {"init_from": str(tmp_path / "t.npz")})
    graphdef, state = create_state(options, crops, BalancedBatches(crops, 16, 2))
    apply = jax.jit(lambda p, s, c: apply_teacher(graphdef, p, s, c, True)[0])
    embeddings = np.asarray(apply(state.params, state.stats, crops.crops))
    mean = embeddings.reshape(32, 4, 12).mean(1)
    np.testing.assert_allclose(state.memory_bank.mean, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-4)


def test_step_decay_is_torchs():
    """HHCL: Adam at 3.5e-4, a tenth after 20 of 50 epochs and again after 40."""
    torch = pytest.importorskip("torch")
    options = TeacherOptions(steps=50, schedule="step", warmup_steps=0)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=3.5e-4)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=20, gamma=0.1)
    for step in range(50):
        assert float(learning_rate(options)(step)) == pytest.approx(schedule.get_last_lr()[0], rel=1e-5), step
        optimizer.step()
        schedule.step()


def test_negatives_that_no_batch_replaces_are_left_out():
    crops = striped_people(unlabelled=5)
    options = options_of(SMALL | {"negatives": 4})
    sizes = [
        create_state(options, crops, BalancedBatches(crops, 16, 2, unlabelled=count))[1].memory_bank.negatives.shape
        for count in (2, 0)
    ]
    assert sizes == [(4, 12), (0, 12)]


def test_the_base_config_lists_every_key():
    """Only what it lists can be set on the command line."""
    listed = get_config().teacher.to_dict()
    assert listed.keys() == vars(TeacherOptions()).keys()
    assert {type(value) for value in listed.values()} == {str, int, float, bool, tuple}


def test_what_does_not_change_a_teacher_does_not_train_it_again(tmp_path, monkeypatch):
    path, _ = backbone_file(tmp_path)
    config = CONFIG | {"init_from": path}
    monkeypatch.setenv("HOME", str(tmp_path))
    home = from_values({"teacher": config | {"init_from": "~/backbone.npz"}}).teacher
    train_teacher(home, Dataset(), tmp_path / "w")
    stamp = (tmp_path / "w" / "teacher.npz").stat().st_mtime_ns
    train_teacher(
        options_of(config | {"whiten": True, "preprocessing": "unit", "interpolation": "bilinear"}),
        Dataset(),
        tmp_path / "w",
    )
    assert (tmp_path / "w" / "teacher.npz").stat().st_mtime_ns == stamp
