"""Embedding a gallery and its queries: images -> Detections, for several numbers of steps in one pass.

Threads decode and resize, the devices work on batch N + 1 while the people of batch N are sorted out, and shards are
written as they fill: memory does not grow with the gallery, and a run that was killed goes on behind its last shards.
Each process of a pod embeds its share on its own devices and waits for the others only at the end. Portrait and
landscape images go to the devices in batches of their own, and come back in order.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from psdiff_jax import parallel
from psdiff_jax.data.detections import Detections
from psdiff_jax.data.pipeline import eval_batches
from psdiff_jax.data.prepared import Dataset
from psdiff_jax.data.transforms import to_original, turned
from psdiff_jax.files import locked, remove_unfinished
from psdiff_jax.inference.embed import Batch, Embedder, People
from psdiff_jax.inference.predictor import Predictions
from psdiff_jax.inference.split_shards import Found, ShardWriter, missing_images, read_shards
from psdiff_jax.interruption import AGAIN, stage
from psdiff_jax.ops.boxes import box_iou
from psdiff_jax.progress import progress

Sort = Callable[[Predictions, Batch, int], People]  # predictions, batch, row of an image in it
WINDOW = 16  # batches: so many neighbours wait for each other where both orientations occur


def shards_folder(workdir: Path) -> Path:
    """Where a run keeps the shards of what it embeds."""
    return workdir / "embeddings" / "shards"


def remove_shards(workdir: Path) -> None:
    """Deletes the shards of a run that has made use of them."""
    if parallel.is_main_process():
        shutil.rmtree(shards_folder(workdir), ignore_errors=True)


def embed_all(embedder: Embedder, dataset: Dataset, folder: Path) -> dict[int, tuple[Detections, Detections]]:
    """{steps: (gallery, query)} of a dataset. folder: for the shards, within reach of all processes."""
    with stage(f"embedding {dataset.name}", f"the shards in {folder} are kept; {AGAIN}"):
        gallery, query = embed_gallery(embedder, dataset, folder), embed_queries(embedder, dataset, folder)
    return {k: (gallery[k], query[k]) for k in gallery}


def embed_gallery(embedder: Embedder, dataset: Dataset, folder: Path, split: str = "gallery") -> dict[int, Detections]:
    """Everybody in the images of a split: {steps: Detections}, boxes in pixels of the original images."""
    names = dataset.annotations(split).image_names
    found = _embed(embedder, dataset, split, folder, f"embedding {split}", embedder.people)
    return {k: Detections(names, each.boxes, each.scores, each.embeddings, each.source) for k, each in found.items()}


def embed_queries(embedder: Embedder, dataset: Dataset, folder: Path) -> dict[int, Detections]:
    """One row a query, in the order of the query list: {steps: Detections} with person_id.

    config.evaluate.query "gt_box": the given box is held in proposal 0 and its embedding denoised. "detected": the
    detection in the query's image that overlaps the given box most; the row has its box and score.
    """
    queries, gt_box = dataset.queries(), embedder.options.query == "gt_box"

    def person(found: Predictions, batch: Batch, i: int) -> People:
        given, proposal = batch["boxes"][i, :1], 0
        if not gt_box:
            proposal = int(np.argmax(np.where(found.keep[i], box_iou(given, found.boxes[i])[0], -1.0)))
        box = given if gt_box else found.boxes[i, proposal : proposal + 1]
        box = to_original(box, batch["scale"][i], batch["original_size"][i])
        return People(box, found.scores[i, proposal : proposal + 1], found.embeddings[i, proposal : proposal + 1])

    position = {name: i for i, name in enumerate(dataset.annotations("gallery").image_names)}
    own_image = np.asarray([position[name] for name in queries.image_names], np.int32)
    found = _embed(embedder, dataset, "query", folder, "embedding queries", person, own_image, gt_box)
    images = tuple(dict.fromkeys(queries.image_names))
    position = {name: i for i, name in enumerate(images)}
    index = np.asarray([position[name] for name in queries.image_names], np.int32)
    person_ids = np.asarray(queries.person_ids, np.int64)
    return {
        k: Detections(images, each.boxes, each.scores, each.embeddings, index, person_ids) for k, each in found.items()
    }


def _embed(
    embedder: Embedder,
    dataset: Dataset,
    split: str,
    folder: Path,
    what: str,
    sort: Sort,
    noise: np.ndarray | None = None,
    gt_box: bool = False,
) -> dict[int, Found]:
    """The people that `sort` finds in the images of a split, from the shards that there are and those that are made.

    noise: int32 [M], whose noise each image draws; None: its own. A query draws that of the image it stands in, so
    that it starts as its gallery image does.
    """
    annotations, options = dataset.annotations(split), embedder.options
    into, count = folder / _identity(embedder, dataset, split), len(annotations.image_names)
    process, processes, _ = parallel.place()
    with locked(folder / ".lock", f"embeds into {folder}") if process == 0 else contextlib.nullcontext():
        if process == 0:
            into.mkdir(exist_ok=True)
            remove_unfinished(into)
        parallel.meet()  # the others see what this one has changed
        missing = missing_images(into, count)
        parallel.meet()  # nobody writes before all have seen it
        if process == 0 and len(missing) < count:
            print(f"{what}: {count - len(missing)} of {count} images are embedded", file=sys.stderr, flush=True)
        size = options.batch_size // processes
        both = len(np.unique(turned(annotations.sizes, embedder.data.image_size))) > 1
        window = size * (WINDOW if both else 1)
        share = _share(missing, window, process, processes)
        writer = ShardWriter(into, options.steps, embedder.embedding_dim, options.shard_rows)
        batches = _batches(embedder, dataset, split, share, size, window, noise)
        left, done = deque(share.tolist()), dict[int, dict[int, People]]()
        sent = _predictions(embedder.on_this_process(), batches, gt_box) if len(missing) else iter(())
        for batch, found in progress(
            sent, what, "images", len(share), lambda each: int(each[0]["valid"].sum()), shown=process == 0
        ):
            for i in np.flatnonzero(batch["valid"]):
                done[int(batch["position"][i])] = {k: sort(found[k], batch, int(i)) for k in options.steps}
            while left and left[0] in done:
                writer.add(left[0], done.pop(left.popleft()))
            if not done:
                writer.write_if_full()
        writer.write()
        parallel.meet()
        everybody = {k: read_shards(into, k, embedder.embedding_dim) for k in options.steps}
        parallel.meet()  # nobody deletes before all have read
    return everybody


def _identity(embedder: Embedder, dataset: Dataset, split: str) -> str:
    """A name for what the shards of a split depend on: the model, and what is asked of which images."""
    annotations = dataset.annotations(split)
    asked = split, embedder.options.steps, embedder.options.query, str(dataset.folder), dataset.name
    digest = hashlib.sha256(repr((embedder.hash, asked, annotations.image_names)).encode())
    for array in (annotations.sizes, *annotations.boxes):
        digest.update(array.tobytes())
    return f"{split}-{digest.hexdigest()[:16]}"


def _share(missing: np.ndarray, window: int, process: int, processes: int) -> np.ndarray:
    """The images that a process embeds of those that are `missing`: neighbouring ones, in whole windows."""
    windows = [run[i : i + window] for run in _runs(missing) for i in range(0, len(run), window)]
    first, end = (len(windows) * p // processes for p in (process, process + 1))
    return np.concatenate([np.zeros(0, np.int64), *windows[first:end]])


def _runs(positions: np.ndarray) -> list[np.ndarray]:
    """Rising positions, cut where some are left out."""
    return np.split(positions, np.flatnonzero(np.diff(positions) > 1) + 1) if len(positions) else []


def _batches(
    embedder: Embedder,
    dataset: Dataset,
    split: str,
    share: np.ndarray,
    size: int,
    window: int,
    noise: np.ndarray | None,
) -> Iterator[Batch]:
    """Batches of this process, with `position` in the split and `original_size` of each image."""
    sizes = dataset.annotations(split).sizes
    for run in _runs(share):
        for batch in eval_batches(dataset, split, embedder.data, batch_size=size, indices=run, window=window):
            position = batch["image_index"]
            drawn = position if noise is None else np.where(batch["valid"], noise[np.maximum(position, 0)], -1)
            batch = {**batch, "position": position, "image_index": drawn.astype(np.int32)}
            yield {**batch, "original_size": sizes[np.maximum(position, 0)]}


def _predictions(
    embedder: Embedder, batches: Iterable[Batch], gt_box: bool
) -> Iterator[tuple[Batch, dict[int, Predictions]]]:
    """(batch, predictions) in order; the next batch is with the devices before those of one are read."""
    sent: deque[tuple[Batch, dict[int, Predictions]]] = deque()
    for batch in batches:
        sent.append((batch, embedder.send(batch, embedder.options.steps, gt_box)))
        if len(sent) > 1:
            yield _read(*sent.popleft())
    while sent:
        yield _read(*sent.popleft())


def _read(batch: Batch, found: dict[int, Predictions]) -> tuple[Batch, dict[int, Predictions]]:
    return batch, parallel.fetch(found)
