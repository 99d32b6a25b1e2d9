"""Annotated boxes (xywh) to boxes clipped to their image (xyxy), and boxes as text."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from psdiff_jax.datasets.common.records import ERROR, WARNING, RawDataset

MALFORMED_BOX = "box of other than four finite numbers"
BOX_OUTSIDE = "box outside its image"
BOX_WITHOUT_AREA = "box without area"


def clip_xywh(
    dataset: RawDataset,
    where: str,
    xywh: Iterable[float],
    size: tuple[int, int],
    image: str,
    *,
    outside: str = ERROR,
    empty: str = WARNING,
    advice: str = "correct or remove it",
) -> np.ndarray | None:
    """An annotated box clipped to its image: float32 [4] xyxy. None, with a finding, for a box that cannot be used.

    Args:
      dataset: takes the findings; where: file and record, for them; image: the image's name, for them.
      xywh: x, y, width, height in pixels; the image's corner is (0, 0).
      size: (height, width) of the image.
      outside: level of the finding for a box that lies entirely outside; empty: for one of no width or height.
      advice: what to do about an error.
    """
    x, y, width, height = (float(value) for value in xywh)
    edges = (max(x, 0.0), max(y, 0.0), min(x + width, size[1]), min(y + height, size[0]))
    with np.errstate(over="ignore"):  # such a box lies outside
        box = np.asarray(edges, np.float32)
    has_area = width > 0 and height > 0
    if not all(map(math.isfinite, (x, y, width, height))):
        level, check, fault = ERROR, MALFORMED_BOX, "is not four finite numbers"
    elif has_area and box[0] < box[2] and box[1] < box[3]:
        return box
    elif has_area and (edges[0] >= edges[2] or edges[1] >= edges[3]):
        level, check, fault = outside, BOX_OUTSIDE, f"lies outside its {size[1]} x {size[0]} image"
    else:  # also a box so thin that float32 rounds its sides to the same value
        level, check, fault = empty, BOX_WITHOUT_AREA, "has no area"
    fate = advice if level == ERROR else "it is left out"
    dataset.note(level, check, where, f"the box {box_text((x, y, width, height), 'xywh')} {fault}; {fate}", image)
    return None


def box_text(box: Iterable[float], layout: str = "xyxy") -> str:
    """ "[5, 6, 10.5, 20] (xyxy)"."""
    return f"[{', '.join(f'{value:g}' for value in box)}] ({layout})"
