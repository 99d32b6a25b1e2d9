"""What can be said of any dataset, whatever its format: annotations alone, no pixels.

Readers note what they see in their own files under the same names of checks where they can say it better: what a
reader has noted of a photograph, `check` does not note of it again.
"""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from psdiff_jax.datasets.common.records import ERROR, WARNING, Contents, Query, Scene
from psdiff_jax.evaluation.detection import box_iou

# names that readers use too
NO_PHOTOGRAPH = "missing or unreadable photograph"
NO_ANNOTATION = "missing or unreadable annotation"
BOX_OUTSIDE = "box outside its photograph"
BOX_WITHOUT_AREA = "box without area"
TWICE_IN_SPLIT = "photograph twice in a split"
BOTH_SPLITS = "photograph in both splits"
PERSON_TWICE, SAME_BOX = "person twice in a photograph", "same box twice"
QUERY_OUTSIDE_GALLERY = "query photograph not in the gallery"

NO_PHOTOGRAPHS, NO_BOXES = "split without photographs", "split without boxes"
NO_QUERIES, FEW_PEOPLE = "no queries", "fewer than two identities"
SHARED_PEOPLE = "identities in both splits"
TINY, WHOLE = "tiny box", "box over the whole photograph"
NO_OTHER, QUERY_BOX = "query without another photograph", "query box is no gallery box"
QUERY_UNLABELLED = "query without identity"
COUNTS = "count differs from the published one"

TINY_SIDE = 2.0  # pixels
SAME_BOX_IOU = 0.95
SAME_PERSON_IOU = 0.5


def check(contents: Contents) -> None:
    """Adds findings.

    Errors: nothing can be built, or one photograph would be two. Warnings: identities in both splits, one person twice
    in a photograph, queries that must score 0, boxes that look wrong, and counts that are not the published ones (a
    knowingly partial copy can be built; scripts/validate_dataset.py then ends with status 1).
    """
    noted = {(finding.check, finding.image) for finding in contents.findings if finding.image}
    before = len(contents.findings)
    for split, scenes in (("train", contents.train), ("gallery", contents.gallery)):
        _check_split(contents, split, scenes)
    for scene in [*contents.train, *contents.gallery]:
        _check_boxes(contents, scene)
    _check_across_splits(contents)
    _check_queries(contents)
    _check_galleries(contents)
    _check_counts(contents)
    contents.findings[before:] = [f for f in contents.findings[before:] if (f.check, f.image) not in noted]


def same_boxes(boxes: np.ndarray, person_ids: np.ndarray) -> list[tuple[int, int]]:
    """The pairs of rows, (earlier, later), that are the same box of the same person, or of somebody unlabelled."""
    if len(set(person_ids.tolist())) == len(person_ids):
        return []
    same_person = person_ids[:, None] == person_ids[None]
    same = np.triu(same_person & (box_iou(boxes, boxes) > SAME_BOX_IOU), k=1)
    return [(int(first), int(second)) for first, second in np.argwhere(same)]


def _check_split(contents: Contents, split: str, scenes: list[Scene]) -> None:
    if not scenes:
        searching = split == "train" and not contents.published  # one's own photographs, to search in only
        level = WARNING if searching else ERROR
        contents.note(level, NO_PHOTOGRAPHS, split, "there is no photograph in it; see what the dataset's card expects")
        return
    for name, count in Counter(scene.name for scene in scenes).items():
        if count > 1:
            contents.note(ERROR, TWICE_IN_SPLIT, split, f"{name} stands there {count} times; remove all but one", name)
    if not any(len(scene.boxes) for scene in scenes):
        contents.note(WARNING, NO_BOXES, split, "no photograph has a box")
        return
    people = _people(scenes)
    if len(people) < 2:
        who = f"every labelled box is person {next(iter(people))}" if people else "no box has an identity"
        contents.note(WARNING, FEW_PEOPLE, split, f"{who}: there is nobody to tell apart")


def _check_boxes(contents: Contents, scene: Scene) -> None:
    sides = scene.boxes[:, 2:] - scene.boxes[:, :2]
    covers = (sides >= np.float32([scene.width, scene.height])).all(1)
    for check, wrong, what in (
        (TINY, (sides < TINY_SIDE).any(1), f"a side is shorter than {TINY_SIDE:g} pixels"),
        (WHOLE, covers, f"it covers the {scene.width} x {scene.height} photograph"),
    ):
        for row in np.flatnonzero(wrong):
            contents.note(
                WARNING,
                check,
                scene.path,
                f"box {row + 1} {_text(scene.boxes[row])} of {_person(scene.person_ids[row])}: {what}",
                scene.name,
            )
    for first, second in same_boxes(scene.boxes, scene.person_ids):
        contents.note(
            WARNING,
            SAME_BOX,
            scene.path,
            f"boxes {first + 1} and {second + 1} {_text(scene.boxes[second])}"
            f" of {_person(scene.person_ids[first])} are one; remove one of them",
            scene.name,
        )
    for person_id, count in Counter(scene.person_ids[scene.person_ids >= 0].tolist()).items():
        if count > 1:
            contents.note(
                WARNING,
                PERSON_TWICE,
                scene.path,
                f"person {person_id} stands there {count} times; in search the first box counts",
                scene.name,
            )


def _check_across_splits(contents: Contents) -> None:
    gallery = {scene.name: scene for scene in contents.gallery}
    for scene in contents.train:
        if scene.name in gallery:
            contents.note(
                ERROR,
                BOTH_SPLITS,
                scene.path,
                f"{scene.name} is in train and in gallery; remove it from one",
                scene.name,
            )
    both = _people(contents.train) & _people(contents.gallery)
    if both:
        person_id = min(both)
        example = {
            split: next(scene.name for scene in scenes if person_id in scene.person_ids)
            for split, scenes in (("train", contents.train), ("gallery", contents.gallery))
        }
        asked = len({query.person_id for query in contents.queries} & both)
        contents.note(
            WARNING,
            SHARED_PEOPLE,
            "train and gallery",
            f"{len(both)} identities are in both ({asked} of"
            f" them are asked for), for example {person_id}, in {example['train']} and {example['gallery']};"
            " numbers on people seen in training are too good",
            example["gallery"],
        )


def _check_queries(contents: Contents) -> None:
    if not contents.queries:
        contents.note(
            ERROR if contents.published else WARNING,
            NO_QUERIES,
            "queries",
            "there is nobody to look for; see what the dataset's card expects",
        )
    scenes = {scene.name: scene for scene in contents.gallery}
    shown = defaultdict(set)
    for scene in contents.gallery:
        for person_id in scene.person_ids.tolist():
            shown[person_id].add(scene.name)
    for number, query in enumerate(contents.queries, start=1):
        where = f"query {number}, person {query.person_id} in {query.image_name}"
        if query.image_name not in scenes:
            contents.note(
                ERROR,
                QUERY_OUTSIDE_GALLERY,
                where,
                "the gallery does not hold this photograph; add it or drop the query",
                query.image_name,
            )
        elif query.person_id < 0:
            contents.note(
                ERROR,
                QUERY_UNLABELLED,
                where,
                "nobody can be found by it; give it a person or drop it",
                query.image_name,
            )
        else:
            _check_query(contents, where, query, scenes[query.image_name], shown[query.person_id])


def _check_query(contents: Contents, where: str, query: Query, scene: Scene, shown: set[str]) -> None:
    if not shown - {query.image_name}:
        contents.note(
            WARNING, NO_OTHER, where, "no other gallery photograph shows this person; it scores 0", query.image_name
        )
    own = box_iou(scene.boxes[scene.person_ids == query.person_id], query.box[None])
    if not (own >= SAME_PERSON_IOU).any():
        what = f"overlaps this person's box there by IoU {own.max():.2f}" if len(own) else "is not annotated there"
        contents.note(WARNING, QUERY_BOX, where, f"its box {_text(query.box)} {what}", query.image_name)


def _check_galleries(contents: Contents) -> None:
    for name, gallery in contents.galleries.items():
        empty = [
            int(query) for query, places in zip(gallery.queries, gallery.gt_places, strict=True) if not len(places)
        ]
        if empty:
            contents.note(
                WARNING,
                NO_OTHER,
                f"gallery {name}",
                "queries without a true photograph in their list, which"
                f" score 0: {len(empty)}, the first is query {empty[0] + 1}",
            )


def _check_counts(contents: Contents) -> None:
    found = contents.counts()
    for key, published in contents.published.items():
        if found[key] != published:
            contents.note(WARNING, COUNTS, key, f"found {found[key]:,}, published {published:,}; take a complete copy")


def _people(scenes: list[Scene]) -> set[int]:
    return {person_id for scene in scenes for person_id in scene.person_ids.tolist() if person_id >= 0}


def _person(person_id: int) -> str:
    return f"person {person_id}" if person_id >= 0 else "somebody unlabelled"


def _text(box: np.ndarray) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box.tolist()) + "] (xyxy)"
