"""Time of a search in an index of made-up embeddings, beside NumPy's and faiss's in the same run.

    python scripts/benchmark_search.py [--rows 1000000] [--queries 16] [--top 20] [--repeats 5] [--inverted_file]
    python scripts/benchmark_search.py --rows 10000000 --on_disk FOLDER

Prints milliseconds a query (wall and CPU time, the fastest of the repeats), the ratio to ours, and the share of the
exact neighbours that were found; faiss is left out where it is not installed. --inverted_file also builds faiss's,
which takes minutes. With --on_disk the index is written to a
folder, 2 bytes a number, and only our search runs, on the mapped files; the peak memory says what it holds. Delete the
folder yourself.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from psdiff_jax.inference import approximate
from psdiff_jax.inference.nearest import top_k
from psdiff_jax.parallel import setup_cpu_devices

WIDTH, SHARD, PIECE = 256, 1_000_000, 8192
IDENTITIES = 16384
Found = tuple[np.ndarray, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=16)
    parser.add_argument("--top", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--inverted_file", action="store_true", help="also build and search faiss's inverted file")
    parser.add_argument("--on_disk", type=Path, help="folder for the index; only our search runs")
    arguments = parser.parse_args()
    setup_cpu_devices(0)
    count, top, repeats, folder = arguments.rows, arguments.top, arguments.repeats, arguments.on_disk
    shards = [shard(i, min(SHARD, count - i * SHARD), folder) for i in range(-(-count // SHARD))]
    queries = embeddings(np.random.default_rng(0), np.arange(arguments.queries))
    print(f"{count} rows of {WIDTH} float16, {len(queries)} queries, top {top}")
    ours = measured("ours", lambda: top_k(queries, shards, top), queries, repeats)
    one = measured("ours, one query at a time", lambda: top_k(queries[:1], shards, top), queries[:1], repeats)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    if folder:
        return
    index = np.concatenate(shards)

    def against(name: str, search: Callable[[], Found], ours=ours, queries=queries) -> None:
        measured(name, search, queries, repeats, ours)

    against("NumPy, float16 by pieces", lambda: numpy_by_pieces(queries, index, top))
    single = index.astype(np.float32)
    against("NumPy, float32 in memory", lambda: numpy_top_k(queries, single, top))
    if importlib.util.find_spec("faiss"):
        against_flat(against, queries, single, top)
        if arguments.inverted_file:
            against_inverted_file(against, queries, index, top, one)


def against_flat(against, queries, single, top) -> None:
    import faiss

    flat, half = (
        faiss.IndexFlatIP(WIDTH),
        faiss.IndexScalarQuantizer(WIDTH, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT),
    )
    for each in (flat, half):
        each.add(single)
    against("faiss flat, float32 in memory", lambda: flat.search(queries, top))
    against("faiss flat, float16", lambda: half.search(queries, top))


def against_inverted_file(against, queries, index, top, one) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ivf.faiss"
        begin = time.perf_counter()
        approximate.build([index], path)
        print(f"inverted file built in {time.perf_counter() - begin:.0f} s, {path.stat().st_size / 2**20:.0f} MiB")
        for probes in (8, 32, 128):
            against(f"faiss IVF, {probes} probes", lambda n=probes: approximate.top_k(path, queries, top, n))
        alone = queries[:1]
        against("faiss IVF, 32 probes, one query", lambda: approximate.top_k(path, alone, top), one, alone)


def measured(
    name: str, search: Callable[[], Found], queries: np.ndarray, repeats: int, ours: tuple[Found, float] | None = None
) -> tuple[Found, float]:
    """(what was found, CPU milliseconds a query), printed beside the wall clock's and beside ours."""
    walls, cpus, found = [], [], search()  # the first one compiles
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        found = search()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    wall, cpu = (1000 * min(seconds) / len(queries) for seconds in (walls, cpus))
    beside = ""
    if ours:
        (_, exact), our_cpu = ours
        beside = f"  {cpu / our_cpu:6.2f} x ours (CPU)  recall {approximate.recall(found[1], exact):.4f}"
    print(f"{name:32} {wall:7.2f} ms a query, {cpu:7.2f} of CPU{beside}", flush=True)
    return found, cpu


def numpy_top_k(queries: np.ndarray, index: np.ndarray, k: int) -> Found:
    """One product and a partial sort."""
    similarities = queries @ index.T
    rows = np.argpartition(similarities, -k, axis=1)[:, -k:]
    found = np.take_along_axis(similarities, rows, axis=1)
    order = np.argsort(-found, axis=1)
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(rows, order, axis=1)


def numpy_by_pieces(queries: np.ndarray, index: np.ndarray, k: int) -> Found:
    """The same in pieces that are cast one by one, with a last sort of every piece's best."""
    found, rows = [], []
    for begin in range(0, len(index), PIECE):
        similarities, places = numpy_top_k(queries, index[begin : begin + PIECE].astype(np.float32), k)
        found.append(similarities)
        rows.append(places + begin)
    similarities, places = np.concatenate(found, axis=1), np.concatenate(rows, axis=1)
    order = np.argsort(-similarities, axis=1)[:, :k]
    return np.take_along_axis(similarities, order, axis=1), np.take_along_axis(places, order, axis=1)


def shard(number: int, count: int, folder: Path | None) -> np.ndarray:
    """Made-up rows [count,D] float16, in memory or as a mapped file."""
    rng = np.random.default_rng(1 + number)
    if folder is None:
        rows = np.empty((count, WIDTH), np.float16)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{number}.npy"
        rows = np.lib.format.open_memmap(path, "w+", np.float16, (count, WIDTH))
    for begin in range(0, count, 50_000):
        part = rows[begin : begin + 50_000]
        part[:] = embeddings(rng, rng.integers(0, IDENTITIES, len(part)))
    if folder is None:
        return rows
    del rows, part
    return np.load(path, mmap_mode="r")


def embeddings(rng: np.random.Generator, identities: np.ndarray) -> np.ndarray:
    """A unit embedding float32 [K,D] of each identity [K]: its direction, and as much again that is the row's own."""
    centers = np.random.default_rng(0).standard_normal((IDENTITIES, WIDTH), np.float32)[identities]
    vectors = centers + rng.standard_normal(centers.shape, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
