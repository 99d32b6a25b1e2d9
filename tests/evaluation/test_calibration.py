"""The search threshold chosen on held-out images, against one whole evaluation for each threshold."""

import numpy as np
import pytest

from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.calibration import SIMILARITIES, THRESHOLDS, choose_threshold, precision_by_similarity
from psdiff_jax.evaluation.person_search import score_search
from psdiff_jax.evaluation.protocols import make_protocols

BOX, FAR = (0, 0, 40, 100), (200, 200, 240, 300)


def held_out(make, found, scenes=("own", "a", "b")):
    annotations = make.annotations([(name, 0, i, [(BOX, 1)]) for i, name in enumerate(scenes)])
    queries = make.queries(annotations, [("own", BOX, 1)])
    gallery = make.gallery(annotations, [(n, b, s, [v, np.sqrt(1 - v * v)]) for n, b, s, v in found])
    return gallery, make.query(queries, [[1, 0]]), annotations, queries


def test_by_hand(make):
    """At 0.2: a false positive (0.9) before two true ones: (1/2 + 2/3) / 2 = 7/12. At 0.4: true, true: 1. At 0.6 the
    same (equal mAP, fewer boxes). At 0.8 one of two: 1/2. At 1.0 nothing."""
    found = [("a", FAR, 0.3, 0.9), ("a", BOX, 0.9, 0.8), ("b", BOX, 0.7, 0.7), ("own", BOX, 1.0, 1.0)]
    chosen = choose_threshold(*held_out(make, found), thresholds=(0.8, 0.2, 0.4, 0.6, 1.0))
    assert chosen.thresholds == (0.2, 0.4, 0.6, 0.8, 1.0)
    assert chosen.mAP == pytest.approx((7 / 12, 1, 1, 1 / 2, 0))
    assert chosen.threshold == 0.6
    assert chosen.similarities == SIMILARITIES  # of the two left, 0.8 and 0.7, both are true
    assert chosen.precision == tuple(1.0 if s <= 0.8 else None for s in SIMILARITIES)
    assert precision_by_similarity(*held_out(make, found), threshold=0.2)[-3:] == (0.0, 0.0, None)  # 0.9 is false


@pytest.mark.parametrize("seed", range(4))
def test_precision_counts_every_detection_once(make, plain, seed):
    """Against counting the pairs one by one: true is the most similar candidate of an image."""
    case = make.random_case(seed, images=20, identities=5)
    gallery, names = case.gallery, case.annotations.image_names
    true, every = np.zeros(len(SIMILARITIES)), np.zeros(len(SIMILARITIES))
    for q, (own, person) in enumerate(zip(case.queries.image_names, case.queries.person_ids, strict=True)):
        boxes = {}
        for name, people, ids in zip(names, case.annotations.boxes, case.annotations.person_ids, strict=True):
            if person in ids and name != own:
                boxes[name] = plain.floats(people[list(ids).index(person)])
        similarity = gallery.embeddings @ case.query.embeddings[q]
        for k in np.argsort(-similarity, kind="stable") if boxes else ():
            name = gallery.images[gallery.image_index[k]]
            if name == own or gallery.scores[k] < 0.5:
                continue
            above = similarity[k] >= np.float32(SIMILARITIES)
            every += above
            w, h = (boxes[name][i + 2] - boxes[name][i] for i in (0, 1)) if name in boxes else (0, 0)
            limit = min(0.5, w * h / ((w + 10) * (h + 10)))
            if name in boxes and plain.overlap(plain.floats(gallery.boxes[k]), boxes[name]) >= limit:
                true += above
                del boxes[name]
    expected = tuple(t / n if n else None for t, n in zip(true, every, strict=True))
    data = gallery, case.query, case.annotations, case.queries
    assert precision_by_similarity(*data, threshold=0.5) == expected and every[0]


@pytest.mark.parametrize("seed", range(12))
def test_equals_one_evaluation_for_each_threshold(make, seed):
    case = make.random_case(seed, images=25, identities=6, ties=seed % 3 == 0)
    data = case.gallery, case.query, case.annotations, case.queries
    chosen = choose_threshold(*data)
    protocols = make_protocols(["whole"], case.annotations, case.queries)
    each = [score_search(*data, protocols, threshold)[0].summary()["mAP"] for threshold in THRESHOLDS]
    np.testing.assert_allclose(chosen.mAP, each, atol=1e-12)
    assert chosen.threshold == max(t for t, m in zip(THRESHOLDS, chosen.mAP, strict=True) if m == max(chosen.mAP))


@pytest.mark.parametrize(
    ("found", "scenes"),
    [
        ([("own", BOX, 0.9, 1.0)], ("own",)),  # no other image shows the person
        ([("own", BOX, 0.9, 1.0), ("a", FAR, 0.9, 1.0)], ("own", "a")),  # the person is not detected
        ([], ("own", "a")),
    ],
)
def test_no_query_can_be_found(make, found, scenes):
    data = held_out(make, found, scenes)
    with pytest.raises(
        InputError, match=r"none of 1 held-out queries is found in another image .* config\.evaluate\.search_thre"
    ):
        choose_threshold(*data)


def test_no_threshold_to_try(make):
    with pytest.raises(InputError, match="give at least one"):
        choose_threshold(*held_out(make, [("a", BOX, 0.9, 1.0)]), thresholds=())
