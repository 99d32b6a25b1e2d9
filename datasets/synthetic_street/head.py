"""The head of a drawn person: neck, scarf, face, hair and hat."""

from __future__ import annotations

import math

import numpy as np

from psdiff_jax.datasets.synthetic_street.identity import CLOTH, HAIR, SKIN, Look
from psdiff_jax.datasets.synthetic_street.skeleton import Skeleton
from psdiff_jax.datasets.synthetic_street.sprite import Brush, View, shade


def neck(brush: Brush, bones: Skeleton, look: Look) -> None:
    s = bones.s
    low, high = bones.at_share(0, 0.83, 0), bones.at_share(0, 0.9, 0.012)
    brush.capsule(low, high, 0.03 * s, 0.028 * s, shade(SKIN[look.skin], 0.82))


def head(brush: Brush, bones: Skeleton, look: Look, view: View) -> None:
    """Scarf, skull, face or back of the head, hair on top, hat."""
    x, y, _ = bones.at_share(0, 0.93, 0.012)
    rx, ry = bones.girth(0.047, 0.057) * bones.s, 0.066 * bones.s
    if look.scarf != "none":
        _scarf(brush, bones, look)
    _skull(brush, bones, look, view, x, y, rx, ry)
    if bones.cos > -0.55:
        _face(brush, bones, look, view, x, y, rx, ry)
    _hat(brush, bones, look, x, y, rx, ry)


def _scarf(brush: Brush, bones: Skeleton, look: Look) -> None:
    s = bones.s
    sx, sy, _ = bones.at_share(0, 0.853, 0.008)
    brush.ellipse(sx, sy, 0.056 * s, 0.03 * s, shade(CLOTH[look.scarf], 0.85))
    brush.ellipse(sx, sy + 0.006 * s, 0.05 * s, 0.02 * s, CLOTH[look.scarf])
    if bones.cos > 0.2:
        tail = bones.at_share(0.03, 0.74, 0.06)
        brush.capsule((tail[0], sy), tail[:2], 0.018 * s, 0.02 * s, shade(CLOTH[look.scarf], 0.92))


def _skull(brush: Brush, bones: Skeleton, look: Look, view: View, x: float, y: float, rx: float, ry: float) -> None:
    """The head's ellipse in skin or hair, and a bun."""
    s, skin, hair = bones.s, SKIN[look.skin], HAIR[look.hair]
    if look.hair_style == "bald":
        brush.ellipse(x, y, rx, ry, shade(skin, 0.8))
        brush.ellipse(x + 0.2 * view.light * rx, y + 0.05 * ry, rx * 0.85, ry * 0.9, skin)
    else:
        size = 1.34 if look.hair_style == "afro" else 1.06 if look.hair_style == "crop" else 1.12
        brush.ellipse(x, y + 0.1 * ry * (size - 0.9), rx * size, ry * size, shade(hair, 0.85))
        brush.ellipse(x + 0.2 * view.light * rx, y + 0.25 * ry, rx * size * 0.72, ry * size * 0.68, shade(hair, 1.2))
    if look.hair_style == "bun":
        bx, by, _ = bones.at_share(0, 0.992, -0.04)
        brush.ellipse(bx, by, 0.028 * s, 0.028 * s, shade(hair, 0.95))


def _face(brush: Brush, bones: Skeleton, look: Look, view: View, x: float, y: float, rx: float, ry: float) -> None:
    """Face, beard, eyes, nose, mouth, and the hair around them."""
    s, cos, sin = bones.s, bones.cos, bones.sin
    skin, hair = SKIN[look.skin], HAIR[look.hair]
    # The face moves towards the side the person looks to, and narrows as it turns away.
    turn = max(0.0, min(1.0, (cos + 0.55) / 1.2))
    fx, width = x + sin * rx * (0.62 - 0.3 * turn), rx * (0.42 + 0.48 * turn)
    fy = y - 0.16 * ry
    brush.ellipse(fx, fy, width, ry * 0.82, shade(skin, 0.88))
    brush.ellipse(fx + 0.12 * view.light * width, fy + 0.02 * ry, width * 0.84, ry * 0.76, skin)
    if look.beard:
        brush.ellipse(fx, fy - 0.4 * ry, width * 0.92, ry * 0.42, shade(hair, 0.9))
        brush.ellipse(fx + 0.1 * sin * rx, fy - 0.32 * ry, width * 0.4, ry * 0.1, shade(skin, 0.7))
    if cos > -0.2:
        # Both eyes from the front, one in profile; an eye sits 0.42 radians beside the nose.
        gaze = math.atan2(sin, cos)
        if cos > 0.25:
            eyes = [x + math.sin(gaze + beside) * rx * 0.9 for beside in (-0.42, 0.42)]
        else:
            eyes = [fx + 0.3 * sin * rx]
        for eye in eyes:
            brush.ellipse(eye, fy + 0.2 * ry, 0.006 * s, 0.007 * s, (38, 30, 30))
        brush.ellipse(fx + 0.35 * sin * width, fy - 0.08 * ry, 0.006 * s, 0.011 * s, shade(skin, 0.78))
        if not look.beard:
            brush.ellipse(fx + 0.2 * sin * width, fy - 0.42 * ry, width * 0.3, 0.005 * s, shade(skin, 0.66))
    if look.hair_style not in ("bald", "crop"):
        fringe = [(x + math.cos(a) * rx * 1.08, y + 0.3 * ry + math.sin(a) * ry * 0.84) for a in
                  np.linspace(0.05, math.pi - 0.05, 9)]  # fmt: skip
        brush.polygon(fringe, shade(hair, 1.05))
    if abs(sin) > 0.35 and look.hair_style not in ("bald",):
        brush.ellipse(x - sin * rx * 0.42, y + 0.12 * ry, rx * 0.66, ry * 0.82, shade(hair, 0.98))


def _hat(brush: Brush, bones: Skeleton, look: Look, x: float, y: float, rx: float, ry: float) -> None:
    if look.hat == "none":
        return
    s, colour = bones.s, CLOTH[look.hat_colour]
    brim_y = y + 0.3 * ry
    dome = [(x + math.cos(a) * rx * 1.15, brim_y + math.sin(a) * ry * 0.92) for a in np.linspace(0, math.pi, 12)]
    brush.polygon(dome, shade(colour, 0.86))
    brush.ellipse(x, brim_y + 0.32 * ry, rx * 0.72, ry * 0.42, colour)
    if look.hat == "cap":
        if bones.cos > -0.6:
            brush.ellipse(x + bones.sin * rx * 1.1, brim_y, rx * (0.6 + 0.45 * abs(bones.cos)), 0.012 * s,
                          shade(colour, 0.7))  # fmt: skip
    elif look.hat == "brim":
        brush.ellipse(x, brim_y, 0.1 * s, 0.017 * s, shade(colour, 0.75))
        brush.ellipse(x, brim_y + 0.012 * s, rx * 1.12, 0.014 * s, shade(colour, 0.45))
    else:
        brush.polygon([(x - rx * 1.17, brim_y - 0.08 * ry), (x + rx * 1.17, brim_y - 0.08 * ry),
                       (x + rx * 1.15, brim_y + 0.26 * ry), (x - rx * 1.15, brim_y + 0.26 * ry)],
                      shade(colour, 0.72))  # fmt: skip
        brush.ellipse(x, brim_y + ry * 0.96, 0.018 * s, 0.018 * s, shade(colour, 1.15))


def back_hair(brush: Brush, bones: Skeleton, look: Look) -> None:
    """Hair that reaches the shoulders or falls behind them."""
    s, hair = bones.s, shade(HAIR[look.hair], 0.92)
    top = bones.at_share(0, 0.925, -0.02)
    if look.hair_style == "long":
        brush.capsule(top, bones.at_share(0, 0.775, -0.055), 0.054 * s, 0.05 * s, shade(hair, 0.9))
        brush.capsule(top, bones.at_share(0, 0.79, -0.055), 0.036 * s, 0.034 * s, hair)
    elif look.hair_style == "bob":
        brush.capsule(top, bones.at_share(0, 0.875, -0.016), 0.056 * s, 0.056 * s, hair)
    elif look.hair_style == "ponytail":
        tie = bones.at_share(0, 0.95, -0.062)
        brush.capsule(tie, bones.at_share(0, 0.8, -0.088), 0.022 * s, 0.014 * s, hair)
