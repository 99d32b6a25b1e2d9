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
    """A list as it is given; where it `extends` another one of that name, that list and then all other images but the
    query's own as negatives. (SeqNet's evaluator, 82252c6, adds the list's images a second time: a defect, not a rule.)
    """

    label = "gallery size"
    usage = "names of the dataset's own galleries, as in 'listed:50,100,all'"
    description = "the dataset's own galleries, by the truths of their lists"

    def __init__(self, task: SearchTask, size: str, official: GalleryList, extends: str = "") -> None:
        super().__init__(task)
        self.size, self._extends = int(size) if size.isdecimal() else size, extends
        self.official = self._list = official
        if extends:
            self.description = f"all is gallery {extends} and every other photograph but the query's as a negative"
        self._row = {int(query): row for row, query in enumerate(official.queries)}

    @classmethod
    def parse(cls, arguments: tuple[str, ...]) -> tuple[Any, ...]:
        if not arguments or not all(re.fullmatch(r"\w[\w.-]*", word) for word in arguments):
            raise ValueError
        return arguments

    @classmethod
    def make(cls, task: SearchTask, *names: str) -> Sequence[Protocol]:
        """The lists called `names`; "all" extends the smallest numbered one where no list is called so."""
        if not task.lists:
            raise InputError("the dataset has no galleries of its own; sample some with 'sized:50,100'")
        smallest = min((name for name in task.lists if name.isdecimal()), key=int, default="")
        known = dict(task.lists)
        if smallest:
            known.setdefault("all", task.lists[smallest])
        for name in names:
            if name not in known:
                raise InputError(f"the dataset has no gallery called {name!r}; there are {', '.join(known)}")
        return [cls(task, name, known[name], "" if name in task.lists else smallest) for name in names]

    def gallery(self, query: int) -> np.ndarray:
        listed = np.asarray(self._list.images[self._row[query]], np.int64)
        if not self._extends:
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
