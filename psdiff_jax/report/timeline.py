"""A picture of when a person appears in videos: a line of time for each video, and the best frame of each appearance.

Frames come through `load_frame(source, seconds) -> uint8 [H,W,3] RGB`, so that nothing here reads videos.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from psdiff_jax.inference.appearances import Appearance
from psdiff_jax.report.drawing import FAINT, INK, PAPER, PREDICTED, crop_around, font, frame, shortened
from psdiff_jax.report.naming import clock

LoadFrame = Callable[[str, float], np.ndarray]

TILE = (130, 200)  # width and height of a crop
MARGIN, GAP = 20, 12
BAR = 18  # height of an appearance on the line
_RULE = (226, 228, 231)
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)  # seconds between two ticks
_TICKS = 9


def timeline_picture(
    appearances: Sequence[Appearance],
    load_frame: LoadFrame,
    durations: Mapping[str, float] | None = None,
    title: str = "",
    columns: int = 7,
) -> np.ndarray:
    """uint8 RGB: for each video, in the order of the best appearances, its line of time and its `columns` best crops.

    Appearances have their rank on the line and under the crop, with from, to and the best similarity. Where `durations`
    (seconds) does not name a video, its line ends with its last appearance.
    """
    by_source: dict[str, list[tuple[int, Appearance]]] = {}
    for rank, appearance in enumerate(appearances, 1):
        by_source.setdefault(appearance.source, []).append((rank, appearance))
    width = columns * (TILE[0] + GAP) - GAP
    parts = [
        _of_video(source, ranked, load_frame, (durations or {}).get(source, 0.0), width, columns)
        for source, ranked in by_source.items()
    ]
    head = MARGIN + (34 if title else 0)
    body = sum(part.height + 2 * GAP for part in parts) if parts else 40
    sheet = Image.new("RGB", (width + 2 * MARGIN, head + body + MARGIN - GAP), PAPER)
    pen, letters = ImageDraw.Draw(sheet), font(18, bold=True)
    pen.text((MARGIN, MARGIN), shortened(title, width, letters), font=letters, fill=INK)
    if not parts:
        pen.text((MARGIN, head), "no appearance", font=font(14), fill=FAINT)
    for part in parts:
        sheet.paste(part, (MARGIN, head))
        head += part.height + 2 * GAP
    return np.array(sheet)


def _of_video(
    source: str,
    ranked: Sequence[tuple[int, Appearance]],
    load_frame: LoadFrame,
    duration: float,
    width: int,
    columns: int,
) -> Image.Image:
    """One video: name, line, crops in the order of time."""
    part = Image.new("RGB", (width, 24 + BAR + 32 + TILE[1] + 56), PAPER)
    pen = ImageDraw.Draw(part)
    count = f"{len(ranked)} appearance{'s' * (len(ranked) != 1)}"
    more = f", the best {columns} are shown" if len(ranked) > columns else ""
    bold, plain = font(14, bold=True), font(12)
    name = shortened(source, width - 260, bold)
    pen.text((0, 0), name, font=bold, fill=INK)
    pen.text((bold.getlength(name) + GAP, 2), count + more, font=plain, fill=FAINT)
    end = max([duration, *(appearance.end for _, appearance in ranked)])
    _line(pen, ranked, 24, end, width)
    shown = sorted(ranked[:columns], key=lambda one: one[1].start)
    for i, (rank, appearance) in enumerate(shown):
        at = i * (TILE[0] + GAP), 24 + BAR + 32
        best = appearance.best
        crop, inside = crop_around(load_frame(source, best.time), np.asarray(best.box), TILE, 1.6)
        frame(crop, inside, PREDICTED)
        part.paste(Image.fromarray(crop), at)
        text = f"{rank}.  {best.similarity:.3f}"
        pen.text((at[0], at[1] + TILE[1] + 4), text, font=font(13, bold=True), fill=INK)
        span = f"{clock(appearance.start)} to {clock(appearance.end)}"
        pen.text((at[0], at[1] + TILE[1] + 21), span, font=font(11), fill=INK)
        pen.text((at[0], at[1] + TILE[1] + 36), f"frame at {clock(best.time)}", font=font(11), fill=FAINT)
    return part


def _line(pen: ImageDraw.ImageDraw, ranked: Sequence[tuple[int, Appearance]], top: int, end: float, width: int) -> None:
    """The line of time from 0 to `end` seconds, `width` pixels long, with ticks below it and appearances on it."""
    letters, room = font(10), 34  # so that the last tick's text fits

    def column(time: float) -> float:
        return time / max(end, 1e-9) * (width - room)

    pen.rectangle((0, top, width - room, top + BAR), fill=_RULE)
    step = next((step for step in _STEPS if end / step <= _TICKS), 3600 * math.ceil(end / 3600 / _TICKS))
    for i in range(int(end / step) + 1):
        x = column(i * step)
        pen.line((x, top + BAR, x, top + BAR + 4), fill=FAINT)
        pen.text((x, top + BAR + 6), clock(i * step, step < 1), font=letters, fill=FAINT)
    for rank, appearance in reversed(ranked):  # the best on top
        left = column(appearance.start)
        right = max(column(appearance.end), left + 3)
        pen.rectangle((left, top, right, top + BAR), fill=PREDICTED, outline=PAPER if right - left > 8 else None)
        if letters.getlength(str(rank)) + 4 <= right - left:
            pen.text(((left + right) / 2, top + BAR / 2), str(rank), font=letters, fill=INK, anchor="mm")
