"""When and where a person appears in videos: hits grouped in time, or the tracks that look like the person.

    appearances = group(index.nearest(query, top=500, threshold=ps.threshold))
    write_json(path, appearances); write_csv(path, appearances)

Legend: K people of a frame, D embedding.
"""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from psdiff_jax.files import write_atomically
from psdiff_jax.inference.ranking import Hit
from psdiff_jax.inference.tracking import NO_TRACK, TrackedFrame

Box = tuple[float, float, float, float]
SIMILARITY = 0.65  # by the shipped weights 2 in 100 boxes of others are as similar (docs/video.md)


class Sight(NamedTuple):
    """A person at one time: seconds; box xyxy in pixels of the frame; cosine similarity to the query."""

    time: float
    box: Box
    similarity: float


@dataclass(frozen=True)
class Appearance:
    """A stretch of a video that shows the person. source: the video. sights: one or more, in the order of time."""

    source: str
    sights: tuple[Sight, ...]

    @property
    def start(self) -> float:
        """Seconds of the first sight."""
        return self.sights[0].time

    @property
    def end(self) -> float:
        """Seconds of the last sight."""
        return self.sights[-1].time

    @property
    def best(self) -> Sight:
        """The most similar sight, of equals the first."""
        return max(self.sights, key=lambda sight: sight.similarity)

    def as_json(self) -> dict[str, Any]:
        """Plain numbers, text and lists; times are seconds, rounded to milliseconds."""
        return {**_row(self), "track": [{"time": _ms(s.time), "box": _pixels(s.box)} for s in self.sights]}


def group(hits: Iterable[Hit], gap: float = 3.0) -> list[Appearance]:
    """Hits in videos as appearances, the most similar first; hits in images are left out.

    A person is once in a frame: of its hits the most similar is kept. After more than `gap` seconds without a hit a new
    appearance begins: choose it above the time between two frames of the index.
    """
    frames: dict[str, dict[float, Sight]] = {}
    for hit in hits:
        if hit.time is None:
            continue
        known = frames.setdefault(hit.image, {})
        if hit.time not in known or hit.similarity > known[hit.time].similarity:
            known[hit.time] = Sight(hit.time, hit.box, hit.similarity)
    return _ranked(
        Appearance(source, part)
        for source, sights in frames.items()
        for part in _parts([sights[time] for time in sorted(sights)], gap)
    )


def of_tracks(
    source: str, frames: Iterable[TrackedFrame], query: np.ndarray, similarity: float = SIMILARITY, gap: float = 3.0
) -> list[Appearance]:
    """The tracks of a video whose mean embedding is at least as similar to `query` [D] (unit norm) as `similarity`.

    A mean over many frames is a steadier likeness than any of them. Tracks are cut where the person is not seen for
    more than `gap` seconds.
    """
    seen: dict[int, list[tuple[float, np.ndarray, np.ndarray]]] = {}
    for frame in frames:
        for k in np.flatnonzero(frame.tracks != NO_TRACK):
            row = frame.time, frame.people.boxes[k], frame.people.embeddings[k]
            seen.setdefault(int(frame.tracks[k]), []).append(row)
    found = []
    for rows in seen.values():
        mean = np.mean([embedding for _, _, embedding in rows], axis=0)
        if mean @ query < similarity * np.linalg.norm(mean):
            continue
        sights = [Sight(time, _box(box), float(embedding @ query)) for time, box, embedding in rows]
        found += [Appearance(source, part) for part in _parts(sights, gap)]
    return _ranked(found)


def write_json(path: str | Path, appearances: Sequence[Appearance]) -> None:
    """A list of `Appearance.as_json`."""
    text = json.dumps([each.as_json() for each in appearances], indent=2, ensure_ascii=False)
    write_atomically(Path(path), text + "\n")


def write_csv(path: str | Path, appearances: Sequence[Appearance]) -> None:
    """A row for each appearance: source, from, to, best time, best similarity, best box x1 to y2, frames."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("source", "from", "to", "best_time", "best_similarity", "x1", "y1", "x2", "y2", "frames"))
    for each in appearances:
        row = _row(each)
        box = row.pop("best_box")
        writer.writerow([*row.values(), *box, len(each.sights)])
    write_atomically(Path(path), text.getvalue())


def _row(appearance: Appearance) -> dict[str, Any]:
    best = appearance.best
    return {
        "source": appearance.source,
        "from": _ms(appearance.start),
        "to": _ms(appearance.end),
        "best_time": _ms(best.time),
        "best_similarity": round(best.similarity, 4),
        "best_box": _pixels(best.box),
    }


def _parts(sights: list[Sight], gap: float) -> Iterable[tuple[Sight, ...]]:
    """Sights in the order of time, cut where two are more than `gap` seconds apart."""
    part: list[Sight] = []
    for sight in sights:
        if part and sight.time - part[-1].time > gap:
            yield tuple(part)
            part = []
        part.append(sight)
    if part:
        yield tuple(part)


def _ranked(appearances: Iterable[Appearance]) -> list[Appearance]:
    return sorted(appearances, key=lambda each: (-each.best.similarity, each.source, each.start))


def _box(box: np.ndarray) -> Box:
    x1, y1, x2, y2 = (float(v) for v in box)
    return x1, y1, x2, y2


def _ms(time: float) -> float:
    return round(time, 3)


def _pixels(box: Box) -> list[float]:
    return [round(v, 1) for v in box]
