"""Where the person of a query stands in the gallery, and which detections could count as him.

A detection counts where its IoU with the truth box reaches min(0.5, w h / ((w+10)(h+10))), w and h in pixels of the
original photograph. Truths come from the annotations, or from an official list, whose boxes then decide.

Legend: K kept detections, M photographs, T truths, C detections that reach the threshold of theirs, P pairs.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from psdiff_jax.data.galleries import GalleryList

if TYPE_CHECKING:
    from psdiff_jax.data.records import Annotations


@dataclasses.dataclass(frozen=True)
class Standing:
    """Where one person stands.

    images: int64 [T] rising, photographs that show him. candidates: int64 [C], detections that reach the threshold in
    one of them, by photograph and then by row; candidate_images: int64 [C], their photographs.
    places: how many places of an official list show him, repeated photographs included; None for annotations.
    """

    images: np.ndarray
    candidates: np.ndarray
    candidate_images: np.ndarray
    places: int | None = None


@dataclasses.dataclass(frozen=True)
class Rows:
    """The kept detections sorted by photograph: those of photograph m are `order[starts[m]:starts[m + 1]]`."""

    order: np.ndarray
    starts: np.ndarray

    @classmethod
    def by_image(cls, image_K: np.ndarray, images: int) -> Rows:
        """Rows of detections that stand in the photographs `image_K`, rising within a photograph."""
        order = np.argsort(image_K, kind="stable")
        return cls(order, np.searchsorted(image_K[order], np.arange(images + 1)))

    def of(self, images_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(place in `images_T`, detection), int64 [P] each: all detections of each of these photographs in turn."""
        counts = self.starts[images_T + 1] - self.starts[images_T]
        place = np.repeat(np.arange(len(images_T)), counts)
        within = np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts)
        return place, self.order[self.starts[images_T][place] + within]


def truth_threshold(boxes: np.ndarray) -> np.ndarray:
    """IoU [...] from which a detection counts as the truth xyxy [...,4]: 0.5, less for boxes under about 24 pixels."""
    boxes = np.asarray(boxes, np.float64)
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return np.minimum(0.5, width * height / ((width + 10.0) * (height + 10.0)))


def stand_by_annotations(
    annotations: Annotations, people: np.ndarray, boxes_K4: np.ndarray, rows: Rows
) -> dict[int, Standing]:
    """Person id -> where he stands, for each of `people`; of one who stands twice in a photograph the first box
    counts."""
    counts = [len(ids) for ids in annotations.person_ids]
    ids = np.concatenate([np.zeros(0, np.int64), *annotations.person_ids])
    images = np.repeat(np.arange(len(counts)), counts)
    boxes = np.concatenate([np.zeros((0, 4)), *(np.reshape(b, (-1, 4)) for b in annotations.boxes)])
    wanted = np.flatnonzero((ids >= 0) & np.isin(ids, people))
    _, first = np.unique(np.stack([ids[wanted], images[wanted]]), axis=1, return_index=True)
    wanted = wanted[first]  # by person, then by photograph
    return _standings(np.unique(people), ids[wanted], images[wanted], boxes[wanted], boxes_K4, rows)


def stand_by_list(gallery: GalleryList, boxes_K4: np.ndarray, rows: Rows) -> dict[int, Standing]:
    """Query number -> where the person stands by an official list; of a photograph that stands there twice the first
    place decides."""
    kept = [
        [t for t, place in enumerate(places.tolist()) if images[place] not in images[:place]]
        for images, places in zip(gallery.images, gallery.gt_places, strict=True)
    ]
    owners = np.repeat(gallery.queries, [len(rows) for rows in kept])
    images = np.concatenate(
        [np.zeros(0, np.int64), *(i[p[k]] for i, p, k in zip(gallery.images, gallery.gt_places, kept, strict=True))]
    )
    boxes = np.concatenate([np.zeros((0, 4)), *(b[k] for b, k in zip(gallery.gt_boxes, kept, strict=True))])
    order = np.lexsort((images, owners))
    found = _standings(gallery.queries, owners[order], images[order], boxes[order], boxes_K4, rows)
    places = zip(gallery.queries.tolist(), map(len, gallery.gt_places), strict=True)
    return {query: dataclasses.replace(found[query], places=count) for query, count in places}


def _standings(
    every: np.ndarray,
    owners_T: np.ndarray,
    images_T: np.ndarray,
    boxes_T4: np.ndarray,
    boxes_K4: np.ndarray,
    rows: Rows,
) -> dict[int, Standing]:
    """Owner -> Standing for the owners `every` (rising); the truths are sorted by owner and photograph."""
    truth_P, row_P = rows.of(images_T)
    iou = _iou_of_pairs(boxes_T4[truth_P], boxes_K4[row_P])
    reached = (iou >= truth_threshold(boxes_T4)[truth_P]) & (iou > 0)  # an empty truth, threshold 0, is met by nobody
    truth_C, row_C = truth_P[reached], row_P[reached]
    truth_ends = np.searchsorted(owners_T, every, side="right")
    truth_starts = np.searchsorted(owners_T, every)
    starts, ends = np.searchsorted(truth_C, truth_starts), np.searchsorted(truth_C, truth_ends)
    image_C = images_T[truth_C]
    return {
        int(owner): Standing(images_T[a:b], row_C[c:d], image_C[c:d])
        for owner, a, b, c, d in zip(every, truth_starts, truth_ends, starts, ends, strict=True)
    }


def _iou_of_pairs(one_P4: np.ndarray, other_P4: np.ndarray) -> np.ndarray:
    """IoU float64 [P] of xyxy boxes, row by row; 0 where both areas are empty."""
    one, other = np.asarray(one_P4, np.float64), np.asarray(other_P4, np.float64)
    size = np.maximum(np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2]), 0.0)
    overlap = size[:, 0] * size[:, 1]
    union = np.prod(one[:, 2:] - one[:, :2], axis=1) + np.prod(other[:, 2:] - other[:, :2], axis=1) - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
