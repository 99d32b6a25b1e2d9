"""Protocols of the whole gallery without some images: the query's own, those of its camera, those close in time."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import numpy as np

from psdiff_jax.evaluation.protocols.base import Protocol, SearchTask, check_known, positive, register


class _Excluding(Protocol):
    """All images that `keeps` says, never the query's own."""

    @abc.abstractmethod
    def keeps(self, query: int) -> np.ndarray:
        """A new bool [M]."""

    def gallery(self, query: int) -> np.ndarray:
        kept_M = self.keeps(query)
        kept_M[self.task.query_images[query]] = False
        return np.flatnonzero(kept_M)


@register("whole")
class Whole(_Excluding):
    label = "whole gallery"
    description = "all but the query's own photograph"

    def keeps(self, query: int) -> np.ndarray:
        return np.ones(len(self.task.annotations), bool)


class _ByCamera(_Excluding):
    same: ClassVar[bool]

    def __init__(self, task: SearchTask) -> None:
        super().__init__(task)
        check_known("camera", task.annotations.cameras, task.annotations.image_names)
        check_known("camera", task.queries.cameras, task.queries.image_names)

    def keeps(self, query: int) -> np.ndarray:
        return (np.asarray(self.task.annotations.cameras) == self.task.queries.cameras[query]) == self.same


@register("cross_camera")
class CrossCamera(_ByCamera):
    label, same = "cross-camera", False
    description = "photographs of other cameras only"


@register("same_camera")
class SameCamera(_ByCamera):
    label, same = "same camera", True
    description = "photographs of the query's camera only"


@register("temporal_gap")
class TemporalGap(_Excluding):
    """Without the images of the query's camera within `gap` frame numbers, itself included."""

    usage = "a number of frames, as in 'temporal_gap:250'"
    excludes_queries_without_positives = True

    def __init__(self, task: SearchTask, gap: int) -> None:
        super().__init__(task)
        check_known("frame number", task.annotations.frames, task.annotations.image_names)
        check_known("frame number", task.queries.frames, task.queries.image_names)
        self.gap, self.name = gap, f"temporal_gap:{gap}"
        self.description = (
            f"without the query camera's photographs within {gap} frame numbers; "
            "queries left without a true one are not in the means"
        )

    @classmethod
    def parse(cls, arguments: tuple[str, ...]) -> tuple[Any, ...]:
        (gap,) = arguments or ("250",)
        return (positive(gap),)

    def keeps(self, query: int) -> np.ndarray:
        annotations, queries = self.task.annotations, self.task.queries
        same_camera_M = np.asarray(annotations.cameras) == queries.cameras[query]
        return ~(same_camera_M & (np.abs(np.asarray(annotations.frames) - queries.frames[query]) <= self.gap))
