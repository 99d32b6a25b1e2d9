"""Speed of the evaluator on random data of PRW's or CUHK-SYSU's size, compared with a plain loop-by-loop evaluator.

    python scripts/benchmark_evaluator.py [--size prw|cuhk] [--plain_queries 20] [--reranking cws cbgm:30,4]
        [--protocols whole temporal_gap:250 ...]

Prints seconds (wall and CPU) of each part and the peak memory of the process; then, for the first few queries, those of
the plain evaluator in the same run, the ratio of CPU seconds a query, and the largest difference between the two. The
plain evaluator is the one of tests/evaluation, so this needs a clone of the repository.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from psdiff_jax.data.detections import Detections
from psdiff_jax.data.galleries import GalleryList
from psdiff_jax.data.schema import Annotations, Queries
from psdiff_jax.evaluation.detection import coco_metrics, detection_metrics
from psdiff_jax.evaluation.evaluate import evaluate
from psdiff_jax.evaluation.person_search import score_search
from psdiff_jax.evaluation.protocols import make_protocols
from psdiff_jax.evaluation.reranking import parse_rerankings

# queries, frames, detections, identities, labelled boxes, image (width, height), cameras
SIZES = {
    "prw": (2057, 6112, 43000, 450, 19127, (1920, 1080), 6),
    "cuhk": (2900, 6978, 60000, 2900, 8345, (800, 600), 1),
}
PROTOCOLS = {
    "prw": ["whole", "cross_camera", "same_camera", "temporal_gap:250"],
    "cuhk": ["listed:50,100,500,1000,2000,4000,all"],
}
RERANKING = {"prw": ["cws", "cbgm:30,4"], "cuhk": ["cws", "cbgm:10,3"]}
WIDTH = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="prw")
    parser.add_argument("--plain_queries", type=int, default=20, help="queries for the plain evaluator")
    parser.add_argument("--protocols", nargs="+", help="protocols instead of the usual ones")
    parser.add_argument("--reranking", nargs="*", help="scorings beside the plain one instead of the usual ones")
    arguments = parser.parse_args()
    annotations, queries, gallery, query = made_up(*SIZES[arguments.size])
    print(f"{len(queries)} queries, {len(annotations)} frames, {len(gallery)} detections, {WIDTH}-d")
    timed("detection AP and recall", lambda: detection_metrics(gallery, annotations))
    timed("COCO AP", lambda: coco_metrics(gallery, annotations))

    protocols = make_protocols(
        arguments.protocols or PROTOCOLS[arguments.size], annotations, queries, galleries=lists(annotations, queries)
    )
    options = RERANKING[arguments.size] if arguments.reranking is None else arguments.reranking
    passes = {"plain": (), **{f"plain and {o}": (o,) for o in options}, f"plain and {' and '.join(options)}": options}
    for name, some in passes.items():
        results, seconds = timed(
            f"search, {len(protocols)} galleries, {name}",
            lambda some=some: score_search(
                gallery, query, annotations, queries, protocols, rerankings=parse_rerankings(some)
            ),
        )
        print("    mAP " + ", ".join(f"{r.name} {r.protocol.size} {100 * r.summary()['mAP']:.2f}" for r in results))
        if not some:
            in_plain = seconds
    data = annotations, queries, protocols
    timed("detection, search, curves and rankings", lambda: evaluate({"given": (gallery, query)}, *data))
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB, made-up data included")
    against_plain(results, in_plain, arguments.plain_queries, annotations, queries, gallery, query)


def against_plain(results, seconds, count, annotations, queries, gallery, query) -> None:
    """Times the plain evaluator on the first `count` queries and compares; `seconds`: of the plain scoring, of all."""
    path = Path(__file__).parents[1] / "tests" / "evaluation" / "plain_evaluator.py"
    spec = importlib.util.spec_from_file_location("plain_evaluator", path)
    assert spec and spec.loader
    plain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plain)
    only = results[0].evaluated.nonzero()[0][:count].tolist()
    total, data = 0.0, (gallery, query, annotations, queries)
    for result in results:
        protocol = result.protocol
        galleries = {q: [annotations.image_names[i] for i in protocol.gallery(q)] for q in only}
        gt_boxes = None
        if protocol.official is not None:
            everything = protocol.size == "all"
            gt_boxes = {q: plain.plain_list(protocol.official, q, annotations, queries, everything)[1] for q in only}
        begin = time.process_time()
        expected = plain.plain_search(*data, galleries, 0.5, only, gt_boxes, result.reranking.name)
        each = (time.process_time() - begin) / len(only)
        total += each * len(queries) * (not result.reranking.name)
        worst = max(abs(result.average_precision[q] - e["ap"]) for q, e in zip(only, expected, strict=True))
        ranks = all(result.first_rank[q] == e["first_rank"] for q, e in zip(only, expected, strict=True))
        print(
            f"plain evaluator, {result.name} {protocol.size}: {len(only)} queries, {1000 * each:.0f} ms CPU each, so "
            f"{each * len(queries):.0f} s for all; largest difference of AP {worst:.1e}, ranks "
            f"{'equal' if ranks else 'DIFFER'}"
        )
    print(f"all plain protocols: plain evaluator {total:.0f} s of CPU, ours {seconds:.1f}: {total / seconds:.0f} times")


def lists(annotations: Annotations, queries: Queries) -> dict[str, GalleryList]:
    """Made-up galleries as CUHK-SYSU has them: the images that show the person, then others, nested."""
    rng = np.random.default_rng(1)
    shown: dict[int, list[tuple[int, np.ndarray]]] = {}
    for image, (boxes, ids) in enumerate(zip(annotations.boxes, annotations.person_ids, strict=True)):
        for box, person in zip(boxes, ids.tolist(), strict=True):
            shown.setdefault(person, []).append((image, box))
    full, counts, boxes = [], [], []
    for name, person in zip(queries.image_names, queries.person_ids.tolist(), strict=True):
        true = [(image, box) for image, box in shown[person] if annotations.image_names[image] != name]
        others = np.setdiff1d(rng.permutation(len(annotations))[:4100], [image for image, _ in shown[person]])
        full.append(np.concatenate([[image for image, _ in true], rng.permutation(others)]).astype(np.int32))
        counts.append(len(true))
        boxes.append(np.array([box for _, box in true], np.float32).reshape(-1, 4))
    places = tuple(np.arange(count, dtype=np.int32) for count in counts)
    numbers = np.arange(len(queries))
    return {
        str(size): GalleryList(
            numbers, tuple(g[: max(size, n)] for g, n in zip(full, counts, strict=True)), places, tuple(boxes)
        )
        for size in (50, 100, 500, 1000, 2000, 4000)
    }


def made_up(queries, frames, detections, identities, labelled, size, cameras):
    """Ground truth, and detections of it that are mostly true positives, with embeddings that are mostly near the
    identity's; one in ten is random, so that positives are found at the end of rankings too."""
    rng = np.random.default_rng(0)
    gt_boxes = int(0.85 * detections)
    frame = rng.integers(0, frames, gt_boxes)
    person = np.full(gt_boxes, -1)
    person[:labelled] = rng.permutation(np.arange(labelled) % identities)
    corner = rng.random((gt_boxes, 2)) * np.array(size) * 0.8
    height = rng.uniform(20, 200, gt_boxes)
    box = np.concatenate([corner, corner + np.stack([0.4 * height, height], 1)], 1)
    camera = rng.integers(0, cameras, frames)
    names = tuple(f"{i:05d}.jpg" for i in range(frames))
    members = [np.flatnonzero(frame == i) for i in range(frames)]
    annotations = Annotations(
        image_names=names,
        sizes=np.tile(np.array(size[::-1], np.int32), (frames, 1)),
        cameras=camera.astype(np.int32),
        frames=np.arange(frames, dtype=np.int64) * 25,
        boxes=tuple(box[m].astype(np.float32) for m in members),
        person_ids=tuple(person[m] for m in members),
    )
    chosen = rng.permutation(labelled)[:queries]
    of = frame[chosen]
    wanted = Queries(tuple(names[i] for i in of), box[chosen].astype(np.float32), person[chosen], camera[of], of * 25)
    center = rng.normal(size=(identities, WIDTH))
    found = np.concatenate(
        [rng.permutation(gt_boxes)[: detections * 3 // 4], rng.integers(0, gt_boxes, detections // 4)]
    )
    seen = np.where(person[found, None] >= 0, center[person[found]], 0) + 1.5 * rng.normal(size=(len(found), WIDTH))
    lost = rng.random(len(found)) < 0.1
    seen[lost] = rng.normal(size=(int(lost.sum()), WIDTH))
    moved = box[found] + rng.normal(0, 1, (len(found), 4)) * 0.08 * height[found, None]
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
    gallery = Detections(
        images=names,
        boxes=moved.astype(np.float32),
        scores=rng.uniform(0.45, 1, len(found)).astype(np.float32),
        embeddings=unit(seen),
        image_index=frame[found].astype(np.int32),
    )
    query = Detections(
        images=names,
        boxes=wanted.boxes,
        scores=np.ones(len(chosen), np.float32),
        embeddings=unit(center[person[chosen]] + 1.5 * rng.normal(size=(len(chosen), WIDTH))),
        image_index=of.astype(np.int32),
        person_id=person[chosen],
    )
    return annotations, wanted, gallery, query


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def timed(what: str, function: Callable[[], Any]) -> tuple[Any, float]:
    """(what it returned, its CPU seconds), printed beside the wall clock's."""
    wall, cpu = time.perf_counter(), time.process_time()
    returned = function()
    seconds = time.process_time() - cpu
    print(f"{what}: {time.perf_counter() - wall:.2f} s, {seconds:.2f} s of CPU", flush=True)
    return returned, seconds


if __name__ == "__main__":
    main()
