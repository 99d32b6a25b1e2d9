"""The checks that apply to any dataset: a small dataset without faults, and each fault alone in it."""

from pathlib import Path

import numpy as np
import pytest

from psdiff_jax.data.galleries import GalleryList
from psdiff_jax.datasets.common.checks import check, same_boxes
from psdiff_jax.datasets.common.records import AnnotatedImage, Query, RawDataset


def image(name, *people):
    """A 100 x 80 (width x height) image of (person id, x1, y1, x2, y2)."""
    rows = np.asarray(people, np.float64).reshape(-1, 5)
    boxes, ids = rows[:, 1:].astype(np.float32), rows[:, 0].astype(np.int64)
    return AnnotatedImage(name, Path("images") / name, 80, 100, boxes, ids)


def query(name, person_id, *box):
    return Query(name, np.asarray(box, np.float32), person_id)


def clean():
    return RawDataset(
        train=[
            image("a.jpg", (1, 0, 0, 10, 20), (2, 30, 0, 40, 20)),
            image("b.jpg", (1, 5, 5, 15, 25)),
            image("c.jpg"),
        ],
        gallery=[
            image("d.jpg", (7, 0, 0, 10, 20), (-1, 50, 0, 60, 20)),
            image("e.jpg", (7, 5, 5, 15, 25)),
            image("f.jpg", (8, 0, 0, 10, 20), (-1, 1, 1, 9, 70), (-1, 40, 1, 60, 70)),
        ],
        queries=[query("d.jpg", 7, 0, 0, 10, 20)],
    )


def test_a_clean_dataset_has_no_findings():
    dataset = clean()
    check(dataset)
    assert dataset.findings == []


def both_splits(c):
    c.train.append(image("d.jpg", (1, 0, 0, 10, 20)))


def twice_in_split(c):
    c.gallery.append(image("e.jpg"))


def shared_identities(c):
    c.train.append(image("g.jpg", (7, 0, 0, 10, 20), (8, 30, 30, 40, 50)))


def person_twice(c):
    c.train.append(image("g.jpg", (3, 0, 0, 10, 20), (-1, 2, 0, 12, 30), (3, 50, 0, 60, 20), (-1, 70, 0, 80, 20)))


def same_box_twice(c):
    # IoU 199 / 200; the other person's identical box is not the same person's
    c.train.append(image("g.jpg", (-1, 0, 0, 10, 20), (2, 0, 0, 10, 20), (-1, 0, 0, 10, 19.9)))


def no_positives(c):
    c.queries.append(query("f.jpg", 8, 0, 0, 10, 20))


def query_elsewhere(c):
    c.queries.append(query("e.jpg", 7, 5, 5, 15, 14.9))  # IoU 0.495


def query_not_annotated(c):
    c.queries.append(query("f.jpg", 7, 0, 0, 10, 20))


def query_in_training(c):
    c.queries.append(query("a.jpg", 7, 0, 0, 10, 20))


def query_unlabelled(c):
    c.queries.append(query("d.jpg", -1, 50, 0, 60, 20))


def tiny(c):
    c.gallery.append(image("g.jpg", (8, 3, 3, 4.5, 20), (-1, 3, 3, 5, 5)))


def whole(c):
    c.gallery.append(image("g.jpg", (-1, 0, 0, 100, 80), (8, 0, 0, 100, 79.5)))


def no_training(c):
    c.train.clear()


def no_boxes(c):
    c.train[:] = [image("a.jpg")]


def one_identity(c):
    c.train[:] = c.train[1:]


def no_identity(c):
    c.train[:] = [image("a.jpg", (-1, 0, 0, 10, 20))]


def no_queries(c):
    c.queries.clear()


def empty_list(c):
    rows = (np.int32([0, 1]), np.int32([2]))
    c.queries.append(query("e.jpg", 7, 5, 5, 15, 25))
    c.galleries["50"] = GalleryList(
        np.int64([0, 1]),
        rows,
        (np.int32([1]), np.int32([])),
        (np.float32([[5, 5, 15, 25]]), np.zeros((0, 4), np.float32)),
    )


def published(c):
    c.published = {"train images": 3, "gallery boxes": 1007}


CASES = [
    (
        both_splits,
        "error",
        "image in both splits",
        "images/d.jpg: d.jpg is in train and in gallery; remove it from one",
        "d.jpg",
    ),
    (
        twice_in_split,
        "error",
        "image twice in a split",
        "gallery: e.jpg is listed 2 times; remove all but one",
        "e.jpg",
    ),
    (
        shared_identities,
        "warning",
        "identities in both splits",
        "train and gallery: 2 identities are in both (1 of them are"
        " queries), for example 7, in g.jpg and d.jpg; results on identities seen in training are optimistic",
        "d.jpg",
    ),
    (
        person_twice,
        "warning",
        "identity twice in an image",
        "images/g.jpg: person 3 has 2 boxes; search uses the first",
        "g.jpg",
    ),
    (
        same_box_twice,
        "warning",
        "same box twice",
        "images/g.jpg: boxes 1 and 3 [0, 0, 10, 19.9] (xyxy) of an unlabelled person are the same; remove one of them",
        "g.jpg",
    ),
    (
        no_positives,
        "warning",
        "query without positives",
        "query 2, person 8 in f.jpg: no other gallery image shows this person; it scores 0",
        "f.jpg",
    ),
    (
        query_elsewhere,
        "warning",
        "query box is no gallery box",
        "query 2, person 7 in e.jpg: its box [5, 5, 15, 14.9] (xyxy) overlaps the annotated one by IoU 0.49",
        "e.jpg",
    ),
    (
        query_not_annotated,
        "warning",
        "query box is no gallery box",
        "query 2, person 7 in f.jpg: its box [0, 0, 10, 20] (xyxy) is not annotated",
        "f.jpg",
    ),
    (
        query_in_training,
        "error",
        "query image not in the gallery",
        "query 2, person 7 in a.jpg: this image is not in the gallery; add it or drop the query",
        "a.jpg",
    ),
    (
        query_unlabelled,
        "error",
        "query without identity",
        "query 2, person -1 in d.jpg: it has no person id; give it one or drop the query",
        "d.jpg",
    ),
    (
        tiny,
        "warning",
        "tiny box",
        "images/g.jpg: box 1 [3, 3, 4.5, 20] (xyxy) of person 8: a side is shorter than 2 pixels",
        "g.jpg",
    ),
    (
        whole,
        "warning",
        "box over the full image",
        "images/g.jpg: box 1 [0, 0, 100, 80] (xyxy) of an unlabelled person: it covers the 100 x 80 image",
        "g.jpg",
    ),
    (
        no_training,
        "warning",
        "split without images",
        "train: there is no image in it; see what the dataset's card expects",
        "",
    ),
    (no_boxes, "warning", "split without boxes", "train: no image has a box", ""),
    (
        one_identity,
        "warning",
        "fewer than two identities",
        "train: every labelled box is person 1; re-identification needs two identities or more",
        "",
    ),
    (
        no_identity,
        "warning",
        "fewer than two identities",
        "train: no box has an identity; re-identification needs two identities or more",
        "",
    ),
    (
        no_queries,
        "warning",
        "no queries",
        "queries: there is no query; see what the dataset's card expects",
        "",
    ),
    (
        empty_list,
        "warning",
        "query without positives",
        "queries of gallery 50: 1 without a positive in their list, which score 0; the first is query 2",
        "",
    ),
    (
        published,
        "warning",
        "count differs from the published one",
        "gallery boxes: found 6, published 1,007; use a complete copy",
        "",
    ),
]


@pytest.mark.parametrize(("spoil", "level", "name", "text", "image"), CASES, ids=[case[0].__name__ for case in CASES])
def test_each_fault_gives_its_finding_and_no_other(spoil, level, name, text, image):
    dataset = clean()
    spoil(dataset)
    check(dataset)
    assert [(f.level, f.check, str(f), f.image) for f in dataset.findings] == [(level, name, text, image)]


@pytest.mark.parametrize("case", [c for c in CASES if c[4]], ids=lambda case: case[0].__name__)
def test_what_a_reader_noted_about_an_image_is_not_noted_again(case):
    spoil, _, name, _, image = case
    dataset = clean()
    spoil(dataset)
    dataset.note("known", name, "reader", "has seen it", image)
    dataset.note("known", "another check", "reader", "has seen it", image)
    check(dataset)
    assert [(f.level, f.check) for f in dataset.findings] == [("known", name), ("known", "another check")]


def test_same_boxes_against_a_plain_loop():
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(100):
        corner, size = rng.uniform(0, 3, (12, 2)), rng.uniform(30, 32, (12, 2))
        boxes, ids = np.concatenate([corner, corner + size], 1).astype(np.float32), rng.integers(-1, 3, 12)
        want = []
        for i in range(12):
            for j in range(i + 1, 12):
                w = min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0])
                h = min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1])
                areas = [float((b[2] - b[0]) * (b[3] - b[1])) for b in boxes[[i, j]]]
                if ids[i] == ids[j] and w * h / (sum(areas) - w * h) > 0.95:
                    want.append((i, j))
        assert same_boxes(boxes, ids) == want
        found += len(want)
    assert found > 20
