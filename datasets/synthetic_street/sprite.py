"""Sprites: images with transparency and a ground point, of which people and props consist."""

from __future__ import annotations

import dataclasses
import functools
import math

import cv2
import numpy as np


@dataclasses.dataclass(frozen=True)
class Sprite:
    """rgba: uint8 [h, w, 4], colours already multiplied by alpha. foot: (x, y) of the ground point, in its pixels."""

    rgba: np.ndarray
    foot: tuple[float, float]

    def corner(self, x: float, y: float) -> tuple[int, int]:
        """The scene pixel of the sprite's upper left corner if its ground point is at (x, y)."""
        return round(x - self.foot[0]), round(y - self.foot[1])


@dataclasses.dataclass(frozen=True)
class View:
    """The view of a person. Angles in radians.

    yaw: 0 faces the camera, +pi/2 faces the right edge of the scene. pitch: the camera looks down by this much.
    scale: pixels per metre at the feet. light: direction of the light, -1 from the left to 1 from the right.
    """

    yaw: float
    pitch: float
    scale: float
    light: float


class Brush:
    """Draws shapes on a transparent canvas of `factor` times the final size, reduced by area at the end (antialiasing).

    Coordinates are in metres: x right, y up, (0, 0) the ground point.
    """

    def __init__(self, half_width: float, below: float, above: float, scale: float) -> None:
        height = (below + above) * scale
        self.factor = 3 if height < 260 else 2 if height < 700 else 1
        self.unit = scale * self.factor
        columns, rows = math.ceil(2 * half_width * scale) + 2, math.ceil(height) + 2
        self.size = (columns, rows)
        self.origin = (columns * self.factor / 2, (math.ceil(above * scale) + 1) * self.factor)
        self.canvas = np.zeros((rows * self.factor, columns * self.factor, 4), np.uint8)

    def pixel(self, x: float, y: float) -> tuple[float, float]:
        return self.origin[0] + x * self.unit, self.origin[1] - y * self.unit

    def polygon(self, points: list[tuple[float, float]], colour: tuple[int, ...]) -> None:
        """Filled polygon, any shape."""
        corners = np.array([self.pixel(x, y) for x, y in points]) * 16
        cv2.fillPoly(self.canvas, [np.rint(corners).astype(np.int32)], (*colour, 255), shift=4)

    def ellipse(self, x, y, rx, ry, colour, angle: float = 0.0, start: float = 0.0, end: float = 360.0) -> None:
        px, py = self.pixel(x, y)
        cv2.ellipse(
            self.canvas, (round(px * 16), round(py * 16)), (round(rx * self.unit * 16), round(ry * self.unit * 16)),
            math.degrees(-angle), start, end, (*colour, 255), -1, shift=4,
        )  # fmt: skip

    def capsule(self, a, b, ra: float, rb: float, colour) -> None:
        """Two discs and the strip between them."""
        dx, dy = b[0] - a[0], b[1] - a[1]
        length = math.hypot(dx, dy) or 1e-6
        nx, ny = -dy / length, dx / length
        self.polygon(
            [(a[0] + nx * ra, a[1] + ny * ra), (b[0] + nx * rb, b[1] + ny * rb), (b[0] - nx * rb, b[1] - ny * rb),
             (a[0] - nx * ra, a[1] - ny * ra)], colour,
        )  # fmt: skip
        for (x, y, *_), radius in ((a, ra), (b, rb)):
            px, py = self.pixel(x, y)
            cv2.circle(
                self.canvas, (round(px * 16), round(py * 16)), round(radius * self.unit * 16), (*colour, 255), -1,
                shift=4,
            )  # fmt: skip

    def limb(self, joints, radii, colour, light: float) -> None:
        """Capsules through `joints`, with a dark rim on the side away from the light."""
        spans = list(zip(joints[:-1], joints[1:], radii[:-1], radii[1:], strict=True))
        for a, b, ra, rb in spans:
            self.capsule(a, b, ra, rb, shade(colour, 0.76))
        for a, b, ra, rb in spans:
            shift = 0.24 * light
            self.capsule((a[0] + shift * ra, a[1]), (b[0] + shift * rb, b[1]), ra * 0.72, rb * 0.72, colour)

    def sprite(self) -> Sprite:
        """The finished sprite at its final size."""
        rgba = self.canvas
        if self.factor > 1:
            rgba = cv2.resize(rgba, self.size, interpolation=cv2.INTER_AREA)
        if self.size[1] > 150:
            rgba = _add_folds(rgba, self.unit / self.factor)
        return Sprite(rgba, (self.origin[0] / self.factor, self.origin[1] / self.factor))


@functools.cache
def _folds() -> np.ndarray:
    """Soft light and dark flecks, float32 [96, 64, 1] around 1, about six per metre."""
    noise = np.random.default_rng(11).random((24, 12)).astype(np.float32)
    return cv2.resize(noise, (64, 96), interpolation=cv2.INTER_CUBIC)[..., None] * 0.22 + 0.89


def _add_folds(rgba: np.ndarray, scale: float) -> np.ndarray:
    """Adds texture to large surfaces; on small figures it would be invisible."""
    flecks = cv2.resize(_folds(), None, fx=scale / 30, fy=scale / 30, interpolation=cv2.INTER_LINEAR)
    rows, columns = rgba.shape[:2]
    flecks = np.tile(flecks, (-(-rows // flecks.shape[0]), -(-columns // flecks.shape[1])))[:rows, :columns, None]
    out = rgba.copy()
    out[..., :3] = np.minimum(rgba[..., :3] * flecks, rgba[..., 3:]).astype(np.uint8)
    return out


def shade(colour, factor: float) -> tuple[int, int, int]:
    """A darker (factor < 1) or lighter colour, as uint8 values."""
    red, green, blue = (min(255, int(channel * factor)) for channel in colour)
    return red, green, blue
