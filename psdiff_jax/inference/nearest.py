"""Exact nearest neighbours: the rows of an index that are most similar to each query, on all devices.

    similarities_Qk, rows_Qk = top_k(queries_QD, shards, 20)

The index is read piece by piece (`PIECE` rows a device), so it may be larger than the memory. A piece stays float16 on
its way to a device and is multiplied as float32: on CPUs XLA casts several times faster than NumPy (docs/results.md,
"Search").

Legend: Q query, K row of the index, R row of a piece, D embedding, k neighbour.
"""

import mmap
from collections.abc import Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from psdiff_jax import parallel
from psdiff_jax.data.blocks import Parts
from psdiff_jax.errors import InputError

PIECE = 8192  # rows that a device takes at once
ROWS, COLUMNS, EVERYWHERE = PartitionSpec("data"), PartitionSpec(None, "data"), PartitionSpec()


def top_k(
    queries_QD: np.ndarray, blocks: Sequence[np.ndarray] | Parts, k: int, keep_K: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` rows with the largest dot products with each query, best first, equals in the order of their rows.

    Compiles once for each number of queries and each power of two that `k` is rounded up to. On a pod each process
    searches by itself.

    Args:
      queries_QD: float32, unit norm.
      blocks: the K rows in parts [K_i,D], float16 or float32, memory-mapped or not; K is below 2**31.
      keep_K: the rows that may be found; None: all.

    Returns:
      similarities float32 [Q,k] and rows int64 [Q,k] into all blocks in a row; -inf and -1 where there are
      fewer than `k` rows.

    Raises:
      InputError: a block is not as wide as the queries.
    """
    mesh = parallel.make_mesh(local=True)
    queries = parallel.put_replicated(np.asarray(queries_QD, np.float32), mesh)
    on_rows, on_columns = parallel.batch_sharding(mesh), NamedSharding(mesh, COLUMNS)
    size = len(queries_QD), mesh.shape["data"] * (1 << max(k - 1, 0).bit_length())
    best = [parallel.put(np.full(size, *of), on_columns) for of in ((-np.inf, np.float32), (-1, np.int32))]
    for first, *piece in _pieces(blocks, keep_K, PIECE * mesh.shape["data"]):
        if piece[0].shape[1] != queries.shape[1]:
            raise InputError(f"query embeddings are {queries.shape[1]} wide, the index's {piece[0].shape[1]}")
        best = _merge(*best, queries, *(parallel.put(part, on_rows) for part in piece), np.int32(first), mesh)
        jax.block_until_ready(best)  # no more than one piece is on its way
    similarities, rows = parallel.fetch(best)
    order = np.lexsort((rows, -similarities))[:, :k]
    similarities, rows = (np.take_along_axis(v, order, axis=1) for v in (similarities, rows))
    return similarities, np.where(np.isneginf(similarities), -1, rows.astype(np.int64))


def _pieces(
    blocks: Sequence[np.ndarray] | Parts, keep_K: np.ndarray | None, rows: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(its first row, piece [R,D], which rows count bool [R]) with R = `rows`: the last piece of a block is padded.

    Pieces in which no row counts are left out.
    """
    first = 0
    for block in blocks:
        for begin in range(0, len(block), rows):
            piece = np.asarray(block[begin : begin + rows])
            count = len(piece)
            kept = np.ones(count, bool) if keep_K is None else keep_K[first : first + count]
            if kept.any():
                missing = rows - count
                if missing:
                    piece, kept = np.pad(piece, ((0, missing), (0, 0))), np.pad(kept, (0, missing))
                yield first, piece, kept
                _let_go(block)
            first += count


def _let_go(block: np.ndarray) -> None:
    """Takes a memory-mapped file's pages out of this process; the system's cache keeps them while it has room."""
    mapped = getattr(block, "_mmap", None)
    if mapped is not None:
        mapped.madvise(mmap.MADV_DONTNEED)


@partial(jax.jit, static_argnames="mesh")
def _merge(
    similarities_Qk: jax.Array,
    rows_Qk: jax.Array,
    queries_QD: jax.Array,
    piece_RD: jax.Array,
    kept_R: jax.Array,
    first: jax.Array,
    mesh: Mesh,
) -> tuple[jax.Array, jax.Array]:
    """The nearest so far, k on each device, with what is nearer in a piece that begins at row `first`.

    Devices do not wait for each other: each has neighbours of its own, among the rows that it has seen.
    """

    def merge(similarities_Qk, rows_Qk, queries_QD, piece_RD, kept_R, first):
        k, count = similarities_Qk.shape[1], len(piece_RD)
        products_QR = jnp.matmul(queries_QD, piece_RD.astype(jnp.float32).T, precision=jax.lax.Precision.HIGHEST)
        found_Qk, row_Qk = jax.lax.top_k(jnp.where(kept_R, products_QR, -jnp.inf), min(k, count))
        row_Qk += first + count * jax.lax.axis_index("data")
        # Among equals `top_k` prefers the first, which is the one that was seen before.
        best_Qk, order = jax.lax.top_k(jnp.concatenate([similarities_Qk, found_Qk], axis=1), k)
        return best_Qk, jnp.take_along_axis(jnp.concatenate([rows_Qk, row_Qk], axis=1), order, axis=1)

    specs = COLUMNS, COLUMNS, EVERYWHERE, ROWS, ROWS, EVERYWHERE
    mapped = jax.shard_map(merge, mesh=mesh, in_specs=specs, out_specs=(COLUMNS, COLUMNS))
    return mapped(similarities_Qk, rows_Qk, queries_QD, piece_RD, kept_R, first)
