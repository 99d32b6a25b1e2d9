"""The inverted file: what it finds is exact, and it finds nearly everything."""

import sys

import numpy as np
import pytest

from psdiff_jax.errors import InputError
from psdiff_jax.inference import approximate
from psdiff_jax.inference.nearest import top_k


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """(queries, blocks, file): 60 identities, each with 50 embeddings."""
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.normal(size=(60, 32)), 50, axis=0) + 0.4 * rng.normal(size=(3000, 32))
    vectors = rng.permutation(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    blocks = np.split(vectors, [1000, 1003])
    path = tmp_path_factory.mktemp("index") / "ivf.faiss"
    approximate.build(blocks, path, lists=20)
    return vectors[::500].astype(np.float32), blocks, path


def test_with_every_cell_it_is_the_exact_search(index):
    queries, blocks, path = index
    similarities, rows = approximate.top_k(path, queries, 30, probes=99)
    exact = top_k(queries, blocks, 30)
    assert approximate.recall(rows, exact[1]) > 0.99  # float16 twins may change places at the end
    np.testing.assert_allclose(similarities, exact[0], atol=1e-3)


def test_recall_grows_with_the_cells(index):
    queries, blocks, path = index
    exact = top_k(queries, blocks, 30)[1]
    few, more = (approximate.recall(approximate.top_k(path, queries, 30, probes=n)[1], exact) for n in (1, 4))
    assert 0.5 < few <= more and more > 0.9


def test_rows_may_be_left_out(index):
    queries, _, path = index
    keep = np.zeros(3000, bool)
    keep[[7, 2000]] = True
    similarities, rows = approximate.top_k(path, queries, 3, probes=99, keep_K=keep)
    assert {frozenset(r) for r in rows.tolist()} == {frozenset({7, 2000, -1})}
    assert np.isneginf(similarities[:, 2]).all()


def test_recall_counts_what_there_is():
    assert approximate.recall(np.array([[1, 2], [5, 4]]), np.array([[2, 3], [4, -1]])) == pytest.approx(2 / 3)


def test_without_faiss_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match=r"psdiff-jax\[index\]"):
        approximate.build([np.zeros((1, 4), np.float16)], tmp_path / "x")
