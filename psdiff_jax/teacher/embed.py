"""Embeddings of crops by any function of them, a batch at a time.

Legend: B crops of a batch, N crops of a set, n boxes, h w rows and columns of a crop, D embedding.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from psdiff_jax.data.records import Images
from psdiff_jax.progress import progress
from psdiff_jax.teacher.crops import cut_crops

Embed = Callable[[np.ndarray], Any]  # crops uint8 [B,h,w,3] -> float32 [B,D], of NumPy or JAX


def embed_crops(
    embed: Embed, crops: np.ndarray, batch: int = 256, what: str = "embedding", order: np.ndarray | None = None
) -> np.ndarray:
    """float32 [N,D] of `crops` uint8 [N,h,w,3], taken in `order` (int [N], a permutation) but returned in their own.

    Every batch has the same size, so that one is compiled: the last is filled up with the first crops, not with copies
    of its own. A network that normalises by the batch's statistics would map copies of one crop to zero.
    """
    order = np.arange(len(crops)) if order is None else order
    batch = batch_size(batch, len(crops))
    if not len(crops):  # one blank crop gives D
        return np.asarray(embed(np.zeros((1, *crops.shape[1:]), np.uint8)), np.float32)[:0]
    chunks = [order[start : start + batch] for start in range(0, len(crops), batch)]
    parts = []
    for rows in progress(chunks, what, "crops", len(crops), len):
        part = np.asarray(embed(crops[np.resize(np.concatenate([rows, order]), batch)]), np.float32)
        parts.append(part[: len(rows)])
    embeddings = np.empty((len(crops), parts[0].shape[1]), np.float32)
    embeddings[order] = np.concatenate(parts)
    return embeddings


def cut_ahead(
    dataset: Images,
    split: str,
    size: tuple[int, int],
    ranges: Sequence[range],
    workers: int,
    interpolation: str = "bicubic",
) -> Iterator[np.ndarray]:
    """Crops uint8 [n,h,w,3] of each range of boxes; the next ones are cut out while the caller uses these."""

    def cut(rows: range) -> np.ndarray:
        crops = np.empty((len(rows), *size, 3), np.uint8)
        for _ in cut_crops(dataset, split, rows.start, crops, workers, interpolation):
            pass
        return crops

    with ThreadPoolExecutor(1) as thread:
        waiting = [thread.submit(cut, rows) for rows in ranges[:1]]
        for rows in [*ranges[1:], None][: len(ranges)]:
            crops = waiting.pop().result()
            if rows is not None:
                waiting.append(thread.submit(cut, rows))
            yield crops


def batch_size(batch: int, count: int) -> int:
    """`batch`, or less for a small set: a number that devices divide."""
    return min(batch, -(-count // 16) * 16)
