"""Drawn street scenes with a model that knows everybody in them: pages are tested without a network."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from psdiff_jax.inference.embed import People
from psdiff_jax.inference.ranking import Hit
from psdiff_jax.inference.shards import MediaFile

COLORS = np.asarray([[214, 60, 52], [52, 96, 214], [46, 160, 88], [232, 178, 40]])
WIDTH, HEIGHT = 320, 200


def draw(people: list[tuple[int, int]], path: Path | None = None) -> np.ndarray:
    """An image with a rectangle for each (person, x); also as a file."""
    image = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    for person, x in people:
        image[60:160, x : x + 40] = COLORS[person]
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, quality=95)
    return image


class ColorSearch:
    """In the place of PersonSearch: people are rectangles, and their embedding is their colour."""

    steps = 1

    def detect(self, image: np.ndarray) -> People:
        row = image[len(image) // 2].astype(int)
        near = np.abs(row[:, None] - COLORS[None]).max(axis=-1) < 40
        boxes = []
        for person in range(len(COLORS)):
            xs = np.flatnonzero(near[:, person])
            if len(xs):
                boxes.append((xs[0], 60, xs[-1] + 1, 160))
        boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        embeddings = [self.embed(image, box) for box in boxes]
        return People(boxes, np.full(len(boxes), 0.9, np.float32), np.asarray(embeddings, np.float32).reshape(-1, 3))

    def embed(self, image: np.ndarray, box) -> np.ndarray:
        x1, y1, x2, y2 = (int(v) for v in box)
        color = image[y1:y2, x1:x2].reshape(-1, 3).mean(axis=0) - 128
        return (color / np.linalg.norm(color)).astype(np.float32)


@dataclasses.dataclass
class FolderIndex:
    """In the place of Index: a folder of images, all in memory."""

    root: Path

    def __post_init__(self) -> None:
        self.files, rows, model = [], [], ColorSearch()
        for path in sorted(p for p in self.root.rglob("*.jpg")):
            image = np.asarray(Image.open(path).convert("RGB"))
            people = model.detect(image)
            name = path.relative_to(self.root).as_posix()
            self.files.append(MediaFile(name, "image", 0, 0, 0, "", image.shape[1], image.shape[0], len(people.boxes)))
            rows += [
                (len(self.files) - 1, box, embedding)
                for box, embedding in zip(people.boxes, people.embeddings, strict=True)
            ]
        self.source = np.asarray([row[0] for row in rows], np.int32)
        self.boxes = np.asarray([row[1] for row in rows], np.float32).reshape(-1, 4)
        self.embeddings = np.asarray([row[2] for row in rows], np.float32).reshape(-1, 3)
        self.scores, self.time = np.full(len(rows), 0.9, np.float32), np.full(len(rows), np.nan, np.float32)
        self.live = np.ones(len(rows), bool)

    def vectors(self, rows) -> np.ndarray:
        return self.embeddings[np.asarray(rows)]

    def nearest(self, embedding, top, threshold, within) -> list[Hit]:
        similarity = np.where(within[self.source], self.embeddings @ embedding, -9)
        best = [i for i in np.argsort(-similarity, kind="stable")[:top] if similarity[i] > -9]
        return [self.hit(place, int(i), float(similarity[i])) for place, i in enumerate(best, 1)]

    def hit(self, rank: int, row: int, similarity: float) -> Hit:
        box = tuple(float(v) for v in self.boxes[row])
        time = None if np.isnan(self.time[row]) else float(self.time[row])
        return Hit(rank, self.files[self.source[row]].path, box, 0.9, similarity, row, time)
