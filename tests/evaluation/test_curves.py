"""Curves: scikit-learn's precision_recall_curve, and plain loops over queries and images."""

import json

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve

from psdiff_jax.data.galleries import GalleryList
from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.curves import (
    MAX_POINTS,
    SearchCurve,
    interpolated,
    precision_recall,
    read_curves,
    write_curves,
)
from psdiff_jax.evaluation.detection import detection_metrics
from psdiff_jax.evaluation.evaluate import evaluate
from psdiff_jax.evaluation.person_search import counts_from, score_search
from psdiff_jax.evaluation.protocols import largest_galleries, make_protocols

LEVELS = [i / 100 for i in range(101)]


@pytest.mark.parametrize("seed", range(30))
def test_points_are_scikit_learns(seed):
    """Its recall is over the positives among the scored; ours over all ground-truth boxes, some of them missed."""
    rng = np.random.default_rng(seed)
    size, missed = int(rng.integers(1, 150)), int(rng.integers(0, 5))
    true = rng.random(size) < rng.random()
    true[rng.integers(size)] = True
    score = rng.integers(0, 9, size) / 8.0 if seed % 2 else rng.random(size)
    gt_boxes = int(true.sum()) + missed
    ours = precision_recall(true, score, gt_boxes)
    precision, recall, threshold = precision_recall_curve(true, score)
    np.testing.assert_allclose(ours["precision"], precision[-2::-1], atol=1e-5)
    np.testing.assert_allclose(ours["recall"], recall[-2::-1] * true.sum() / gt_boxes, atol=1e-5)
    np.testing.assert_allclose(ours["score"], threshold[::-1], atol=1e-5)


def test_many_points_are_thinned_to_points_of_the_full_curve():
    rng = np.random.default_rng(0)
    score = rng.random(5000)
    true = rng.random(5000) < score
    ours = precision_recall(true, score, 3000)
    precision, recall, _ = precision_recall_curve(true, score)
    full = {(round(r * true.sum() / 3000, 5), round(p, 5)) for r, p in zip(recall, precision, strict=True)}
    assert len(ours["recall"]) <= MAX_POINTS and set(zip(ours["recall"], ours["precision"], strict=True)) <= full
    assert ours["recall"][-1] == round(true.sum() / 3000, 5) and ours["score"][-1] == round(score.min(), 5)
    area = np.trapezoid(ours["precision"], ours["recall"])
    assert area == pytest.approx(np.trapezoid(precision[::-1], recall[::-1]) * true.sum() / 3000, abs=0.005)


def test_nothing_detected_has_no_points():
    assert precision_recall(np.zeros(0, bool), np.zeros(0), 4) == {"recall": [], "precision": [], "score": []}


@pytest.mark.parametrize("seed", range(10))
def test_detection_curve_ends_where_detection_metrics_says(make, seed):
    """The last point is the recall, and the area by steps the AP, that `detection_metrics` gives."""
    case = make.random_case(seed)
    pair = case.gallery, case.query
    curves = evaluate({4: pair}, case.annotations, case.queries, [], detection_threshold=0.3).curves
    metrics = detection_metrics(case.gallery, case.annotations, 0.3)
    curve, scores = curves["detection"]["4"], curves["scores"]["4"]
    assert curve["recall"][-1] == pytest.approx(metrics["recall"], abs=1e-5)
    area = np.sum(np.diff(curve["recall"], prepend=0) * curve["precision"])
    assert area == pytest.approx(metrics["AP"], abs=1e-4)
    assert sum(scores["right"]) == pytest.approx(metrics["recall"] * metrics["truths"])
    assert sum(scores["right"]) + sum(scores["wrong"]) == metrics["detections"]


def curve(similarity, true, positives):
    return interpolated(*counts_from(similarity, true), positives)


def search_curves(case, protocols, threshold):
    """(the curve of each protocol, the histogram of the first, the results) of one pass."""
    curves = {p: SearchCurve(p.excludes_queries_without_positives, similarities=True) for p in protocols}
    data = case.gallery, case.query, case.annotations, case.queries
    results = score_search(*data, protocols, threshold, curves=curves)
    return [curve.curve() for curve in curves.values()], curves[protocols[0]].histogram(), results


def test_interpolated_precision_by_hand():
    """Ranks: true, false, true, then one never found. Recall 1/3 at precision 1, 2/3 at 2/3, 1 never."""
    values = curve(np.array([0.9, 0.8, 0.7, 0.1, -np.inf]), np.array([0.7, 0.9]), 3)
    assert values[[0, 33, 34, 66, 67, 100]].tolist() == pytest.approx([1, 1, 2 / 3, 2 / 3, 0, 0])
    tied = curve(np.array([0.5, 0.5, 0.5, 0.5]), np.array([0.5]), 1)  # one threshold: all four at once
    assert tied.tolist() == [0.25] * 101
    assert not curve(np.array([0.5]), np.zeros(0), 2).any()


def plain_ranking(plain, case, gallery_names, gt_boxes, q, threshold):
    """(labels, similarities, places that show the person) of a query by plain loops; repeats of an image count as
    positives, but their detections once."""
    labels, values, seen, positives = [], [], set(), 0
    for name, box in zip(gallery_names, gt_boxes, strict=True):
        positives += box is not None
        if name in seen:
            continue
        seen.add(name)
        rows = [row for row, _ in plain.detections_of(case.gallery, name, threshold)]
        found = [float(v) for v in case.gallery.embeddings[rows] @ case.query.embeddings[q]]
        order = sorted(range(len(rows)), key=lambda i: (-found[i], rows[i]))
        hit = None
        if box is not None:
            w, h = box[2] - box[0], box[3] - box[1]
            enough = min(0.5, w * h / ((w + 10) * (h + 10)))
            reach = [i for i in order if plain.overlap(plain.floats(case.gallery.boxes[rows[i]]), box) >= enough]
            hit = reach[0] if reach and w * h > 0 else None
        labels += [i == hit for i in range(len(rows))]
        values += found
    return labels, values, positives


def plain_curve(rankings):
    """Mean over the queries of the highest precision at or beyond each of 101 recalls, by scikit-learn's points."""
    rows = []
    for labels, values, positives in rankings:
        row = [0.0] * 101
        if any(labels):
            precision, recall, _ = precision_recall_curve(labels, values)
            points = [(r * sum(labels) / positives, p) for r, p in zip(recall[:-1], precision[:-1], strict=True)]
            row = [max([p for r, p in points if r >= level - 1e-9], default=0.0) for level in LEVELS]
        rows.append(row)
    return np.mean(rows, 0) if rows else np.zeros(101)


def gt_boxes_of(case, names, person):
    """For each image the first box of the person, or None."""
    boxes = {}
    for name, own, ids in zip(
        case.annotations.image_names, case.annotations.boxes, case.annotations.person_ids, strict=True
    ):
        for box, who in zip(own, ids, strict=True):
            if who == person:
                boxes.setdefault(name, [float(v) for v in box])
    return [boxes.get(name) for name in names]


@pytest.mark.parametrize("seed", range(24))
def test_search_curve_equals_plain_loops(plain, make, seed):
    case = make.random_case(seed, ties=seed % 3 == 0)
    specs = ["whole", "cross_camera", "temporal_gap:200", "sized:4"]
    protocols = make_protocols(specs, case.annotations, case.queries)
    curves, histogram, _ = search_curves(case, protocols, 0.3)
    for spec, curve in zip(specs, curves, strict=True):
        rankings = []
        for q, person in enumerate(case.queries.person_ids):
            names = plain.plain_gallery(spec, q, case.annotations, case.queries)
            ranking = plain_ranking(plain, case, names, gt_boxes_of(case, names, person), q, 0.3)
            if ranking[2] or not spec.startswith("temporal_gap"):
                rankings.append(ranking)
        assert curve["queries"] == len(rankings)
        np.testing.assert_allclose(curve["precision"], plain_curve(rankings), atol=1e-5)
        if spec == "whole":
            labels = np.concatenate([np.array(labels, bool) for labels, *_ in rankings])
            values = np.concatenate([np.array(values) for _, values, _ in rankings])
            if seed % 3:  # equal similarities lie on the border of a bin, where rounding decides
                counts = [np.histogram(values[kind], histogram["edges"])[0].tolist() for kind in (labels, ~labels)]
                assert [histogram["right"], histogram["others"]] == counts
            assert [sum(histogram["right"]), sum(histogram["others"])] == [labels.sum(), (~labels).sum()]


@pytest.mark.parametrize("seed", range(8))
def test_an_official_list_counts_its_own_queries_and_boxes(plain, make, seed):
    case = make.random_case(seed)
    rng = np.random.default_rng(seed)
    asked = np.sort(rng.permutation(len(case.queries.person_ids))[:2])
    images, places, boxes = [], [], []
    for q in asked:
        row = rng.integers(0, len(case.annotations.image_names), 7)  # with repeats
        found = gt_boxes_of(case, [case.annotations.image_names[i] for i in row], case.queries.person_ids[q])
        images.append(row.astype(np.int32))
        places.append(np.array([i for i, box in enumerate(found) if box is not None], np.int32))
        boxes.append(np.array([np.add(box, 1) for box in found if box is not None], np.float32).reshape(-1, 4))
    official = GalleryList(asked, tuple(images), tuple(places), tuple(boxes))
    protocols = make_protocols(["listed:7"], case.annotations, case.queries, galleries={"7": official})
    (curve,), *_ = search_curves(case, protocols, 0.3)
    rankings = []
    for row, q in enumerate(asked):
        names, boxes_of_list = plain.plain_list(official, q, case.annotations, case.queries)
        rankings.append(plain_ranking(plain, case, names, boxes_of_list, q, 0.3))
        assert rankings[-1][2] == len(places[row])
    assert curve["queries"] == len(asked)
    np.testing.assert_allclose(curve["precision"], plain_curve(rankings), atol=1e-5)


def test_the_curve_belongs_to_the_mean_average_precision(make):
    """Interpolation only raises precision: the curve's mean is at least mAP, and 1 where mAP is."""
    case = make.random_case(5, images=60, identities=6)
    protocols = make_protocols(["whole"], case.annotations, case.queries)
    (curve,), _, (result,) = search_curves(case, protocols, 0.3)
    mean = np.mean(curve["precision"])
    assert result.summary()["mAP"] <= mean + 0.01 and mean < result.summary()["mAP"] + 0.15
    assert (np.diff(curve["precision"]) <= 1e-9).all()


def test_what_is_drawn_and_at_which_threshold(make):
    case = make.random_case(3, images=20)
    pair = case.gallery, case.query
    protocols = make_protocols(["sized:3,all,5", "whole"], case.annotations, case.queries)
    assert [(p.name, p.size) for p in largest_galleries(protocols)] == [("sized", "all"), ("whole", "all")]
    low, high = ({"1": 0.0, "2": t} for t in (0.0, 0.7))
    data = case.annotations, case.queries, protocols
    curves = evaluate({1: pair, 2: pair}, *data, search_threshold=high).curves
    assert {p: {s: list(by) for s, by in sizes.items()} for p, sizes in curves["search"].items()} == {
        "sized": {"all": ["1", "2"]},
        "whole": {"all": ["2"]},
    }
    assert list(curves["similarities"]) == ["sized"] and list(curves["detection"]) == ["1", "2"]
    by_steps = curves["similarities"]["sized"]["all"]
    assert sum(by_steps["2"]["others"]) < sum(by_steps["1"]["others"])
    other = evaluate({1: pair, 2: pair}, *data, search_threshold=low).curves
    assert other["search"]["sized"]["all"]["1"] == other["search"]["sized"]["all"]["2"]


def test_curves_are_kept(tmp_path, make):
    case = make.random_case(1)
    protocols = make_protocols(["whole"], case.annotations, case.queries)
    curves = evaluate({"given": (case.gallery, case.query)}, case.annotations, case.queries, protocols).curves
    path = tmp_path / "report" / "curves.json"
    write_curves(path, curves)
    assert read_curves(path) == curves == json.loads(path.read_text())
    assert read_curves(tmp_path / "none.json") is None
    for damaged in (path.read_text()[:-30], "[]", '{"detection": {}}'):
        path.write_text(damaged)
        with pytest.raises(InputError, match=r"curves\.json is damaged.*evaluate the run again"):
            read_curves(path)
