"""Nearest neighbours are NumPy's, on 1, 2 and 8 devices. As a program: the same comparison, on 8 devices."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from psdiff_jax.errors import InputError
from psdiff_jax.inference import nearest
from psdiff_jax.inference.nearest import top_k


def unit(rng: np.random.Generator, rows: int, width: int = 24) -> np.ndarray:
    vectors = rng.normal(size=(rows, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def plain_top_k(queries, blocks, k, keep=None):
    """Products in float64 of all rows, sorted."""
    index = np.concatenate(blocks).astype(np.float64)
    scores = queries.astype(np.float64) @ index.T
    if keep is not None:
        scores[:, ~keep] = -np.inf
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(scores, rows, axis=1)
    short = max(0, k - index.shape[0])
    found, rows = np.pad(found, ((0, 0), (0, short)), constant_values=-np.inf), np.pad(rows, ((0, 0), (0, short)))
    return found, np.where(np.isinf(found), -1, rows)


def check(queries, blocks, k, keep=None):
    similarities, rows = top_k(queries, blocks, k, keep)
    assert similarities.dtype == np.float32 and rows.dtype == np.int64 and rows.shape == (len(queries), k)
    expected = plain_top_k(queries, blocks, k, keep)
    np.testing.assert_array_equal(rows, expected[1])
    np.testing.assert_allclose(similarities, expected[0], rtol=1e-5, atol=1e-6)


def check_all(folder) -> None:
    """Uneven blocks of several pieces, in memory and mapped; k below and above their rows; rows left out."""
    nearest.PIECE = 64
    rng = np.random.default_rng(0)
    index = unit(rng, 3000).astype(np.float16)
    blocks = np.split(index, [1, 1, 700, 2100])  # one of them empty
    for i, block in enumerate(blocks):
        np.save(folder / f"{i}.npy", block)
    mapped = [np.load(folder / f"{i}.npy", mmap_mode="r") for i in range(len(blocks))]
    queries = unit(rng, 3)
    check(queries, blocks, 10)
    check(queries[:1], mapped, 1)
    check(queries, mapped, 200)
    check(queries, [b.astype(np.float32) for b in blocks], 7)
    keep = rng.random(3000) < 0.4
    keep[1:700] = False  # a whole block
    check(queries, mapped, 5, keep)
    few = np.zeros(3000, bool)
    few[[701, 2100, 2999]] = True
    check(queries, mapped, 5, few)


def test_neighbours_are_those_of_numpy(tmp_path, monkeypatch):
    monkeypatch.setattr(nearest, "PIECE", 64)
    check_all(tmp_path)


def test_equals_come_in_the_order_of_their_rows(monkeypatch):
    monkeypatch.setattr(nearest, "PIECE", 64)
    rng = np.random.default_rng(1)
    distinct = unit(rng, 5).astype(np.float16)
    rows = rng.integers(0, 5, 1000)
    index = distinct[rows]
    queries = unit(rng, 4)
    similarities, found = top_k(queries, np.split(index, [300, 550]), 400)
    for query, got, each in zip(queries, found, similarities, strict=True):
        order = np.argsort(-(distinct.astype(np.float32) @ query))
        expected = np.concatenate([np.flatnonzero(rows == i) for i in order])[:400]
        np.testing.assert_array_equal(got, expected)
        assert len(np.unique(each)) <= 5  # the same vector has the same similarity wherever it stands


def test_one_compilation_whatever_the_blocks():
    rng = np.random.default_rng(2)
    queries, index = unit(rng, 2), unit(rng, 500).astype(np.float16)
    top_k(queries, [index], 9)
    before = nearest._merge._cache_size()
    top_k(queries, np.split(index, [10, 77, 400]), 16)
    assert nearest._merge._cache_size() == before


def test_an_index_of_nothing_and_one_of_another_width():
    queries = unit(np.random.default_rng(3), 2)
    similarities, rows = top_k(queries, [], 3)
    assert (rows == -1).all() and np.isneginf(similarities).all() and rows.shape == (2, 3)
    with pytest.raises(InputError, match="query embeddings are 24 wide, the index's 8"):
        top_k(queries, [np.zeros((4, 8), np.float16)], 3)


def test_eight_devices_find_the_same(tmp_path):
    environment = {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, __file__, str(tmp_path)], capture_output=True, text=True, timeout=600,
                          env={**os.environ, **environment})  # fmt: skip
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    from pathlib import Path

    assert jax.device_count() == 8
    check_all(Path(sys.argv[1]))
