"""Figures: geometry and colours where they can be checked, and that every case makes an image."""

import copy
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from psdiff_jax.evaluation.evaluate import evaluate
from psdiff_jax.evaluation.person_search import score_search
from psdiff_jax.evaluation.protocols import make_protocols
from psdiff_jax.inference.ranking import Hit, rank
from psdiff_jax.report.drawing import (
    FALSE_POSITIVE,
    PREDICTED,
    QUERY,
    TRUE_POSITIVE,
    crop_around,
    draw_boxes,
    font,
    shortened,
)
from psdiff_jax.report.figures import (
    calibration_panels,
    score_panels,
    similarity_panels,
    sizes_panels,
    steps_panels,
)
from psdiff_jax.report.plots import Histogram, Line, Panel, draw, svg, write_png
from psdiff_jax.report.rankings import (
    ExampleQuery,
    choose_queries,
    example_queries,
    example_query,
    ranking_figure,
    ranking_row,
    search_picture,
    write_picture,
)


def scene(name="", height=120, width=160):
    rng = np.random.default_rng(len(name))
    return rng.integers(90, 160, (height, width, 3)).astype(np.uint8)


def has(picture, color):
    return bool((picture == np.array(color, np.uint8)).all(-1).any())


@pytest.fixture
def case(make):
    return make.random_case(3, images=40, identities=8)


@pytest.fixture
def found(case):
    protocols = make_protocols(["whole"], case.annotations, case.queries)
    return score_search(case.gallery, case.query, case.annotations, case.queries, protocols, 0.3, keep=10)[0]


@pytest.mark.parametrize("size", [(160, 120), (40, 30), (1000, 750)])
@pytest.mark.parametrize("context", [1.0, 1.7])
@pytest.mark.parametrize(
    "box", [(32, 20, 52, 80), (0, 0, 12, 32), (152, 88, 160, 120), (4, 4, 156, 116), (-8, -8, 8, 12)]
)
def test_a_crop_shows_its_box_where_it_says(size, box, context):
    """The image is black with the box painted white, then scaled to `size`; the crop must be white inside its box."""
    image = np.zeros((size[1], size[0], 3), np.uint8)
    box = np.array(box) * (size[0] / 160)
    x1, y1, x2, y2 = np.rint(np.clip(box, 0, [*size, *size])).astype(int)
    image[y1:y2, x1:x2] = 255
    picture, inside = crop_around(image, box, (90, 180), context)
    assert picture.shape == (180, 90, 3) and picture.dtype == np.uint8
    seen = np.clip(inside, 0, [90, 180, 90, 180])
    if box.min() >= 0:
        np.testing.assert_allclose(seen, inside, atol=1e-6)  # the whole box is in the crop
    middle = np.rint(seen + np.array([2, 2, -2, -2])).astype(int)
    white = (picture > 127).all(-1)
    assert white[middle[1] : middle[3], middle[0] : middle[2]].mean() > 0.85
    grey = (picture == np.array([226, 228, 231], np.uint8)).all(-1)  # beyond the image
    pixels = (seen[2] - seen[0]) * (seen[3] - seen[1])
    assert (white & ~grey).sum() == pytest.approx(pixels, rel=0.25, abs=60)


def test_draw_boxes():
    image = scene()
    before = image.copy()
    drawn = draw_boxes(image, [[10, 30, 40, 90], [60, 30, 90, 90]], [0.9, 0.2], [[100, 30, 130, 90]], enlarge_to=160)
    assert drawn.shape == image.shape and (image == before).all()
    assert (drawn[60, 10] == PREDICTED).all() and (drawn[60, 60] == PREDICTED).all()
    dashed = (drawn[30:90, 100] > 200).all(-1)
    assert 0.2 < dashed.mean() < 0.8
    assert (drawn[60, 20:35] == image[60, 20:35]).all()
    weak = draw_boxes(image, [[10, 30, 40, 90], [60, 30, 90, 90]], [0.9, 0.2], min_score=0.5, enlarge_to=160)
    assert (weak[45:, 55:] == image[45:, 55:]).all()
    assert draw_boxes(image).shape == (480, 640, 3)
    assert draw_boxes(image, np.zeros((0, 4)), np.zeros(0), np.zeros((0, 4))).shape == (480, 640, 3)
    for edge in ([-5, -5, 3, 3], [158, 118, 170, 130], [0, 0, 160, 120]):
        assert draw_boxes(image, [edge], [0.5], [edge], tags=["a long tag that does not fit"]).dtype == np.uint8


def test_names_are_shortened_in_the_middle():
    assert shortened("short.jpg", 500, font(10)) == "short.jpg"
    cut = shortened("a_long_name_of_an_image_000451.jpg", 90, font(10))
    assert "…" in cut and cut.startswith("a_") and cut.endswith(".jpg") and font(10).getlength(cut) <= 90


def test_example_queries_are_the_best_the_median_and_the_worst(case, found):
    picks = choose_queries(found, case.queries, each=3)
    numbers = [q for _, q in picks]
    assert [name for name, _ in picks] == ["best"] * 3 + ["median"] * 3 + ["worst"] * 3
    assert len(set(numbers)) == 9 and all(found.positives[q] > 0 for q in numbers)
    ap = found.average_precision[numbers]
    assert (np.diff(ap) <= 0).all()
    assert ap[0] == found.average_precision.max() and ap[-1] == found.average_precision[found.positives > 0].min()
    for group in (numbers[:3], numbers[3:6], numbers[6:]):
        assert len({int(case.queries.person_ids[q]) for q in group}) == 3
    few = choose_queries(found, case.queries, each=1000)
    assert len({q for _, q in few}) == len(few)


def test_ranking_figure(tmp_path, case, found):
    examples = example_queries(found, case.gallery, case.queries)
    sheet = ranking_figure(examples, scene, "a title")
    assert has(sheet, QUERY) and has(sheet, TRUE_POSITIVE) and has(sheet, FALSE_POSITIVE) and not has(sheet, PREDICTED)
    with Image.open(write_picture(tmp_path / "deep" / "ranking.png", sheet)) as image:
        assert image.size == (sheet.shape[1], sheet.shape[0])
    hits = [Hit(1, "a", (0, 0, 20, 40), 0.9, 0.8, 0)]
    unknown = ranking_figure([ExampleQuery("q", (5, 5, 20, 60), hits)], scene)
    assert has(unknown, PREDICTED) and not has(unknown, TRUE_POSITIVE)
    assert ranking_figure([ExampleQuery("q", (5, 5, 20, 60), [])], scene).ndim == 3


@pytest.mark.parametrize("top", [0, 1, 7])
def test_search_picture(case, top):
    hits = rank(case.query.embeddings[0], case.gallery, top)
    picture = search_picture(scene(), case.queries.boxes[0], hits, scene, "Search", "image.jpg")
    assert has(picture, QUERY) and has(picture, PREDICTED) == (top > 0)
    judged = search_picture(scene(height=900), case.queries.boxes[0], hits, scene, true_positive=[True] * top)
    assert has(judged, TRUE_POSITIVE) == (top > 0) and not has(judged, PREDICTED)


@pytest.fixture
def result(case):
    protocols = make_protocols(["whole", "temporal_gap:100", "sized:5,10,all"], case.annotations, case.queries)
    pair = case.gallery, case.query
    return evaluate({1: pair, 4: pair}, case.annotations, case.queries, protocols, reranking=["cws"]).numbers


def test_ranking_row_and_its_words(case, found):
    query = choose_queries(found, case.queries)[0][1]
    example = example_query(found, query, case.gallery, case.queries, "best")
    picture = ranking_row(example, scene)
    assert has(picture, QUERY) and has(picture, TRUE_POSITIVE) and has(picture, FALSE_POSITIVE)
    words = example.words()
    assert words.startswith(f"Query from {example.image}. Best matches: 1. true positive, similarity")
    true = sum(example.true_positive)
    assert words.count(" true positive,") == true
    assert words.count(" false positive,") == len(example.hits) - true
    assert ExampleQuery("q", (5, 5, 20, 60), []).words() == "Query from q. No match."


def test_examples_are_those_of_the_chosen_queries(case, found):
    data = case.gallery, case.queries
    examples = example_queries(found, *data, each=2)
    wanted = [example_query(found, q, *data, name) for name, q in choose_queries(found, case.queries)]
    assert examples == wanted and len(examples) == 6 and example_queries(found, *data, each=0) == []


def test_steps_panels_hold_the_numbers(result):
    search, detection = steps_panels(result)
    lines = {line.label: line for line in search.series}
    assert lines["mAP, whole gallery"].x == [1, 4]
    assert lines["mAP, whole gallery"].y == [result["search"]["whole"]["all"][k]["mAP"] for k in ("1", "4")]
    assert lines["top-1, whole gallery"].y == [result["search"]["whole"]["all"][k]["top-1"] for k in ("1", "4")]
    assert "mAP, sampled gallery size all" not in lines  # the whole gallery again
    assert [line.y[0] for line in detection.series] == [
        result["detection"]["1"]["all"]["recall"],
        result["detection"]["1"]["coco"]["AP50"],
        result["detection"]["1"]["all"]["AP"],
    ]
    assert "mAP, whole gallery: from" in search.description


def test_sizes_panels_hold_the_numbers(result):
    panels = sizes_panels(result)
    assert [panel.title for panel in panels] == ["mAP, sampled gallery size", "top-1, sampled gallery size"]
    lines = {line.label: line for line in panels[0].series}
    assert list(lines) == ["1 step", "4 steps", "4 steps, CWS"]
    sizes = result["search"]["sized+cws"]
    assert lines["4 steps, CWS"].y == [sizes[size]["4"]["mAP"] for size in ("5", "10", "all")]
    assert lines["1 step"].x == [round(sizes[size]["1"]["gallery_images_mean"]) for size in ("5", "10", "all")]


def test_spread_becomes_bars_and_subsets_no_point(result):
    leaf = result["search"]["sized"]
    leaf["5"]["4"]["sd"] = {"mAP": 0.03}
    leaf["occlusion"] = copy.deepcopy(leaf["5"])
    line = {line.label: line for line in sizes_panels(result)[0].series}["4 steps"]
    assert line.sd == [0.03, None, None] and len(line.x) == 3


def test_panels_are_images(tmp_path, result):
    panels = [*steps_panels(result), *sizes_panels(result)]
    path = write_png(tmp_path / "deep" / "all.png", panels, "a $title$")
    with Image.open(path) as image:
        assert image.size[0] > 1000 and np.asarray(image.convert("RGB")).std() > 10
    assert [p.name for p in path.parent.iterdir()] == ["all.png"]
    picture = svg(panels[0])
    assert ElementTree.fromstring(picture).tag.endswith("svg") and svg(panels[0]) == picture


def test_odd_labels_and_empty_histograms_are_drawn():
    lines = [Line(label, [1, 2], [0.5, 0.7]) for label in ("_hidden", "a $x^2 cost", "ä" * 200)]
    figure = draw(
        [
            Panel("$5 & <b>", "x", "y", lines, log="x"),
            Panel("none", "x", "y", [Histogram("right", [0, 0.5, 1], [0, 0])], log="y", marks=[(0.4, "at")]),
        ]
    )
    figure.canvas.draw()
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels[0] == " _hidden" and len(labels) == 3 and len(labels[2]) < 70


def test_histograms_and_thresholds_of_curves():
    found = {"edges": [0.0, 0.5, 1.0], "right": [1, 3], "wrong": [5, 0]}
    curves = {
        "scores": {"4": found},
        "similarities": {
            "whole": {
                "all": {"4": {"edges": [-1.0, -0.5, 0.0, 0.5, 1.0], "right": [0, 0, 1, 3], "others": [0, 8, 2, 0]}}
            }
        },
    }
    (scores,) = score_panels(curves, {"4": 0.3})
    assert [s.counts for s in scores.series] == [[1, 3], [5, 0]] and scores.marks == [(0.3, "search threshold 0.3")]
    (similar,) = similarity_panels(curves)
    assert similar.series[0].edges == [-0.5, 0.0, 0.5, 1.0]  # without the empty end
    assert similar.series[0].counts == [0, 0.25, 0.75] and similar.series[1].counts == [0.8, 0.2, 0]
    (chosen,) = calibration_panels({"4": {"threshold": 0.2, "thresholds": [0.1, 0.2], "mAP": [0.5, 0.6]}})
    assert chosen.series[0].y == [0.5, 0.6] and chosen.marks[0][0] == 0.2
    assert calibration_panels({}) == [] == score_panels({"scores": {}})


def test_no_curve_without_steps(case):
    protocols = make_protocols(["whole"], case.annotations, case.queries)
    result = evaluate({"given": (case.gallery, case.query)}, case.annotations, case.queries, protocols).numbers
    assert steps_panels(result) == [] == sizes_panels(result)
