"""Galleries of a given size: every positive of the query, and other images drawn at random."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from psdiff_jax.data.schema import images_of_identities
from psdiff_jax.evaluation.protocols.base import Protocol, SearchTask, positive, register, size_words

Order = Callable[[int], tuple[np.ndarray, int]]


@register("sized")
class Sampled(Protocol):
    """Every positive and, up to `size`, random other images; a smaller gallery is part of every larger one."""

    label = "sampled gallery size"
    usage = "numbers of images, as in 'sized:20,50,100,all'"

    def __init__(self, task: SearchTask, size: int | str, order: Order) -> None:
        super().__init__(task)
        self.size, self._order = size, order
        self.description = f"every true photograph and, up to the size, random others (seed {task.seed}), nested"

    @classmethod
    def parse(cls, arguments: tuple[str, ...]) -> tuple[Any, ...]:
        return tuple(word if word == "all" else positive(word) for word in arguments) or (20, 50, 100, "all")

    @classmethod
    def make(cls, task: SearchTask, *sizes: int | str) -> Sequence[Protocol]:
        order = _random_order(task)
        return [cls(task, size, order) for size in sizes]

    def gallery(self, query: int) -> np.ndarray:
        images, positives = self._order(query)
        return np.sort(images if self.size == "all" else images[: max(int(self.size), positives)])

    @classmethod
    def words(cls, name: str, size: str = "") -> str:
        return f"{cls.label} {size_words(size)}".strip()


def _random_order(task: SearchTask) -> Order:
    """query -> (int64 [M - 1], the positives and then all others in random order; the number of positives)."""
    images, images_of = len(task.annotations), images_of_identities(task.annotations.person_ids)

    @functools.lru_cache(maxsize=4)  # the sizes of one query are asked for one after the other
    def order(query: int) -> tuple[np.ndarray, int]:
        # Raw Philox output is the same for ever and on every machine; Generator.permutation is not promised to be.
        draw = np.random.Philox(key=[np.uint64(task.seed), np.uint64(query)]).random_raw(images).astype(np.float64)
        positives = images_of.get(int(task.queries.person_ids[query]), np.zeros(0, np.int64))
        own = task.query_images[query]
        draw[positives], draw[own] = -1.0, np.inf
        return np.argsort(draw, kind="stable")[:-1], len(np.setdiff1d(positives, own))

    return order
