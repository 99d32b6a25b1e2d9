"""Figures: geometry and colours where they can be checked, and that every case makes a picture."""

import copy

import numpy as np
import pytest
from PIL import Image

from psdiff_jax.evaluation.drawing import (
    PREDICTED,
    QUERY,
    RIGHT,
    WRONG,
    crop_around,
    draw_boxes,
    font,
    shortened,
)
from psdiff_jax.evaluation.evaluate import evaluate
from psdiff_jax.evaluation.figures import sizes_figure, steps_figure
from psdiff_jax.evaluation.person_search import score_search
from psdiff_jax.evaluation.protocols import make_protocols
from psdiff_jax.evaluation.ranking import Hit, rank
from psdiff_jax.evaluation.strips import (
    Strip,
    ranking_sheet,
    search_picture,
    strip_of,
    telling_queries,
    write_picture,
)


def scene(name="", height=120, width=160):
    rng = np.random.default_rng(len(name))
    return rng.integers(90, 160, (height, width, 3)).astype(np.uint8)


def has(picture, color):
    return bool((picture == np.array(color, np.uint8)).all(-1).any())


@pytest.fixture
def case(make):
    return make.random_case(3, images=40, people=8)


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
    """The photograph is black with the box painted white, then scaled to `size`; the crop must be white inside its
    box."""
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
    grey = (picture == np.array([226, 228, 231], np.uint8)).all(-1)  # beyond the photograph
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
    cut = shortened("a_long_name_of_a_photograph_000451.jpg", 90, font(10))
    assert "…" in cut and cut.startswith("a_") and cut.endswith(".jpg") and font(10).getlength(cut) <= 90


def test_telling_queries(case, found):
    picks = telling_queries(found, case.queries, each=3)
    numbers = [q for _, q in picks]
    assert [name for name, _ in picks] == ["best"] * 3 + ["median"] * 3 + ["worst"] * 3
    assert len(set(numbers)) == 9 and all(found.truths[q] > 0 for q in numbers)
    ap = found.average_precision[numbers]
    assert (np.diff(ap) <= 0).all()
    assert ap[0] == found.average_precision.max() and ap[-1] == found.average_precision[found.truths > 0].min()
    for group in (numbers[:3], numbers[3:6], numbers[6:]):
        assert len({int(case.queries.person_ids[q]) for q in group}) == 3
    few = telling_queries(found, case.queries, each=1000)
    assert len({q for _, q in few}) == len(few)


def test_ranking_sheet(tmp_path, case, found):
    strips = [strip_of(found, q, case.gallery, case.queries, name) for name, q in telling_queries(found, case.queries)]
    sheet = ranking_sheet(strips, scene, "a title")
    assert has(sheet, QUERY) and has(sheet, RIGHT) and has(sheet, WRONG) and not has(sheet, PREDICTED)
    with Image.open(write_picture(tmp_path / "deep" / "ranking.png", sheet)) as image:
        assert image.size == (sheet.shape[1], sheet.shape[0])
    hits = [Hit(1, "a", (0, 0, 20, 40), 0.9, 0.8, 0)]
    unknown = ranking_sheet([Strip("q", (5, 5, 20, 60), hits)], scene)
    assert has(unknown, PREDICTED) and not has(unknown, RIGHT)
    assert ranking_sheet([Strip("q", (5, 5, 20, 60), [])], scene).ndim == 3


@pytest.mark.parametrize("top", [0, 1, 7])
def test_search_picture(case, top):
    hits = rank(case.query.embeddings[0], case.gallery, top)
    picture = search_picture(scene(), case.queries.boxes[0], hits, scene, "Search", "photograph.jpg")
    assert has(picture, QUERY) and has(picture, PREDICTED) == (top > 0)
    judged = search_picture(scene(height=900), case.queries.boxes[0], hits, scene, right=[True] * top)
    assert has(judged, RIGHT) == (top > 0) and not has(judged, PREDICTED)


def test_curves(tmp_path, case):
    protocols = make_protocols(["whole", "temporal_gap:100", "sized:5,10,all"], case.annotations, case.queries)
    pair = case.gallery, case.query
    result = evaluate({1: pair, 4: pair}, case.annotations, case.queries, protocols)
    path = steps_figure(result, tmp_path / "report" / "steps.png", "a title")
    with Image.open(path) as image:
        assert image.size[0] > 1000 and np.asarray(image.convert("RGB")).std() > 10
    assert sizes_figure(result, tmp_path / "report" / "sizes.png").exists()
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == ["sizes.png", "steps.png"]
    one = copy.deepcopy(result) | {"steps": ["4"]}
    assert steps_figure(one, tmp_path / "one.png").exists()


def test_no_curve_without_steps(tmp_path, case):
    protocols = make_protocols(["whole"], case.annotations, case.queries)
    result = evaluate({"given": (case.gallery, case.query)}, case.annotations, case.queries, protocols)
    assert steps_figure(result, tmp_path / "steps.png") is None
    assert sizes_figure(result, tmp_path / "sizes.png") is None
    assert not list(tmp_path.iterdir())
