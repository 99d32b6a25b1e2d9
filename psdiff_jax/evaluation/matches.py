"""Ground-truth matches: which gallery images show the person of a query, and which detections may count as them.

A detection may count where its IoU with the ground-truth box reaches min(0.5, w h / ((w+10)(h+10))), w and h in pixels
of the original image. Ground truth comes from the annotations, or from an official list, whose boxes then decide.

Legend: K kept detections, M images, T ground-truth boxes, C candidates (detections that reach the threshold), P pairs.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from psdiff_jax.data.galleries import GalleryList
from psdiff_jax.data.schema import Annotations
from psdiff_jax.ops.boxes import iou


@dataclasses.dataclass(frozen=True)
class Matches:
    """The ground-truth matches of one person.

    images: int64 [T] rising, the images that show the person. candidates: int64 [C], detections that reach the
    threshold in one of them, by image and then by row; candidate_images: int64 [C], their images.
    places: how many places of an official list show the person, repeated images included; None for annotations.
    """

    images: np.ndarray
    candidates: np.ndarray
    candidate_images: np.ndarray
    places: int | None = None


@dataclasses.dataclass(frozen=True)
class ByImage:
    """The kept detections sorted by image: those of image m are `order[starts[m]:starts[m + 1]]`, rising."""

    order: np.ndarray
    starts: np.ndarray

    @classmethod
    def sort(cls, image_K: np.ndarray, images: int) -> ByImage:
        order = np.argsort(image_K, kind="stable")
        return cls(order, np.searchsorted(image_K[order], np.arange(images + 1)))

    def of(self, images_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(index into `images_T`, detection), int64 [P] each: all detections of each of these images in turn."""
        counts = self.starts[images_T + 1] - self.starts[images_T]
        index = np.repeat(np.arange(len(images_T)), counts)
        within = np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)
        return index, self.order[self.starts[images_T][index] + within]


def match_threshold(boxes: np.ndarray) -> np.ndarray:
    """The smallest IoU [...] with the ground-truth box xyxy [...,4]: 0.5, less for boxes under about 24 pixels."""
    boxes = np.asarray(boxes, np.float64)
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return np.minimum(0.5, width * height / ((width + 10.0) * (height + 10.0)))


def matches_by_annotations(
    annotations: Annotations, person_ids: np.ndarray, boxes_K4: np.ndarray, by_image: ByImage
) -> dict[int, Matches]:
    """Person id -> matches, for each of `person_ids`; where an image shows a person twice, the first box counts."""
    counts = [len(ids) for ids in annotations.person_ids]
    ids = np.concatenate([np.zeros(0, np.int64), *annotations.person_ids])
    images = np.repeat(np.arange(len(counts)), counts)
    boxes = np.concatenate([np.zeros((0, 4)), *(np.reshape(b, (-1, 4)) for b in annotations.boxes)])
    wanted = np.flatnonzero((ids >= 0) & np.isin(ids, person_ids))
    _, first = np.unique(np.stack([ids[wanted], images[wanted]]), axis=1, return_index=True)
    wanted = wanted[first]  # by person, then by image
    return _matches(np.unique(person_ids), ids[wanted], images[wanted], boxes[wanted], boxes_K4, by_image)


def matches_by_list(gallery: GalleryList, boxes_K4: np.ndarray, by_image: ByImage) -> dict[int, Matches]:
    """Query number -> matches by an official list; where it has an image twice, the first place decides."""
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
    found = _matches(gallery.queries, owners[order], images[order], boxes[order], boxes_K4, by_image)
    places = zip(gallery.queries.tolist(), map(len, gallery.gt_places), strict=True)
    return {query: dataclasses.replace(found[query], places=count) for query, count in places}


def _matches(
    every: np.ndarray,
    owners_T: np.ndarray,
    images_T: np.ndarray,
    boxes_T4: np.ndarray,
    boxes_K4: np.ndarray,
    by_image: ByImage,
) -> dict[int, Matches]:
    """Owner -> Matches for the owners `every` (rising); the ground truth is sorted by owner and image."""
    gt_P, row_P = by_image.of(images_T)
    iou_P = iou(np.asarray(boxes_T4, np.float64)[gt_P], np.asarray(boxes_K4, np.float64)[row_P])
    reached = (iou_P >= match_threshold(boxes_T4)[gt_P]) & (iou_P > 0)  # nothing matches an empty box, threshold 0
    gt_C, row_C = gt_P[reached], row_P[reached]
    gt_starts, gt_ends = (np.searchsorted(owners_T, every, side=side) for side in ("left", "right"))
    starts, ends = np.searchsorted(gt_C, gt_starts), np.searchsorted(gt_C, gt_ends)
    image_C = images_T[gt_C]
    return {
        int(owner): Matches(images_T[a:b], row_C[c:d], image_C[c:d])
        for owner, a, b, c, d in zip(every, gt_starts, gt_ends, starts, ends, strict=True)
    }
