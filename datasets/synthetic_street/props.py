"""Props that hide people or are mistaken for them: poles, signs, dummies, trees, cars."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from psdiff_jax.datasets.synthetic_street.camera import Camera, StreetCamera
from psdiff_jax.datasets.synthetic_street.cars import LENGTH, WIDTH, draw_car
from psdiff_jax.datasets.synthetic_street.identity import CLOTH, LEGWEAR
from psdiff_jax.datasets.synthetic_street.sprite import Brush, Sprite, shade

METAL = (92, 96, 100)
PAINT = ((196, 52, 48), (44, 92, 170), (226, 222, 212), (52, 120, 78), (222, 178, 60))


@dataclasses.dataclass(frozen=True)
class Prop:
    """A prop at a fixed position of a camera's street, present in a share `chance` of its scenes.

    foot: pixel of its ground point. depth: metres; people nearer than this are drawn over it. footprint: street
    (t0, t1, s0, s1) in metres of a prop too large for a point, where no person can be.
    """

    sprite: Sprite
    corner: tuple[int, int]
    foot: tuple[float, float]
    depth: float
    chance: float
    spread: float  # metres; half width of what touches the ground
    footprint: tuple[float, float, float, float] | None = None


def draw_props(camera: StreetCamera, rng: np.random.Generator) -> tuple[Prop, ...]:
    """The props of a camera's street."""
    props = []
    # (draw, count, share of the scenes, zone, nearest depth as a share of the farthest person's, spread)
    for draw, count, chance, zone, near, spread in (
        (draw_tree, 3, 0.9, "kerb", 0.75, 0.2), (draw_lamp, 2, 1.0, "kerb", 0.5, 0.1),
        (draw_pole_sign, 2, 0.8, "kerb", 0.42, 0.06), (draw_bollard, 3, 0.7, "kerb", 0.4, 0.12),
        (draw_bin, 2, 0.5, "pavement", 0.55, 0.3), (draw_board, 3, 0.3, "pavement", 0.5, 0.4),
        (draw_cardboard_man, 3, 0.25, "pavement", 0.45, 0.3), (draw_dummy, 3, 0.25, "pavement", 0.45, 0.25),
        (draw_planter, 2, 0.5, "pavement", 0.6, 0.42),
    ):  # fmt: skip
        for _ in range(count):
            place = _place(camera, zone, near, rng)
            if place is not None:
                x, z = place
                sprite = draw(rng, camera.scale(z))
                foot = ground_pixel(camera, x, z)
                props.append(Prop(sprite, sprite.corner(*foot), foot, float(z), chance, spread))
    return tuple(props + _parked_cars(camera, rng))


def ground_pixel(camera: Camera, x: float, z: float) -> tuple[float, float]:
    """Pixel of the ground point (x, z)."""
    column, row = camera.pixel(x, 0.0, z)
    return float(column), float(row)


def _place(camera: StreetCamera, zone: str, near: float, rng: np.random.Generator) -> tuple[float, float] | None:
    """Camera (x, z) of a visible point on the kerb or the pavement; None after many tries."""
    nearest, farthest = camera.depths
    for _ in range(200):
        z = 1 / rng.uniform(0.6 / farthest, 1 / max(near * farthest, 1.1 * nearest))
        x = (rng.uniform(0.02, 0.98) - 0.5) * camera.size[1] / camera.scale(z)
        t, _ = camera.to_street(x, z)
        outside = max(camera.kerbs[0] - t, t - camera.kerbs[1])
        wall = min(t - camera.walls[0], camera.walls[1] - t)
        if wall > 0.4 and (0.25 < outside < 0.9 if zone == "kerb" else outside > 0.6):
            return x, z
    return None


def _parked_cars(camera: StreetCamera, rng: np.random.Generator) -> list[Prop]:
    """Cars along both kerbs that are entirely in front of the camera and not too near."""
    cars = []
    for kerb, inward in zip(camera.kerbs, (1, -1), strict=True):
        start = rng.uniform(-30, -24)
        while start < 60:
            t = kerb + inward * (0.25 + WIDTH / 2)
            footprint = (t - WIDTH / 2, t + WIDTH / 2, start, start + LENGTH)
            corners = [camera.from_street(a, b) for a in footprint[:2] for b in footprint[2:]]
            near = min(float(z) for _, z in corners)
            start += LENGTH + rng.uniform(0.8, 7.0)
            if near < max(1.1 * camera.depths[0], 2.5) or rng.random() < 0.3:
                continue
            if any(float(x) > 0 for x, _ in corners) and any(float(x) < 0 for x, _ in corners) and abs(camera.turn) < 1:
                if rng.random() < 0.5:  # do not block the middle of the view
                    continue
            drawn = draw_car(camera, footprint, rng)
            if drawn is None:
                continue
            sprite, corner = drawn
            x, z = camera.from_street(t, (footprint[2] + footprint[3]) / 2)
            foot = ground_pixel(camera, float(x), float(z))
            far = max(float(z) for _, z in corners)
            cars.append(Prop(sprite, corner, foot, far, 0.55, WIDTH / 2, footprint))
    return cars


def _round_post(brush: Brush, radius: float, low: float, high: float, colour) -> None:
    brush.polygon([(-radius, low), (radius, low), (radius * 0.8, high), (-radius * 0.8, high)], shade(colour, 0.7))
    brush.polygon([(-radius * 0.5, low), (radius * 0.3, low), (radius * 0.25, high), (-radius * 0.4, high)],
                  shade(colour, 1.15))  # fmt: skip


def draw_lamp(rng: np.random.Generator, scale: float) -> Sprite:
    brush = Brush(0.7, 0.1, 4.4, scale)
    colour = METAL if rng.random() < 0.5 else (48, 66, 58)
    _round_post(brush, 0.1, 0, 0.6, colour)
    _round_post(brush, 0.055, 0.5, 4.0, colour)
    if rng.random() < 0.5:
        side = rng.choice((-1, 1))
        brush.capsule((0, 3.95), (side * 0.5, 4.15), 0.03, 0.03, shade(colour, 0.8))
        brush.capsule((side * 0.35, 4.12), (side * 0.62, 4.14), 0.06, 0.05, (214, 208, 184))
    else:
        brush.ellipse(0, 4.15, 0.2, 0.2, (226, 220, 198))
        brush.ellipse(0, 4.33, 0.13, 0.05, shade(colour, 0.8))
    return brush.sprite()


def draw_pole_sign(rng: np.random.Generator, scale: float) -> Sprite:
    """A traffic sign; one in two shows the silhouette of a pedestrian."""
    brush = Brush(0.45, 0.1, 2.9, scale)
    _round_post(brush, 0.04, 0, 2.8, METAL)
    colour = PAINT[rng.integers(len(PAINT))]
    if rng.random() < 0.5:
        brush.ellipse(0, 2.5, 0.34, 0.34, colour)
        brush.ellipse(0, 2.5, 0.26, 0.26, (232, 230, 226))
    else:
        brush.polygon([(-0.33, 2.18), (0.33, 2.18), (0.33, 2.82), (-0.33, 2.82)], colour)
    if rng.random() < 0.5:
        _pictogram(brush, 0.0, 2.26, 0.48, (34, 34, 38))
    return brush.sprite()


def _pictogram(brush: Brush, x: float, y: float, height: float, colour) -> None:
    """A flat walking person of `height` metres standing at (x, y)."""
    h = height
    brush.ellipse(x, y + 0.91 * h, 0.08 * h, 0.085 * h, colour)
    brush.capsule((x, y + 0.74 * h), (x, y + 0.52 * h), 0.085 * h, 0.075 * h, colour)
    for sign in (-1, 1):
        brush.capsule((x, y + 0.5 * h), (x + sign * 0.13 * h, y + 0.04 * h), 0.055 * h, 0.035 * h, colour)
        brush.capsule((x, y + 0.76 * h), (x + sign * 0.2 * h, y + 0.52 * h), 0.035 * h, 0.025 * h, colour)


def draw_board(rng: np.random.Generator, scale: float) -> Sprite:
    """An advertising board on the pavement, with a figure on it."""
    brush = Brush(0.6, 0.1, 2.0, scale)
    tall = rng.uniform(1.1, 1.8)
    paper = PAINT[rng.integers(len(PAINT))]
    brush.polygon([(-0.42, 0), (-0.36, 0), (-0.3, tall), (-0.38, tall)], shade(METAL, 0.6))
    brush.polygon([(0.42, 0), (0.36, 0), (0.3, tall), (0.38, tall)], shade(METAL, 0.6))
    brush.polygon([(-0.4, 0.15), (0.4, 0.15), (0.37, tall), (-0.37, tall)], (44, 44, 48))
    brush.polygon([(-0.34, 0.22), (0.34, 0.22), (0.32, tall - 0.07), (-0.32, tall - 0.07)], paper)
    ink = (238, 232, 220) if sum(paper) < 420 else (60, 50, 60)
    _pictogram(brush, 0.0, 0.28, (tall - 0.4) * 0.95, ink)
    return brush.sprite()


def draw_cardboard_man(rng: np.random.Generator, scale: float) -> Sprite:
    """A life-size flat figure in one or two colours: the shape of a person, but none."""
    brush = Brush(0.6, 0.1, 2.0, scale)
    colour = PAINT[rng.integers(len(PAINT))]
    brush.polygon([(-0.3, -0.02), (0.3, -0.02), (0.26, 0.08), (-0.26, 0.08)], shade(METAL, 0.7))
    for sign in (-1, 1):
        brush.capsule((sign * 0.09, 0.85), (sign * 0.1, 0.08), 0.085, 0.06, colour)
        brush.capsule((sign * 0.19, 1.4), (sign * 0.27, 0.85), 0.06, 0.05, colour)
    brush.capsule((0, 1.35), (0, 0.9), 0.2, 0.17, colour)
    brush.ellipse(0, 1.66, 0.11, 0.13, colour)
    if rng.random() < 0.5:
        brush.polygon([(-0.15, 1.0), (0.15, 1.0), (0.15, 1.35), (-0.15, 1.35)], (238, 234, 224))
    return brush.sprite()


def draw_dummy(rng: np.random.Generator, scale: float) -> Sprite:
    """A shop's dummy: a dressed bust on a stand, without head, arms and legs."""
    brush = Brush(0.5, 0.1, 1.8, scale)
    colour = CLOTH[tuple(CLOTH)[rng.integers(len(CLOTH))]]
    brush.ellipse(0, 0.03, 0.24, 0.06, shade(METAL, 0.7))
    _round_post(brush, 0.025, 0.03, 0.9, METAL)
    brush.polygon([(-0.19, 1.42), (0.19, 1.42), (0.16, 1.1), (0.2, 0.75), (-0.2, 0.75), (-0.16, 1.1)],
                  shade(colour, 0.8))  # fmt: skip
    brush.polygon([(-0.14, 1.4), (0.14, 1.4), (0.11, 1.1), (0.15, 0.78), (-0.13, 0.78), (-0.11, 1.1)], colour)
    if rng.random() < 0.6:
        skirt = CLOTH[LEGWEAR[rng.integers(len(LEGWEAR))]]
        brush.polygon([(-0.18, 0.85), (0.18, 0.85), (0.25, 0.4), (-0.25, 0.4)], skirt)
    brush.capsule((0, 1.4), (0, 1.5), 0.05, 0.045, (214, 200, 180))
    return brush.sprite()


def draw_bollard(rng: np.random.Generator, scale: float) -> Sprite:
    brush = Brush(0.2, 0.1, 1.1, scale)
    colour = (64, 66, 70) if rng.random() < 0.6 else (172, 52, 46)
    _round_post(brush, 0.09, 0, 0.85, colour)
    brush.ellipse(0, 0.88, 0.09, 0.09, shade(colour, 0.9))
    brush.polygon([(-0.085, 0.62), (0.085, 0.62), (0.085, 0.74), (-0.085, 0.74)], (222, 220, 212))
    return brush.sprite()


def draw_bin(rng: np.random.Generator, scale: float) -> Sprite:
    brush = Brush(0.45, 0.1, 1.2, scale)
    colour = ((48, 84, 62), (70, 74, 80), (150, 120, 60))[rng.integers(3)]
    brush.polygon([(-0.26, 0), (0.26, 0), (0.3, 0.9), (-0.3, 0.9)], shade(colour, 0.75))
    brush.polygon([(-0.18, 0.02), (0.14, 0.02), (0.16, 0.88), (-0.2, 0.88)], colour)
    brush.ellipse(0, 0.9, 0.31, 0.09, shade(colour, 0.6))
    brush.ellipse(0, 0.92, 0.22, 0.05, (24, 24, 26))
    return brush.sprite()


def draw_planter(rng: np.random.Generator, scale: float) -> Sprite:
    brush = Brush(0.7, 0.1, 1.5, scale)
    brush.polygon([(-0.4, 0), (0.4, 0), (0.45, 0.45), (-0.45, 0.45)], (132, 124, 116))
    brush.polygon([(-0.45, 0.38), (0.45, 0.38), (0.45, 0.47), (-0.45, 0.47)], (160, 152, 142))
    _leaves(brush, rng, 0, 0.8, 0.4, 0.36, 40)
    return brush.sprite()


def draw_tree(rng: np.random.Generator, scale: float) -> Sprite:
    brush = Brush(2.0, 0.1, 5.2, scale)
    bark = shade((98, 78, 60), rng.uniform(0.8, 1.15))
    _round_post(brush, 0.13, 0, 2.6, bark)
    for side in (-1, 1):
        brush.capsule((0, 2.0), (side * 0.6, 2.9), 0.07, 0.04, shade(bark, 0.8))
    _leaves(brush, rng, 0, 3.7, 1.55, 1.25, 130)
    return brush.sprite()


def _leaves(brush: Brush, rng: np.random.Generator, x: float, y: float, rx: float, ry: float, count: int) -> None:
    """A crown of blobs, dark ones first and low, bright ones last and high."""
    green = np.array((74, 110, 58)) * rng.uniform(0.75, 1.2)
    for k in range(count):
        share = k / count
        angle, radius = rng.uniform(0, 2 * math.pi), math.sqrt(rng.random()) * 0.85
        bx, by = x + rx * radius * math.cos(angle), y + ry * (radius * math.sin(angle) + 0.25 * share - 0.12)
        size = rng.uniform(0.1, 0.24) * rx * (1.25 - 0.5 * share)
        brush.ellipse(bx, by, size, size * 0.8, shade(green, 0.6 + 0.6 * share + rng.uniform(-0.08, 0.08)))
