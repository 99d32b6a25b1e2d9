"""Transforms against hand-made values, and against the geometry that OpenCV's resampling must follow."""

import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from psdiff_jax.data import transforms
from psdiff_jax.errors import InputError

BOXES = np.asarray([[0, 0, 10, 20], [3.5, 7, 40, 30]], np.float32)


def test_decode_is_rgb():
    red = np.zeros((4, 6, 3), np.uint8)
    red[..., 2] = 255  # OpenCV writes BGR
    image = transforms.decode_image(cv2.imencode(".png", red)[1].tobytes(), "red.png")
    np.testing.assert_array_equal(image[0, 0], [255, 0, 0])


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"not an image"]
)
def test_broken_image_names_the_file(damage):
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    data = damage(cv2.imencode(".jpg", noise)[1].tobytes())
    with pytest.raises(InputError) as caught:
        transforms.decode_image(data, "frames/c1s1_000001.jpg")
    assert str(caught.value) == "frames/c1s1_000001.jpg is not a readable image (truncated or broken); replace it"


@pytest.mark.parametrize(
    ("size", "target", "scale"),
    [((576, 720), (160, 256), 160 / 576), ((100, 400), (160, 256), 0.64), ((80, 64), (160, 256), 2.0)],
)
def test_fit_scale_and_resized_shape(size, target, scale):
    assert transforms.fit_scale(size, target) == pytest.approx(scale)
    resized = transforms.resize(np.zeros((*size, 3), np.uint8), scale)
    assert resized.shape[:2] == (round(size[0] * scale), round(size[1] * scale))
    assert resized.shape[0] <= target[0] and resized.shape[1] <= target[1]


@pytest.mark.parametrize("size", [(1080, 1920), (577, 719), (31, 1000), (2000, 3), (160, 256)])
def test_resized_image_always_fits(size):
    for target in [(160, 256), (800, 1333), (64, 64)]:
        resized = transforms.resize(np.zeros((*size, 3), np.uint8), transforms.fit_scale(size, target))
        assert 1 <= resized.shape[0] <= target[0] and 1 <= resized.shape[1] <= target[1]


@pytest.mark.parametrize("scale", [0.37, 0.5, 1.61])
def test_resize_maps_every_pixel_by_the_scale(scale):
    """A linear ramp stays one: output pixel i sees the input at (i + 0.5) / scale - 0.5, whatever the size rounds to.

    OpenCV's area weights are exact to 0.04 pixels; the ratio of the rounded sizes would be off by 0.9 at the far end.
    """
    width = 101
    ramp = np.tile(np.arange(width, dtype=np.float32)[None, :, None], (9, 1, 3))
    row = transforms.resize(ramp, scale)[2, :, 0]
    expected = (np.arange(len(row)) + 0.5) / scale - 0.5
    np.testing.assert_allclose(row[2:-2], expected[2:-2], atol=0.05)


@pytest.mark.parametrize(
    ("size", "image_size", "expected"),
    [
        ((600, 800), (800, 1333), (800, 1333)),
        ((800, 600), (800, 1333), (1333, 800)),  # shorter side 800, as by detectron2: scale 4/3 instead of 1
        ((800, 600), (1333, 800), (1333, 800)),
        ((600, 800), (1333, 800), (800, 1333)),
        ((700, 700), (800, 1333), (800, 1333)),
        ((800, 600), (512, 512), (512, 512)),
    ],
)
def test_sides_are_exchanged_for_the_other_orientation(size, image_size, expected):
    assert transforms.canvas(size, image_size) == expected
    assert transforms.turned(np.int32([size, size]), image_size).tolist() == [expected != image_size] * 2


def test_network_and_original_are_inverse():
    scale = 0.3
    there = transforms.to_network(BOXES, scale, (100, 100))
    np.testing.assert_allclose(there, BOXES * 0.3, rtol=1e-6)
    np.testing.assert_allclose(transforms.to_original(there, scale, (200, 300)), BOXES, rtol=1e-5)


def test_to_original_on_a_batch_clips_to_each_image():
    boxes = np.asarray([[[0, 0, 10, 10]], [[-4, 2, 10, 60]]], np.float32)
    found = transforms.to_original(boxes, np.asarray([0.5, 2.0]), np.asarray([[15, 40], [25, 4]]))
    np.testing.assert_array_equal(found, [[[0, 0, 20, 15]], [[0, 1, 4, 25]]])


def test_flip_moves_boxes_with_pixels_and_is_an_involution():
    image = np.zeros((30, 50, 3), np.uint8)
    image[7:30, 3:40] = 255
    box = np.asarray([[3, 7, 40, 30]], np.float32)
    x1, y1, x2, y2 = transforms.flip_boxes(box, 50)[0].astype(int)
    flipped = transforms.flip_image(image)
    assert flipped[y1:y2, x1:x2].all() and not flipped.astype(int).sum() - flipped[y1:y2, x1:x2].astype(int).sum()
    np.testing.assert_array_equal(transforms.flip_boxes(transforms.flip_boxes(BOXES, 50), 50), BOXES)


def test_crop_boxes_and_what_is_left_of_them():
    boxes, visible = transforms.crop_boxes(np.asarray([[0, 0, 10, 10], [20, 20, 30, 40]], np.float32), 5, 0, (20, 30))
    np.testing.assert_array_equal(boxes, [[0, 0, 10, 5], [20, 15, 30, 20]])
    np.testing.assert_allclose(visible, [0.5, 0.25])


def test_adjust_color():
    image = np.asarray([[[0, 100, 255]]], np.uint8)
    np.testing.assert_array_equal(transforms.adjust_color(image, 1, 1), image)
    # (0 - 127.5) * 0.5 + 127.5 = 63.75; 113.75; 191.25
    np.testing.assert_array_equal(transforms.adjust_color(image, 1, 0.5), [[[64, 114, 191]]])
    # (v - 127.5) + 127.5 * 1.2 = v + 25.5, rounded to even, cut at 255
    np.testing.assert_array_equal(transforms.adjust_color(image, 1.2, 1), [[[26, 126, 255]]])


def test_pad_rows():
    np.testing.assert_array_equal(transforms.pad_rows(np.asarray([[1, 2]]), 3, -1), [[1, 2], [-1, -1], [-1, -1]])


def test_too_many_pixels_are_refused_by_the_header(monkeypatch):
    """Nothing is decoded; what only OpenCV's own limit stops is broken to us."""
    png = cv2.imencode(".png", np.zeros((4, 6, 3), np.uint8))[1].tobytes()
    for size, said in (
        ((12_000, 12_000), r"12000 x 12000 pixels, more than 134 million"),
        ((40_000, 40_000), "more than 134"),
    ):
        header = png[:16] + b"".join(side.to_bytes(4, "big") for side in size)
        header += png[24:29] + zlib.crc32(header[12:] + png[24:29]).to_bytes(4, "big") + png[33:]
        with pytest.raises(InputError, match=rf"^bomb\.png: {said}"):
            transforms.decode_image(header, "bomb.png")
        with monkeypatch.context() as patch, pytest.raises(InputError, match=r"^bomb\.png is not a readable image"):
            patch.setattr(Image, "open", lambda _: (_ for _ in ()).throw(OSError("no format of Pillow's")))
            transforms.decode_image(header, "bomb.png")
