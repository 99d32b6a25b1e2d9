"""People who are coloured rectangles, and a model that finds them by their colour: routes are tested in milliseconds.

The index is a real one, made by `update_index`.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from psdiff_jax.errors import InputError
from psdiff_jax.inference.embed import People
from psdiff_jax.inference.index import Index
from psdiff_jax.inference.indexing import update_index
from psdiff_jax.ops.boxes import is_inside

COLORS = np.asarray([[214, 60, 52], [52, 96, 214], [46, 160, 88], [232, 178, 40]])
WIDTH, HEIGHT, TOP, BOTTOM = 320, 200, 60, 160


def draw(people: dict[int, int], path: Path | None = None) -> np.ndarray:
    """An image with each person at an x; also as a file."""
    image = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    for person, x in people.items():
        image[TOP:BOTTOM, x : x + 40] = COLORS[person]
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, quality=95)
    return image


class ColorSearch:
    """In the place of PersonSearch."""

    steps, threshold = 1, 0.5

    def detect(self, image: np.ndarray) -> People:
        """Also a false positive of low score in the corner."""
        near = np.abs(image[len(image) // 2].astype(int)[:, None] - COLORS).max(axis=-1) < 40
        columns = [np.flatnonzero(near[:, person]) for person in range(len(COLORS))]
        boxes = [(xs[0], TOP, xs[-1] + 1, BOTTOM) for xs in columns if len(xs) > 20] + [(0, 0, 30, 30)]
        scores = [0.9] * (len(boxes) - 1) + [0.2]
        embeddings = [self.embed(image, box) for box in boxes]
        return People(np.asarray(boxes, np.float32), np.asarray(scores, np.float32), np.stack(embeddings))

    def embed(self, image: np.ndarray, box) -> np.ndarray:
        if not is_inside(np.asarray(box, np.float32), *image.shape[:2]):
            raise InputError(f"box {box} does not lie in the image")
        x1, y1, x2, y2 = (int(v) for v in box)
        color = image[y1:y2, x1:x2].reshape(-1, 3).mean(axis=0) - 128
        return (color / np.linalg.norm(color)).astype(np.float32)


class ColorEmbedder:
    """In the place of ImageEmbedder."""

    model, embedding_dim, steps, threshold, batch_size = "colours", 3, 1, 0.5, 4

    def prepare(self, image: np.ndarray) -> np.ndarray:
        return image

    def kind(self, image: np.ndarray) -> None:
        return None

    def send(self, images) -> Callable[[], list[People]]:
        return lambda: [ColorSearch().detect(image) for image in images]


def make_index(folder: Path, into: Path) -> Index:
    update_index(ColorEmbedder(), folder, into)
    return Index.open(into)


def png(people: dict[int, int]) -> bytes:
    """The file of `draw`, without loss."""
    buffer = io.BytesIO()
    Image.fromarray(draw(people)).save(buffer, "PNG")
    return buffer.getvalue()


def film(scenes: list[dict[int, int]], path: Path) -> None:
    """A video that shows each scene for a second."""
    av = pytest.importorskip("av", reason="videos need the extra video")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=5, options={"crf": "10", "b": "2M", "g": "5"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in (av.VideoFrame.from_ndarray(draw(people), format="rgb24") for people in scenes for _ in range(5)):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
