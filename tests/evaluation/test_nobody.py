"""The line beside a table of zeros."""

import pytest

from psdiff_jax.evaluation.nobody import why_nobody

BOX, SMALL, AWAY = (0, 0, 10, 40), (0, 0, 4, 10), (50, 50, 60, 90)


@pytest.fixture
def annotations(make):
    return make.annotations([("a", 0, 0, [(BOX, 1)]), ("b", 0, 0, [(BOX, -1)])])


@pytest.mark.parametrize(
    ("box", "score", "line"),
    [
        (BOX, 0.9, None),
        (AWAY, 0.9, "nobody is found: 0 of 2 annotated people have an IoU of 0.5 or more with one of 1 boxes (median "
                    "height 40 pixels, annotated 40); the weights were not trained on such images"),
        (SMALL, 0.9, "(median height 10 pixels, annotated 40); the weights know people of another size: compare"),
        (SMALL, 0.001, "nobody is found: no box scores 0.01 or more; the weights were not trained"),
        (BOX, 0.3, "nobody is searched: 1 of 2 annotated people are found, but hardly one with a score of "
                   "config.evaluate.search_threshold=0.5 or more (the best has 0.3); lower it"),
    ],
)  # fmt: skip
def test_why(make, annotations, box, score, line):
    said = why_nobody(make.gallery(annotations, [("a", box, score, [1, 0])]), annotations, 0.01, 0.5)
    assert (said is None) if line is None else (line in said and "\n" not in said), said


def test_without_annotations_there_is_nothing_to_find(make):
    annotations = make.annotations([("a", 0, 0, [])])
    assert why_nobody(make.gallery(annotations, [("a", BOX, 0.9, [1, 0])]), annotations, 0.01, 0.5) is None
