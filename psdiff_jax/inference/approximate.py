"""Approximate nearest neighbours for indices of millions of people: an inverted file (IVF) of faiss, on disk.

    build(shards, folder / "ivf.faiss")
    similarities_Qk, rows_Qk = top_k(folder / "ivf.faiss", queries_QD, 20, probes=32)
    recall(rows_Qk, exact_rows_Qk)

Rows are sorted into `lists` cells around k-means centroids, and a query looks into the `probes` cells that are nearest
to it. Embeddings are stored as float16, so similarities are exact to about 1e-3. The file is mapped: a search reads the
cells that it looks into. Building holds the whole file in memory. Needs the extra `index`.

Legend: Q query, K row of the index, D embedding, k neighbour.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from psdiff_jax.data.blocks import Parts
from psdiff_jax.errors import InputError
from psdiff_jax.files import replacing

SAMPLE = 40  # training rows a cell; faiss advises 39 to 256
AT_ONCE = 65536  # rows


def build(blocks: Sequence[np.ndarray] | Parts, path: Path, lists: int | None = None) -> None:
    """Writes the inverted file of an index in parts [K_i,D] of unit rows.

    lists: number of cells; None: about 4 sqrt(K), which faiss advises for a million rows.

    Raises:
      InputError: faiss is not installed, or there are no rows.
    """
    faiss, count = _faiss(), sum(map(len, blocks))
    if not count:
        raise InputError(f"{path}: the index holds nobody")
    lists = min(lists or 4 * math.isqrt(count), max(1, count // SAMPLE))
    index = faiss.index_factory(blocks[0].shape[1], f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
    every = max(1, count // (SAMPLE * lists))
    index.train(np.concatenate([np.asarray(block[::every], np.float32) for block in blocks]))
    for block in blocks:
        for begin in range(0, len(block), AT_ONCE):
            index.add(np.asarray(block[begin : begin + AT_ONCE], np.float32))
    with replacing(path) as temporary:
        faiss.write_index(index, str(temporary))


def top_k(
    path: Path, queries_QD: np.ndarray, k: int, probes: int = 32, keep_K: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest.top_k`, among the rows of each query's nearest `probes` cells."""
    faiss = _faiss()
    index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    chosen = {} if keep_K is None else {"sel": faiss.IDSelectorBitmap(np.packbits(keep_K, bitorder="little"))}
    parameters = faiss.SearchParametersIVF(nprobe=min(probes, index.nlist), **chosen)
    similarities, rows = index.search(np.ascontiguousarray(queries_QD, np.float32), k, params=parameters)
    return np.where(rows < 0, -np.inf, similarities), rows


def recall(rows_Qk: np.ndarray, exact_Qk: np.ndarray) -> float:
    """The share of the exact neighbours that were found."""
    found = [np.isin(exact[exact >= 0], rows) for rows, exact in zip(rows_Qk, exact_Qk, strict=True)]
    return float(np.concatenate(found).mean())


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise InputError("an approximate index needs faiss: pip install 'psdiff-jax[index]'") from error
    return faiss
