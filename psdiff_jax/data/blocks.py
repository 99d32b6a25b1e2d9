"""Rows that lie in several arrays, as one: the embeddings of shards, memory-mapped where they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np


class Parts:
    """Arrays, each of which is loaded when its turn comes; they may be gone through any number of times.

    loaders: of the arrays. A mapped file is an open one, and a process may open about a thousand.
    """

    def __init__(self, loaders: Sequence[Callable[[], np.ndarray]]):
        self._loaders = loaders

    def __iter__(self) -> Iterator[np.ndarray]:
        return (load() for load in self._loaders)

    def __len__(self) -> int:
        return len(self._loaders)

    def __getitem__(self, number: int) -> np.ndarray:
        return self._loaders[number]()


class Blocks:
    """Arrays [K,D], one after the other, as one float32 array of which only what is asked for is copied.

    `blocks[rows]` takes a slice of step 1 or an array of row numbers; `np.asarray(blocks)` copies all.

    loaders: of the arrays, called whenever rows are read (`Parts`). lengths: of the arrays. width: D.
    parts: the arrays that have rows.
    """

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(self, loaders: Sequence[Callable[[], np.ndarray]], lengths: Sequence[int], width: int):
        self.parts = Parts([load for load, length in zip(loaders, lengths, strict=True) if length])
        self._starts = np.cumsum([0, *(length for length in lengths if length)])
        self.shape = int(self._starts[-1]), width

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        rows = np.asarray(rows)
        found = np.empty((len(rows), self.shape[1]), self.dtype)
        block_of = np.searchsorted(self._starts, rows, side="right") - 1
        for block in np.unique(block_of):
            inside = block_of == block
            found[inside] = self.parts[block][rows[inside] - self._starts[block]]
        return found

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("blocks are one array only as a copy")
        found = np.empty(self.shape, dtype or self.dtype)
        for start, part in zip(self._starts, self.parts, strict=False):
            found[start : start + len(part)] = part
        return found
