"""Checks of annotations that apply to any dataset, whatever its format. No pixels are read.

Readers use the same names of checks for faults that they can describe better from their own files: what a reader has
noted about an image, `check` does not note about it again.
"""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from psdiff_jax.datasets.common.boxes import box_text
from psdiff_jax.datasets.common.records import ERROR, WARNING, AnnotatedImage, Query, RawDataset, identities
from psdiff_jax.ops.boxes import box_iou

# names that readers use too
TWICE_IN_SPLIT = "image twice in a split"
BOTH_SPLITS = "image in both splits"
PERSON_TWICE, SAME_BOX = "identity twice in an image", "same box twice"
QUERY_OUTSIDE_GALLERY, QUERY_UNLABELLED = "query image not in the gallery", "query without identity"

NO_IMAGES, NO_BOXES, NO_QUERIES = "split without images", "split without boxes", "no queries"
FEW_IDENTITIES, SHARED_IDENTITIES = "fewer than two identities", "identities in both splits"
TINY, FULL_IMAGE = "tiny box", "box over the full image"
NO_POSITIVES, QUERY_BOX = "query without positives", "query box is no gallery box"
COUNTS = "count differs from the published one"

TINY_SIDE = 2.0  # pixels
SAME_BOX_IOU = 0.95
SAME_PERSON_IOU = 0.5


def check(dataset: RawDataset) -> None:
    """Adds findings.

    Errors: nothing can be built, or one image would be two. Warnings: identities in both splits, an identity twice in
    an image, queries that must score 0, boxes that look wrong, and counts that differ from the published ones (a
    partial copy can be built on purpose; scripts/validate_dataset.py then exits with status 1).
    """
    noted = {(finding.check, finding.image) for finding in dataset.findings if finding.image}
    before = len(dataset.findings)
    for split, images in dataset.splits.items():
        _check_split(dataset, split, images)
    for image in dataset.images:
        _check_boxes(dataset, image)
    _check_across_splits(dataset)
    _check_queries(dataset)
    _check_galleries(dataset)
    _check_counts(dataset)
    dataset.findings[before:] = [f for f in dataset.findings[before:] if (f.check, f.image) not in noted]


def same_boxes(boxes: np.ndarray, person_ids: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of rows, (earlier, later), with the same box and the same person id (-1 included)."""
    if len(set(person_ids.tolist())) == len(person_ids):
        return []
    same_id = person_ids[:, None] == person_ids[None]
    same = np.triu(same_id & (box_iou(boxes, boxes) > SAME_BOX_IOU), k=1)
    return [(int(first), int(second)) for first, second in np.argwhere(same)]


def _check_split(dataset: RawDataset, split: str, images: list[AnnotatedImage]) -> None:
    if not images:
        search_only = split == "train" and not dataset.published  # the user's own images, to search in only
        level = WARNING if search_only else ERROR
        dataset.note(level, NO_IMAGES, split, "there is no image in it; see what the dataset's card expects")
        return
    for name, count in Counter(image.name for image in images).items():
        if count > 1:
            dataset.note(ERROR, TWICE_IN_SPLIT, split, f"{name} is listed {count} times; remove all but one", name)
    if not any(len(image.boxes) for image in images):
        dataset.note(WARNING, NO_BOXES, split, "no image has a box")
        return
    ids = identities(images)
    if len(ids) < 2:
        what = f"every labelled box is person {next(iter(ids))}" if ids else "no box has an identity"
        dataset.note(WARNING, FEW_IDENTITIES, split, f"{what}; re-identification needs two identities or more")


def _check_boxes(dataset: RawDataset, image: AnnotatedImage) -> None:
    def note(check: str, what: str) -> None:
        dataset.note(WARNING, check, image.path, what, image.name)

    sides = image.boxes[:, 2:] - image.boxes[:, :2]
    covers = (sides >= np.asarray([image.width, image.height], np.float32)).all(1)
    for check, wrong, what in (
        (TINY, (sides < TINY_SIDE).any(1), f"a side is shorter than {TINY_SIDE:g} pixels"),
        (FULL_IMAGE, covers, f"it covers the {image.width} x {image.height} image"),
    ):
        for row in np.flatnonzero(wrong):
            note(check, f"box {row + 1} {box_text(image.boxes[row])} of {_person(image.person_ids[row])}: {what}")
    for first, second in same_boxes(image.boxes, image.person_ids):
        which = f"boxes {first + 1} and {second + 1} {box_text(image.boxes[second])}"
        note(SAME_BOX, f"{which} of {_person(image.person_ids[first])} are the same; remove one of them")
    for person_id, count in Counter(image.person_ids[image.person_ids >= 0].tolist()).items():
        if count > 1:
            note(PERSON_TWICE, f"person {person_id} has {count} boxes; search uses the first")


def _check_across_splits(dataset: RawDataset) -> None:
    gallery_names = {image.name for image in dataset.gallery}
    for image in dataset.train:
        if image.name in gallery_names:
            what = f"{image.name} is in train and in gallery; remove it from one"
            dataset.note(ERROR, BOTH_SPLITS, image.path, what, image.name)
    shared = identities(dataset.train) & identities(dataset.gallery)
    if shared:
        example = min(shared)
        in_train, in_gallery = (
            next(image.name for image in images if example in image.person_ids) for images in dataset.splits.values()
        )
        queried = len({query.person_id for query in dataset.queries} & shared)
        what = (
            f"{len(shared)} identities are in both ({queried} of them are queries), for example {example}, in"
            f" {in_train} and {in_gallery}; results on identities seen in training are optimistic"
        )
        dataset.note(WARNING, SHARED_IDENTITIES, "train and gallery", what, in_gallery)


def _check_queries(dataset: RawDataset) -> None:
    if not dataset.queries:
        level = ERROR if dataset.published else WARNING
        dataset.note(level, NO_QUERIES, "queries", "there is no query; see what the dataset's card expects")
    images = {image.name: image for image in dataset.gallery}
    shown = defaultdict(set)
    for image in dataset.gallery:
        for person_id in image.person_ids.tolist():
            shown[person_id].add(image.name)
    for number, query in enumerate(dataset.queries, start=1):
        where = f"query {number}, person {query.person_id} in {query.image_name}"
        if query.image_name not in images:
            what = "this image is not in the gallery; add it or drop the query"
            dataset.note(ERROR, QUERY_OUTSIDE_GALLERY, where, what, query.image_name)
        elif query.person_id < 0:
            what = "it has no person id; give it one or drop the query"
            dataset.note(ERROR, QUERY_UNLABELLED, where, what, query.image_name)
        else:
            _check_query(dataset, where, query, images[query.image_name], shown[query.person_id])


def _check_query(dataset: RawDataset, where: str, query: Query, image: AnnotatedImage, shown: set[str]) -> None:
    if not shown - {query.image_name}:
        what = "no other gallery image shows this person; it scores 0"
        dataset.note(WARNING, NO_POSITIVES, where, what, query.image_name)
    overlap = box_iou(image.boxes[image.person_ids == query.person_id], query.box[None])
    if not (overlap >= SAME_PERSON_IOU).any():
        relation = f"overlaps the annotated one by IoU {overlap.max():.2f}" if len(overlap) else "is not annotated"
        dataset.note(WARNING, QUERY_BOX, where, f"its box {box_text(query.box)} {relation}", query.image_name)


def _check_galleries(dataset: RawDataset) -> None:
    for name, gallery in dataset.galleries.items():
        pairs = zip(gallery.queries.tolist(), gallery.gt_places, strict=True)
        empty = [query for query, places in pairs if not len(places)]
        if empty:
            what = f"{len(empty)} without a positive in their list, which score 0; the first is query {empty[0] + 1}"
            dataset.note(WARNING, NO_POSITIVES, f"queries of gallery {name}", what)


def _check_counts(dataset: RawDataset) -> None:
    found = dataset.counts()
    for key, published in dataset.published.items():
        if found[key] != published:
            dataset.note(WARNING, COUNTS, key, f"found {found[key]:,}, published {published:,}; use a complete copy")


def _person(person_id: int) -> str:
    return f"person {person_id}" if person_id >= 0 else "an unlabelled person"
