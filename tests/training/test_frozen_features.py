"""Features of frozen backbones that are computed once: the same training as on images, and nothing made twice."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from psdiff_jax.data import pipeline
from psdiff_jax.data.options import AugmentOptions, DataOptions
from psdiff_jax.diffusion.samplers import SamplerOptions
from psdiff_jax.errors import InputError
from psdiff_jax.models.psdiff import PSDiff
from psdiff_jax.training import frozen_features
from psdiff_jax.training.frozen_features import maps_of, store_features
from psdiff_jax.training.matcher import MatchOptions
from psdiff_jax.training.states import NoiseOptions
from psdiff_jax.training.step import loss_fn

from ..data.test_pipeline import LANDSCAPE, MemoryDataset, PositionTargets

IMAGES, VIEWS = 11, 2
OPTIONS = DataOptions(
    image_size=(32, 48), max_boxes=5, augment=AugmentOptions(scale_jitter=(0.7, 1.3), color=0.2), held_out=0.0
)


@pytest.fixture(scope="module")
def model(tiny):
    """One that reads embeddings from a second backbone, at twice the resolution."""
    options = replace(tiny.options, reid_backbone="tiny", readout_rows=2, downsample=2)
    made = tiny.make(options)
    return nnx.merge(made.graphdef, made.params, made.rest)


@pytest.fixture(scope="module")
def make_views():
    dataset = MemoryDataset(IMAGES, LANDSCAPE)
    targets = PositionTargets(dataset)
    return lambda view: pipeline.view_batches(dataset, OPTIONS, view=view, batch_size=4, seed=3, targets=targets)


@pytest.fixture(scope="module")
def stored(tmp_path_factory, model, make_views):
    return store_features(tmp_path_factory.mktemp("run"), model, make_views, IMAGES, VIEWS, "once")


def test_rows_are_the_maps_and_boxes_of_the_view(stored, model, make_views):
    for view in range(VIEWS):
        for batch in make_views(view):
            rows = np.flatnonzero(batch["valid"])
            found = stored.batch([view] * len(rows), batch["image_index"][rows])
            for name in batch.keys() - {"image", "valid"}:
                np.testing.assert_array_equal(found[name], batch[name][rows], err_msg=name)
            maps = model.maps(batch["image"][rows], jnp.asarray(batch["image_size"][rows]))
            for wanted, kept in zip(jax.tree.leaves(maps), jax.tree.leaves(maps_of(found, jnp.float32)), strict=True):
                np.testing.assert_allclose(kept, wanted, rtol=2e-3, atol=2e-3)
    first, second = (stored.batch([view] * IMAGES, range(IMAGES)) for view in range(VIEWS))
    assert not np.array_equal(first["boxes"], second["boxes"])  # views differ


def test_epochs_go_through_the_views_of_every_image(stored):
    batches = pipeline.stored_batches(stored, OPTIONS, batch_size=4, seed=3)
    seen = [next(batches) for _ in range(11)]  # four epochs of 11 images
    indices = np.concatenate([batch["image_index"] for batch in seen])
    boxes = np.concatenate([batch["boxes"] for batch in seen])
    for epoch in range(4):
        rows = slice(epoch * IMAGES, (epoch + 1) * IMAGES)
        assert sorted(indices[rows]) == list(range(IMAGES))
        wanted = stored.batch([epoch % VIEWS] * IMAGES, indices[rows])["boxes"]
        np.testing.assert_array_equal(boxes[rows], wanted)
    batches.set_state({**batches.get_state(), "step": 5})
    np.testing.assert_array_equal(next(batches)["image_index"], seen[5]["image_index"])


def test_the_loss_is_that_of_the_images(stored, model, make_views, tiny):
    """Half precision apart; gradients reach the pyramid."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    batch = next(iter(make_views(0)))
    kept = stored.batch([0] * 4, batch["image_index"])
    wide = np.zeros((*batch["embeddings"].shape[:2], tiny.options.embedding_dim), np.float32)
    noise = NoiseOptions(num_proposals=12, rollout_probability=0.0)  # rollouts read the same maps
    loss = partial(loss_fn, noise=noise, matching=MatchOptions(), sampler=SamplerOptions(num_proposals=12))

    @jax.jit
    def of(trained, batch):
        def total(trained):
            return loss(nnx.State({**params, **trained}), rest, graphdef, jax.random.key(0), batch)[0]

        return jax.value_and_grad(total)(trained)

    def given(batch):
        return {name: jnp.asarray(rows) for name, rows in batch.items() if name != "valid"} | {"embeddings": wide}

    total, gradients = of({"fpn": params["fpn"]}, given(batch))
    total_kept, gradients_kept = of(dict(params), given(kept))
    np.testing.assert_allclose(total_kept, total, rtol=1e-3)
    for a, b in zip(jax.tree.leaves(gradients["fpn"]), jax.tree.leaves(gradients_kept["fpn"]), strict=True):
        np.testing.assert_allclose(b, a, rtol=0.05, atol=0.02 * float(jnp.abs(a).max()))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradients_kept["backbone"]))


def test_only_what_is_missing_or_out_of_date_is_made(tmp_path, model, make_views, capsys):
    made = []

    def counted(view):
        made.append(view)
        return make_views(view)

    store = partial(store_features, tmp_path, view_batches=counted, images=IMAGES)
    store(model, views=1, made_from="a")
    store(model, views=2, made_from="a")
    assert made == [0, 1]
    store(model, views=2, made_from="b")  # other data
    assert made == [0, 1, 0, 1]
    graphdef, state = nnx.split(model)
    other: PSDiff = nnx.merge(graphdef, jax.tree.map(lambda v: v * 1.1, state))
    before = store(model, views=1, made_from="b").batch([0], [0])
    after = store(other, views=1, made_from="b").batch([0], [0])
    assert made == [0, 1, 0, 1, 0] and not np.array_equal(before["stage_0"], after["stage_0"])
    assert capsys.readouterr().err.count("is stale (other data, weights or options): computing it again") == 2
    (tmp_path / "made_from.json").write_bytes(b"\xff")  # a flipped bit
    again = store(other, views=1, made_from="b").batch([0], [0])
    np.testing.assert_array_equal(again["stage_0"], after["stage_0"])


def test_maps_of_another_resolution_are_other_maps(tmp_path, model, make_views, tiny):
    """Although their weights are the same."""
    store = partial(store_features, tmp_path, view_batches=make_views, images=IMAGES, views=1, made_from="a")
    made = tiny.make(replace(model.options, downsample=1))
    larger: PSDiff = nnx.merge(made.graphdef, made.params, made.rest)
    before, after = store(model).batch([0], [0])["stage_0"], store(larger).batch([0], [0])["stage_0"]
    assert after.shape[1:3] == (2 * before.shape[1], 2 * before.shape[2])


def test_runs_share_a_folder_and_do_not_disturb_each_other(tmp_path, model, make_views, tiny):
    made = []

    def counted(view):
        made.append(view)
        return make_views(view)

    store = partial(store_features, tmp_path, view_batches=counted, images=IMAGES, shared=True)
    first = store(model, views=1, made_from="a")
    store(model, views=1, made_from="b")
    other = tiny.make(replace(model.options, cascade="parallel"))
    cascade: PSDiff = nnx.merge(other.graphdef, other.params, other.rest)
    again = store(cascade, views=2, made_from="a")  # another denoising layer behind the same maps
    assert made == [0, 0, 1] and len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2
    np.testing.assert_array_equal(again.batch([0], [3])["stage_0"], first.batch([0], [3])["stage_0"])


def test_a_disk_that_is_too_small_is_named_before_the_work(tmp_path, model, make_views, monkeypatch):
    usage = frozen_features.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(frozen_features.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(InputError, match=r"config\.train\.views: the features of 3 views of 11 images need"):
        store_features(tmp_path, model, make_views, IMAGES, 3, "x")
    assert not (tmp_path / "0").exists()
