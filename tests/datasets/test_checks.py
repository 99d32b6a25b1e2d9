"""What is said of any dataset: one small dataset without a fault, and each fault alone in it."""

from pathlib import Path

import numpy as np
import pytest

from psdiff_jax.data.galleries import GalleryList
from psdiff_jax.datasets.common.checks import check, same_boxes
from psdiff_jax.datasets.common.records import Contents, Query, Scene


def scene(name, *people):
    """A 100 x 80 (width x height) photograph of (person id, x1, y1, x2, y2)."""
    rows = np.asarray(people, np.float64).reshape(-1, 5)
    return Scene(name, Path("photos") / name, 80, 100, rows[:, 1:].astype(np.float32), rows[:, 0].astype(np.int64))


def query(name, person_id, *box):
    return Query(name, np.asarray(box, np.float32), person_id)


def clean():
    return Contents(
        train=[
            scene("a.jpg", (1, 0, 0, 10, 20), (2, 30, 0, 40, 20)),
            scene("b.jpg", (1, 5, 5, 15, 25)),
            scene("c.jpg"),
        ],
        gallery=[
            scene("d.jpg", (7, 0, 0, 10, 20), (-1, 50, 0, 60, 20)),
            scene("e.jpg", (7, 5, 5, 15, 25)),
            scene("f.jpg", (8, 0, 0, 10, 20), (-1, 1, 1, 9, 70), (-1, 40, 1, 60, 70)),
        ],
        queries=[query("d.jpg", 7, 0, 0, 10, 20)],
    )


def test_a_clean_dataset_has_no_findings():
    contents = clean()
    check(contents)
    assert contents.findings == []


def both_splits(c):
    c.train.append(scene("d.jpg", (1, 0, 0, 10, 20)))


def twice_in_split(c):
    c.gallery.append(scene("e.jpg"))


def shared_people(c):
    c.train.append(scene("g.jpg", (7, 0, 0, 10, 20), (8, 30, 30, 40, 50)))


def person_twice(c):
    c.train.append(scene("g.jpg", (3, 0, 0, 10, 20), (-1, 2, 0, 12, 30), (3, 50, 0, 60, 20), (-1, 70, 0, 80, 20)))


def same_box_twice(c):
    # IoU 199 / 200; the other person's identical box is not the same person's
    c.train.append(scene("g.jpg", (-1, 0, 0, 10, 20), (2, 0, 0, 10, 20), (-1, 0, 0, 10, 19.9)))


def no_other_photograph(c):
    c.queries.append(query("f.jpg", 8, 0, 0, 10, 20))


def query_elsewhere(c):
    c.queries.append(query("e.jpg", 7, 5, 5, 15, 14.9))  # IoU 0.495


def query_of_nobody_there(c):
    c.queries.append(query("f.jpg", 7, 0, 0, 10, 20))


def query_in_training(c):
    c.queries.append(query("a.jpg", 7, 0, 0, 10, 20))


def query_unlabelled(c):
    c.queries.append(query("d.jpg", -1, 50, 0, 60, 20))


def tiny(c):
    c.gallery.append(scene("g.jpg", (8, 3, 3, 4.5, 20), (-1, 3, 3, 5, 5)))


def whole(c):
    c.gallery.append(scene("g.jpg", (-1, 0, 0, 100, 80), (8, 0, 0, 100, 79.5)))


def no_training(c):
    c.train.clear()


def no_boxes(c):
    c.train[:] = [scene("a.jpg")]


def one_identity(c):
    c.train[:] = c.train[1:]


def no_identity(c):
    c.train[:] = [scene("a.jpg", (-1, 0, 0, 10, 20))]


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
        "photograph in both splits",
        "photos/d.jpg: d.jpg is in train and in gallery; remove it from one",
        "d.jpg",
    ),
    (
        twice_in_split,
        "error",
        "photograph twice in a split",
        "gallery: e.jpg stands there 2 times; remove all but one",
        "e.jpg",
    ),
    (
        shared_people,
        "warning",
        "identities in both splits",
        "train and gallery: 2 identities are in both (1 of them are"
        " asked for), for example 7, in g.jpg and d.jpg; numbers on people seen in training are too good",
        "d.jpg",
    ),
    (
        person_twice,
        "warning",
        "person twice in a photograph",
        "photos/g.jpg: person 3 stands there 2 times; in search the first box counts",
        "g.jpg",
    ),
    (
        same_box_twice,
        "warning",
        "same box twice",
        "photos/g.jpg: boxes 1 and 3 [0, 0, 10, 19.9] (xyxy) of somebody unlabelled are one; remove one of them",
        "g.jpg",
    ),
    (
        no_other_photograph,
        "warning",
        "query without another photograph",
        "query 2, person 8 in f.jpg: no other gallery photograph shows this person; it scores 0",
        "f.jpg",
    ),
    (
        query_elsewhere,
        "warning",
        "query box is no gallery box",
        "query 2, person 7 in e.jpg: its box [5, 5, 15, 14.9] (xyxy) overlaps this person's box there by IoU 0.49",
        "e.jpg",
    ),
    (
        query_of_nobody_there,
        "warning",
        "query box is no gallery box",
        "query 2, person 7 in f.jpg: its box [0, 0, 10, 20] (xyxy) is not annotated there",
        "f.jpg",
    ),
    (
        query_in_training,
        "error",
        "query photograph not in the gallery",
        "query 2, person 7 in a.jpg: the gallery does not hold this photograph; add it or drop the query",
        "a.jpg",
    ),
    (
        query_unlabelled,
        "error",
        "query without identity",
        "query 2, person -1 in d.jpg: nobody can be found by it; give it a person or drop it",
        "d.jpg",
    ),
    (
        tiny,
        "warning",
        "tiny box",
        "photos/g.jpg: box 1 [3, 3, 4.5, 20] (xyxy) of person 8: a side is shorter than 2 pixels",
        "g.jpg",
    ),
    (
        whole,
        "warning",
        "box over the whole photograph",
        "photos/g.jpg: box 1 [0, 0, 100, 80] (xyxy) of somebody unlabelled: it covers the 100 x 80 photograph",
        "g.jpg",
    ),
    (
        no_training,
        "warning",
        "split without photographs",
        "train: there is no photograph in it; see what the dataset's card expects",
        "",
    ),
    (no_boxes, "warning", "split without boxes", "train: no photograph has a box", ""),
    (
        one_identity,
        "warning",
        "fewer than two identities",
        "train: every labelled box is person 1: there is nobody to tell apart",
        "",
    ),
    (
        no_identity,
        "warning",
        "fewer than two identities",
        "train: no box has an identity: there is nobody to tell apart",
        "",
    ),
    (
        no_queries,
        "warning",
        "no queries",
        "queries: there is nobody to look for; see what the dataset's card expects",
        "",
    ),
    (
        empty_list,
        "warning",
        "query without another photograph",
        "gallery 50: queries without a true photograph in their list, which score 0: 1, the first is query 2",
        "",
    ),
    (
        published,
        "warning",
        "count differs from the published one",
        "gallery boxes: found 6, published 1,007; take a complete copy",
        "",
    ),
]


@pytest.mark.parametrize(("spoil", "level", "name", "text", "image"), CASES, ids=[case[0].__name__ for case in CASES])
def test_each_fault_gives_its_finding_and_no_other(spoil, level, name, text, image):
    contents = clean()
    spoil(contents)
    check(contents)
    assert [(f.level, f.check, str(f), f.image) for f in contents.findings] == [(level, name, text, image)]


@pytest.mark.parametrize("case", [c for c in CASES if c[4]], ids=lambda case: case[0].__name__)
def test_what_a_reader_noted_of_a_photograph_is_not_noted_again(case):
    spoil, _, name, _, image = case
    contents = clean()
    spoil(contents)
    contents.note("known", name, "reader", "has seen it", image)
    contents.note("known", "another check", "reader", "has seen it", image)
    check(contents)
    assert [(f.level, f.check) for f in contents.findings] == [("known", name), ("known", "another check")]


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
