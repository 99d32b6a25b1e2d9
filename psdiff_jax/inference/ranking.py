"""One person's best matches in a gallery, for `--mode search`."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

import numpy as np

from psdiff_jax.data.detections import NORM_TOLERANCE, Detections
from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.person_search import SearchResult


@dataclasses.dataclass(frozen=True)
class Hit:
    """A gallery detection and its similarity to the query.

    rank: from 1. image: name, or a video's path. box: xyxy in pixels of the image. score: detection confidence.
    similarity: cosine. detection: row in the gallery's Detections, or in the Index. time: seconds from the start of a
    video, None for an image.
    """

    rank: int
    image: str
    box: tuple[float, float, float, float]
    score: float
    similarity: float
    detection: int
    time: float | None = None

    @property
    def label(self) -> str:
        """The image; of a video also the time, as in "clip.mp4 at 1:02.5", to a thousandth where that says more."""
        if self.time is None:
            return self.image
        minutes, seconds = divmod(round(self.time, 3), 60)
        text = f"{seconds:06.3f}"
        return f"{self.image} at {int(minutes)}:{text[:4]}{text[4:].rstrip('0')}"

    def as_json(self) -> dict[str, Any]:
        """Plain numbers, text and lists."""
        return {**dataclasses.asdict(self), "box": list(self.box)}


def rank(
    query_embedding: np.ndarray,
    detections: Detections,
    top: int = 10,
    threshold: float = 0.0,
    leave_out: Collection[str] = (),
) -> list[Hit]:
    """The `top` detections most similar to `query_embedding` [D] (unit norm), best first, equals in the order of
    their rows.

    Detections with a score below `threshold` and those in the images `leave_out` are left out; there may be fewer than
    `top`. InputError for an embedding of another width or norm.
    """
    embedding_D = np.asarray(query_embedding, np.float32).reshape(-1)
    if embedding_D.shape != detections.embeddings.shape[1:]:
        raise InputError(f"query embedding is {embedding_D.size} wide, the gallery's {detections.embeddings.shape[1]}")
    if not abs(float(np.linalg.norm(embedding_D)) - 1.0) <= NORM_TOLERANCE:
        raise InputError("query embedding is not of unit norm (divide it by its L2 norm)")
    left_out_M = np.array([name in leave_out for name in detections.images], bool)
    keep_K = np.asarray(detections.scores) >= threshold
    if len(detections):
        keep_K &= ~left_out_M[detections.image_index]
    rows = np.flatnonzero(keep_K)
    similarity = (np.asarray(detections.embeddings) @ embedding_D)[rows]
    best = np.argsort(-similarity, kind="stable")[: max(top, 0)]
    return [_hit(place, int(rows[i]), float(similarity[i]), detections) for place, i in enumerate(best, 1)]


def hits_of_query(result: SearchResult, query: int, detections: Detections) -> list[Hit]:
    """The kept hits of one query of a SearchResult (see `score_search(keep=)`) as Hits."""
    rows = [int(row) for row in result.hits[query] if row >= 0]
    pairs = zip(rows, result.similarities[query], strict=False)
    return [_hit(place, row, float(similarity), detections) for place, (row, similarity) in enumerate(pairs, 1)]


def _hit(place: int, row: int, similarity: float, detections: Detections) -> Hit:
    x1, y1, x2, y2 = (float(v) for v in detections.boxes[row])
    image = detections.images[detections.image_index[row]]
    return Hit(place, image, (x1, y1, x2, y2), float(detections.scores[row]), similarity, row)
