"""Embedding a gallery and its queries with a trained model: photographs -> Detections, for several numbers of steps."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from psdiff_jax import config as cfg
from psdiff_jax import parallel
from psdiff_jax.data.detections import Detections
from psdiff_jax.data.pipeline import eval_batches
from psdiff_jax.data.records import PreparedDataset
from psdiff_jax.data.transforms import decode_image, to_original
from psdiff_jax.evaluation.detection import box_iou
from psdiff_jax.inference.predictor import People, Predictor

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class Embedder:
    """A trained model, ready to look at photographs.

    params, rest: the model's variables; key: base of the sampler's noise; steps: numbers of denoising steps to report.
    """

    predictor: Predictor
    params: Any
    rest: Any
    key: jax.Array
    mesh: jax.sharding.Mesh
    max_detections: int
    min_score: float

    def with_seed(self, seed: int) -> "Embedder":
        """The same model with other noise."""
        return replace(self, key=jax.random.key(seed))

    def predict(self, batch: Batch, steps: tuple[int, ...], pinned: bool = False) -> dict[int, People]:
        """Host arrays of the whole (global) batch. `pinned`: hold the first box of each photograph in slot 0."""
        wanted = {name: batch[name] for name in ("image", "image_size", "image_index")}
        on_device = parallel.put_batch(wanted, self.mesh)
        boxes = parallel.put_batch(np.ascontiguousarray(batch["boxes"][:, 0]), self.mesh) if pinned else None
        return parallel.fetch(self.predictor(self.params, self.rest, on_device, self.key, steps, boxes))


def make_embedder(config: Any, graphdef: Any, params: Any, rest: Any) -> Embedder:
    """An Embedder on all devices, with noise of config.seed."""
    mesh = parallel.make_mesh()
    parallel.check_divides(config.evaluate.batch_size, mesh, "config.evaluate.batch_size")
    predictor = Predictor(graphdef, cfg.sampler_spec(config), config.sampler.nms_threshold)
    key = jax.random.key(config.seed)
    params, rest = (parallel.put_replicated(tree, mesh) for tree in (params, rest))
    return Embedder(
        predictor, params, rest, key, mesh, config.evaluate.max_detections, config.evaluate.detection_threshold
    )


def embed_gallery(
    embedder: Embedder,
    dataset: PreparedDataset,
    config: Any,
    split: str = "gallery",
) -> dict[int, Detections]:
    """Everybody in the photographs of a split: {steps: Detections}, boxes in pixels of the original photographs."""
    count = len(dataset.source(split))
    batches = _batches(dataset, split, config)
    steps = tuple(config.evaluate.steps)
    rows: dict[int, list[tuple[np.ndarray, ...]]] = {k: [] for k in steps}
    for batch, people in _predictions(embedder, batches, steps, f"embedding {split}", count):
        for i in np.flatnonzero(batch["valid"]):
            for k in steps:
                rows[k].append(_detections_of_image(embedder, people[k], batch, i))
    names = dataset.annotations(split).image_names
    return {k: _flat(found, names) for k, found in rows.items()}


def embed_queries(embedder: Embedder, dataset: PreparedDataset, config: Any) -> dict[int, Detections]:
    """One row a query, in the order of the query list: {steps: Detections} with person_id.

    config.evaluate.query "pin": the given box is held in slot 0 and its embedding denoised. "match": the detection in
    the query's photograph with the highest IoU with the given box (its box and score stand in the row).
    """
    queries = dataset.queries()
    steps, pinned = tuple(config.evaluate.steps), config.evaluate.query == "pin"
    if not len(queries):  # a gallery to search in by photograph only
        return {k: _nobody(config.model.embedding_dim) for k in steps}
    batches = _batches(dataset, "query", config)
    position = {name: i for i, name in enumerate(dataset.annotations("gallery").image_names)}
    scenes = np.asarray([position[name] for name in queries.image_names], np.int32)
    rows: dict[int, list[tuple[np.ndarray, ...]]] = {k: [] for k in steps}
    for batch, people in _predictions(
        embedder, _with_scene_noise(batches, scenes), steps, "embedding queries", len(scenes), pinned
    ):
        for i in np.flatnonzero(batch["valid"]):
            for k in steps:
                found, given = people[k], batch["boxes"][i, :1]
                slot = 0
                if not pinned:
                    overlap = np.where(found.keep[i], box_iou(given, found.boxes[i])[0], -1.0)
                    slot = int(np.argmax(overlap))
                box = given if pinned else found.boxes[i, slot : slot + 1]
                box = to_original(box, batch["scale"][i], batch["original_size"][i])
                rows[k].append((box, found.scores[i, slot : slot + 1], found.embeddings[i, slot : slot + 1]))
    return {k: _flat(found, queries.image_names, queries.person_ids) for k, found in rows.items()}


def _with_scene_noise(batches: Iterable[Batch], scenes: np.ndarray) -> Iterator[Batch]:
    """A query draws the noise of the photograph it stands in, so that it starts as its gallery photograph does."""
    for batch in batches:
        index = np.where(batch["valid"], scenes[np.maximum(batch["image_index"], 0)], -1).astype(np.int32)
        yield {**batch, "image_index": index}


def _batches(dataset: PreparedDataset, split: str, config: Any) -> Iterator[Batch]:
    sizes = dataset.annotations(split).sizes
    for batch in eval_batches(
        dataset,
        split,
        config,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        device_count=jax.device_count(),
    ):
        yield {**batch, "original_size": sizes[np.maximum(batch["image_index"], 0)]}


def _predictions(
    embedder: Embedder, batches: Iterable[Batch], steps: tuple[int, ...], what: str, count: int, pinned: bool = False
) -> Iterator[tuple[Batch, dict[int, People]]]:
    """(batch, predictions), with a progress line every ten seconds. On pods each process sees the whole batch."""
    begin = shown = time.perf_counter()
    done = 0
    for batch in batches:
        people = embedder.predict(batch, steps, pinned)
        yield parallel.gather_batch(batch), people
        done = min(count, done + len(people[steps[0]].scores))
        now = time.perf_counter()
        if now - shown > 10 or done == count:
            shown, speed = now, done / (now - begin)
            if parallel.is_main_process():
                print(
                    f"{what} {done}/{count}  {speed:.1f} images/s  ETA {(count - done) / speed:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )


def _detections_of_image(embedder: Embedder, people: People, batch: Batch, i: int) -> tuple[np.ndarray, ...]:
    """(boxes in original pixels, scores, embeddings) that survive NMS and the score threshold, best first."""
    keep = np.flatnonzero(people.keep[i] & (people.scores[i] >= embedder.min_score))
    keep = keep[np.argsort(-people.scores[i][keep], kind="stable")][: embedder.max_detections]
    boxes = to_original(people.boxes[i][keep], batch["scale"][i], batch["original_size"][i])
    return boxes, people.scores[i][keep], people.embeddings[i][keep]


def _flat(
    rows: list[tuple[np.ndarray, ...]],
    names: tuple[str, ...],
    person_ids: np.ndarray | None = None,
) -> Detections:
    """Rows of (boxes, scores, embeddings), one tuple a photograph (or query) -> Detections."""
    boxes, scores, embeddings = (np.concatenate(part).astype(np.float32) for part in zip(*rows, strict=True))
    owner = np.repeat(np.arange(len(rows)), [len(row[1]) for row in rows])
    if person_ids is None:
        return Detections(tuple(names), boxes, scores, embeddings, owner.astype(np.int32))
    images = tuple(dict.fromkeys(names))
    position = {name: i for i, name in enumerate(images)}
    index = np.asarray([position[names[i]] for i in owner], np.int32)
    return Detections(images, boxes, scores, embeddings, index, np.asarray(person_ids, np.int64))


def _nobody(embedding_dim: int) -> Detections:
    """The rows of no query."""
    rows, none = np.zeros((0, embedding_dim), np.float32), np.zeros(0, np.float32)
    return Detections((), np.zeros((0, 4), np.float32), none, rows, none.astype(np.int32), none.astype(np.int64))


LoadImage = Callable[[str], np.ndarray]


def image_loader(dataset: PreparedDataset, split: str = "gallery") -> LoadImage:
    """A function from a photograph's name to its pixels, uint8 RGB."""
    position = {name: i for i, name in enumerate(dataset.annotations(split).image_names)}

    def load(name: str) -> np.ndarray:
        return decode_image(dataset.source(split)[position[name]]["image"], name)

    return load
