"""Cameras: position, projection of the ground to pixels, image degradation; and the cameras on the rendered street.

Camera axes in metres: x right, z forward along the ground, y up. A point lies at column cx + f x / z and row
horizon + f (height - y) / z. Street axes: s along the street, t across it; the camera is at (t, s) = (offset, 0) and
looks `turn` radians away from the s axis.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import cv2
import numpy as np

STATURE = 1.7  # metres; the height of the person that StreetOptions.person_height refers to

Lengths = Any  # metres: a number or an array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Camera:
    """Position and projection of a camera. Lengths in metres, pixels where named so, angles in radians."""

    index: int
    size: tuple[int, int]  # h, w
    focal: float  # pixels
    height: float
    horizon: float  # pixel row
    turn: float
    offset: float
    light: float  # -1 light from the left .. 1 from the right
    sun: float  # strength of cast shadows, 0 overcast
    depths: tuple[float, float]  # nearest and farthest depth of a person
    most: int = 1000  # people who have room before the camera
    columns: tuple[float, float] = (0.02, 0.98)  # where feet are, shares of the scene's width
    inside: float = 0.0  # share of a person's rough box that must be in the image
    hiding: float = 0.5  # share of it that others may cover
    together: float = 0.25  # share of the people who are placed beside another

    @property
    def pitch(self) -> float:
        """How far the camera looks down on a person in the middle of the range."""
        return math.atan2(self.height - 0.9, 0.5 * (self.depths[0] + self.depths[1]))

    def to_street(self, x: Lengths, z: Lengths) -> tuple[Lengths, Lengths]:
        """Camera (x, z) to street (t, s)."""
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        return self.offset + x * cos + z * sin, z * cos - x * sin

    def from_street(self, t: Lengths, s: Lengths) -> tuple[np.ndarray, np.ndarray]:
        """Street (t, s) to camera (x, z)."""
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        t = np.asarray(t) - self.offset
        return t * cos - np.asarray(s) * sin, t * sin + np.asarray(s) * cos

    def pixel(self, x: Lengths, y: Lengths, z: Lengths) -> tuple[Lengths, Lengths]:
        """Column and row of camera point (x, y, z); z > 0."""
        return self.size[1] / 2 + self.focal * x / z, self.horizon + self.focal * (self.height - y) / z

    def scale(self, z: float) -> float:
        """Pixels per metre at depth z."""
        return self.focal / z

    def walkable(self, x: float, z: float) -> bool:
        """Whether a person can be at camera (x, z)."""
        raise NotImplementedError

    def degrade(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A clean uint8 image as this camera records it."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreetCamera(Camera):
    """A camera on a street with house fronts on both sides, and its image degradation."""

    walls: tuple[float, float]  # t of the house fronts, left and right
    kerbs: tuple[float, float]  # t of the kerbs
    gains: tuple[float, float, float]  # per colour channel
    gamma: float
    contrast: float
    saturation: float
    blur: float  # pixels at a scene height of 160; grows with its root
    noise: float  # standard deviation in grey levels

    def walkable(self, x: float, z: float) -> bool:
        t, _ = self.to_street(x, z)
        return bool(self.walls[0] + 0.4 < t < self.walls[1] - 0.4)

    def degrade(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """With blur, colour cast, contrast and noise."""
        sigma = self.blur * math.sqrt(self.size[0] / 160) * rng.uniform(0.7, 1.15)
        if sigma > 0.25:
            image = cv2.GaussianBlur(image, (0, 0), sigma)
        if self.saturation != 1.0:
            grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
            image = cv2.addWeighted(image, self.saturation, grey, 1 - self.saturation, 0)
        exposure = rng.uniform(0.9, 1.1)
        levels = np.linspace(0, 1, 256)
        table = ((levels**self.gamma - 0.45) * self.contrast + 0.45)[:, None] * np.array(self.gains) * exposure
        image = cv2.LUT(image, np.clip(table * 255, 0, 255).astype(np.uint8)[None])
        height, width = self.size
        y, x = rng.integers(0, 64, 2)
        grain = _grain(height + 64, width + 64)[y : y + height, x : x + width]
        return cv2.addWeighted(image, 1.0, grain, self.noise / 20, -128 * self.noise / 20)


@functools.lru_cache(maxsize=4)
def _grain(height: int, width: int) -> np.ndarray:
    """uint8 [height, width, 3]: grey and colour noise around 128, standard deviation about 20."""
    rng = np.random.default_rng(7)
    grain = 128 + 17 * rng.standard_normal((height, width, 1)) + 10 * rng.standard_normal((height, width, 3))
    return np.clip(grain, 0, 255).astype(np.uint8)


def draw_camera(
    camera_seed: int, index: int, size: tuple[int, int], person_height: tuple[float, float]
) -> StreetCamera:
    """Camera `index` of the set `camera_seed`, placed so that people get the wanted heights (shares of the scene)."""
    rng = np.random.default_rng([camera_seed, 202, index])
    rows, columns = size
    kind = (index + int(np.random.default_rng([camera_seed, 203]).integers(3))) % 3  # along, oblique, across
    focal = columns * rng.uniform(0.85, 1.15)
    height = rng.uniform(1.5, 2.5)
    low, high = (share * rows for share in person_height)
    depths = (focal * STATURE / high, focal * STATURE / low)
    # The feet of the nearest people are about at the lower edge.
    horizon = rows * rng.uniform(0.96, 1.03) - focal * height / depths[0]
    side = 1 if rng.random() < 0.5 else -1
    turn = side * (rng.uniform(0, 0.3), rng.uniform(0.45, 0.95), rng.uniform(1.3, 1.57))[kind]
    far = depths[1]
    if kind == 2:  # looks across the street at a row of houses behind everybody
        wall = far * rng.uniform(1.12, 1.35)
        road = wall * rng.uniform(0.3, 0.42)
        pavement = wall * rng.uniform(0.2, 0.3)
        walls, offset, kerbs = (-wall, wall), 0.0, (wall - pavement - road, wall - pavement)
        if side < 0:
            kerbs = (-kerbs[1], -kerbs[0])
    else:
        half = far * rng.uniform(0.62, 0.9) if kind == 0 else far * rng.uniform(0.8, 1.1)
        walls = (-half, half)
        kerbs = (-half * rng.uniform(0.35, 0.6), half * rng.uniform(0.35, 0.6))
        offset = -side * half * rng.uniform(0.1, 0.5)
    warmth, tint = rng.normal(0, 0.085), rng.normal(0, 0.035)
    bright = rng.uniform(0.78, 1.12)
    return StreetCamera(
        index=index,
        size=(rows, columns),
        focal=float(focal),
        height=float(height),
        horizon=float(horizon),
        turn=float(turn),
        offset=float(offset),
        walls=walls,
        kerbs=kerbs,
        light=float(rng.uniform(0.35, 1.0) * rng.choice((-1, 1))),
        sun=float(rng.choice((0.0, 0.25, 0.45))),
        gains=(bright * (1 + warmth), bright * (1 + tint), bright * (1 - warmth)),
        gamma=float(rng.uniform(0.85, 1.2)),
        contrast=float(rng.uniform(0.8, 1.1)),
        saturation=float(rng.uniform(0.75, 1.1)),
        blur=float(rng.uniform(0.0, 0.65)),
        noise=float(rng.uniform(1.0, 5.0)),
        depths=depths,
    )
