"""Annotated boxes are clipped to their image, or give a finding."""

import numpy as np
import pytest

from psdiff_jax.datasets.common.boxes import clip_xywh
from psdiff_jax.datasets.common.records import ERROR, KNOWN, RawDataset


@pytest.mark.parametrize(
    ("xywh", "box"),
    [
        ((0, 0, 60, 40), [0, 0, 60, 40]),
        ((1.5, 2, 3, 4.25), [1.5, 2, 4.5, 6.25]),
        ((-5, -6, 10, 20), [0, 0, 5, 14]),
        ((50, 30, 20, 20), [50, 30, 60, 40]),
        ((-9, -9, 900, 900), [0, 0, 60, 40]),
    ],
)
def test_a_box_is_clipped_to_its_image(xywh, box):
    dataset = RawDataset()
    found = clip_xywh(dataset, "list 1", xywh, (40, 60), "a.jpg")
    assert found.dtype == np.float32 and found.tolist() == box and not dataset.findings


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "xywh", [(60, 5, 10, 10), (-10, 5, 10, 10), (5, 40, 10, 10), (5, -20, 10, 20), (1e300, 5, 10, 10)]
)
def test_a_box_outside_is_an_error_by_default(xywh):
    dataset = RawDataset()
    assert clip_xywh(dataset, "list 1", xywh, (40, 60), "a.jpg") is None
    assert clip_xywh(dataset, "list 1", xywh, (40, 60), "a.jpg", outside=KNOWN) is None
    assert [finding.level for finding in dataset.findings] == ["error", "known"]
    assert str(dataset.findings[0]) == (
        f"list 1: the box {list(xywh)} (xywh) lies outside its 60 x 40 image; correct or remove it"
    )


@pytest.mark.parametrize(
    "xywh", [(5, 5, 0, 10), (5, 5, 10, -3), (99, 5, 0, 10), (59.9999999, 5, 10, 10), (5, 5, 1e-9, 10)]
)
def test_a_box_without_area_is_left_out(xywh):
    dataset = RawDataset()
    assert clip_xywh(dataset, "list 1", xywh, (40, 60), "a.jpg") is None
    (finding,) = dataset.findings
    assert (finding.level, finding.image) == ("warning", "a.jpg") and "has no area; it is left out" in finding.what


def test_the_level_of_a_box_without_area_is_an_option():
    dataset = RawDataset()
    clip_xywh(dataset, "list 1", (5, 5, 0, 10), (40, 60), "a.jpg", empty=ERROR, advice="restore it")
    assert [(f.level, str(f)) for f in dataset.findings] == [
        ("error", "list 1: the box [5, 5, 0, 10] (xywh) has no area; restore it")
    ]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", range(4))
def test_a_box_that_is_not_finite_is_an_error(place, wrong):
    dataset, xywh = RawDataset(), [5.0, 5.0, 10.0, 10.0]
    xywh[place] = wrong
    assert clip_xywh(dataset, "list 1", xywh, (40, 60), "a.jpg", outside=KNOWN, empty=KNOWN) is None
    assert [(f.level, f.check) for f in dataset.findings] == [("error", "box of other than four finite numbers")]
