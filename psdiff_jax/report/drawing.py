"""Boxes, tags and crops: what ranking figures and TensorBoard images are made of.

Images are uint8 [H,W,3] RGB; boxes xyxy in pixels of the image they are drawn on. Every function but `frame` returns a
new image.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]
TRUE_POSITIVE: Color = (34, 160, 72)
FALSE_POSITIVE: Color = (215, 48, 48)
QUERY: Color = (250, 186, 20)
PREDICTED: Color = (0, 190, 255)
GROUND_TRUTH: Color = (255, 255, 255)
INK: Color = (32, 36, 42)
FAINT: Color = (120, 126, 134)
PAPER: Color = (255, 255, 255)


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray | None = None,
    scores: np.ndarray | None = None,
    gt_boxes: np.ndarray | None = None,
    *,
    tags: Sequence[str] | None = None,
    min_score: float = 0.0,
    color: Color = PREDICTED,
    enlarge_to: int = 640,
) -> np.ndarray:
    """An image with predicted boxes [K,4] (solid, `scores` [K] or `tags` above them) and ground truth [N,4] (white,
    dashed).

    Boxes with a score below `min_score` are left out, those below 0.5 are thin and drawn first. Images whose longer
    side is shorter than `enlarge_to` are enlarged, so that tags stay legible.
    """
    zoom = max(1.0, enlarge_to / max(image.shape[:2]))
    canvas = resize(image, (round(image.shape[1] * zoom), round(image.shape[0] * zoom)))
    for box in _rows(gt_boxes) * zoom:
        _dashed(canvas, box, GROUND_TRUTH)
    boxes_K4 = _rows(boxes) * zoom
    score_K = np.ones(len(boxes_K4)) if scores is None else np.asarray(scores, np.float64)
    texts = [""] * len(boxes_K4) if scores is None else [f"{score:.2f}" for score in score_K]
    texts = list(tags) if tags else texts
    order = [k for k in np.argsort(score_K, kind="stable") if score_K[k] >= min_score]
    for k in order:
        frame(canvas, boxes_K4[k], color, 2 if score_K[k] >= 0.5 else 1)
    for k in order:
        if texts[k]:
            canvas = tag(canvas, texts[k], boxes_K4[k], color)
    return canvas


def frame(canvas: np.ndarray, box: np.ndarray, color: Color, width: int = 2) -> None:
    """Draws, in place, a solid box with a dark rim that keeps it visible on any background."""
    x1, y1, x2, y2 = (round(float(v)) for v in box)
    cv2.rectangle(canvas, (x1, y1), (x2, y2), _darker(color), width + 2)
    cv2.rectangle(canvas, (x1, y1), (x2, y2), color, width)


def tag(canvas: np.ndarray, text: str, box: np.ndarray, color: Color, size: int = 11) -> np.ndarray:
    """The image with `text` on a plate of `color` above the box's top edge, inside the box where there is no room."""
    picture = Image.fromarray(canvas)
    pen, letters = ImageDraw.Draw(picture), font(size, bold=True)
    left, top, right, bottom = pen.textbbox((0, 0), text, font=letters)
    width, height = right - left + 6, bottom - top + 5
    x = min(max(round(float(box[0])) - 1, 0), max(picture.width - width, 0))
    y = round(float(box[1])) - height
    y = y if y >= 0 else min(max(round(float(box[1])), 0), picture.height - height)
    pen.rectangle((x, y, x + width, y + height), fill=color)
    ink = INK if sum(color) > 330 else PAPER
    pen.text((x + 3 - left, y + 3 - top), text, font=letters, fill=ink)
    return np.array(picture)


def crop_around(
    image: np.ndarray, box: np.ndarray, size: tuple[int, int], context: float = 1.2
) -> tuple[np.ndarray, np.ndarray]:
    """(crop of `size` = (width, height), the box in its pixels): the surroundings of `box` in the shape of `size`.

    The window is `context` times as wide and high as the smallest one of that shape around the box; it is moved inside
    the image where it can be and filled with grey beyond the image.
    """
    width, height = size
    box = np.asarray(box, np.float64)
    shape = np.maximum(box[2:] - box[:2], 1.0)
    unit = context * max(shape[0] / width, shape[1] / height)
    window = np.array([width, height]) * unit
    limit = np.array([image.shape[1], image.shape[0]], np.float64)
    corner = (box[:2] + box[2:] - window) / 2
    corner = np.where(window <= limit, np.clip(corner, 0, np.maximum(limit - window, 0)), (limit - window) / 2)
    # the affine map in pixel centres; where the window is shrunk, averaging first keeps thin limbs
    shrink = max(1, int(unit))
    source = image if shrink == 1 else resize(image, tuple(np.maximum(limit // shrink, 1).astype(int)))
    ratio = np.array([source.shape[1], source.shape[0]]) / limit
    scale = ratio * unit
    offset = corner * ratio + 0.5 * scale - 0.5
    matrix = np.array([[scale[0], 0, offset[0]], [0, scale[1], offset[1]]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    crop = cv2.warpAffine(source, matrix, (width, height), flags=flags, borderValue=(226, 228, 231))
    return crop, (box - np.tile(corner, 2)) / unit


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A new image of `size` = (width, height)."""
    if size == (image.shape[1], image.shape[0]):
        return image.copy()
    smaller = size[0] < image.shape[1]
    return cv2.resize(image, (int(size[0]), int(size[1])), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


@functools.cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib."""
    matplotlib = importlib.util.find_spec("matplotlib")  # found and not imported, which would take a third of a second
    assert matplotlib and matplotlib.origin
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf" / name), size)


def shortened(text: str, width: int, letters: ImageFont.FreeTypeFont) -> str:
    """`text`, its middle left out where it is wider than `width` pixels; the ends of image names tell them apart."""
    if letters.getlength(text) <= width:
        return text
    for keep in range(len(text) - 1, 1, -1):
        cut = text[: keep // 2] + "…" + text[len(text) - (keep - keep // 2) :]
        if letters.getlength(cut) <= width:
            return cut
    return "…"


def _rows(boxes: np.ndarray | None) -> np.ndarray:
    return np.zeros((0, 4)) if boxes is None else np.asarray(boxes, np.float64).reshape(-1, 4)


def _darker(color: Color) -> Color:
    return color[0] // 3, color[1] // 3, color[2] // 3


def _dashed(canvas: np.ndarray, box: np.ndarray, color: Color, dash: int = 7) -> None:
    x1, y1, x2, y2 = (float(v) for v in box)
    corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)]
    for shade, width in (((20, 20, 20), 3), (color, 1)):
        for a, b in zip(np.array(corners), np.array(corners)[1:], strict=False):
            count = max(1, round(float(np.abs(b - a).sum()) / (2 * dash)))
            for i in range(count):
                start, end = a + (b - a) * i / count, a + (b - a) * (i + 0.55) / count
                cv2.line(
                    canvas,
                    tuple(np.rint(start).astype(int).tolist()),
                    tuple(np.rint(end).astype(int).tolist()),
                    shade,
                    width,
                    cv2.LINE_AA,
                )
