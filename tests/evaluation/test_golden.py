"""The rules of person search on cases worked by hand, the arithmetic beside each.

The query is person 1 in the image "own", with embedding (1, 0, 0, ...). A detection is (image, box, score, embedding);
`like(s)` is a unit embedding of similarity s to the query. AP is the mean of the precisions at the true positives,
times the share of positives (images that show the person) in which the person was found.
"""

import numpy as np
import pytest

from psdiff_jax.data.galleries import GalleryList
from psdiff_jax.evaluation.person_search import score_search
from psdiff_jax.evaluation.protocols import make_protocols
from psdiff_jax.evaluation.reranking import parse_rerankings

BOX = (0, 0, 40, 100)  # of the person
FAR = (200, 200, 240, 300)  # of another person
OWN = ("own", [(BOX, 1)])


def like(similarity):
    return [similarity, np.sqrt(1 - similarity**2)]


@pytest.fixture
def search(make):
    """search(scenes, found, ...) -> SearchResult; scenes: [(name, [(box, person)])], of camera and frame if given."""

    def score(scenes, found, protocol="whole", option=(), lists=None, scene_of=None, query=(1.0, 0.0)):
        scene_of = scene_of or {}
        annotations = make.annotations([(n, *scene_of.get(n, (0, i)), p) for i, (n, p) in enumerate(scenes)])
        queries = make.queries(annotations, [("own", BOX, 1)])
        gallery = make.gallery(annotations, found, images=[name for name, _ in scenes])
        asked = make.query(queries, [query])
        protocols = make_protocols([protocol], annotations, queries, galleries=lists)
        results = score_search(gallery, asked, annotations, queries, protocols, 0.5, 4, parse_rerankings(option))
        return results[-1]

    return score


def numbers(result):
    return tuple(float(v[0]) for v in (result.average_precision, result.first_rank, result.positives, result.found))


def a_list(images, places, boxes=None):
    """The only query's gallery: images by number, the places that show the person, the person's box in each."""
    boxes = np.array([BOX] * len(places) if boxes is None else boxes, np.float32).reshape(-1, 4)
    return GalleryList(np.array([0]), (np.array(images, np.int32),), (np.array(places, np.int32),), (boxes,))


def test_query_never_detected(search):
    """The only detection scores 0.4 < 0.5 and is not searched. tp = 0: AP 0; the query still counts in every mean."""
    result = search([OWN, ("a", [(BOX, 1)])], [("a", BOX, 0.4, like(1.0)), ("a", FAR, 0.9, like(0.9))])
    assert numbers(result) == (0, 0, 1, 0)
    assert (result.summary()["mAP"], result.summary()["queries"], result.summary()["queries_without_hit"]) == (0, 1, 1)


def test_two_detections_on_one_box(search):
    """0.9 true, 0.8 false (the same person again), 0.7 true: precisions 1/1 and 2/3. AP = (1 + 2/3) / 2 = 5/6."""
    found = [("a", BOX, 0.6, like(0.8)), ("a", (2, 2, 40, 100), 0.9, like(0.9)), ("b", BOX, 0.9, like(0.7))]
    result = search([OWN, ("a", [(BOX, 1)]), ("b", [(BOX, 1)])], found)
    assert numbers(result) == pytest.approx((5 / 6, 1, 2, 2))


def test_image_twice_in_a_list_first_as_a_positive(search):
    """a, b, a, with the person at both places of a: count_gt = 2, counted before a is skipped; tp = 1, at rank 1.
    AP = 1/1 x 1/2."""
    scenes = [OWN, ("a", [(BOX, 1)]), ("b", [(FAR, 3)])]
    found = [("a", BOX, 0.9, like(0.9)), ("b", FAR, 0.9, like(0.1))]
    result = search(scenes, found, "listed:5", lists={"5": a_list([1, 2, 1], [0, 2])})
    assert numbers(result) == (0.5, 1, 2, 1)
    assert result.gallery_images[0] == 3 and result.hits[0].tolist() == [0, 1, -1, -1]  # its detections once


def test_image_twice_in_a_list_first_as_a_negative(search):
    """a (no box), b, a (box): count_gt = 1, but a was seen at its first place, which has no box: tp = 0."""
    scenes = [OWN, ("a", [(BOX, 1)]), ("b", [(FAR, 3)])]
    found = [("a", BOX, 0.9, like(0.9)), ("b", FAR, 0.9, like(0.1))]
    result = search(scenes, found, "listed:5", lists={"5": a_list([1, 2, 1], [2])})
    assert numbers(result) == (0, 0, 1, 0)


def test_image_twice_in_a_list_once_as_a_positive(search):
    """a (box), a (no box): count_gt = 1, tp = 1. AP = 1."""
    scenes = [OWN, ("a", [(BOX, 1)])]
    result = search(scenes, [("a", BOX, 0.9, like(0.9))], "listed:5", lists={"5": a_list([1, 1], [0])})
    assert numbers(result) == (1, 1, 1, 1)


def test_the_box_of_the_list_decides(search):
    """The list's box is FAR: the detection there, of rank 2, is the true positive. AP = 1/2."""
    found = [("a", BOX, 0.9, like(0.9)), ("a", FAR, 0.9, like(0.5))]
    result = search([OWN, ("a", [(BOX, 1)])], found, "listed:5", lists={"5": a_list([1], [0], [FAR])})
    assert numbers(result) == (0.5, 2, 1, 1)


def test_all_of_listed(search):
    """List a (box), c; behind it every other image but the query's own as a negative: b, although the annotations
    have the person there. Ranks: b 0.9 false, a 0.8 true, c 0.1 false. count_gt = 1. AP = 1/2 x 1/1."""
    scenes = [OWN, ("a", [(BOX, 1)]), ("b", [(BOX, 1)]), ("c", [])]
    found = [("a", BOX, 0.9, like(0.8)), ("b", BOX, 0.9, like(0.9)), ("c", FAR, 0.9, like(0.1))]
    found += [("own", BOX, 0.9, like(1.0))]
    lists = {"50": a_list([1, 2], [0, 1]), "5": a_list([1, 3], [0])}  # the smallest number, not the first, is taken
    result = search(scenes, found, "listed:all", lists=lists)
    assert numbers(result) == (0.5, 2, 1, 1)
    assert result.gallery_images[0] == 3 and result.hits[0].tolist() == [1, 0, 2, -1]


def test_empty_gallery_hit(search):
    """b is a positive without any detection: it counts in count_gt and adds no detections. AP = 1 x 1/2."""
    result = search([OWN, ("a", [(BOX, 1)]), ("b", [(BOX, 1)])], [("a", BOX, 0.9, like(0.9))])
    assert numbers(result) == (0.5, 1, 2, 1)


def test_gallery_without_positives(search):
    """count_gt = 0: the query scores 0 and is part of the mean."""
    result = search([OWN, ("a", [(FAR, 2)])], [("a", FAR, 0.9, like(0.9))])
    assert numbers(result) == (0, 0, 0, 0)
    assert (result.summary()["queries"], result.summary()["queries_without_truth"]) == (1, 1)


def test_ties(search):
    """0.5 true and 0.5 false are one threshold: precision there 1/2, so AP = 1/2. CMC ranks the false one first: rank
    2."""
    found = [("a", BOX, 0.9, like(0.5)), ("a", FAR, 0.9, like(0.5))]
    assert numbers(search([OWN, ("a", [(BOX, 1)])], found)) == (0.5, 2, 1, 1)


@pytest.mark.parametrize(("height", "ap"), [(5.1, 1), (4.9, 0)])
def test_threshold_lowered_by_small_boxes(search, height, ap):
    """A box of 10 x 10: min(0.5, 100 / (20 x 20)) = 0.25. A detection of 5 x h inside it has IoU 5 h / 100: 0.255
    counts and 0.245 does not."""
    result = search([OWN, ("a", [((0, 0, 10, 10), 1)])], [("a", (0, 0, 5, height), 0.9, like(0.9))])
    assert numbers(result) == (ap, ap, 1, ap)


@pytest.mark.parametrize(("height", "ap"), [(51, 1), (49, 0)])
def test_threshold_of_large_boxes(search, height, ap):
    """A box of 40 x 100: 4000 / (50 x 110) = 0.73, so 0.5. A detection of 40 x h inside it has IoU h / 100."""
    assert numbers(search([OWN, ("a", [(BOX, 1)])], [("a", (0, 0, 40, height), 0.9, like(0.9))]))[0] == ap


def test_person_twice_in_one_image(search):
    """The first box, FAR, counts; the image is one positive. 0.9 at BOX is false, 0.6 at FAR true: AP = 1/2."""
    found = [("a", BOX, 0.9, like(0.9)), ("a", FAR, 0.9, like(0.6))]
    assert numbers(search([OWN, ("a", [(FAR, 1), (BOX, 1)])], found)) == (0.5, 2, 1, 1)


CAMERAS = {"own": (0, 100), "same": (0, 900), "near": (0, 350), "edge": (0, 351), "other": (1, 100)}
STREET = [(name, [(BOX, 1)]) for name in CAMERAS]
SEEN = [("same", BOX, 0.9, like(0.9)), ("near", FAR, 0.9, like(0.8)), ("edge", BOX, 0.9, like(0.7))]
SEEN += [("other", FAR, 0.9, like(0.6)), ("other", BOX, 0.9, like(0.5))]


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        # ranks: same true, near false, edge true, other false, other true: (1 + 2/3 + 3/5) / 3 x 3/4
        ("whole", ((1 + 2 / 3 + 3 / 5) / 3 * 3 / 4, 1, 4, 3)),
        # other false, other true: 1/2 x 1/1
        ("cross_camera", (1 / 2, 2, 1, 1)),
        # same true, near false, edge true: (1 + 2/3) / 2 x 2/3
        ("same_camera", ((1 + 2 / 3) / 2 * 2 / 3, 1, 3, 2)),
        # near, 250 frame numbers away, is left out, edge at 251 and the other camera at 0 are not:
        # same true, edge true, other false, other true: (1 + 1 + 3/4) / 3 x 3/3
        ("temporal_gap:250", ((1 + 1 + 3 / 4) / 3, 1, 3, 3)),
    ],
)
def test_cameras_and_temporal_gap(search, protocol, expected):
    assert numbers(search(STREET, SEEN, protocol, scene_of=CAMERAS)) == pytest.approx(expected)


def test_cws_changes_the_order(search):
    """0.8 x 0.95 = 0.76 true before 0.9 x 0.6 = 0.54 false: AP 1 where the plain order gives 1/2."""
    scenes, found = [OWN, ("a", [(BOX, 1)])], [("a", BOX, 0.95, like(0.8)), ("a", FAR, 0.6, like(0.9))]
    assert numbers(search(scenes, found)) == (0.5, 2, 1, 1)
    weighted = search(scenes, found, option=["cws"])
    assert numbers(weighted) == (1, 1, 1, 1)
    assert weighted.similarities[0, :2] == pytest.approx([0.76, 0.54])
    assert weighted.name == "whole+cws"


def axes(*values):
    """A unit embedding with these first coordinates; the last one makes it of length 1."""
    return [*values, np.sqrt(1 - sum(v * v for v in values))]


def four_persons(score_a=0.9):
    """The query (axis 0) with two persons beside it in "own" (axes 1, 2), and a fourth that overlaps the query's box.

    a: the true one (0.6, 0, 0), a stranger (0.7, 0.6, 0), another (0, 0, 0.8). b: a stranger of similarity 0.65.
    """
    beside = [((60, 0, 100, 100), 0.8, (0, 1, 0, 0)), ((120, 0, 160, 100), 0.7, (0, 0, 1, 0))]
    found = [("own", box, score, e) for box, score, e in beside]
    found += [("own", (0, 0, 40, 60), 0.95, (0, 0, 0, 1))]  # IoU 0.6 with the query's box: the query again
    found += [("own", (300, 0, 340, 100), 0.4, (0, 0, 0, 1))]  # below the search threshold
    true, stranger, third = axes(0.6, 0, 0), axes(0.7, 0.6, 0), axes(0, 0, 0.8)
    found += [("a", BOX, score_a, true), ("a", FAR, 0.9, stranger), ("a", (300, 0, 340, 100), 0.9, third)]
    found += [("b", FAR, 0.9, axes(0.65, 0, 0))]
    return [OWN, ("a", [(BOX, 1)]), ("b", [])], found


def test_cbgm_with_two_context_persons(search):
    """Plain: stranger 0.7, b 0.65, true 0.6, third 0: AP 1/3.

    K1 = 1: the highest similarity is the stranger's, so only a is matched. Weights, persons x (true, stranger, third):
        query  0.6  0.7  0
        axis 1  0   0.6  0
        axis 2  0   0    0.8
    query-true, axis 1-stranger, axis 2-third: 0.6 + 0.6 + 0.8 = 2.0, against 0.7 + 0 + 0.8 = 1.5 with the stranger for
    the query. The true one gets the highest matched edge, 0.8: ranks true 0.8, stranger 0.7, b 0.65. AP = 1.
    """
    scenes, found = four_persons()
    assert numbers(search(scenes, found, query=(1, 0, 0, 0))) == pytest.approx((1 / 3, 3, 1, 1))
    matched = search(scenes, found, option=["cbgm:1,3"], query=(1, 0, 0, 0))
    assert numbers(matched) == (1, 1, 1, 1)
    assert matched.similarities[0] == pytest.approx([0.8, 0.7, 0.65, 0.0], abs=1e-6)


def test_cbgm_takes_the_context_of_highest_score(search):
    """K2 = 2: the context is axis 1 (score 0.8) alone: 0.6 + 0.6 with query-true, 0.7 + 0 with the stranger. The true
    one gets max(0.6, 0.6) = 0.6 and no rank changes: AP 1/3. With K1 = 2 b is matched too, where the only detection
    is the query's with its own 0.65."""
    scenes, found = four_persons()
    for option in ("cbgm:1,2", "cbgm:2,2"):
        assert numbers(search(scenes, found, option=[option], query=(1, 0, 0, 0))) == pytest.approx((1 / 3, 3, 1, 1))


def test_cbgm_under_cws_weighs_gallery_detections_only(search):
    """Gallery scores: true 0.9, others 0.9; context scores 0.8 and 0.7 do not enter.

    Weights: query 0.54, 0.63, 0; axis 1 0, 0.54, 0; axis 2 0, 0, 0.72. 0.54 + 0.54 + 0.72 = 1.8 against 1.35: the true
    one gets 0.72; the stranger stays 0.63 and b 0.65 x 0.9 = 0.585."""
    scenes, found = four_persons()
    result = search(scenes, found, option=["cws+cbgm:1,3"], query=(1, 0, 0, 0))
    assert numbers(result) == (1, 1, 1, 1)
    assert result.similarities[0, :3] == pytest.approx([0.72, 0.63, 0.585])


def test_cbgm_with_fewer_detections_than_persons(search):
    """c holds one detection, (0.5, 0.6, 0): axis 1's 0.6 beats the query's 0.5, the query stays without a match and
    the similarity 0.5."""
    scenes = [OWN, ("c", [(BOX, 1)])]
    found = [("own", (60, 0, 100, 100), 0.8, (0, 1, 0, 0)), ("c", BOX, 0.9, axes(0.5, 0.6, 0))]
    result = search(scenes, found, option=["cbgm:1,3"], query=(1, 0, 0, 0))
    assert numbers(result) == (1, 1, 1, 1) and result.similarities[0, 0] == pytest.approx(0.5)
