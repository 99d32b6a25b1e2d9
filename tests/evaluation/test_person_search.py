"""Search: hand-worked cases of each rule, and the plain evaluator on hundreds of random ones in every protocol.

In the hand-worked cases the query's embedding is (1, 0) and a detection of similarity s is (s, sqrt(1 - s^2)).
"""

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from psdiff_jax.data.galleries import GalleryList
from psdiff_jax.errors import InputError
from psdiff_jax.evaluation import person_search, reranking, similarity
from psdiff_jax.evaluation.matches import match_threshold
from psdiff_jax.evaluation.person_search import score_search
from psdiff_jax.evaluation.protocols import Protocol, make_protocols
from psdiff_jax.evaluation.reranking import _match_one, parse_rerankings
from psdiff_jax.evaluation.similarity import check_queries

BOX = (0, 0, 40, 100)
FAR = (200, 200, 240, 300)


def like(similarity):
    return [similarity, np.sqrt(1 - similarity**2)]


class Given(Protocol):
    """Galleries as they are given, repeats included."""

    def __init__(self, size, galleries):
        self.name, self.size, self.galleries = "list", size, galleries

    def gallery(self, query):
        return self.galleries[query]


def search(make, scenes, found, threshold=0.5, protocol="whole", galleries=None, keep=4):
    """Scores one query, person 1 of the first scene; [(name, [(box, person)])] and [(name, box, score, s)]."""
    annotations = make.annotations([(name, 0, i, persons) for i, (name, persons) in enumerate(scenes)])
    queries = make.queries(annotations, [(scenes[0][0], BOX, 1)])
    gallery = make.gallery(annotations, [(n, b, score, like(s)) for n, b, score, s in found])
    query = make.query(queries, [[1.0, 0.0]])
    protocols = make_protocols([protocol], annotations, queries) if galleries is None else [Given(9, galleries)]
    return score_search(gallery, query, annotations, queries, protocols, threshold, keep)[0]


OWN = ("own", [(BOX, 1)])


def test_found_everywhere(make):
    found = [("a", BOX, 0.9, 0.9), ("b", BOX, 0.9, 0.8), ("a", FAR, 0.9, 0.1), ("own", BOX, 0.9, 1.0)]
    result = search(make, [OWN, ("a", [(BOX, 1)]), ("b", [(BOX, 1), (FAR, 2)])], found)
    assert result.average_precision[0] == 1.0
    assert (result.positives[0], result.found[0], result.first_rank[0], result.gallery_images[0]) == (2, 2, 1, 2)
    assert result.hits[0].tolist() == [0, 1, 2, -1]  # never the image of the query itself
    assert result.true_positive[0].tolist() == [True, True, False, False]


def test_recall_rate_scales_ap(make):
    """Found in one of two positives, behind one false positive: AP = 1/2 x 1/2."""
    result = search(make, [OWN, ("a", [(BOX, 1)]), ("b", [(BOX, 1)])], [("a", BOX, 0.9, 0.5), ("b", FAR, 0.9, 0.9)])
    assert result.average_precision[0] == 0.25
    assert result.first_rank[0] == 2
    assert result.summary()["top-1"] == 0.0 and result.summary()["top-5"] == 1.0


def test_a_query_never_detected_scores_zero_and_is_counted(make):
    result = search(make, [OWN, ("a", [(BOX, 1)])], [("a", BOX, 0.4, 1.0), ("a", FAR, 0.9, 0.9)])
    assert result.average_precision[0] == 0.0 and result.first_rank[0] == 0
    assert result.summary()["queries"] == 1 and result.summary()["queries_without_hit"] == 1


def test_no_detections_at_all(make):
    result = search(make, [OWN, ("a", [(BOX, 1)])], [("a", BOX, 0.4, 1.0)])
    assert result.average_precision[0] == 0.0 and result.hits[0].tolist() == [-1] * 4


def test_only_the_most_similar_of_two_detections_on_one_box_is_a_true_positive(make):
    """The less similar one is a false positive at rank 2; behind it comes the second image."""
    near = (2, 2, 40, 100)
    found = [("a", BOX, 0.6, 0.8), ("a", near, 0.9, 0.9), ("b", BOX, 0.9, 0.7)]
    result = search(make, [OWN, ("a", [(BOX, 1)]), ("b", [(BOX, 1)])], found)
    assert result.average_precision[0] == pytest.approx((1 + 2 / 3) / 2)
    assert result.hits[0].tolist() == [1, 0, 2, -1] and result.true_positive[0].tolist() == [True, False, True, False]


def test_a_more_similar_false_positive_does_not_end_the_search(make):
    found = [("a", FAR, 0.9, 0.9), ("a", BOX, 0.9, 0.8)]
    assert search(make, [OWN, ("a", [(BOX, 1)])], found).average_precision[0] == 0.5


def test_a_query_without_positives_scores_zero(make):
    result = search(make, [OWN, ("a", [(BOX, 2)])], [("a", BOX, 0.9, 1.0)])
    assert result.positives[0] == 0 and result.average_precision[0] == 0.0
    assert result.summary()["mAP"] == 0.0 and result.summary()["queries_without_truth"] == 1


def test_temporal_gap_counts_queries_without_positives_apart(make):
    annotations = make.annotations(
        [
            ("q", 0, 100, [(BOX, 1), (FAR, 2)]),
            ("near", 0, 350, [(BOX, 1)]),
            ("far", 0, 351, [(BOX, 2)]),
            ("x", 1, 100, []),
        ]
    )
    queries = make.queries(annotations, [("q", BOX, 1), ("q", FAR, 2)])
    gallery = make.gallery(annotations, [("near", BOX, 0.9, [1, 0]), ("far", BOX, 0.9, [0, 1])])
    query = make.query(queries, [[1, 0], [0, 1]])
    protocols = make_protocols(["temporal_gap:250"], annotations, queries)
    result = score_search(gallery, query, annotations, queries, protocols)[0]
    assert result.gallery_images.tolist() == [2, 2] and result.positives.tolist() == [0, 1]
    summary = result.summary()
    assert (summary["mAP"], summary["mAP_all_queries"], summary["top-1"]) == (1.0, 0.5, 1.0)
    assert (summary["queries"], summary["queries_total"], summary["queries_without_truth"]) == (1, 2, 1)


@pytest.mark.parametrize(("box", "limit"), [((0, 0, 40, 100), 0.5), ((0, 0, 10, 10), 0.25), ((0, 0, 4, 20), 80 / 420)])
def test_small_boxes_lower_the_threshold(make, box, limit):
    assert match_threshold(np.array(box)) == pytest.approx(limit)
    width = box[2]
    inside = (0, 0, width, box[3] * limit * 1.001)  # IoU just above and just below the limit
    outside = (0, 0, width, box[3] * limit * 0.999)
    for shape, expected in ((inside, 1.0), (outside, 0.0)):
        assert search(make, [OWN, ("a", [(box, 1)])], [("a", shape, 0.9, 0.9)]).average_precision[0] == expected


def test_iou_of_exactly_the_threshold_counts(make):
    assert search(make, [OWN, ("a", [(BOX, 1)])], [("a", (0, 0, 40, 50), 0.9, 0.9)]).average_precision[0] == 1.0


def test_an_image_twice_in_a_gallery(make):
    """It is two positives, and its detections are ranked once: recall rate 1/2."""
    scenes = [OWN, ("a", [(BOX, 1)]), ("b", [(FAR, 3)])]
    found = [("a", BOX, 0.9, 0.9), ("b", FAR, 0.9, 0.1)]
    result = search(make, scenes, found, galleries=[np.array([1, 2, 1])])
    assert (result.positives[0], result.found[0]) == (2, 1)
    assert result.average_precision[0] == 0.5 and result.hits[0].tolist() == [0, 1, -1, -1]


def test_of_a_person_twice_in_an_image_the_first_box_counts(make):
    scenes = [OWN, ("a", [(FAR, 1), (BOX, 1)])]
    assert search(make, scenes, [("a", BOX, 0.9, 0.9)]).average_precision[0] == 0.0
    assert search(make, scenes, [("a", FAR, 0.9, 0.9)]).average_precision[0] == 1.0


def test_equal_similarities(make):
    """A true and a false positive tie: one threshold of precision 1/2 for AP, and rank 2 for the true one."""
    found = [("a", BOX, 0.9, 0.5), ("a", FAR, 0.9, 0.5), ("b", FAR, 0.9, 0.1)]
    result = search(make, [OWN, ("a", [(BOX, 1)]), ("b", [])], found)
    assert result.average_precision[0] == 0.5 and result.first_rank[0] == 2
    assert result.hits[0].tolist() == [1, 0, 2, -1]


def test_embeddings_that_do_not_discriminate_score_nothing(make):
    found = [("a", BOX, 0.9, 0.5), *[("b", (i, 0, i + 20, 50), 0.9, 0.5) for i in range(30)]]
    result = search(make, [OWN, ("a", [(BOX, 1)]), ("b", [])], found)
    assert result.summary()["top-10"] == 0.0 and result.average_precision[0] == pytest.approx(1 / 31)


def test_nothing_matches_an_empty_ground_truth_box(make):
    result = search(make, [OWN, ("a", [((5, 5, 5, 50), 1)])], [("a", FAR, 0.9, 0.9)])
    assert (result.positives[0], result.found[0]) == (1, 0)


PROTOCOLS = ["whole", "cross_camera", "same_camera", "temporal_gap:250", "sized:3,6,all"]
OPTIONS = ["cws", "cbgm:4,3", "cws+cbgm:2,2"]


def settle(weights, outcomes):
    """Of equal matchings ours, which has to be one of them."""
    ours = _match_one(np.array(weights, np.float32), np.arange(len(weights[0]))) or (None, None)
    near = [o for o in outcomes if o[0] == ours[0] and (o[0] is None or abs(o[1] - ours[1]) < 1e-6)]
    assert near
    return near[0]


def equal_to_plain(plain, case, protocols, galleries, threshold, options=(), gt_boxes=None):
    """Every protocol, `galleries` in the same order, plainly and by each of `options`."""
    data = case.gallery, case.query, case.annotations, case.queries
    results = score_search(*data, protocols, threshold, keep=3, rerankings=parse_rerankings(options))
    expected = [
        plain.plain_search(*data, names, threshold, only, boxes, option, settle)
        for option in ("", *options)
        for names, only, boxes in zip(
            galleries,
            [protocol.queries(len(case.queries)).tolist() for protocol in protocols],
            gt_boxes or [None] * len(galleries),
            strict=True,
        )
    ]
    for result, numbers in zip(results, expected, strict=True):
        evaluated = np.flatnonzero(result.evaluated)
        for field, key in (
            ("average_precision", "ap"),
            ("first_rank", "first_rank"),
            ("positives",) * 2,
            ("found",) * 2,
        ):
            values = np.array([e[key] for e in numbers])
            ours = getattr(result, field)
            assert not ours[~result.evaluated].any()
            np.testing.assert_allclose(ours[evaluated], values, atol=1e-6, err_msg=f"{result.name} {field}")
        mean = np.mean([e["ap"] for e in numbers]) if numbers else 0.0
        summary = result.summary()
        assert summary.get("mAP_all_queries", summary["mAP"]) == pytest.approx(mean, abs=1e-6)
        assert summary["queries_total"] == len(numbers)
        assert summary["queries_without_truth"] == sum(e["positives"] == 0 for e in numbers)
        assert summary["queries_without_hit"] == sum(e["positives"] > 0 and e["found"] == 0 for e in numbers)
        for k in (1, 5, 10):
            counted = [e for e in numbers if e["positives"] or not result.protocol.excludes_queries_without_positives]
            found = sum(0 < e["first_rank"] <= k for e in counted)
            assert summary[f"top-{k}"] == pytest.approx(found / max(len(counted), 1))
        lists_agree_with_ranks(result)
    return results


def lists_agree_with_ranks(result):
    for first, true in zip(result.first_rank, result.true_positive, strict=True):
        assert (true.argmax() + 1 if true.any() else 0) == (first if first <= len(true) else 0)


def plain_galleries(plain, case, protocols, seed):
    every = range(len(case.queries))
    specs = [f"sized:{p.size}" if p.name == "sized" else p.name for p in protocols]
    galleries = [[plain.plain_gallery(spec, q, case.annotations, case.queries, seed) for q in every] for spec in specs]
    names = np.array(case.annotations.image_names)
    for protocol, gallery in zip(protocols, galleries, strict=True):
        assert [sorted(g) for g in gallery] == [sorted(names[protocol.gallery(q)]) for q in every]
    return galleries


@pytest.mark.parametrize("seed", range(200))
def test_equals_the_plain_evaluator_in_every_protocol_and_option(plain, make, seed):
    case = make.random_case(seed, ties=seed % 4 == 0)
    protocols = make_protocols(PROTOCOLS, case.annotations, case.queries, seed)
    galleries = plain_galleries(plain, case, protocols, seed)
    equal_to_plain(plain, case, protocols, galleries, (0.0, 0.2, 0.5)[seed % 3], OPTIONS)


@pytest.mark.parametrize("seed", range(200))
def test_equals_the_plain_evaluator_on_official_lists(plain, make, seed):
    """Queries left out, images repeated, ground truth that is not the annotations', and all images behind the list."""
    case = make.random_case(1000 + seed, ties=seed % 4 == 0)
    lists = {"6": random_list(case, seed), "15": random_list(case, seed + 500), "hard": random_list(case, seed + 900)}
    protocols = make_protocols(["listed:hard,all,15,6"], case.annotations, case.queries, galleries=lists)
    galleries, gt_boxes = [], []
    for protocol in protocols:
        official = lists["6" if protocol.size == "all" else str(protocol.size)]
        found = {
            q: plain.plain_list(official, q, case.annotations, case.queries, protocol.size == "all")
            for q in official.queries.tolist()
        }
        galleries.append({q: names for q, (names, _) in found.items()})
        gt_boxes.append({q: boxes for q, (_, boxes) in found.items()})
    equal_to_plain(plain, case, protocols, galleries, 0.4, OPTIONS, gt_boxes)


def random_list(case, seed):
    """A GalleryList of some queries; its boxes are those of detections or annotations, or far from both."""
    rng = np.random.default_rng(seed)
    images = len(case.annotations)
    queries = np.flatnonzero(rng.random(len(case.queries)) < 0.7)
    lists, places, boxes = [], [], []
    for q in queries:
        gallery = rng.integers(0, images, rng.integers(0, 15))
        shows = [
            place
            for place, image in enumerate(gallery)
            if rng.random() < 0.15 or case.queries.person_ids[q] in case.annotations.person_ids[image]
        ]
        shows = [place for place in shows if rng.random() < 0.8]
        near = [[*case.annotations.boxes[gallery[place]], np.array([5, 5, 30, 40.0])] for place in shows]
        lists.append(gallery.astype(np.int32))
        places.append(np.array(shows, np.int32))
        boxes.append(np.array([n[rng.integers(len(n))] for n in near], np.float32).reshape(-1, 4))
    return GalleryList(queries, tuple(lists), tuple(places), tuple(boxes))


@pytest.mark.parametrize("seed", range(40))
def test_equals_the_plain_evaluator_on_lists_with_repeats(plain, make, seed):
    case = make.random_case(2000 + seed, ties=seed % 4 == 0)
    rng = np.random.default_rng(seed)
    lists = [rng.integers(0, len(case.annotations), rng.integers(0, 15)) for _ in case.queries.image_names]
    names = np.array(case.annotations.image_names)
    protocol = Given(15, lists)
    equal_to_plain(plain, case, [protocol], [[names[g].tolist() for g in lists]], threshold=0.4)


def test_the_plain_average_precision_is_scikit_learns(plain):
    rng = np.random.default_rng(0)
    for _ in range(50):
        labels = [1, *rng.integers(0, 2, 12).tolist()]
        similarities = rng.choice([0.1, 0.2, 0.3, *rng.random(4)], 13).tolist()
        expected = average_precision_score(labels, similarities)
        assert plain.average_precision(labels, similarities) == pytest.approx(expected, abs=1e-12)


def test_blocks_of_queries_do_not_matter(make, monkeypatch):
    case = make.random_case(5, images=30, identities=8)
    protocols = make_protocols(["whole"], case.annotations, case.queries)
    arguments = (case.gallery, case.query, case.annotations, case.queries, protocols, 0.3)
    whole = score_search(*arguments)[0]
    monkeypatch.setattr(similarity, "AT_ONCE", 2 * len(case.gallery))
    assert whole.summary() == score_search(*arguments)[0].summary()
    monkeypatch.setattr(similarity, "AT_ONCE", 1)
    assert whole.summary() == score_search(*arguments)[0].summary()


@pytest.mark.parametrize(("module", "name", "value"), [
    (person_search, "FEW_LEVELS", 0),  # ranks by sorting, not by counting
    (reranking, "SMALL_GALLERY", 10**9),  # galleries by masks
    (reranking, "SMALL_GALLERY", 0.01),  # galleries by their detections
])  # fmt: skip
@pytest.mark.parametrize("seed", range(4))
def test_ways_of_counting_do_not_matter(make, monkeypatch, module, name, value, seed):
    case = make.random_case(seed, images=30, identities=4, ties=seed % 2 == 0)
    protocols = make_protocols(["whole", "sized:4,20"], case.annotations, case.queries)
    arguments = (case.gallery, case.query, case.annotations, case.queries, protocols, 0.1, 5)
    options = parse_rerankings(["cws", "cbgm:5,3"])
    usual = score_search(*arguments, rerankings=options)
    monkeypatch.setattr(module, name, value)
    again = score_search(*arguments, rerankings=options)
    assert [r.summary() for r in usual] == [r.summary() for r in again]
    assert all((a.hits == b.hits).all() for a, b in zip(usual, again, strict=True))


def test_progress_is_told_of_every_query(make):
    case = make.random_case(5)
    told = []

    def progress(queries, what, unit):
        for q in queries:
            told.append((what, q, len(queries), unit))
            yield q

    arguments = (case.gallery, case.query, case.annotations, case.queries, [], 0.3)
    score_search(*arguments, label="search, steps 8", progress=progress)
    assert told == [("search, steps 8", q, len(case.query), "queries") for q in range(len(case.query))]


def test_embeddings_of_other_queries_are_refused(make):
    case = make.random_case(1)
    check_queries(case.query, case.queries)
    ids = case.query.person_id.copy()
    ids[1] += 1
    with pytest.raises(InputError, match=r"row 1 is person \d+ in .* but query 1 of the dataset is person"):
        check_queries(dataclasses.replace(case.query, person_id=ids), case.queries)
    with pytest.raises(InputError, match=r"person_id\.npy is missing"):
        check_queries(dataclasses.replace(case.query, person_id=None), case.queries)
    short = {f: getattr(case.query, f)[:-1] for f in ("boxes", "scores", "embeddings", "image_index", "person_id")}
    with pytest.raises(InputError, match="but the dataset has"):
        check_queries(dataclasses.replace(case.query, **short), case.queries)


def test_embeddings_of_another_width_are_refused(make):
    case = make.random_case(1)
    wider = dataclasses.replace(case.query, embeddings=np.pad(case.query.embeddings, ((0, 0), (0, 2))))
    with pytest.raises(InputError, match="not of one model"):
        score_search(case.gallery, wider, case.annotations, case.queries, [])
