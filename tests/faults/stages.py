"""What the program writes, in miniature: each stage can be run again after a fault, and says what came of it.

As a program: `-m tests.faults.stages NAME FOLDER [BYTES]` runs one as `main` would, no file larger than BYTES.
"""

import dataclasses
import hashlib
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from psdiff_jax.data.detections import Detections, load_embeddings, save_embeddings
from psdiff_jax.data.views import StoredViews, has_view, write_view
from psdiff_jax.files import remove_unfinished, write_atomically
from psdiff_jax.inference.embed import People
from psdiff_jax.inference.split_shards import ShardWriter, missing_images, read_shards
from psdiff_jax.models.weights import read_npz, save_npz
from psdiff_jax.report.rankings import write_picture
from psdiff_jax.teacher.target_cache import cached_rows
from psdiff_jax.training.checkpoint import Checkpoints
from psdiff_jax.training.loop import fit
from psdiff_jax.training.writer import MetricWriter, read_metrics
from psdiff_jax.workdir import claimed

from .. import folder as photos
from ..datasets.custom_tree import json_tree
from ..options import open_dataset
from ..training.test_loop import toy_batches, toy_state, toy_step

PAUSE = 0.0  # seconds a step takes, for kills


def training(place: Path) -> Any:
    def step_fn(state, batch):
        time.sleep(PAUSE)
        return toy_step(state, batch)

    with MetricWriter(place) as writer, Checkpoints(place / "checkpoints") as checkpoints:
        state = fit(step_fn, toy_state(), toy_batches, steps=9, writer=writer, checkpoints=checkpoints, log_every=1,
                    checkpoint_every=3)  # fmt: skip
    save_npz(place / "model.npz", {"params": state.params})
    steps = [record["step"] for record in read_metrics(place / "metrics.jsonl")]
    return read_npz(place / "model.npz")["params"].tolist(), steps


def targets(place: Path) -> Any:
    def compute(start: int) -> Iterator[np.ndarray]:
        for row in range(start, 24, 4):
            time.sleep(PAUSE)
            yield np.random.default_rng(row).normal(size=(4, 6)).astype(np.float32)

    return cached_rows(place / "targets.npy", {"of": "a test"}, (24, 6), compute).tolist()


def indexing(place: Path) -> Any:
    for number in range(12):
        if not (place / f"photos/{number}.png").exists():
            photos.write_image(place / f"photos/{number}.png", number)
    options = dataclasses.replace(photos.OPTIONS, shard_rows=4)
    photos.update_index(photos.ColourEmbedder(seconds=PAUSE), place / "photos", place / "index", options)
    return index_contents(place / "index")


def index_contents(index: Path) -> Any:
    from psdiff_jax.inference.index import Index

    opened = Index.open(index)
    near = opened.nearest(np.eye(photos.DIM)[0])
    return (
        len(opened),
        sorted(file.path for file in opened.files),
        [(hit.image, hit.box, hit.score, hit.similarity) for hit in near],
    )


def embeddings(place: Path) -> Any:
    save_embeddings(place / "gallery", some_detections())
    found = load_embeddings(place / "gallery", mmap=False)
    return found.images, *(np.asarray(getattr(found, name)).tolist() for name in ("boxes", "scores", "embeddings"))


def some_detections() -> Detections:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(6, 4))
    corners = np.sort(rng.uniform(0, 50, (6, 2, 2)), axis=1).reshape(6, 4)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = (corners, rng.uniform(size=6), unit)
    return Detections(("a", "b"), *(v.astype(np.float32) for v in rows), np.int32([0, 0, 0, 1, 1, 1]))


def shards(place: Path) -> Any:
    remove_unfinished(place / "shards")
    writer = ShardWriter(place / "shards", (1,), 4, rows=3)
    for image in missing_images(place / "shards", 6).tolist():
        time.sleep(PAUSE)
        rng = np.random.default_rng(image)
        writer.add(image, {1: People(*(rng.normal(size=(image % 3, *shape)) for shape in ((4,), (), (4,))))})
        writer.write_if_full()
    writer.write()
    return shard_contents(place)


def shard_contents(place: Path) -> Any:
    return [np.asarray(rows).tolist() for rows in read_shards(place / "shards", 1, 4)]


def views(place: Path) -> Any:
    def batches(view: int) -> Iterator[dict[str, np.ndarray]]:
        for first in range(0, 48, 4):
            time.sleep(PAUSE)
            rows = np.arange(first, first + 4)
            yield {"image_index": rows, "stage_0": np.outer(rows, [1, view]).astype(np.float16), "valid": rows < 46}

    for view in range(2):
        if not has_view(place, view):
            write_view(place, view, batches(view), 46)
    found = StoredViews(place, 2).batch([0, 1] * 46, np.repeat(np.arange(46), 2))
    return found["image_index"].tolist(), found["stage_0"].tolist()


def results(place: Path) -> Any:
    """Under the lock of a workdir."""
    with claimed(place / "run"):
        write_atomically(place / "run/config.json", "{}")
        write_picture(place / "run/search/hits.png", np.zeros((4, 4, 3), np.uint8))
    return sorted(path.name for path in (place / "run").rglob("*"))


def preparation(place: Path) -> Any:
    images = place.parent / "images of the user"
    if not images.exists():
        json_tree(images)
    options = {"name": "custom", "root": str(images), "prepared_dir": str(place / "prepared")}
    return dataset_contents(open_dataset({**options, "builder": {}}))


def dataset_contents(dataset: Any) -> Any:
    found = []
    for split in ("train", "gallery"):
        noted = dataset.annotations(split)
        found.append((noted.image_names, [boxes.tolist() for boxes in noted.boxes], noted.sizes.tolist()))
        source = dataset.source(split)
        found += [hashlib.sha256(source[i]["image"]).hexdigest() for i in range(len(source))]
    return found, dataset.queries().boxes.tolist(), dataset.person_names, sorted(dataset.galleries)


STAGES: dict[str, Callable[[Path], Any]] = {
    "training": training, "targets": targets, "indexing": indexing, "embeddings": embeddings, "results": results,
    "preparation": preparation, "views": views, "shards": shards,
}  # fmt: skip


def leftovers(place: Path) -> list[str]:
    """Files of writes that did not end."""
    return [str(path) for path in place.rglob("*") if path.name.endswith(".tmp") or path.name.startswith(".gallery")]


def main(name: str, place: str, largest: str = "0", pause: str = "0") -> None:
    from psdiff_jax import main as program

    global PAUSE
    PAUSE = float(pause)
    if int(largest):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest), resource.RLIM_INFINITY))
    program.run = lambda: print(hashlib.sha256(repr(STAGES[name](Path(place))).encode()).hexdigest())
    program.main([])


if __name__ == "__main__":
    main(*sys.argv[1:])
