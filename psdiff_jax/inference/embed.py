"""A trained model on the devices: people in images, for several numbers of denoising steps."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from psdiff_jax import parallel
from psdiff_jax.data.image_reader import image_batch
from psdiff_jax.data.options import DataOptions
from psdiff_jax.data.prepared import Dataset
from psdiff_jax.data.stored_image import original_image
from psdiff_jax.data.transforms import pad_rows, to_network, to_original
from psdiff_jax.diffusion.noise import DiffusionOptions
from psdiff_jax.evaluation.options import EvaluateOptions
from psdiff_jax.inference.predictor import KnownPeople, Predictions, Predictor
from psdiff_jax.models.psdiff import PSDiffOptions
from psdiff_jax.models.weights import state_hash
from psdiff_jax.options import tree

Batch = dict[str, np.ndarray]
WITHOUT_EFFECT = ("backbone_weights", "reid_weights", "roi_backend")  # options of a model that its results do not show


class People(NamedTuple):
    """People found in one image: boxes float32 [K,4] xyxy pixels of the image, scores [K], unit embeddings [K,D]."""

    boxes: np.ndarray
    scores: np.ndarray
    embeddings: np.ndarray


@dataclass(frozen=True)
class Embedder:
    """A trained model on all devices, ready for images.

    params, rest: the model's variables. key: base of the sampler's noise. settings: what the results depend on beside
    the variables.
    """

    predictor: Predictor
    embedding_dim: int
    params: Any
    rest: Any
    key: jax.Array
    mesh: jax.sharding.Mesh
    data: DataOptions
    options: EvaluateOptions
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        model: PSDiffOptions,
        diffusion: DiffusionOptions,
        predictor: Predictor,
        params: Any,
        rest: Any,
        seed: int,
        data: DataOptions,
        options: EvaluateOptions,
    ) -> "Embedder":
        """Puts the variables on all devices, and has them share every batch."""
        mesh = parallel.make_mesh()
        options = replace(options, batch_size=parallel.whole_batch(options.batch_size))
        params, rest = (parallel.put_replicated(tree, mesh) for tree in (params, rest))
        settings = {
            "model": {key: value for key, value in tree(model).items() if key not in WITHOUT_EFFECT},
            "diffusion": tree(diffusion),
            "sampler": tree(predictor.sampler),
            "image_size": data.image_size,
            "max_detections": options.max_detections,
            "detection_threshold": options.detection_threshold,
            "seed": seed,
        }
        return cls(predictor, model.embedding_dim, params, rest, jax.random.key(seed), mesh, data, options, settings)

    @cached_property
    def hash(self) -> str:
        """Of the weights and of every option that changes what is found in an image."""
        state = nnx.merge_state(*parallel.fetch((self.params, self.rest)))
        settings = json.dumps(self.settings, sort_keys=True)
        return hashlib.sha256(f"{state_hash(state)}{settings}".encode()).hexdigest()[:16]

    def on_this_process(self) -> "Embedder":
        """The same model on the devices of this process alone, so that it need not keep step with the others."""
        if jax.process_count() == 1:
            return self
        mesh = parallel.make_mesh(local=True)
        params, rest = (parallel.put_replicated(parallel.fetch(tree), mesh) for tree in (self.params, self.rest))
        return replace(self, params=params, rest=rest, mesh=mesh)

    def with_seed(self, seed: int) -> "Embedder":
        """The same model with other noise."""
        return replace(self, key=jax.random.key(seed), settings={**self.settings, "seed": seed})

    def predict(
        self, batch: Batch, steps: tuple[int, ...], gt_box: bool = False, known: KnownPeople | None = None
    ) -> dict[int, Predictions]:
        """Host arrays of the whole (global) batch.

        gt_box: the first box of each image is held in proposal 0. known: people to begin from.
        """
        return parallel.fetch(self.send(batch, steps, gt_box, known))

    def send(
        self, batch: Batch, steps: tuple[int, ...], gt_box: bool = False, known: KnownPeople | None = None
    ) -> dict[int, Predictions]:
        """What `predict` fetches: the devices are at work on it. One program serves images with and without a box."""
        wanted = {name: batch[name] for name in ("image", "image_size", "image_index")}
        on_device = parallel.put_batch(wanted, self.mesh)
        images = len(batch["image"])
        boxes = np.ascontiguousarray(batch["boxes"][:, 0]) if gt_box else np.zeros((images, 4), np.float32)
        held = parallel.put_batch((boxes, np.full(images, gt_box)), self.mesh)
        known = None if known is None else parallel.put_batch(known, self.mesh)
        return self.predictor(self.params, self.rest, on_device, self.key, steps, *held, known)

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


LoadImage = Callable[[str], np.ndarray]


def image_loader(dataset: Dataset, split: str = "gallery") -> LoadImage:
    """A function from an image's name to its pixels, uint8 RGB."""
    position = {name: i for i, name in enumerate(dataset.annotations(split).image_names)}

    def load(name: str) -> np.ndarray:
        return original_image(dataset.source(split)[position[name]], name)

    return load
