"""The interface of a protocol: a rule that gives each query its gallery.

A protocol is one class, and `@register` gives it the name by which config.evaluate.protocols and evaluation.json know
it. A file of this folder is registered by being there, one of another package by an `import` in the config file:

    @register("nearby")
    class Nearby(Protocol):  # "nearby:9" in a config
        label, usage = "frames nearby", "a number of frames, as in 'nearby:9'"

        def __init__(self, task, frames):
            self.task, self.frames, self.name = task, frames, f"nearby:{frames}"
            self.description = f"images within {frames} frame numbers of the query"

        @classmethod
        def parse(cls, arguments):
            (frames,) = arguments
            return (positive(frames),)

        def gallery(self, query):
            near = np.abs(self.task.annotations.frames - self.task.queries.frames[query]) <= self.frames
            near[self.task.query_images[query]] = False
            return np.flatnonzero(near)

Legend: M gallery images, Q queries, G images in the gallery of one query.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from psdiff_jax.data.galleries import GalleryList
from psdiff_jax.data.schema import Annotations, Queries
from psdiff_jax.errors import InputError

PROTOCOLS: dict[str, type[Protocol]] = {}


def register(name: str) -> Callable[[type], type]:
    """A class decorator that makes a `Protocol` known under the name that its specs begin with."""

    def add(cls: type[Protocol]) -> type[Protocol]:
        known = PROTOCOLS.setdefault(name, cls)
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"{cls.__module__}.{cls.__qualname__}: {known.__qualname__} is called {name!r} already")
        cls.name = name
        return cls

    return add


@dataclasses.dataclass(frozen=True)
class SearchTask:
    """The gallery and the queries that protocols are made for.

    query_images: int64 [Q], the image of each query as an index into `annotations`. seed: of whatever a protocol draws.
    lists: the dataset's own galleries by name (`PreparedDataset.galleries`).
    """

    annotations: Annotations
    queries: Queries
    query_images: np.ndarray
    seed: int = 0
    lists: Mapping[str, GalleryList] = dataclasses.field(default_factory=dict)


class Protocol(abc.ABC):
    """A rule that gives each query its gallery, for one dataset and one gallery size.

    name, size: the keys of its numbers in evaluation.json. size: images in a gallery, "all" that the rule leaves, or
        the name of a subset. description: one phrase for evaluation.json.
    official: the dataset's list that it follows: only the list's queries are evaluated, with the list's ground truth.
        None: all queries are, with the ground truth of the annotations.
    excludes_queries_without_positives: queries without a positive in their gallery are left out of the means and
        counted apart, instead of scoring 0.
    label: its name on pages. usage: what may follow its name in a config, for error messages.
    """

    label: ClassVar[str] = ""
    usage: ClassVar[str] = "nothing after its name"
    name: str
    size: int | str = "all"
    description: str = ""
    official: GalleryList | None = None
    excludes_queries_without_positives: bool = False

    def __init__(self, task: SearchTask) -> None:
        self.task = task

    @classmethod
    def parse(cls, arguments: tuple[str, ...]) -> tuple[Any, ...]:
        """The words after the name of a spec, ("a", "b") of "name:a,b", as `make` takes them; no dataset is known yet.

        Raises:
          ValueError: they mean nothing.
        """
        if arguments:
            raise ValueError
        return ()

    @classmethod
    def make(cls, task: SearchTask, *arguments: Any) -> Sequence[Protocol]:
        """One protocol a gallery size.

        Raises:
          InputError: the dataset lacks what the rule needs.
        """
        return [cls(task, *arguments)]

    @abc.abstractmethod
    def gallery(self, query: int) -> np.ndarray:
        """int64 [G]: the gallery of a query as indices into the annotations, in the order of the search; an image may
        occur twice (as in CUHK-SYSU's lists)."""

    def queries(self, count: int) -> np.ndarray:
        """int64, rising: which of `count` queries are evaluated."""
        return np.arange(count) if self.official is None else np.asarray(self.official.queries, np.int64)

    @classmethod
    def words(cls, name: str, size: str = "") -> str:
        """Its galleries on a page, from the keys of evaluation.json: "temporal gap 250", "gallery size 100"."""
        kind, _, arguments = name.partition(":")
        label = f"{cls.label or kind.replace('_', ' ')} {arguments}".strip()
        return label if size in ("", "all") else f"{label}, {size_words(size)}"

    @classmethod
    def headline_size(cls, sizes: Sequence[str]) -> str:
        """Which of the gallery sizes (keys of evaluation.json) stands for the protocol: the largest."""
        return max(sizes, key=size_order)


def positive(word: str) -> int:
    """A whole number above 0; ValueError for another word."""
    if not word.isdecimal() or int(word) == 0:
        raise ValueError
    return int(word)


def check_known(what: str, values: np.ndarray, names: Sequence[str]) -> None:
    """Raises InputError where a value (a camera or a frame number, -1 unknown) of one of the images `names` is
    missing."""
    unknown = np.flatnonzero(np.asarray(values) < 0)
    if unknown.size:
        raise InputError(f"it needs the {what} of every image; {names[unknown[0]]!r} has none")


def size_words(size: str) -> str:
    """ "4,000" of "4000", "low resolution" of "low_resolution"."""
    return f"{int(size):,}" if size.isdecimal() else size.replace("_", " ")


def size_order(size: str) -> float:
    """Sorts gallery sizes: named subsets first (negative), then numbers, then "all"."""
    return float("inf") if size == "all" else float(size) if size.isdecimal() else -1.0
