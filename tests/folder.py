"""A made-up folder of images and videos, and an embedder that reads people off their colours.

As a program: `-m tests.folder INDEX FOLDER SECONDS` brings an index up to date, SECONDS for each batch.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from psdiff_jax.inference.embed import People
from psdiff_jax.inference.indexing import update_index
from psdiff_jax.inference.options import IndexOptions

OPTIONS = IndexOptions(rate=2.0, min_score=0.3, shard_rows=40)
DIM = 8


class ColourEmbedder:
    """People, boxes and embeddings that depend on an image's mean colour only. batches: how many images of each."""

    model, embedding_dim, steps, threshold = "colours", DIM, 1, 0.5

    def __init__(self, batch_size: int = 4, seconds: float = 0.0):
        self.batch_size, self.seconds, self.batches = batch_size, seconds, list[int]()

    @property
    def images(self) -> int:
        return sum(self.batches)

    def prepare(self, image: np.ndarray) -> tuple[int, ...]:
        return (*(int(v) for v in np.rint(image.mean(axis=(0, 1)))), *image.shape[:2])

    def kind(self, image: tuple[int, ...]) -> bool:
        """Portrait or not."""
        return image[3] > image[4]

    def send(self, images) -> Callable[[], list[People]]:
        assert len(images) <= self.batch_size and len({self.kind(image) for image in images}) == 1
        self.batches.append(len(images))
        time.sleep(self.seconds)
        return lambda: [people_of(*image) for image in images]


def people_of(red: int, green: int, blue: int, height: int, width: int) -> People:
    """Up to 4 people; half of the scores are below OPTIONS.min_score or the threshold."""
    rng = np.random.default_rng((red, green, blue))
    count = (red + 3 * green + 7 * blue) % 5
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1) * [width, height]
    vectors = rng.normal(size=(count, DIM))
    scores = np.sort(rng.uniform(0, 1, count))[::-1]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return People(corners.reshape(count, 4).astype(np.float32), scores.astype(np.float32), unit.astype(np.float32))


def write_image(path: Path, number: int, size: tuple[int, int] = (24, 16)) -> Path:
    """An image of `size` (width, height) and of a colour of its own (PNG, so that it is read as it was written)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (number % 256, number // 256, 77)).save(path)
    return path


def write_video(path: Path, frames: int, rate: int = 10) -> Path:
    """A video whose frame i has the brightness 6 i, its left upper corner white."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate, options={"qmin": "1", "qmax": "1"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 8
        for i in range(frames):
            picture = np.full((48, 64, 3), 6 * i, np.uint8)
            picture[:12, :16] = 255
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


if __name__ == "__main__":
    index, folder, seconds = sys.argv[1:]
    print(update_index(ColourEmbedder(seconds=float(seconds)), folder, index, OPTIONS))
