"""People in a video: each frame is denoised from the people of the frame before, and they get track numbers.

    for found in track(embedder.detect, frames):   # frames: (seconds, image uint8 [H,W,3] RGB) in order
        found.time, found.people.boxes, found.tracks

A cold frame begins from noise and takes as many steps as an image. A warm one begins near the people of the frame
before (`samplers.Known`) and takes one or two. Tracks join detections of successive frames by overlap and similarity
of embeddings.

Legend: K people of a frame, T open tracks.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, NamedTuple, Protocol

import cv2
import numpy as np

from psdiff_jax.inference.embed import People
from psdiff_jax.ops.boxes import box_iou
from psdiff_jax.options import AT_LEAST_1, FRACTION, NOT_NEGATIVE

NO_TRACK = -1
_THUMBNAIL = (32, 24)  # width and height of the grey image that cuts are seen in


@dataclass(frozen=True)
class TrackingOptions:
    """How a video is searched for people and how they are followed."""

    cold_steps: Annotated[int, AT_LEAST_1, "denoising steps of a cold frame"] = 8
    warm_steps: Annotated[int, AT_LEAST_1, "denoising steps of the others"] = 2
    cold_every: Annotated[int, NOT_NEGATIVE, "every so many frames one is cold; 0 = the first and after cuts only"] = 0
    cut: Annotated[float, FRACTION, "mean difference of grey levels, as a fraction of white, that is a cut"] = 0.15
    known_score: Annotated[float, FRACTION, "smallest score of people that the next frame begins from"] = 0.2
    track_score: Annotated[float, FRACTION, "smallest score of people who get a track number"] = 0.4
    affinity: Annotated[float, FRACTION, "smallest mean of IoU and cosine that continues a track"] = 0.35
    similarity: Annotated[float, FRACTION, "smallest cosine that continues a track without overlap"] = 0.7
    memory: Annotated[
        float, FRACTION, "weight of a track's earlier embeddings in the next one; 0 = each frame for itself"
    ] = 0.5
    patience: Annotated[float, NOT_NEGATIVE, "seconds after which a track that was not seen ends"] = 2.0


class TrackedFrame(NamedTuple):
    """The people of a frame: time in seconds; people, best score first; tracks int64 [K], NO_TRACK for low scores.

    The embeddings of people with a track are means over its frames so far, the last ones weighing most. cold: whether
    it was denoised from noise with all steps.
    """

    time: float
    people: People
    tracks: np.ndarray
    cold: bool


class Detect(Protocol):
    """`Embedder.detect`: everybody in an image, in a number of steps; `known`: people to begin from."""

    def __call__(self, image: np.ndarray, steps: int, known: People | None = None, draw: int = 0) -> People: ...


def track(
    detect: Detect, frames: Iterable[tuple[float, np.ndarray]], options: TrackingOptions | None = None
) -> Iterator[TrackedFrame]:
    """The people of each frame (seconds, uint8 [H,W,3] RGB), in the order of the frames, one at a time.

    The first frame, those after a cut and every `cold_every`th are cold. After a frame without people there is nobody
    to begin from: then `warm_steps` steps from noise look whether somebody has come.
    """
    options = options or TrackingOptions()
    tracker, before = Tracker(options), None
    thumbnail, since = None, 0
    for number, (time, image) in enumerate(frames):
        last, thumbnail = thumbnail, _thumbnail(image)
        is_cut = last is None or float(np.abs(thumbnail - last).mean()) > options.cut
        cold = is_cut or 0 < options.cold_every <= since
        steps = options.cold_steps if cold else options.warm_steps
        people = detect(image, steps, None if cold else before, draw=number)
        people, tracks = tracker.update(time, people, is_cut)
        known = _at_least(people, options.known_score)
        before, since = known if len(known.scores) else None, 1 if cold else since + 1
        yield TrackedFrame(time, people, tracks, cold)


class Tracker:
    """Numbers for people that stay the same from frame to frame: 0, 1, ... in the order in which they appear.

    People of a frame and open tracks are paired by the Hungarian algorithm, so that the sum of their affinities (mean
    of IoU and cosine) is the largest.
    """

    def __init__(self, options: TrackingOptions):
        self._options = options
        self._open: list[_Track] = []
        self._count = 0

    def update(self, time: float, people: People, is_cut: bool = False) -> tuple[People, np.ndarray]:
        """(people with the embeddings of their tracks, track numbers int64 [K]) of the frame at `time` seconds.

        is_cut: the frame begins another scene, where a person at the place of another is no sign that they are one.
        """
        options, numbers = self._options, np.full(len(people.scores), NO_TRACK, np.int64)
        self._open = [track for track in self._open if time - track.seen <= options.patience]
        rows = np.flatnonzero(people.scores >= options.track_score)
        pairs = dict(self._pairs(people.boxes[rows], people.embeddings[rows], is_cut))
        embeddings = people.embeddings.copy()
        for i, row in enumerate(rows):
            if i in pairs:
                track = self._open[pairs[i]]
            else:
                track = _Track(self._count, np.zeros_like(embeddings[row]))
                self._open.append(track)
                self._count += 1
            track.see(time, people.boxes[row], embeddings[row], options.memory)
            numbers[row], embeddings[row] = track.number, track.embedding
        return people._replace(embeddings=embeddings), numbers

    def _pairs(self, boxes: np.ndarray, embeddings: np.ndarray, is_cut: bool) -> Iterator[tuple[int, int]]:
        """(person, place in the open tracks) of those that continue a track."""
        from scipy.optimize import linear_sum_assignment  # here, for it takes half a second that a search would wait

        if not (self._open and len(boxes)):
            return
        iou_KT = box_iou(boxes, np.stack([track.box for track in self._open])) * (not is_cut)
        cosine_KT = embeddings @ np.stack([track.embedding for track in self._open]).T
        affinity_KT = (iou_KT + cosine_KT) / 2
        possible = (iou_KT > 0) & (affinity_KT >= self._options.affinity) | (cosine_KT >= self._options.similarity)
        for k, t in zip(*linear_sum_assignment(np.where(possible, affinity_KT, 0), maximize=True), strict=True):
            if possible[k, t]:
                yield int(k), int(t)


class _Track:
    """A track in progress: where and when it was seen last, and the direction of its mean embedding, the last frames
    weighing most."""

    def __init__(self, number: int, nothing: np.ndarray):
        self.number, self._sum = number, nothing
        self.box, self.seen = np.zeros(4), 0.0

    @property
    def embedding(self) -> np.ndarray:
        return self._sum / max(float(np.linalg.norm(self._sum)), 1e-9)

    def see(self, time: float, box: np.ndarray, embedding: np.ndarray, memory: float) -> None:
        self.box, self.seen, self._sum = box, time, memory * self._sum + embedding


def _at_least(people: People, score: float) -> People:
    """Those of a score, at least."""
    rows = people.scores >= score
    return People(*(values[rows] for values in people))


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """A small grey image, float32, white = 1."""
    small = cv2.resize(image, _THUMBNAIL, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
