"""Galleries that the dataset gives query by query, such as CUHK-SYSU's TestG50 to TestG4000 and its subsets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from psdiff_jax.data.galleries import GalleryList
from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.protocols.base import Protocol, SearchTask, register, size_words


@register("listed")
class Listed(Protocol):
    """A list as it is given, its query's own image included where the list has it; `with_others`: followed by all other
    images but the query's own.

    SeqNet's evaluator (82252c6) counts the list's images a second time in gallery size "all", as negatives: a defect,
    not a rule.
    """

    label = "gallery size"
    usage = "names of the dataset's own galleries, as in 'listed:50,100,all'"
    description = "the dataset's own galleries, by the truths of their lists"

    def __init__(self, task: SearchTask, size: str, official: GalleryList, with_others: bool = False) -> None:
        super().__init__(task)
        self.size, self._with_others = int(size) if size.isdecimal() else size, with_others
        self.official = self._list = official
        self._row = {int(query): row for row, query in enumerate(official.queries)}

    @classmethod
    def parse(cls, arguments: tuple[str, ...]) -> tuple[Any, ...]:
        if not arguments or not all(re.fullmatch(r"\w[\w.-]*", word) for word in arguments):
            raise ValueError
        return arguments

    @classmethod
    def make(cls, task: SearchTask, *names: str) -> Sequence[Protocol]:
        """The lists called `names`; "all" is the smallest numbered one and every other image as a negative."""
        if not task.lists:
            raise InputError("the dataset has no galleries of its own; sample some with 'sized:50,100'")
        smallest = min((name for name in task.lists if name.isdecimal()), key=int, default=None)
        known = dict(task.lists)
        if smallest:
            known.setdefault("all", task.lists[smallest])
        made = []
        for name in names:
            if name not in known:
                raise InputError(f"the dataset has no gallery called {name!r}; there are {', '.join(known)}")
            made.append(cls(task, name, known[name], with_others=name not in task.lists))
            if name not in task.lists:
                what = f"all is gallery {smallest} and every other photograph but the query's as a negative"
                made[-1].description = what
        return made

    def gallery(self, query: int) -> np.ndarray:
        listed = np.asarray(self._list.images[self._row[query]], np.int64)
        if not self._with_others:
            return listed
        other_M = np.ones(len(self.task.annotations), bool)
        other_M[listed], other_M[self.task.query_images[query]] = False, False
        return np.concatenate([listed, np.flatnonzero(other_M)])

    @classmethod
    def words(cls, name: str, size: str = "") -> str:
        subset = size not in ("", "all") and not size.isdecimal()
        return f"{size_words(size)} subset" if subset else f"{cls.label} {size_words(size)}".strip()

    @classmethod
    def headline_size(cls, sizes: Sequence[str]) -> str:
        return "100" if "100" in sizes else super().headline_size(sizes)  # as papers have it
