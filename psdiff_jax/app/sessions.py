"""What each browser has asked: its images, the person it looks for, and the history that undo goes back through.

Legend: D embedding width.
"""

from __future__ import annotations

import dataclasses
import itertools
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from psdiff_jax.errors import InputError

Box = tuple[float, float, float, float]
Place = tuple[str, float | None, Box]  # of a hit, in whichever index: image, seconds in a video, box

# Rocchio's weights: of the examples, of the mean of what was confirmed, and of the mean of what was rejected.
EXAMPLES, CONFIRMED, REJECTED = 1.0, 0.75, 0.15

MAX_SESSIONS = 32
MAX_IMAGES = 12  # of one session
MAX_HISTORY = 100
SHOWN_AT_ONCE = 24


@dataclasses.dataclass(frozen=True)
class QueryImage:
    """An uploaded image. size: (height, width). boxes: xyxy pixels of the people found [K,4], their scores [K] and unit
    embeddings [K,D]."""

    id: str
    name: str
    jpeg: bytes
    size: tuple[int, int]
    boxes: np.ndarray
    scores: np.ndarray
    embeddings: np.ndarray


@dataclasses.dataclass(frozen=True)
class Example:
    """The person looked for, in one of the images. box: xyxy pixels. embedding: unit vector [D]."""

    image: str
    box: Box
    embedding: np.ndarray


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What the user said of a hit: it is them, or it is not. place, embedding: the hit's, a unit vector [D]."""

    place: Place
    is_them: bool
    embedding: np.ndarray


@dataclasses.dataclass(frozen=True)
class Query:
    """The person looked for: examples, one an image, and judgements of hits."""

    examples: tuple[Example, ...] = ()
    judgements: tuple[Judgement, ...] = ()

    def vector(self) -> np.ndarray:
        """The query's unit embedding [D], float32: Rocchio's formula on unit vectors.

        q = normalise(q0 + 0.75 mean(confirmed) - 0.15 mean(rejected)), where q0 is the normalised mean of the examples.
        The weights are those of Manning, Raghavan and Schütze, Introduction to Information Retrieval (2008), section
        9.1.1, after Rocchio (1971).
        """
        examples = [example.embedding for example in self.examples]
        origin = _unit(np.mean(examples, axis=0), otherwise=examples[0])
        refined = EXAMPLES * origin
        for is_them, weight in ((True, CONFIRMED), (False, -REJECTED)):
            judged = [each.embedding for each in self.judgements if each.is_them == is_them]
            if judged:
                refined = refined + weight * np.mean(judged, axis=0)
        return _unit(refined, otherwise=origin)

    @property
    def key(self) -> tuple[frozenset, frozenset]:
        """What tells it from another query."""
        return (
            frozenset((each.image, each.box) for each in self.examples),
            frozenset((each.place, each.is_them) for each in self.judgements),
        )

    def with_example(self, example: Example) -> Query:
        """Adds an example. One that replaces another box of the same image means another person, of whom nothing has
        been judged; the same one again changes nothing."""
        if any((each.image, each.box) == (example.image, example.box) for each in self.examples):
            return self
        others = tuple(each for each in self.examples if each.image != example.image)
        return Query((*others, example), self.judgements if len(others) == len(self.examples) else ())

    def without_image(self, image: str) -> Query:
        """Leaves out the example of an image; without any example nothing is judged either."""
        left = tuple(each for each in self.examples if each.image != image)
        return Query(left, self.judgements if left else ())

    def judged(self, judgement: Judgement | None, place: Place) -> Query:
        """Sets the judgement of the hit at a place; None takes it back."""
        others = tuple(each for each in self.judgements if each.place != place)
        return dataclasses.replace(self, judgements=(*others, judgement) if judgement else others)


@dataclasses.dataclass(frozen=True)
class Filters:
    """Which hits are shown. folder: first component of their path, None for all. after, before: seconds in a video; an
    image has no time and is in neither. similarity: the least. top: how many at most."""

    folder: str | None = None
    after: float | None = None
    before: float | None = None
    similarity: float = 0.0
    top: int = SHOWN_AT_ONCE


class Session:
    """One browser's images, filters and history of queries; the last query is the current one."""

    def __init__(self) -> None:
        self.images: dict[str, QueryImage] = {}
        self.filters = Filters()
        self._history = [Query()]
        self._lock = threading.Lock()

    @property
    def query(self) -> Query:
        return self._history[-1]

    @property
    def can_undo(self) -> bool:
        return len(self._history) > 1

    def change(self, change: Callable[[Query], Query]) -> None:
        """Makes what `change` gives for the current query the current one, if it is another."""
        with self._lock:
            changed = change(self.query)
            if changed.key != self.query.key:
                self._history = [*self._history, changed][-MAX_HISTORY:]

    def undo(self) -> None:
        """Back to the query before; does nothing at the first."""
        with self._lock:
            self._history = self._history[:-1] or self._history

    def image(self, image_id: str) -> QueryImage:
        """InputError for an image that was removed."""
        if image_id not in self.images:
            raise InputError("This image has been removed; choose it again")
        return self.images[image_id]

    def add(self, image: QueryImage) -> None:
        """InputError when the session holds as many images as it may."""
        with self._lock:
            if len(self.images) >= MAX_IMAGES:
                raise InputError(f"A search holds {MAX_IMAGES} images at most; remove one first")
            self.images = {**self.images, image.id: image}

    def remove(self, image_id: str) -> None:
        """Removes an image, and its example from the whole history."""
        with self._lock:
            self.images = {id_: image for id_, image in self.images.items() if id_ != image_id}
            left = [query.without_image(image_id) for query in self._history]
            left = [Query(), *(query for query in left if query.examples)]
            self._history = [next(same) for _, same in itertools.groupby(left, key=lambda query: query.key)]

    def clear(self) -> None:
        """A new search: no images, no history; the filters stay but for the number of hits."""
        with self._lock:
            self.images, self._history = {}, [Query()]
        self.filters = dataclasses.replace(self.filters, top=SHOWN_AT_ONCE)


class Sessions:
    """Sessions by id; the one that was not used for the longest time goes when there are too many."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, session_id: str) -> Session:
        """The session of an id; reading one that has asked nothing yet stores nothing."""
        with self._lock:
            if session_id in self._sessions:
                self._sessions.move_to_end(session_id)
            return self._sessions.get(session_id, Session())

    def keep(self, session_id: str) -> Session:
        """The session of an id, made and stored where there is none: for requests that write."""
        with self._lock:
            session = self._sessions.setdefault(session_id, Session())
            self._sessions.move_to_end(session_id)
            while len(self._sessions) > MAX_SESSIONS:
                self._sessions.popitem(last=False)
            return session


def new_id() -> str:
    """An id that cannot be guessed."""
    return secrets.token_urlsafe(12)


def _unit(vector: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """The vector at length 1, float32; one of length 0 is replaced by `otherwise`."""
    norm = float(np.linalg.norm(vector))
    return np.asarray(vector / norm if norm > 1e-6 else otherwise, np.float32)
