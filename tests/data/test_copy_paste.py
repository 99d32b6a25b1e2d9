"""People pasted in from another image: which ones, at which place, with which labels, and what the pixels are."""

import numpy as np
import pytest

from psdiff_jax.data.augment import Augmentation
from psdiff_jax.data.copy_paste import MARGIN, paste_people
from psdiff_jax.data.image_reader import ImageReader
from psdiff_jax.data.options import AugmentOptions, DataOptions
from psdiff_jax.data.schema import Annotations

from ..stored import stored


def person(value, boxes, size=(60, 90)):
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    return {
        "image": np.full((*size, 3), value, np.uint8),
        "boxes": boxes,
        "person_ids": value + np.arange(len(boxes)),
        "embeddings": np.eye(8, dtype=np.float32)[: len(boxes)] * value,
    }


def paste(sample, other, most=9, seed=0):
    return paste_people(sample, other, most, np.random.default_rng(seed))


def test_a_person_comes_with_labels_and_fades_into_the_image():
    sample, other = person(10, [[0, 0, 10, 20]]), person(200, [[40.5, 20, 60.5, 50]])
    found = paste(sample, other)
    np.testing.assert_array_equal(found["boxes"], [[0, 0, 10, 20], [40.5, 20, 60.5, 50]])
    np.testing.assert_array_equal(found["person_ids"], [10, 200])
    np.testing.assert_array_equal(found["embeddings"], [sample["embeddings"][0], other["embeddings"][0]])
    image = found["image"][..., 0].astype(float)
    assert np.all(image[20:50, 41:60] == 200)
    width, height = MARGIN * 20, MARGIN * 30
    for row, column in np.ndindex(60, 90):  # by hand: linear in the distance from the box, in margins
        away = max((40.5 - column - 0.5) / width, (column + 0.5 - 60.5) / width, 0)
        away = max(away, (20 - row - 0.5) / height, (row + 0.5 - 50) / height)
        assert abs(image[row, column] - (10 + 190 * max(1 - away, 0))) <= 0.51
    assert np.all(sample["image"] == 10) and len(sample["boxes"]) == 1  # a cache may hold it


def test_nobody_is_covered_or_comes_with_a_part_of_somebody_else():
    other = person(200, [[40, 20, 60, 50], [0, 0, 10, 20], [58, 20, 80, 50]])
    for boxes, wanted in (
        ([], [201]),  # the first and the last overlap each other
        ([[9, 0, 12, 10]], []),
        ([[11.4, 0, 20, 10]], []),  # in the margin, which ends at a whole pixel
        ([[12.1, 0, 20, 10]], [201]),
    ):
        found = paste(person(10, boxes), other)
        assert list(found["person_ids"][len(boxes) :]) == wanted
    assert paste(person(10, []), person(200, []))["boxes"].shape == (0, 4)
    small = person(10, [], size=(60, 80))
    assert paste(small, other) is small  # of another size


def test_no_more_than_asked_for_and_each_may_be_chosen():
    other = person(200, [[0, 0, 10, 20], [30, 0, 40, 20], [60, 0, 70, 20]])
    chosen = {tuple(paste(person(10, []), other, most=2, seed=seed)["person_ids"]) for seed in range(30)}
    assert {len(ids) for ids in chosen} == {2} and len(chosen) == 6


class Cameras:
    """Four images with one person each at a place of their own; two of camera 0, one of camera 1, one of none."""

    name = folder = "cameras"

    def __init__(self):
        self.images = [np.full((60, 90, 3), 50 * i, np.uint8) for i in range(4)]
        boxes = tuple(np.float32([[20 * i, 10, 20 * i + 10, 40]]) for i in range(4))
        self.found = Annotations(
            tuple("abcd"), np.full((4, 2), (60, 90), np.int32), np.array([0, 0, 1, -1]), np.arange(4), boxes,
            tuple(np.array([i]) for i in range(4)),
        )  # fmt: skip

    def annotations(self, split):
        return self.found

    def source(self, split):
        return [stored(image) for image in self.images]


@pytest.mark.parametrize("room", [1, 3])
def test_people_come_from_the_same_camera_where_there_is_room(room):
    augment = AugmentOptions(flip=False, copy_paste=5)
    options = DataOptions(image_size=(60, 90), max_boxes=room, augment=augment)
    reader = ImageReader(Cameras(), "train", options, None, 4, max_boxes=room)
    augmentation = Augmentation(augment, reader, np.arange(4))
    for position, wanted in enumerate([{(0,), (0, 1)}, {(1,), (1, 0)}, {(2,)}, {(3,)}]):
        found = set()
        for seed in range(20):
            sample = augmentation(reader.sample(position), position, np.random.default_rng(seed))
            found.add(tuple(sample["person_ids"]))
        assert found == (wanted if room > 1 else {(position,)})
