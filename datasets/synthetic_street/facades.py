"""House fronts as flat textures: plaster or brick, rows of windows, a shop or a door at street level."""

from __future__ import annotations

import cv2
import numpy as np

WALLS = ((196, 178, 150), (168, 110, 88), (206, 196, 178), (152, 150, 148), (186, 146, 112), (140, 92, 78),
         (214, 206, 160), (160, 174, 182), (188, 160, 150))  # fmt: skip
SHOPS = ((150, 40, 44), (36, 78, 60), (40, 60, 110), (60, 60, 64), (196, 150, 60), (110, 60, 100), (60, 130, 140))


def house_front(width: float, height: float, density: float, rng: np.random.Generator) -> np.ndarray:
    """RGB uint8 texture of a front of `width` x `height` metres, `density` pixels per metre; row 0 is the roof line."""
    rows, columns = max(8, round(height * density)), max(8, round(width * density))
    wall = np.array(WALLS[rng.integers(len(WALLS))]) + rng.normal(0, 8, 3)
    texture = np.empty((rows, columns, 3), np.float32)
    texture[:] = wall
    brick = rng.random() < 0.45
    if brick and density > 24:
        course = np.arange(rows) / density / 0.16
        texture *= np.where(course % 1 < 0.2, 0.9, 1.0)[:, None, None]
    stains = cv2.resize(rng.random((6, 6)).astype(np.float32), (columns, rows), interpolation=cv2.INTER_CUBIC)
    texture *= (0.92 + 0.14 * stains)[..., None]

    def box(x0: float, x1: float, y0: float, y1: float, colour) -> None:
        """Fills a rectangle in metres, y up from the street."""
        texture[
            max(0, round(rows - y1 * density)) : max(0, round(rows - y0 * density)),
            max(0, round(x0 * density)) : max(0, round(x1 * density)),
        ] = colour

    storey, ground = rng.uniform(2.8, 3.4), rng.uniform(3.1, 3.8)
    step, wide, tall = rng.uniform(1.7, 2.8), rng.uniform(0.8, 1.3), rng.uniform(1.3, 1.9)
    frame = wall * 1.2 if rng.random() < 0.6 else wall * 0.6
    count = max(1, int((width - 0.6) // step))
    margin = (width - count * step) / 2
    balcony, shutters = rng.random() < 0.2, rng.random() < 0.25
    shutter = np.array(SHOPS[rng.integers(len(SHOPS))]) * 0.9
    level = ground
    while level + storey < height - 0.4:
        box(0, width, level - 0.08, level + 0.05, wall * 0.86)
        for k in range(count):
            x0 = margin + k * step + (step - wide) / 2
            y0 = level + 0.8
            box(x0 - 0.1, x0 + wide + 0.1, y0 - 0.12, y0 + tall + 0.1, np.clip(frame, 0, 245))
            glass = np.array((88, 104, 122)) * rng.uniform(0.55, 1.35)
            box(x0, x0 + wide, y0, y0 + tall, glass)
            if rng.random() < 0.4:  # curtains
                box(x0, x0 + wide, y0 + tall * rng.uniform(0.3, 0.8), y0 + tall, np.array((212, 204, 190)))
            box(x0 + wide / 2 - 0.03, x0 + wide / 2 + 0.03, y0, y0 + tall, np.clip(frame, 0, 240))
            if shutters:
                box(x0 - 0.42, x0 - 0.1, y0, y0 + tall, shutter)
                box(x0 + wide + 0.1, x0 + wide + 0.42, y0, y0 + tall, shutter)
            if balcony:
                box(x0 - 0.25, x0 + wide + 0.25, y0 - 0.15, y0 - 0.05, wall * 0.5)
                box(x0 - 0.25, x0 + wide + 0.25, y0 + 0.6, y0 + 0.66, wall * 0.45)
        level += storey
    box(0, width, height - 0.35, height, wall * 0.72)
    _street_level(box, width, ground, wall, rng)
    box(0, 0.06, 0, height, wall * 0.75)
    # Contact with the pavement.
    fade = np.clip(np.arange(rows)[::-1] / density / 0.7, 0, 1)
    texture *= (0.72 + 0.28 * fade)[:, None, None]
    return np.clip(texture, 0, 255).astype(np.uint8)


def _street_level(box, width: float, ground: float, wall: np.ndarray, rng: np.random.Generator) -> None:
    """A shop window under a sign, or a door between two windows."""
    if rng.random() < 0.65:
        sign = np.array(SHOPS[rng.integers(len(SHOPS))])
        box(0.2, width - 0.2, 0, ground - 0.25, sign * 0.6)
        box(0.2, width - 0.2, ground - 0.85, ground - 0.2, sign)
        letters = np.array((232, 226, 210)) if sign.sum() < 400 else np.array((50, 40, 40))
        x = width * 0.25
        while x < width * 0.75:
            size = rng.uniform(0.12, 0.3)
            box(x, x + size, ground - 0.66, ground - 0.66 + rng.uniform(0.2, 0.3), letters)
            x += size + 0.1
        door = rng.uniform(0.3, width - 1.6)
        edge = 0.45
        while edge < width - 1.0:
            end = min(edge + rng.uniform(1.4, 2.4), width - 0.4)
            box(edge, end, 0.55, ground - 1.0, np.array((96, 112, 124)) * rng.uniform(0.6, 1.25))
            # Goods behind the glass.
            for _ in range(int(rng.integers(2, 6))):
                x0 = rng.uniform(edge, max(edge + 0.01, end - 0.4))
                box(x0, min(end, x0 + rng.uniform(0.15, 0.4)), 0.6, rng.uniform(0.8, 1.5),
                    np.array((rng.uniform(60, 220), rng.uniform(60, 200), rng.uniform(60, 190))))  # fmt: skip
            box(edge, end, ground - 1.25, ground - 1.0, np.array((150, 164, 172)))
            edge = end + 0.18
        box(door, door + 1.1, 0, 2.3, sign * 0.4)
        box(door + 0.15, door + 0.95, 0.3, 2.15, np.array((70, 84, 96)))
        if rng.random() < 0.5:  # awning in stripes
            x, light = 0.2, True
            while x < width - 0.2:
                stripe = np.array((226, 222, 212)) if light else sign
                box(x, min(width - 0.2, x + 0.4), ground - 1.3, ground - 0.85, stripe)
                x, light = x + 0.4, not light
    else:
        door = rng.uniform(0.4, max(0.5, width - 1.6))
        colour = np.array(SHOPS[rng.integers(len(SHOPS))])
        box(0, width, 0, 0.6, wall * 0.74)
        x = 0.5
        while x < width - 1.5:
            if abs(x - door) > 1.6:
                box(x - 0.1, x + 1.1, 0.9, 2.5, np.clip(wall * 1.15, 0, 240))
                box(x, x + 1.0, 1.0, 2.4, np.array((84, 98, 112)) * rng.uniform(0.6, 1.3))
            x += 1.9
        box(door - 0.15, door + 1.15, 0, 2.6, np.clip(wall * 1.2, 0, 240))
        box(door, door + 1.0, 0, 2.2, colour * 0.8)
        box(door, door + 1.0, 2.2, 2.5, np.array((90, 104, 116)))
