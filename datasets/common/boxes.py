"""From an annotated rectangle to a box inside its photograph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from psdiff_jax.datasets.common import checks
from psdiff_jax.datasets.common.records import ERROR, WARNING, Contents


def place_box(
    contents: Contents, where: str, rectangle: Sequence[float], size: tuple[int, int], image: str, outside: str = ERROR
) -> np.ndarray | None:
    """A rectangle cut at the border of its photograph: float32 [4] xyxy; None for one that cannot be used, with a
    finding about it.

    Args:
      contents: takes the findings; where: file and record, for them; image: the photograph's name, for them.
      rectangle: x, y, width, height in pixels, (0, 0) being the photograph's corner.
      size: (height, width) of the photograph.
      outside: level of the finding about a rectangle that lies entirely outside.
    """
    left, top, width, height = rectangle
    sides = size[1], size[0]
    edges = (max(left, 0.0), max(top, 0.0), min(left + width, sides[0]), min(top + height, sides[1]))
    box = np.asarray(edges, np.float32)
    if width > 0 and height > 0 and box[0] < box[2] and box[1] < box[3]:
        return box
    text = f"the box {[round(float(value), 3) for value in rectangle]} (x y width height)"
    if width > 0 and height > 0 and (edges[0] >= edges[2] or edges[1] >= edges[3]):
        fate = "correct or remove it" if outside == ERROR else "it is left out"
        contents.note(
            outside,
            checks.BOX_OUTSIDE,
            where,
            f"{text} lies outside its {sides[0]} x {sides[1]} photograph; {fate}",
            image,
        )
    else:  # also a sliver that is nothing in float32
        contents.note(WARNING, checks.BOX_WITHOUT_AREA, where, f"{text} has no area and is left out", image)
    return None
