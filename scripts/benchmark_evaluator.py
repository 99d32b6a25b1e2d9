"""How fast the evaluator is: random data of PRW's or CUHK-SYSU's size, beside a plain loop-by-loop evaluator.

    python scripts/benchmark_evaluator.py [--size prw|cuhk] [--plain_queries 20] [--protocols whole temporal_gap:250
    ...]

Prints the seconds of each part, the peak memory of the process, and for the first few queries the plain evaluator's
seconds and the largest difference between the two. The plain evaluator is the one of tests/evaluation, so this runs
from a clone.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import time
from pathlib import Path

import numpy as np

from psdiff_jax.data.records import Annotations, Queries
from psdiff_jax.evaluation.detection import coco_metrics, detection_metrics
from psdiff_jax.evaluation.embeddings import Detections
from psdiff_jax.evaluation.person_search import score_search
from psdiff_jax.evaluation.protocols import make_protocols

# queries, frames, detections, people, labelled truths, image (width, height), cameras
SIZES = {
    "prw": (2057, 6112, 43000, 450, 19127, (1920, 1080), 6),
    "cuhk": (2900, 6978, 60000, 2900, 8345, (800, 600), 1),
}
PROTOCOLS = {
    "prw": ["whole", "cross_camera", "same_camera", "temporal_gap:250"],
    "cuhk": ["sized:50,100,500,1000,2000,4000,all"],
}
WIDTH = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="prw")
    parser.add_argument("--plain_queries", type=int, default=20, help="queries for the plain evaluator")
    parser.add_argument("--protocols", nargs="+", help="protocols instead of the usual ones")
    arguments = parser.parse_args()
    annotations, queries, gallery, query = made_up(*SIZES[arguments.size])
    print(f"{len(queries)} queries, {len(annotations)} frames, {len(gallery)} detections, {WIDTH}-d")

    started = time.perf_counter()
    recall = detection_metrics(gallery, annotations)["recall"]
    timed(f"detection AP and recall ({recall:.3f})", started)
    started = time.perf_counter()
    timed(f"COCO AP ({coco_metrics(gallery, annotations)['AP']:.3f})", started)

    specs = arguments.protocols or PROTOCOLS[arguments.size]
    protocols = make_protocols(specs, annotations, queries)
    for some in [[protocol] for protocol in protocols] + [protocols] * (len(protocols) > 1):
        started = time.perf_counter()
        results = score_search(gallery, query, annotations, queries, some, threshold=0.5)
        name = f"search, {some[0].name} {some[0].size}" if len(some) == 1 else f"search, all {len(some)} in one pass"
        timed(f"{name} (mAP {results[0].summary()['mAP']:.4f})", started)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB, made-up data included")
    against_plain(results, arguments.plain_queries, annotations, queries, gallery, query)


def against_plain(results, count, annotations, queries, gallery, query) -> None:
    """Times the plain evaluator on the first `count` queries and compares."""
    path = Path(__file__).parents[1] / "tests" / "evaluation" / "plain_evaluator.py"
    spec = importlib.util.spec_from_file_location("plain_evaluator", path)
    plain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plain)
    only, total = range(min(count, len(queries))), len(queries)
    for result in results:
        galleries = [[annotations.image_names[i] for i in result.protocol.gallery(q)] for q in only]
        started = time.perf_counter()
        expected = plain.plain_search(gallery, query, annotations, queries, galleries, 0.5, only)
        seconds = time.perf_counter() - started
        worst = max(abs(result.average_precision[q] - expected[q]["ap"]) for q in only)
        ranks = all(result.first_rank[q] == expected[q]["first_rank"] for q in only)
        print(
            f"plain evaluator, {result.protocol.name} {result.protocol.size}: {len(only)} queries {seconds:.2f} s "
            f"(all {total}: about {seconds / len(only) * total:.0f} s); "
            f"largest difference of AP {worst:.1e}, ranks {'equal' if ranks else 'DIFFER'}"
        )


def made_up(queries, frames, detections, people, labelled, size, cameras):
    """Truths, and detections of them that are mostly right, with embeddings that are mostly near the person's."""
    rng = np.random.default_rng(0)
    truths = int(0.85 * detections)
    frame = rng.integers(0, frames, truths)
    person = np.full(truths, -1)
    person[:labelled] = rng.permutation(np.arange(labelled) % people)
    corner = rng.random((truths, 2)) * np.array(size) * 0.8
    height = rng.uniform(20, 200, truths)
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
    shown = rng.permutation(labelled)[:queries]
    of = frame[shown]
    asked = Queries(tuple(names[i] for i in of), box[shown].astype(np.float32), person[shown], camera[of], of * 25)
    center = rng.normal(size=(people, WIDTH))
    found = np.concatenate([rng.permutation(truths)[: detections * 3 // 4], rng.integers(0, truths, detections // 4)])
    seen = np.where(person[found, None] >= 0, center[person[found]], 0) + 1.5 * rng.normal(size=(len(found), WIDTH))
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
        boxes=asked.boxes,
        scores=np.ones(len(shown), np.float32),
        embeddings=unit(center[person[shown]] + 1.5 * rng.normal(size=(len(shown), WIDTH))),
        image_index=of.astype(np.int32),
        person_id=person[shown],
    )
    return annotations, asked, gallery, query


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def timed(what: str, started: float) -> None:
    print(f"{what}: {time.perf_counter() - started:.2f} s")


if __name__ == "__main__":
    main()
