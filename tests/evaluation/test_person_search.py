"""Search: hand-worked cases of each rule, and the plain evaluator on hundreds of random ones in every protocol.

In the hand-worked cases the query's embedding is (1, 0) and a detection of similarity s is (s, sqrt(1 - s^2)).
"""

import dataclasses

import numpy as np
import pytest

from psdiff_jax.errors import InputError
from psdiff_jax.evaluation import person_search
from psdiff_jax.evaluation.person_search import check_queries, score_search, truth_threshold
from psdiff_jax.evaluation.protocols import listed, make_protocols

BOX = (0, 0, 40, 100)
FAR = (200, 200, 240, 300)


def like(similarity):
    return [similarity, np.sqrt(1 - similarity**2)]


def search(make, scenes, found, threshold=0.5, protocol="whole", galleries=None, keep=4):
    """Scores one query, person 1 of the first scene; [(name, [(box, person)])] and [(name, box, score, s)]."""
    annotations = make.annotations([(name, 0, i, people) for i, (name, people) in enumerate(scenes)])
    queries = make.queries(annotations, [(scenes[0][0], BOX, 1)])
    gallery = make.gallery(annotations, [(n, b, score, like(s)) for n, b, score, s in found])
    query = make.query(queries, [[1.0, 0.0]])
    protocols = (
        make_protocols([protocol], annotations, queries) if galleries is None else [listed("list", 9, galleries)]
    )
    return score_search(gallery, query, annotations, queries, protocols, threshold, keep)[0]


OWN = ("own", [(BOX, 1)])


def test_found_everywhere(make):
    found = [("a", BOX, 0.9, 0.9), ("b", BOX, 0.9, 0.8), ("a", FAR, 0.9, 0.1), ("own", BOX, 0.9, 1.0)]
    result = search(make, [OWN, ("a", [(BOX, 1)]), ("b", [(BOX, 1), (FAR, 2)])], found)
    assert result.average_precision[0] == 1.0
    assert (result.truths[0], result.found[0], result.first_rank[0], result.gallery_images[0]) == (2, 2, 1, 2)
    assert result.hits[0].tolist() == [0, 1, 2, -1]  # never the photograph of the query itself
    assert result.right[0].tolist() == [True, True, False, False]


def test_recall_rate_scales_ap(make):
    """Found in one of two true photographs, behind one wrong detection: AP = 1/2 x 1/2."""
    result = search(make, [OWN, ("a", [(BOX, 1)]), ("b", [(BOX, 1)])], [("a", BOX, 0.9, 0.5), ("b", FAR, 0.9, 0.9)])
    assert result.average_precision[0] == 0.25
    assert result.first_rank[0] == 2
    assert result.summary()["top-1"] == 0.0 and result.summary()["top-5"] == 1.0


def test_a_query_never_detected_scores_zero_and_stays(make):
    result = search(make, [OWN, ("a", [(BOX, 1)])], [("a", BOX, 0.4, 1.0), ("a", FAR, 0.9, 0.9)])
    assert result.average_precision[0] == 0.0 and result.first_rank[0] == 0
    assert result.summary()["queries"] == 1 and result.summary()["queries_without_hit"] == 1


def test_no_detections_at_all(make):
    result = search(make, [OWN, ("a", [(BOX, 1)])], [("a", BOX, 0.4, 1.0)])
    assert result.average_precision[0] == 0.0 and result.hits[0].tolist() == [-1] * 4


def test_only_the_most_similar_of_two_detections_on_one_truth_is_right(make):
    """The less similar one is a wrong detection at rank 2; behind it comes the second photograph."""
    near = (2, 2, 40, 100)
    found = [("a", BOX, 0.6, 0.8), ("a", near, 0.9, 0.9), ("b", BOX, 0.9, 0.7)]
    result = search(make, [OWN, ("a", [(BOX, 1)]), ("b", [(BOX, 1)])], found)
    assert result.average_precision[0] == pytest.approx((1 + 2 / 3) / 2)
    assert result.hits[0].tolist() == [1, 0, 2, -1] and result.right[0].tolist() == [True, False, True, False]


def test_a_more_similar_wrong_box_does_not_stop_the_walk(make):
    found = [("a", FAR, 0.9, 0.9), ("a", BOX, 0.9, 0.8)]
    assert search(make, [OWN, ("a", [(BOX, 1)])], found).average_precision[0] == 0.5


def test_no_true_photograph_scores_zero(make):
    result = search(make, [OWN, ("a", [(BOX, 2)])], [("a", BOX, 0.9, 1.0)])
    assert result.truths[0] == 0 and result.average_precision[0] == 0.0
    assert result.summary()["mAP"] == 0.0 and result.summary()["queries_without_truth"] == 1


def test_temporal_gap_counts_queries_without_a_truth_apart(make):
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
    assert result.gallery_images.tolist() == [2, 2] and result.truths.tolist() == [0, 1]
    summary = result.summary()
    assert (summary["mAP"], summary["mAP_all_queries"], summary["top-1"]) == (1.0, 0.5, 1.0)
    assert (summary["queries"], summary["queries_total"], summary["queries_without_truth"]) == (1, 2, 1)


@pytest.mark.parametrize(("box", "limit"), [((0, 0, 40, 100), 0.5), ((0, 0, 10, 10), 0.25), ((0, 0, 4, 20), 80 / 420)])
def test_small_boxes_lower_the_threshold(make, box, limit):
    assert truth_threshold(np.array(box)) == pytest.approx(limit)
    width = box[2]
    inside = (0, 0, width, box[3] * limit * 1.001)  # IoU just above and just below the limit
    outside = (0, 0, width, box[3] * limit * 0.999)
    for shape, expected in ((inside, 1.0), (outside, 0.0)):
        assert search(make, [OWN, ("a", [(box, 1)])], [("a", shape, 0.9, 0.9)]).average_precision[0] == expected


def test_iou_of_exactly_the_threshold_counts(make):
    assert search(make, [OWN, ("a", [(BOX, 1)])], [("a", (0, 0, 40, 50), 0.9, 0.9)]).average_precision[0] == 1.0


def test_an_image_twice_in_a_gallery(make):
    """Its truth is counted twice, before its second showing is skipped: recall rate 1/2."""
    scenes = [OWN, ("a", [(BOX, 1)]), ("b", [(FAR, 3)])]
    found = [("a", BOX, 0.9, 0.9), ("b", FAR, 0.9, 0.1)]
    result = search(make, scenes, found, galleries=[np.array([1, 2, 1])])
    assert (result.truths[0], result.found[0]) == (2, 1)
    assert result.average_precision[0] == 0.5 and result.hits[0].tolist() == [0, 1, -1, -1]


def test_a_person_twice_in_a_frame_is_his_first_box(make):
    scenes = [OWN, ("a", [(FAR, 1), (BOX, 1)])]
    assert search(make, scenes, [("a", BOX, 0.9, 0.9)]).average_precision[0] == 0.0
    assert search(make, scenes, [("a", FAR, 0.9, 0.9)]).average_precision[0] == 1.0


def test_equal_similarities(make):
    """A right and a wrong one tie: one threshold of precision 1/2 for AP, and rank 2 for the right one."""
    found = [("a", BOX, 0.9, 0.5), ("a", FAR, 0.9, 0.5), ("b", FAR, 0.9, 0.1)]
    result = search(make, [OWN, ("a", [(BOX, 1)]), ("b", [])], found)
    assert result.average_precision[0] == 0.5 and result.first_rank[0] == 2
    assert result.hits[0].tolist() == [1, 0, 2, -1]


def test_embeddings_that_tell_nobody_apart_score_nothing(make):
    found = [("a", BOX, 0.9, 0.5), *[("b", (i, 0, i + 20, 50), 0.9, 0.5) for i in range(30)]]
    result = search(make, [OWN, ("a", [(BOX, 1)]), ("b", [])], found)
    assert result.summary()["top-10"] == 0.0 and result.average_precision[0] == pytest.approx(1 / 31)


def test_an_empty_truth_box_is_met_by_nobody(make):
    result = search(make, [OWN, ("a", [((5, 5, 5, 50), 1)])], [("a", FAR, 0.9, 0.9)])
    assert (result.truths[0], result.found[0]) == (1, 0)


PROTOCOLS = ["whole", "cross_camera", "same_camera", "temporal_gap:250", "sized:3,6,all"]


def equal_to_plain(plain, case, protocols, galleries, threshold):
    results = score_search(case.gallery, case.query, case.annotations, case.queries, protocols, threshold, keep=3)
    for result, names in zip(results, galleries, strict=True):
        expected = plain.plain_search(case.gallery, case.query, case.annotations, case.queries, names, threshold)
        for field, key in (("average_precision", "ap"), ("first_rank", "first_rank"), ("truths",) * 2, ("found",) * 2):
            values = [e[key] for e in expected]
            np.testing.assert_allclose(
                getattr(result, field), values, atol=1e-6, err_msg=f"{result.protocol.name} {field}"
            )
        lists_agree_with_ranks(result)
    return results


def lists_agree_with_ranks(result):
    for first, right in zip(result.first_rank, result.right, strict=True):
        assert (right.argmax() + 1 if right.any() else 0) == (first if first <= len(right) else 0)


def names_of(case, protocol):
    names = np.array(case.annotations.image_names)
    return [names[protocol.gallery(q)].tolist() for q in range(len(case.queries.image_names))]


@pytest.mark.parametrize("seed", range(200))
def test_equals_the_plain_evaluator_in_every_protocol(plain, make, seed):
    case = make.random_case(seed, ties=seed % 4 == 0)
    protocols = make_protocols(PROTOCOLS, case.annotations, case.queries, seed)
    galleries = []
    for protocol in protocols:
        if protocol.name == "sized":  # what sized galleries hold is tested in test_protocols.py
            galleries.append(names_of(case, protocol))
        else:
            every = range(len(case.queries.image_names))
            galleries.append([plain.plain_gallery(protocol.name, q, case.annotations, case.queries) for q in every])
            assert [sorted(g) for g in galleries[-1]] == [sorted(g) for g in names_of(case, protocol)]
    equal_to_plain(plain, case, protocols, galleries, threshold=(0.0, 0.2, 0.5)[seed % 3])


@pytest.mark.parametrize("seed", range(100))
def test_equals_the_plain_evaluator_on_lists_with_repeats(plain, make, seed):
    case = make.random_case(1000 + seed, ties=seed % 4 == 0)
    rng = np.random.default_rng(seed)
    images = len(case.annotations.image_names)
    lists = [rng.integers(0, images, rng.integers(0, 15)) for _ in case.queries.image_names]
    protocol = listed("list", 15, lists)
    equal_to_plain(plain, case, [protocol], [names_of(case, protocol)], threshold=0.4)


def test_blocks_of_queries_do_not_matter(make, monkeypatch):
    case = make.random_case(5, images=30, people=8)
    protocols = make_protocols(["whole"], case.annotations, case.queries)
    arguments = (case.gallery, case.query, case.annotations, case.queries, protocols, 0.3)
    whole = score_search(*arguments)[0]
    monkeypatch.setattr(person_search, "SIMILARITIES_AT_ONCE", 2 * len(case.gallery))
    assert whole.summary() == score_search(*arguments)[0].summary()
    monkeypatch.setattr(person_search, "SIMILARITIES_AT_ONCE", 1)
    assert whole.summary() == score_search(*arguments)[0].summary()


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
