"""The light of a varied scene: night and lamps, sun and the shadows of what is not in view, casts, haze."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from psdiff_jax.datasets.synthetic_street.textures import fractal


@dataclasses.dataclass(frozen=True)
class Lighting:
    """gains: of the colour channels. saturation: 0 is a grey image, as of an infrared camera.

    ambient: light without lamps, 1 = day. pools: number of lamps that light a part of the image. dapples: darkness of
    the shadows of leaves and of buildings, 0 none. haze: share of light grey over all.
    """

    gains: tuple[float, float, float]
    gamma: float
    contrast: float
    saturation: float
    ambient: float
    pools: int
    dapples: float
    haze: float

    @classmethod
    def draw(cls, rng: np.random.Generator, indoors: bool, sun: float) -> Lighting:
        night = not sun and rng.random() < 0.18
        # Most cameras are nearly neutral, a few far from it.
        off = float(rng.random() ** 3)
        warm, tint = rng.normal(0.01, 0.03 + 0.13 * off), rng.normal(0, 0.01 + 0.05 * off)
        exposure = float(np.exp(rng.normal(0.08, 0.12 + 0.2 * off)))
        return cls(
            gains=(exposure * (1 + warm), exposure * (1 + tint), exposure * (1 - warm)),
            gamma=float((0.8 if night else 0.95) * np.exp(rng.normal(0, 0.1 + 0.15 * off))),
            contrast=float(rng.uniform(0.95, 1.25) + off * rng.uniform(-0.6, 0.2)),
            saturation=0.0 if rng.random() < 0.04 else float(1.0 + rng.uniform(-0.55, 0.25) * (0.4 + off)),
            ambient=float(rng.uniform(0.25, 0.6)) if night else float(rng.uniform(0.85, 1.0)),
            pools=int(rng.integers(1, 5)) if night or indoors else 0,
            dapples=float(rng.uniform(0.2, 0.65)) if sun and rng.random() < 0.5 else 0.0,
            haze=float(rng.uniform(0.1, 0.4)) if rng.random() < 0.1 else 0.0,
        )

    def apply(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """uint8 [h, w, 3], lit."""
        rows, columns = image.shape[:2]
        light = cv2.resize(self._map(rng, (rows // 2, columns // 2)), (columns, rows), interpolation=cv2.INTER_LINEAR)
        image = cv2.multiply(image, light, dtype=cv2.CV_8U)
        if self.saturation != 1.0:
            grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
            image = cv2.addWeighted(image, self.saturation, grey, 1 - self.saturation, 0)
        level = np.linspace(0, 1, 256)[:, None] * np.array(self.gains)
        level = (np.clip(level, 0, 1.3) ** self.gamma - 0.4) * self.contrast + 0.4
        level = level * (1 - self.haze) + 0.75 * self.haze
        return cv2.LUT(image, np.clip(level * 255, 0, 255).astype(np.uint8)[None])

    def _map(self, rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        """float32 [h, w, 3]: the light on each pixel, 1 = as painted."""
        y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32) / np.float32(shape[0])
        wide = shape[1] / shape[0]
        light = self.ambient * (1 + np.float32(rng.normal(0, 0.12)) * (x - wide / 2) + rng.normal(0, 0.12) * (y - 0.5))
        if self.dapples:
            light *= 1 - np.float32(self.dapples) * self._shade(rng, x, y)
        corner = ((x - wide / 2) ** 2 + (y - 0.5) ** 2) * np.float32(rng.uniform(0, 0.35))
        light = np.repeat((light * (1 - corner))[..., None], 3, axis=2)
        for _ in range(self.pools):
            cx, cy, size = rng.uniform(0, wide), rng.uniform(-0.1, 0.9), rng.uniform(0.08, 0.4)
            pool = np.exp(-((x - cx) ** 2 + ((y - cy) * rng.uniform(0.6, 1.6)) ** 2) / np.float32(2 * size**2))
            lamp = np.array((1.0, rng.uniform(0.75, 1.0), rng.uniform(0.45, 1.1))) * rng.uniform(0.2, 0.9)
            light += pool[..., None] * lamp.astype(np.float32) * (1.1 - self.ambient)
        return light.astype(np.float32)

    def _shade(self, rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """float32 [h, w] in 0..1: the shadow of leaves or twigs, or of a building."""
        if rng.random() < 0.5:
            angle, bend = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.85)
            line = (x - x.max() * bend) * np.cos(angle) + (y - bend) * np.sin(angle)
            return np.clip(0.5 + line * np.float32(rng.uniform(10, 80)), 0, 1)
        noise = fractal(rng, (x.shape[0], x.shape[1]), int(rng.integers(4, 14)), 0.7)
        return np.clip((noise - np.float32(rng.uniform(0.35, 0.6))) * np.float32(rng.uniform(4, 20)), 0, 1)
