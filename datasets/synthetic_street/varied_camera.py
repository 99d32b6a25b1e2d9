"""Cameras of the style 'varied': any height, distance, place, light and quality of recording."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from psdiff_jax.datasets.synthetic_street.camera import STATURE, Camera
from psdiff_jax.datasets.synthetic_street.lighting import Lighting
from psdiff_jax.datasets.synthetic_street.recording import Recording

PLACES = ("square", "square", "wall", "park", "park", "hall", "hall", "yard")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VariedCamera(Camera):
    """A camera somewhere: `place` is one of PLACES, `sides` are camera x of the walls left and right of the people.

    back: camera z of what closes the view, at the left and the right wall.
    """

    place: str
    sides: tuple[float, float]
    back: tuple[float, float]
    lighting: Lighting
    recording: Recording

    def walkable(self, x: float, z: float) -> bool:
        return self.sides[0] + 0.3 < x < self.sides[1] - 0.3

    def degrade(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self.recording.apply(self.lighting.apply(image, rng), rng)


def draw_varied_camera(
    camera_seed: int, index: int, size: tuple[int, int], person_height: tuple[float, float]
) -> VariedCamera:
    """Camera `index` of the set `camera_seed`, whose people have heights in a part of `person_height`."""
    rng = np.random.default_rng([camera_seed, 212, index])
    rows, columns = size
    place = PLACES[rng.integers(len(PLACES))]
    # From the least to the greatest height of its people, evenly in their logarithm over all cameras.
    least, greatest = np.sort(rng.random(2))
    ratio = person_height[1] / person_height[0]
    shares = (person_height[0] * ratio**least, person_height[0] * ratio ** max(greatest, min(1.0, least + 0.12)))
    focal = columns * math.exp(rng.uniform(math.log(0.6), math.log(2.0)))
    near, far = (focal * STATURE / (share * rows) for share in shares[::-1])
    height, horizon = _aim(focal, (near, far), rows, rng)
    width = far * columns / focal
    back = far * (1.03 + rng.exponential(0.4) + np.array((0.0, rng.exponential(0.5)))[:: rng.choice((-1, 1))])
    fits = columns / (0.32 * rows * (shares[0] + shares[1]) / 2)  # people side by side
    indoors = place == "hall"
    sun = 0.0 if indoors or rng.random() < 0.35 else float(rng.uniform(0.15, 0.6))
    return VariedCamera(
        index=index,
        size=(rows, columns),
        focal=focal,
        height=height,
        horizon=horizon,
        turn=float(rng.uniform(-math.pi, math.pi)),
        offset=0.0,
        light=float(rng.uniform(0.2, 1.0) * rng.choice((-1, 1))),
        sun=sun,
        depths=(near, far),
        most=max(1, round(fits * rng.uniform(0.15, 1.3))),
        columns=(-0.05, 1.05),
        inside=0.5,
        hiding=0.55,
        together=float(rng.uniform(0.0, 0.65)),
        place=place,
        sides=(-width * rng.uniform(0.35, 1.2), width * rng.uniform(0.35, 1.2)),
        back=(float(back[0]), float(back[1])),
        lighting=Lighting.draw(rng, indoors, sun),
        recording=Recording.draw(rng, rows),
    )


def _aim(focal: float, depths: tuple[float, float], rows: int, rng: np.random.Generator) -> tuple[float, float]:
    """(height in metres, row of the horizon) that show the nearest and the farthest people largely."""
    middle = math.sqrt(depths[0] * depths[1])
    for _ in range(30):
        height = rng.uniform(0.9, 1.9) if rng.random() < 0.5 else math.exp(rng.uniform(math.log(1.6), math.log(9.0)))
        horizon = rows * rng.uniform(0.38, 0.66) - focal * (height - STATURE / 2) / middle
        shares = []
        for depth in depths:
            top, bottom = (horizon + focal * (height - y) / depth for y in (STATURE, 0.0))
            shares.append((min(rows, bottom) - max(0.0, top)) / (bottom - top))
        if shares[0] > 0.55 and shares[1] > 0.9:
            return float(height), float(horizon)
    # At half a person's height everyone is centred on the horizon.
    return STATURE / 2, rows / 2.0
