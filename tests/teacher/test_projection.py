"""PCA: agrees with scikit-learn's, loses no distance where it need not, is kept beside the targets and renewed."""

import re

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score

from psdiff_jax.data.schema import Annotations
from psdiff_jax.errors import InputError
from psdiff_jax.teacher.crop_teacher import CropTeacher, network_targets, project, teacher_of_width
from psdiff_jax.teacher.projection import Projection, fit_pca, targets_of_width
from psdiff_jax.teacher.targets import Targets

from ..stored import stored


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def people(count=40, views=4, width=24, spread=0.15, seed=0):
    """float32 [count x views, width] of length one, and their identities; identities span 10 directions."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(count, 10)) @ rng.normal(size=(10, width))
    rows = np.repeat(centres, views, axis=0) + spread * rng.normal(size=(count * views, width))
    return unit(rows).astype(np.float32), np.repeat(np.arange(count), views)


def mean_average_precision(rows, ids):
    scores = rows @ rows.T
    others = ~np.eye(len(rows), dtype=bool)
    return np.mean([average_precision_score(ids[o] == i, s[o]) for s, o, i in zip(scores, others, ids, strict=True)])


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("dim", [1, 7, 24])
def test_agrees_with_scikit_learn(whiten, dim):
    rows, _ = people()
    ours, theirs = fit_pca(rows, dim, whiten), PCA(dim, whiten=whiten, svd_solver="full").fit(rows.astype(np.float64))
    expected = theirs.transform(rows.astype(np.float64))
    signs = np.sign((ours.basis * theirs.components_.T).sum(0))
    assert (np.abs(signs) == 1).all() and (ours.basis[np.abs(ours.basis).argmax(0), range(dim)] > 0).all()
    np.testing.assert_allclose((rows - ours.mean) @ ours.basis * signs, expected, atol=2e-5 * np.abs(expected).max())
    np.testing.assert_allclose(ours(rows) * signs, unit(expected), atol=1e-4)
    assert ours.kept == pytest.approx(theirs.explained_variance_ratio_.sum(), abs=1e-9)
    assert ours.whiten == whiten and ours(rows).dtype == np.float32


def test_a_case_by_hand():
    rows = np.asarray([[3, 0, 0], [-3, 0, 0], [0, 0, 1], [0, 0, -1]], np.float32) + np.float32([5, 7, 9])
    projection = fit_pca(rows, 1)
    np.testing.assert_allclose(projection.mean, [5, 7, 9])
    np.testing.assert_allclose(projection.basis, [[1], [0], [0]], atol=1e-7)
    assert projection.kept == pytest.approx(0.9)  # 18 of 20
    assert projection.describe() == "PCA of 3-d embeddings to 1-d, 90.0% of the variance kept"
    np.testing.assert_allclose(projection(rows), [[1], [-1], [0], [0]], atol=1e-6)


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("count, width, dim, rank", [(5, 12, 8, 4), (50, 6, 9, 6), (2, 6, 4, 1)])
def test_too_few_crops_or_too_narrow_a_teacher(count, width, dim, rank, whiten):
    rows = unit(np.random.default_rng(0).normal(size=(count, width))).astype(np.float32)
    projection = fit_pca(rows, dim, whiten)
    assert projection.basis.shape == (width, dim) and projection.kept == pytest.approx(1)
    assert (np.abs(projection.basis).max(0) > 0).tolist() == [True] * rank + [False] * (dim - rank)
    theirs = PCA(rank, whiten=whiten, svd_solver="full").fit_transform(rows.astype(np.float64))
    gram = projection(rows) @ projection(rows).T
    np.testing.assert_allclose(gram, unit(theirs) @ unit(theirs).T, atol=1e-4)


def test_directions_that_are_rounding_errors_are_left_out():
    rng = np.random.default_rng(0)
    rows = unit(rng.normal(size=(200, 3)) @ rng.normal(size=(3, 16))).astype(np.float32)
    projection = fit_pca(rows, 8, whiten=True)
    assert (np.abs(projection.basis).max(0) > 0).sum() == 3
    with pytest.raises(InputError, match="the 6 embeddings of the train split are all the same"):
        fit_pca(np.tile(rows[:1], (6, 1)), 2)
    with pytest.raises(InputError, match="all the same"):
        fit_pca(rows[:1], 2)
    with pytest.raises(InputError, match="not finite"):
        fit_pca(np.full((4, 3), np.nan, np.float32), 2)


def test_what_it_costs_in_retrieval():
    rows, ids = people(20, spread=2.0)
    whole = mean_average_precision(rows, ids)
    ten, two = (mean_average_precision(fit_pca(rows, dim)(rows), ids) for dim in (10, 2))
    assert 0.5 < whole < 1 and ten > whole - 0.01 and two < whole - 0.2


def test_save_and_load(tmp_path):
    rows, _ = people()
    first = fit_pca(rows, 5, True)
    first.save(tmp_path / "p.npz")
    loaded = Projection.load(tmp_path / "p.npz")
    assert vars(loaded).keys() >= {"mean", "basis"} and loaded.hash == first.hash and loaded.whiten is True
    assert (loaded(rows) == first(rows)).all() and loaded.kept == first.kept
    assert fit_pca(rows, 5, False).hash != first.hash != fit_pca(rows[1:], 5, True).hash
    np.savez(tmp_path / "p.npz", mean=first.mean)
    with pytest.raises(InputError, match=r"p\.npz: not a projection, it has no array 'basis'"):
        Projection.load(tmp_path / "p.npz")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match=r"file/p\.npz: cannot be written \("):
        first.save(tmp_path / "file/p.npz")


class Dataset:
    """Images of one person each whose crops a teacher looks up by their first pixel."""

    name = "memory"

    def __init__(self, count):

        images = [np.full((8, 4, 3), i, np.uint8) for i in range(count)]
        self.train_source = self.gallery_source = [stored(i) for i in images]

    def source(self, split):
        return self.train_source

    def annotations(self, split):
        count = len(self.train_source)
        return Annotations(
            tuple(f"{i}.png" for i in range(count)), np.full((count, 2), (8, 4), np.int32), np.zeros(count, np.int32),
            np.arange(count), (np.float32([[0, 0, 4, 8]]),) * count, tuple(np.asarray([i]) for i in range(count)),
        )  # fmt: skip


def test_a_teacher_of_another_width(tmp_path, capsys):
    rows, _ = people(20, 5)
    dataset, calls = Dataset(len(rows)), []

    def embed(crops):
        calls.append(len(crops))
        return rows[crops[:, 0, 0, 0]]

    wide = CropTeacher(embed, 24, "wide", (8, 4), "lookup")
    assert teacher_of_width(wide, dataset, 24, folder=tmp_path) is wide and not calls

    def run(dim=6, whiten=False):
        teacher = teacher_of_width(wide, dataset, dim, folder=tmp_path, whiten=whiten)
        return teacher, network_targets(teacher, dataset, ("train", "gallery"), folder=tmp_path)

    teacher, targets = run()
    theirs = unit(PCA(6, svd_solver="full").fit_transform(rows.astype(np.float64)))
    for split in ("train", "gallery"):
        ours = targets.all(split)
        assert isinstance(ours, np.memmap) and ours.shape == (100, 6)
        np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-5)
    np.testing.assert_allclose(teacher.embed(np.full((1, 8, 4, 3), 7, np.uint8)), targets.lookup("train", 7), atol=1e-6)
    assert teacher.dim == 6 and teacher.hash not in ("wide", run(5)[0].hash)
    kept = re.search(r"lookup: PCA of 24-d embeddings to 6-d, (.*)% of the variance kept", capsys.readouterr().err)
    assert float(kept[1]) == pytest.approx(100 * teacher.projection.kept, abs=0.06)

    # Another width does not ask the network again; what is stale is named.
    before = len(calls)
    run(7)
    said = capsys.readouterr().err
    assert len(calls) == before and "projection.npz is stale (width changed)" in said
    assert "targets-train.npy is stale (projection changed)" in said
    run(7, whiten=True)
    assert "projection.npz is stale (whitening changed)" in capsys.readouterr().err
    run(7, whiten=True)
    assert capsys.readouterr().err == ""
    (tmp_path / "projection.npz").write_bytes(b"rubbish")
    run(7, whiten=True)
    assert capsys.readouterr().err.count("stale") == 1 and len(calls) == before

    with pytest.raises(InputError, match="lookup: gives 24-d embeddings, the projection takes 5-d ones"):
        project(wide, fit_pca(rows[:, :5], 2))


def test_targets_of_a_file_of_another_width(tmp_path):
    rows, _ = people(10, 3)
    starts = np.asarray([0, 10, 30])
    by_split = {"train": rows, "gallery": rows[:20]}
    targets = Targets(by_split, {"train": starts, "gallery": starts[:2]}, "t.npz", ["note"])
    assert targets_of_width(targets, 24, folder=tmp_path) is targets
    narrow = targets_of_width(targets, 4, folder=tmp_path)
    theirs = unit(PCA(4, svd_solver="full").fit_transform(rows.astype(np.float64)))
    np.testing.assert_allclose(narrow.all("train") @ narrow.all("gallery").T, theirs @ theirs[:20].T, atol=1e-5)
    assert narrow.dim == 4 and narrow.lookup("train", 1).shape == (20, 4) and narrow.notes == ("note",)
    assert narrow.source.startswith("t.npz, PCA of 24-d embeddings to 4-d")
