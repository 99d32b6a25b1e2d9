"""Rectangles become boxes inside their photograph, or findings."""

import numpy as np
import pytest

from psdiff_jax.datasets.common.boxes import place_box
from psdiff_jax.datasets.common.records import KNOWN, Contents


@pytest.mark.parametrize(
    ("rectangle", "box"),
    [
        ((0, 0, 60, 40), [0, 0, 60, 40]),
        ((1.5, 2, 3, 4.25), [1.5, 2, 4.5, 6.25]),
        ((-5, -6, 10, 20), [0, 0, 5, 14]),
        ((50, 30, 20, 20), [50, 30, 60, 40]),
        ((-9, -9, 900, 900), [0, 0, 60, 40]),
    ],
)
def test_a_box_is_cut_at_the_border(rectangle, box):
    contents = Contents()
    found = place_box(contents, "list 1", rectangle, (40, 60), "a.jpg")
    assert found.dtype == np.float32 and found.tolist() == box and not contents.findings


@pytest.mark.parametrize("rectangle", [(60, 5, 10, 10), (-10, 5, 10, 10), (5, 40, 10, 10), (5, -20, 10, 20)])
def test_a_box_outside_is_an_error_unless_said_otherwise(rectangle):
    contents = Contents()
    assert place_box(contents, "list 1", rectangle, (40, 60), "a.jpg") is None
    assert place_box(contents, "list 1", rectangle, (40, 60), "a.jpg", outside=KNOWN) is None
    assert [finding.level for finding in contents.findings] == ["error", "known"]
    assert str(contents.findings[0]) == (
        f"list 1: the box {[float(v) for v in rectangle]} (x y width height) lies outside its 60 x 40 photograph;"
        " correct or remove it"
    )


@pytest.mark.parametrize(
    "rectangle", [(5, 5, 0, 10), (5, 5, 10, -3), (99, 5, 0, 10), (59.9999999, 5, 10, 10), (5, 5, 1e-9, 10)]
)
def test_a_box_without_area_is_left_out(rectangle):
    contents = Contents()
    assert place_box(contents, "list 1", rectangle, (40, 60), "a.jpg") is None
    (finding,) = contents.findings
    assert (finding.level, finding.image) == ("warning", "a.jpg") and "has no area and is left out" in finding.what
