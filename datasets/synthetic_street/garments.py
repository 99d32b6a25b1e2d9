"""Torso, coat and skirt: upright shells with a cloth pattern that is fixed to the body and turns with it.

At a screen offset x inside a shell of half width w the surface is turned by theta = asin(x / w) to the side; the angle
on the body is beta = theta - yaw (0 the front, +pi/2 the left side), so the pattern is consistent from any view.
"""

from __future__ import annotations

import math

import numpy as np

from psdiff_jax.datasets.synthetic_street.identity import CLOTH, SKIN, Look
from psdiff_jax.datasets.synthetic_street.sprite import Brush, View, shade

# (height, half width, half depth) in shares of the stature, from the neck down.
TORSO = (
    (0.858, 0.026, 0.026), (0.846, 0.045, 0.034), (0.835, 0.078, 0.042), (0.815, 0.104, 0.05), (0.785, 0.114, 0.058),
    (0.73, 0.108, 0.068), (0.62, 0.092, 0.06), (0.54, 0.098, 0.066),
)  # fmt: skip


def upper_shell(brush: Brush, bones, look: Look, view: View) -> None:
    """The upper garment."""
    sections = [(h, w * look.build, d * look.build) for h, w, d in TORSO]
    hip = 0.098 * look.hips / 0.86 * look.build
    sections[-1] = (0.54, hip, 0.066 * look.build)
    if look.upper == "coat":
        sections += [(0.47, hip * 1.08, 0.074 * look.build), (0.35, hip * 1.22, 0.09 * look.build)]
    else:
        sections += [(0.485 if look.upper in ("tee", "sweater", "hoodie") else 0.505, hip * 1.03, 0.068 * look.build)]
    if look.upper in ("coat", "jacket", "hoodie"):
        sections = [(h, w * 1.06, d * 1.1) for h, w, d in sections]

    def paint(beta: np.ndarray, height: np.ndarray) -> np.ndarray:
        return _upper_colours(look, beta, height)

    _shell(brush, bones, sections, view, paint)


def lower_shell(brush: Brush, bones, look: Look, view: View) -> None:
    """The seat of trousers, or a skirt that covers the thighs."""
    hip = 0.094 * look.hips / 0.86 * look.build
    sections = [(0.56, hip * 0.95, 0.06 * look.build), (0.51, hip * 1.02, 0.068 * look.build)]
    if look.lower == "skirt":
        sections += [(0.31, hip * 1.3, 0.115 * look.build)]
    elif look.lower == "long skirt":
        sections += [(0.3, hip * 1.25, 0.115 * look.build), (0.11, hip * 1.4, 0.14 * look.build)]
    else:
        _seat(brush, bones, [*sections, (0.455, hip * 0.9, 0.06 * look.build)], CLOTH[look.lower_colour], view.light)
        return
    cloth = np.array(CLOTH[look.lower_colour], np.float32)

    def paint(beta: np.ndarray, height: np.ndarray) -> np.ndarray:
        folds = 0.94 + 0.06 * np.cos(beta * 9)
        return folds[..., None] * cloth

    _shell(brush, bones, sections, view, paint)


def _seat(brush: Brush, bones, sections, cloth, light: float) -> None:
    """Trousers between waist and thighs: mostly hidden, so two flat shapes are enough."""
    for share, tone in ((1.0, 0.8), (0.74, 1.0)):
        right = []
        left = []
        for height, width, depth in sections:
            x, y, _ = bones.at_share(0, height, 0)
            half = bones.girth(width, depth) * bones.s
            middle = x + 0.24 * light * half * (1 - share)
            right.append((middle + half * share, y))
            left.append((middle - half * share, y))
        brush.polygon(right + left[::-1], shade(cloth, tone))


def _upper_colours(look: Look, beta: np.ndarray, height: np.ndarray) -> np.ndarray:
    """RGB float32 [h, w, 3] of the cloth at body angle `beta` [h, w] and `height` [h, 1] (shares of the stature)."""
    cloth, second = (np.array(CLOTH[name], np.float32) for name in (look.upper_colour, look.pattern_colour))
    pattern = look.pattern
    if pattern == "stripes":
        mark = np.broadcast_to(np.floor(height / 0.038) % 2 == 0, beta.shape)
    elif pattern == "pinstripes":
        mark = np.broadcast_to(np.floor(beta * (9 / math.pi)) % 2 == 0, beta.shape)
    elif pattern == "checks":
        mark = (np.floor(height / 0.048) + np.floor(beta * (5 / math.pi))) % 2 == 0
    elif pattern == "dots":
        row = np.floor(height / 0.05)
        across = beta * (4.5 / math.pi) + 0.5 * (row % 2)
        mark = np.hypot((across % 1) - 0.5, (height / 0.05 % 1) - 0.5) < 0.36
    elif pattern == "logo":
        # The same emblem, larger, on the back, so that the person can be recognised from behind.
        front = np.hypot(beta / 0.5, (height - 0.735) / 0.05) < 1
        back = np.hypot((np.pi - np.abs(beta)) / 0.85, (height - 0.72) / 0.065) < 1
        mark = front | back
    elif pattern == "band":
        mark = np.broadcast_to((height > 0.675) & (height < 0.75), beta.shape)
    elif pattern == "halves":
        mark = np.broadcast_to(height > 0.7, beta.shape)
    else:
        mark = None
    colours = np.empty((*beta.shape, 3), np.float32)
    colours[:] = cloth
    if mark is not None:
        colours[mark] = second
    if look.upper in ("jacket", "coat"):
        inner = np.array((232, 230, 224) if cloth.sum() < 380 else (58, 60, 70), np.float32)
        opening = 0.42 if look.upper == "jacket" else 0.2
        colours[np.abs(beta) < opening * np.clip((height - 0.44) / 0.4, 0.1, 1)] = inner
    elif look.upper == "hoodie":
        colours[np.broadcast_to(height > 0.808, beta.shape)] *= 0.78
        colours[(np.abs(beta) < 0.8) & (height > 0.54) & (height < 0.6)] *= 0.8
    elif look.upper == "tee":
        colours[(np.abs(beta) < 0.9) & (height > 0.838)] = SKIN[look.skin]
    elif look.upper == "vest":
        colours[(np.abs(beta) < 1.1) & (height > 0.822)] = SKIN[look.skin]
    return colours


def _shell(brush: Brush, bones, sections, view: View, paint) -> None:
    """Draws the surface through elliptic `sections` (height, half width, half depth; shares of the stature)."""
    s = bones.s
    places = [brush.pixel(*bones.at_share(0, height, 0)[:2]) for height, _, _ in sections]
    edge_y = np.array([y for _, y in places])
    half = np.array([bones.girth(w, d) * s * brush.unit for _, w, d in sections])
    # The hem of a skirt or coat is a rim seen from above: an arc below its middle.
    sag = sections[-1][2] * s * brush.unit * max(0.12, bones.pitch_sin)
    top, bottom = math.floor(edge_y[0]), math.ceil(edge_y[-1] + sag)
    left = math.floor(places[0][0] - half.max())
    right = math.ceil(places[0][0] + half.max())
    canvas = brush.canvas[max(top, 0) : bottom, max(left, 0) : right]
    rows = np.arange(max(top, 0), max(top, 0) + canvas.shape[0]) + 0.5
    columns = np.arange(max(left, 0), max(left, 0) + canvas.shape[1]) + 0.5
    width = np.interp(rows, edge_y, half)[:, None].astype(np.float32)
    across = (columns[None].astype(np.float32) - np.float32(places[0][0])) / width
    rim = edge_y[-1] + sag * np.sqrt(np.clip(1 - across[-1:] ** 2, 0, 1))
    inside = (np.abs(across) < 1) & (rows[:, None] < rim)
    theta = np.arcsin(np.clip(across, -1, 1))
    beta = np.mod(theta - np.float32(view.yaw - math.pi), np.float32(2 * math.pi)) - np.float32(math.pi)
    height = np.interp(rows, edge_y, [h for h, _, _ in sections])[:, None].astype(np.float32)
    colours = paint(beta, height)
    colours *= (np.float32(0.7) + np.float32(0.32) * np.cos(theta - np.float32(0.7 * view.light)))[..., None]
    np.minimum(colours, 255, out=colours)
    np.copyto(canvas[..., :3], colours.astype(np.uint8), where=inside[..., None])
    canvas[inside, 3] = 255
