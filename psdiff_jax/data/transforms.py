"""Image and box arithmetic on the host, in NumPy and OpenCV, without randomness.

Images are uint8 [h, w, 3] RGB. Boxes are float32 [n, 4] xyxy in pixels, on pixel edges: a box over the whole image is
[0, 0, w, h], so that scaling an image by s scales its boxes by s. The "network image" is the resized, padded one.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from psdiff_jax.data.decoding import decode
from psdiff_jax.errors import InputError


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Encoded JPEG or PNG -> uint8 [h, w, 3] RGB. EXIF rotation is ignored: boxes are in pixels as stored.

    Raises:
      InputError: naming `name`, if the data are empty, truncated, not an image or one of too many pixels.
    """
    image = decode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION, name)
    if image is None:
        raise InputError(f"{name} is not a readable image (truncated or broken); replace it")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def fit_scale(size: tuple[int, int], target: tuple[int, int]) -> float:
    """The largest factor at which an image of `size` (h, w) fits into `target` (H, W)."""
    return min(target[0] / size[0], target[1] / size[1])


def turned(sizes: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """bool [M]: which of the images of sizes [M, 2] (h, w) are portrait, where `image_size` (H, W) is landscape, or the
    reverse."""
    sizes = np.asarray(sizes).reshape(-1, 2)
    return np.sign(sizes[:, 0] - sizes[:, 1]) * np.sign(image_size[0] - image_size[1]) < 0


def canvas(size: tuple[int, int] | np.ndarray, image_size: tuple[int, int]) -> tuple[int, int]:
    """(H, W) of the network image that an image of `size` (h, w) is fitted into: `image_size`, with its sides exchanged
    for an image that is `turned`."""
    height, width = image_size
    return (width, height) if turned(np.asarray(size), image_size)[0] else (height, width)


def resize(image: np.ndarray, scale: float) -> np.ndarray:
    """The image scaled by exactly `scale`, its size rounded; with area averaging if it shrinks, else linear."""
    height, width = image.shape[:2]
    if math.isclose(scale, 1.0, rel_tol=1e-6):  # the rounding of a scale that was kept as float32
        return image
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    if min(height, width) * scale < 1:  # a very narrow image: at least one pixel remains
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        return cv2.resize(image, size, interpolation=interpolation)
    # fx, fy and no size: OpenCV then samples at exactly 1 / scale instead of the ratio of the rounded sizes, and one
    # factor maps the boxes of both axes.
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=interpolation)


def clip_boxes(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes [n, 4] clipped to an image of `size` (h, w)."""
    height, width = size
    return np.clip(boxes, 0, np.asarray([width, height, width, height], np.float32)).astype(np.float32)


def to_network(boxes: np.ndarray, scale: float, image_size: tuple[int, int]) -> np.ndarray:
    """Original pixels -> pixels of the network image, whose valid area is `image_size` (h, w). boxes [n, 4]."""
    return clip_boxes(boxes * np.float32(scale), image_size)


def to_original(boxes: np.ndarray, scale: np.ndarray | float, size: np.ndarray | tuple[int, int]) -> np.ndarray:
    """Pixels of the network image -> pixels of the original image of `size` (h, w), clipped to it.

    For one image (boxes [n, 4], a scalar scale, size [2]) and for a batch (boxes [B, n, 4], scale [B], size [B, 2]).
    """
    scale, size = np.asarray(scale, np.float32), np.asarray(size, np.float32)
    limits = np.stack([size[..., 1], size[..., 0], size[..., 1], size[..., 0]], axis=-1)
    return np.clip(np.asarray(boxes, np.float32) / scale[..., None, None], 0, limits[..., None, :])


def flip_image(image: np.ndarray) -> np.ndarray:
    """The image mirrored left to right."""
    return image[:, ::-1]


def flip_boxes(boxes: np.ndarray, width: float) -> np.ndarray:
    """Boxes [n, 4] of an image of `width` after `flip_image`; its own inverse."""
    x1, y1, x2, y2 = boxes.T
    return np.stack([width - x2, y1, width - x1, y2], axis=-1).astype(np.float32)


def crop_boxes(boxes: np.ndarray, top: int, left: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [n, 4] clipped to the window of `size` (h, w) at (top, left), and the visible share of each [n]."""
    shifted = boxes - np.asarray([left, top, left, top], np.float32)
    clipped = clip_boxes(shifted, size)
    return clipped, areas(clipped) / np.maximum(areas(boxes), 1e-6)


def areas(boxes: np.ndarray) -> np.ndarray:
    """[n] areas of boxes [n, 4]."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def adjust_color(image: np.ndarray, brightness: float, contrast: float) -> np.ndarray:
    """(v - 127.5) * contrast + 127.5 * brightness for every value v; (1, 1) changes nothing."""
    table = (np.arange(256) - 127.5) * contrast + 127.5 * brightness
    return cv2.LUT(np.ascontiguousarray(image), np.clip(np.rint(table), 0, 255).astype(np.uint8))


def pad_rows(rows: np.ndarray, count: int, fill: float = 0) -> np.ndarray:
    """[n, ...] -> [count, ...], filled with `fill` at the end."""
    padded = np.full((count, *rows.shape[1:]), fill, rows.dtype)
    padded[: len(rows)] = rows
    return padded
