"""Embedding a gallery and its queries with a trained model: images -> Detections, for several numbers of steps."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from psdiff_jax import parallel
from psdiff_jax.data.detections import Detections
from psdiff_jax.data.image_reader import image_batch
from psdiff_jax.data.options import DataOptions
from psdiff_jax.data.pipeline import Processes, eval_batches
from psdiff_jax.data.prepared import Dataset
from psdiff_jax.data.transforms import decode_image, pad_rows, to_network, to_original
from psdiff_jax.evaluation.options import EvaluateOptions
from psdiff_jax.inference.predictor import KnownPeople, Predictions, Predictor
from psdiff_jax.interruption import AGAIN, stage
from psdiff_jax.models.psdiff import PSDiffOptions
from psdiff_jax.ops.boxes import box_iou
from psdiff_jax.progress import progress

Batch = dict[str, np.ndarray]


class People(NamedTuple):
    """People found in one image: boxes float32 [K,4] xyxy pixels of the image, scores [K], unit embeddings [K,D]."""

    boxes: np.ndarray
    scores: np.ndarray
    embeddings: np.ndarray


@dataclass(frozen=True)
class Embedder:
    """A trained model on all devices, ready for images.

    params, rest: the model's variables. key: base of the sampler's noise.
    """

    predictor: Predictor
    embedding_dim: int
    params: Any
    rest: Any
    key: jax.Array
    mesh: jax.sharding.Mesh
    data: DataOptions
    options: EvaluateOptions

    @classmethod
    def create(
        cls,
        model: PSDiffOptions,
        predictor: Predictor,
        params: Any,
        rest: Any,
        seed: int,
        data: DataOptions,
        options: EvaluateOptions,
    ) -> "Embedder":
        """Puts the variables on all devices."""
        mesh = parallel.make_mesh()
        parallel.check_divides(options.batch_size, mesh, "config.evaluate.batch_size")
        params, rest = (parallel.put_replicated(tree, mesh) for tree in (params, rest))
        return cls(predictor, model.embedding_dim, params, rest, jax.random.key(seed), mesh, data, options)

    def on_this_process(self) -> "Embedder":
        """The same model on the devices of this process alone, so that it need not keep step with the others."""
        if jax.process_count() == 1:
            return self
        mesh = parallel.make_mesh(local=True)
        params, rest = (parallel.put_replicated(parallel.fetch(tree), mesh) for tree in (self.params, self.rest))
        return replace(self, params=params, rest=rest, mesh=mesh)

    def with_seed(self, seed: int) -> "Embedder":
        """The same model with other noise."""
        return replace(self, key=jax.random.key(seed))

    def predict(
        self, batch: Batch, steps: tuple[int, ...], gt_box: bool = False, known: KnownPeople | None = None
    ) -> dict[int, Predictions]:
        """Host arrays of the whole (global) batch.

        gt_box: the first box of each image is held in proposal 0. known: people to begin from.
        """
        wanted = {name: batch[name] for name in ("image", "image_size", "image_index")}
        on_device = parallel.put_batch(wanted, self.mesh)
        boxes = parallel.put_batch(np.ascontiguousarray(batch["boxes"][:, 0]), self.mesh) if gt_box else None
        known = None if known is None else parallel.put_batch(known, self.mesh)
        return parallel.fetch(self.predictor(self.params, self.rest, on_device, self.key, steps, boxes, known))

    def detect(self, image: np.ndarray, steps: int, known: People | None = None, draw: int = 0) -> People:
        """Everybody in `image` uint8 [H,W,3], in a number of denoising steps, best score first.

        known: people to begin from, in pixels of this image. draw: a number that chooses the noise, so that the frames
        of a video do not share one.
        """
        size = np.asarray(image.shape[:2])
        batch = image_batch(image, np.zeros(4, np.float32), self.data.image_size, copies=self.mesh.size)
        batch["image_index"][:] = draw
        people = None if known is None else self._known(known, batch)
        found = self.predict(batch, (steps,), known=people)[steps]
        return self.people(found, {**batch, "original_size": size[None]}, 0)

    def _known(self, people: People, batch: Batch) -> KnownPeople:
        """People of the image that a batch repeats: as many as proposals are for them, the best scores, padded."""
        sampler, copies = self.predictor.sampler, len(batch["scale"])
        rows = max(1, round(sampler.warm_share * sampler.num_proposals))
        boxes = to_network(people.boxes[:rows], batch["scale"][0], batch["image_size"][0])
        padded = (pad_rows(v, rows) for v in (boxes, people.embeddings[:rows], np.ones(len(boxes), bool)))
        return KnownPeople(*(np.stack([v] * copies) for v in padded))

    def people(self, found: Predictions, batch: Batch, i: int) -> People:
        """The people in image i of a batch: what survives NMS and the score threshold, best score first."""
        keep = np.flatnonzero(found.keep[i] & (found.scores[i] >= self.options.detection_threshold))
        keep = keep[np.argsort(-found.scores[i][keep], kind="stable")][: self.options.max_detections]
        boxes = to_original(found.boxes[i][keep], batch["scale"][i], batch["original_size"][i])
        return People(boxes, found.scores[i][keep], found.embeddings[i][keep])

    def embed_box(self, image: np.ndarray, box: np.ndarray, steps: int) -> np.ndarray:
        """Unit embedding [D] of the person in `box` [4] (xyxy pixels) of `image` uint8 [H,W,3], the box held."""
        batch = image_batch(image, box, self.data.image_size, copies=self.mesh.size)
        return self.predict(batch, (steps,), gt_box=True)[steps].embeddings[0, 0]


def embed_all(embedder: Embedder, dataset: Dataset) -> dict[int | str, tuple[Detections, Detections]]:
    """{steps: (gallery, query)} of a dataset."""
    with stage(f"embedding {dataset.name}", f"nothing of it is kept, the weights are; {AGAIN}"):
        gallery, query = embed_gallery(embedder, dataset), embed_queries(embedder, dataset)
    return {k: (gallery[k], query[k]) for k in gallery}


def embed_gallery(embedder: Embedder, dataset: Dataset, split: str = "gallery") -> dict[int, Detections]:
    """Everybody in the images of a split: {steps: Detections}, boxes in pixels of the original images."""
    count = len(dataset.source(split))
    batches = _batches(embedder, dataset, split)
    steps = embedder.options.steps
    rows: dict[int, list[tuple[np.ndarray, ...]]] = {k: [] for k in steps}
    for batch, people in _predictions(embedder, batches, steps, f"embedding {split}", count):
        for i in np.flatnonzero(batch["valid"]):
            for k in steps:
                rows[k].append(embedder.people(people[k], batch, int(i)))
    names = dataset.annotations(split).image_names
    return {k: _flat(found, names) for k, found in rows.items()}


def embed_queries(embedder: Embedder, dataset: Dataset) -> dict[int, Detections]:
    """One row a query, in the order of the query list: {steps: Detections} with person_id.

    config.evaluate.query "gt_box": the given box is held in proposal 0 and its embedding denoised. "detected": the
    detection in the query's image that overlaps the given box most; the row has its box and score.
    """
    queries = dataset.queries()
    steps, gt_box = embedder.options.steps, embedder.options.query == "gt_box"
    if not len(queries):  # a gallery to search in by image only
        return {k: _nobody(embedder.embedding_dim) for k in steps}
    batches = _batches(embedder, dataset, "query")
    position = {name: i for i, name in enumerate(dataset.annotations("gallery").image_names)}
    positions = np.asarray([position[name] for name in queries.image_names], np.int32)
    rows: dict[int, list[tuple[np.ndarray, ...]]] = {k: [] for k in steps}
    for batch, people in _predictions(
        embedder, _with_image_noise(batches, positions), steps, "embedding queries", len(positions), gt_box
    ):
        for i in np.flatnonzero(batch["valid"]):
            for k in steps:
                found, given = people[k], batch["boxes"][i, :1]
                proposal = 0
                if not gt_box:
                    overlap = np.where(found.keep[i], box_iou(given, found.boxes[i])[0], -1.0)
                    proposal = int(np.argmax(overlap))
                box = given if gt_box else found.boxes[i, proposal : proposal + 1]
                box = to_original(box, batch["scale"][i], batch["original_size"][i])
                rows[k].append(
                    (box, found.scores[i, proposal : proposal + 1], found.embeddings[i, proposal : proposal + 1])
                )
    return {k: _flat(found, queries.image_names, queries.person_ids) for k, found in rows.items()}


def _with_image_noise(batches: Iterable[Batch], positions: np.ndarray) -> Iterator[Batch]:
    """A query draws the noise of the image it stands in, so that it starts as its gallery image does."""
    for batch in batches:
        index = np.where(batch["valid"], positions[np.maximum(batch["image_index"], 0)], -1).astype(np.int32)
        yield {**batch, "image_index": index}


def _batches(embedder: Embedder, dataset: Dataset, split: str) -> Iterator[Batch]:
    sizes = dataset.annotations(split).sizes
    size, processes = embedder.options.batch_size, Processes(*parallel.place())
    for batch in eval_batches(dataset, split, embedder.data, batch_size=size, processes=processes):
        yield {**batch, "original_size": sizes[np.maximum(batch["image_index"], 0)]}


def _predictions(
    embedder: Embedder, batches: Iterable[Batch], steps: tuple[int, ...], what: str, count: int, gt_box: bool = False
) -> Iterator[tuple[Batch, dict[int, Predictions]]]:
    """(batch, predictions), with a report of progress. On pods each process sees the whole batch."""
    found = ((parallel.gather_batch(batch), embedder.predict(batch, steps, gt_box)) for batch in batches)
    return progress(
        found, what, "images", count, lambda each: int(each[0]["valid"].sum()), shown=parallel.is_main_process()
    )


def _flat(
    rows: list[tuple[np.ndarray, ...]],
    names: tuple[str, ...],
    person_ids: np.ndarray | None = None,
) -> Detections:
    """Rows of (boxes, scores, embeddings), one tuple an image (or query) -> Detections."""
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


def image_loader(dataset: Dataset, split: str = "gallery") -> LoadImage:
    """A function from an image's name to its pixels, uint8 RGB."""
    position = {name: i for i, name in enumerate(dataset.annotations(split).image_names)}

    def load(name: str) -> np.ndarray:
        return decode_image(dataset.source(split)[position[name]]["image"], name)

    return load
