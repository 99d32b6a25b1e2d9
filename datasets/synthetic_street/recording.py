"""What lens and sensor do to a varied scene: blur, low resolution, sharpening, noise."""

from __future__ import annotations

import dataclasses
import functools
import math

import cv2
import numpy as np

_SIZED_FOR = 240  # rows of the scene that lengths in pixels refer to


@dataclasses.dataclass(frozen=True)
class Recording:
    """Lengths are pixels of the scene.

    defocus: standard deviation of the blur. motion: length of the smear; angle: its direction in radians.
    shrink: resolution of the sensor over the scene's. sharpen: strength of the camera's sharpening. noise: standard
    deviation in grey levels; coarse: size of a grain.
    """

    defocus: float
    motion: float
    angle: float
    shrink: float
    sharpen: float
    noise: float
    coarse: float

    @classmethod
    def draw(cls, rng: np.random.Generator, rows: int) -> Recording:
        unit = rows / _SIZED_FOR

        def sometimes(chance: float, low: float, high: float, otherwise: float = 0.0) -> float:
            return float(rng.uniform(low, high)) if rng.random() < chance else otherwise

        return cls(
            defocus=sometimes(0.45, 0.3, 1.2) * unit,
            motion=sometimes(0.07, 2.0, 5.0) * unit,
            angle=float(rng.normal(0, 0.5)),
            shrink=sometimes(0.25, 0.45, 0.9, 1.0),
            sharpen=sometimes(0.35, 0.3, 1.5),
            noise=float(min(15.0, rng.exponential(2.5))),
            coarse=sometimes(0.4, 1.0, 2.5, 1.0),
        )

    def apply(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """uint8 [h, w, 3] as recorded, before compression."""
        rows, columns = image.shape[:2]
        if self.motion > 1:
            image = smear(image, self.motion, self.angle)
        if self.defocus > 0.2:
            image = cv2.GaussianBlur(image, (0, 0), self.defocus)
        if self.shrink < 1:
            small = (max(16, round(columns * self.shrink)), max(16, round(rows * self.shrink)))
            image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
            image = cv2.resize(
                image, (columns, rows), interpolation=int(rng.choice((cv2.INTER_LINEAR, cv2.INTER_CUBIC)))
            )
        if self.sharpen:
            image = cv2.addWeighted(image, 1 + self.sharpen, cv2.GaussianBlur(image, (0, 0), 1.2), -self.sharpen, 0)
        if self.noise > 0.5:
            y, x = rng.integers(0, 64, 2)
            grain = _grain(rows + 64, columns + 64)[y:, x:]
            grain = grain[: math.ceil(rows / self.coarse), : math.ceil(columns / self.coarse)]
            if self.coarse > 1:
                grain = cv2.resize(grain, (columns, rows), interpolation=cv2.INTER_LINEAR)
            image = cv2.addWeighted(image, 1.0, grain, self.noise / 32, -128 * self.noise / 32)
        return image


def smear(image: np.ndarray, length: float, angle: float) -> np.ndarray:
    """Motion blur of `length` pixels in the direction `angle` (radians); uint8 [h, w, c]."""
    half = math.ceil(length / 2)
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.uint8)
    end = np.array((math.cos(angle), math.sin(angle))) * length / 2
    corners = [tuple(np.rint((half + sign * end) * 16).astype(int).tolist()) for sign in (-1, 1)]
    cv2.line(kernel, corners[0], corners[1], 255, 1, cv2.LINE_AA, shift=4)
    return cv2.filter2D(image, -1, kernel / kernel.sum(dtype=np.float32))


@functools.lru_cache(maxsize=4)
def _grain(rows: int, columns: int) -> np.ndarray:
    """uint8 [rows, columns, 3]: grey and colour noise around 128, standard deviation about 32."""
    rng = np.random.default_rng(7)
    grain = 128 + 28 * rng.standard_normal((rows, columns, 1)) + 16 * rng.standard_normal((rows, columns, 3))
    return np.clip(grain, 0, 255).astype(np.uint8)
