"""Parked cars: a side profile extruded across the width, its faces sorted by depth and drawn in perspective."""

from __future__ import annotations

import cv2
import numpy as np

from psdiff_jax.datasets.synthetic_street.camera import Camera
from psdiff_jax.datasets.synthetic_street.sprite import Sprite, shade

LENGTH, WIDTH = 4.2, 1.75
COLOURS = ((178, 40, 40), (40, 70, 130), (212, 212, 210), (60, 62, 66), (150, 154, 158), (52, 94, 76), (196, 168, 90),
           (28, 30, 34), (120, 36, 50))  # fmt: skip
# (along, up) in metres, round the body from the front bumper over the roof to the rear.
PROFILE = ((0.0, 0.3), (0.03, 0.62), (0.25, 0.74), (1.05, 0.86), (1.75, 1.38), (3.1, 1.42), (3.75, 0.95), (4.14, 0.88),
           (4.2, 0.32))  # fmt: skip
GLASS = {3: (0.12, 0.9), 5: (0.12, 0.9)}  # faces of the profile with the windscreens
SIDE_WINDOWS = (((1.38, 0.92), (1.84, 1.31), (2.35, 1.33), (2.35, 0.93)),
                ((2.45, 0.93), (2.45, 1.33), (3.05, 1.34), (3.5, 0.98)))  # fmt: skip


def draw_car(
    camera: Camera, footprint: tuple[float, float, float, float], rng: np.random.Generator
) -> tuple[Sprite, tuple[int, int]] | None:
    """(sprite, corner in the scene) of a car on street (t0, t1, s0, s1) metres; None if it is outside the view."""
    t0, t1, s0, s1 = footprint
    paint = COLOURS[rng.integers(len(COLOURS))]
    forward = rng.random() < 0.5
    rise = rng.uniform(0.94, 1.14)

    def pixel(along: float, up: float, t: float) -> tuple[float, float]:
        s = s0 + along if forward else s1 - along
        x, z = camera.from_street(t, s)
        column, row = camera.pixel(float(x), up * rise, float(z))
        return float(column), float(row)

    outline = [pixel(along, up, t) for along, up in (*PROFILE, (0.0, 0.0), (LENGTH, 0.0)) for t in (t0, t1)]
    height, width = camera.size
    low_x, high_x = min(c for c, _ in outline), max(c for c, _ in outline)
    low_y, high_y = min(r for _, r in outline), max(r for _, r in outline)
    if high_x < 2 or low_x > width - 2 or high_y < 2 or low_y > height - 2:
        return None
    left, top = max(int(low_x) - 2, -width), max(int(low_y) - 2, -height)
    right, bottom = min(int(high_x) + 3, 2 * width), min(int(high_y) + 3, 2 * height)
    factor = 3 if height < 400 else 2
    canvas = np.zeros(((bottom - top) * factor, (right - left) * factor, 4), np.uint8)

    def fill(points, colour) -> None:
        corners = (np.array(points) - (left, top)) * factor * 16
        cv2.fillPoly(canvas, [np.rint(corners).astype(np.int32)], (*shade(colour, 1.0), 255), shift=4)

    fill([pixel(a, 0.0, t) for a, t in ((-0.1, t0 - 0.05), (4.3, t0 - 0.05), (4.3, t1 + 0.05), (-0.1, t1 + 0.05))],
         (40, 40, 44))  # fmt: skip
    near_t, far_t = (t0, t1) if camera.offset < (t0 + t1) / 2 else (t1, t0)

    def wheel(along: float, t: float) -> None:
        for radius, colour in ((0.33, (26, 26, 28)), (0.19, (150, 152, 156)), (0.07, (60, 60, 64))):
            turn = np.linspace(0, 2 * np.pi, 16, endpoint=False)
            fill([pixel(along + radius * np.cos(a), 0.33 + radius * np.sin(a), t) for a in turn], colour)

    for along in (0.8, 3.4):
        wheel(along, far_t)
    # Faces across the width, far to near; the near side then covers their hidden parts.
    faces = list(zip(PROFILE[:-1], PROFILE[1:], range(len(PROFILE)), strict=False))
    faces.sort(key=lambda face: -_depth(camera, (face[0][0] + face[1][0]) / 2, (t0 + t1) / 2, s0, s1, forward))
    for (a0, u0), (a1, u1), k in faces:
        slope = abs(a1 - a0) / (abs(a1 - a0) + abs(u1 - u0))
        fill([pixel(a0, u0, t0), pixel(a1, u1, t0), pixel(a1, u1, t1), pixel(a0, u0, t1)],
             shade(paint, 0.72 + 0.4 * slope))  # fmt: skip
        if k in GLASS:
            inset = 0.12 * (t1 - t0)
            low, high = GLASS[k]
            points = [(a0 + q * (a1 - a0), u0 + q * (u1 - u0)) for q in (low, high)]
            fill([pixel(*points[0], t0 + inset), pixel(*points[1], t0 + inset), pixel(*points[1], t1 - inset),
                  pixel(*points[0], t1 - inset)], (58, 70, 82))  # fmt: skip
        if k in (0, 7):  # lamps in front and behind
            for t in (t0 + 0.25, t1 - 0.25):
                fill([pixel(a0, 0.55, t - 0.18), pixel(a0, 0.55, t + 0.18), pixel(a0, 0.7, t + 0.18),
                      pixel(a0, 0.7, t - 0.18)], (232, 226, 200) if k == 0 else (176, 30, 30))  # fmt: skip
            plate = (t0 + t1) / 2
            fill([pixel(a0, 0.38, plate - 0.25), pixel(a0, 0.38, plate + 0.25), pixel(a0, 0.5, plate + 0.25),
                  pixel(a0, 0.5, plate - 0.25)], (222, 220, 206))  # fmt: skip
    fill([pixel(along, up, near_t) for along, up in PROFILE], shade(paint, 0.86))
    fill([pixel(a, u, near_t) for a, u in ((0.03, 0.32), (4.18, 0.32), (4.18, 0.45), (0.03, 0.45))], shade(paint, 0.6))
    for window in SIDE_WINDOWS:
        fill([pixel(a, u, near_t) for a, u in window], (62, 74, 86))
    for along in (0.8, 3.4):
        wheel(along, near_t)
    canvas = cv2.resize(canvas, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    return Sprite(canvas, (0.0, 0.0)), (left, top)


def _depth(camera: Camera, along: float, t: float, s0: float, s1: float, forward: bool) -> float:
    return float(camera.from_street(t, s0 + along if forward else s1 - along)[1])
