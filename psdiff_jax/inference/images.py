"""Embedding images one by one, in batches and without a dataset: what an index is made with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from psdiff_jax import parallel
from psdiff_jax.data import transforms
from psdiff_jax.inference.embed import Embedder, People


class Fitted(NamedTuple):
    """An image as the network takes it. image: uint8 [h,w,3], to be padded to `canvas`. scale: of it / the original,
    whose size is (H, W)."""

    image: np.ndarray
    scale: float
    size: tuple[int, int]
    canvas: tuple[int, int]


@dataclass(frozen=True)
class ImageEmbedder:
    """A trained model with a number of denoising steps, as `indexing.update_index` uses it.

    Every image draws the noise of image 0, as in `Embedder.detect`: what is found in it depends on nothing else.

    embedder: on devices of this process alone. model: hash of weights and config. threshold: score from which a
    detection counts as a person. lock: held while work is given to the devices, which all take it in one order then.
    """

    embedder: Embedder
    steps: int
    model: str
    threshold: float
    lock: threading.Lock

    @property
    def embedding_dim(self) -> int:
        return self.embedder.embedding_dim

    @property
    def batch_size(self) -> int:
        """Images of a batch; of config.evaluate.batch_size each process of a pod takes its share."""
        return self.embedder.options.batch_size // jax.process_count()

    def prepare(self, image: np.ndarray) -> Fitted:
        """Fits uint8 [H,W,3] RGB into config.data.image_size; runs in reading threads."""
        size = image.shape[0], image.shape[1]
        canvas = transforms.canvas(size, self.embedder.data.image_size)
        scale = transforms.fit_scale(size, canvas)
        return Fitted(transforms.resize(image, scale), scale, size, canvas)

    def kind(self, image: Fitted) -> tuple[int, int]:
        """Images of one canvas are of a kind."""
        return image.canvas

    def send(self, images: Sequence[Fitted]) -> Callable[[], list[People]]:
        """Sets the devices to work on up to `batch_size` images of a kind; the call that it returns waits for the
        people in each."""
        rows, (height, width) = self.batch_size, images[0].canvas
        batch = {
            "image": np.zeros((rows, height, width, 3), np.uint8),
            "image_size": np.zeros((rows, 2), np.int32),
            "scale": np.ones(rows, np.float32),
            "original_size": np.ones((rows, 2), np.int32),
            "image_index": np.zeros(rows, np.int32),
        }
        for i, fitted in enumerate(images):
            h, w = fitted.image.shape[:2]
            batch["image"][i, :h, :w] = fitted.image
            batch["image_size"][i] = h, w
            batch["scale"][i] = fitted.scale
            batch["original_size"][i] = fitted.size
        with self.lock:
            sent = self.embedder.send(batch, (self.steps,))

        def receive() -> list[People]:
            found = parallel.fetch(sent)[self.steps]
            return [self.embedder.people(found, batch, i) for i in range(len(images))]

        return receive
