"""Textured floors, ceilings and upright walls before a camera, for scenes that are not a street.

A column of the image shows a wall at one depth, a row shows the floor at one depth, so both are lookups of a texture.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from psdiff_jax.datasets.synthetic_street.camera import Camera
from psdiff_jax.datasets.synthetic_street.textures import METRES


@dataclasses.dataclass(frozen=True)
class Wall:
    """An upright wall from `start` to `end`, camera (x, z) in metres.

    low, high: metres over the ground of its lower and upper edge. texture: uint8 [h, w, 3]; it shows `metres` each way.
    crown: [n] offsets of the upper edge in metres, n of them along the wall (hedges, rows of trees).
    """

    start: tuple[float, float]
    end: tuple[float, float]
    low: float
    high: float
    texture: np.ndarray
    metres: float = METRES
    crown: np.ndarray | None = None


def draw_wall(image: np.ndarray, camera: Camera, wall: Wall) -> None:
    """Draws a wall over uint8 [h, w, 3]; its part behind the camera is left out."""
    rows, columns = camera.size
    (x0, z0), (x1, z1) = wall.start, wall.end
    slope = (np.arange(columns, dtype=np.float32) + 0.5 - columns / 2) / camera.focal
    # slope = x / z on the line of the wall, solved for the share of the way from start to end.
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (slope * z0 - x0) / ((x1 - x0) - slope * (z1 - z0))
    depth = z0 + share * (z1 - z0)
    seen = np.flatnonzero((share >= 0) & (share <= 1) & (depth > 0.5))
    if not len(seen):
        return
    left, right = seen[0], seen[-1] + 1
    depth = depth[left:right].astype(np.float32)
    along = (share[left:right] * np.hypot(x1 - x0, z1 - z0)).astype(np.float32)
    high = np.full(len(along), wall.high, np.float32)
    if wall.crown is not None:
        crown = cv2.resize(wall.crown.astype(np.float32)[None], (512, 1), interpolation=cv2.INTER_CUBIC)[0]
        high += np.interp(share[left:right], np.linspace(0, 1, 512), crown)
    top, bottom = (camera.pixel(0.0, y, depth)[1] for y in (high, wall.low))
    first, last = max(0, int(top.min())), min(rows, int(bottom.max()) + 1)
    if last <= first:
        return
    row = np.arange(first, last, dtype=np.float32)[:, None] + 0.5
    under = high - camera.height + (row - np.float32(camera.horizon)) * depth / np.float32(camera.focal)  # metres
    texture, density = _reduced(wall.texture, wall.metres, camera.scale(float(np.median(depth))))
    across = np.broadcast_to(along * density, under.shape)
    warped = cv2.remap(
        texture, across, (under * density).astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    inside = (under >= 0) & (row < bottom)
    np.copyto(image[first:last, left:right], warped, where=inside[..., None])


def draw_plane(image: np.ndarray, camera: Camera, texture: np.ndarray, metres: float, turn: float, above=None) -> None:
    """Draws the floor below the horizon, or with `above` (metres over the ground) a ceiling over it.

    texture: uint8 [h, w, 3], shows `metres` each way. turn: its direction in radians.
    """
    rows, columns = camera.size
    horizon = camera.horizon
    rise = camera.height if above is None else above - camera.height
    column = (np.arange(columns, dtype=np.float32)[None] + 0.5 - columns / 2) / np.float32(camera.focal)
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    # In bands of similar depth, each with a texture reduced to about its size in the image.
    edges = horizon + (1 if above is None else -1) * rows * np.array((0.004, 0.05, 0.12, 0.25, 0.5, 3.0))
    for near, far in zip(edges[1:], edges[:-1], strict=True):
        first, last = (max(0, min(rows, int(np.ceil(edge)))) for edge in sorted((near, far)))
        if last <= first:
            continue
        row = np.arange(first, last, dtype=np.float32)[:, None] + 0.5
        z = np.float32(camera.focal * rise) / np.maximum(np.abs(row - np.float32(horizon)), 0.25)
        x = column * z
        # A pixel at depth z covers z^2 / (focal rise) metres along the view.
        middle = float(np.median(z))
        band, density = _reduced(texture, metres, min(camera.scale(middle), camera.focal * rise / middle**2 * 2))
        across, along = (x * cos + z * sin) * density, (z * cos - x * sin) * density
        image[first:last] = cv2.remap(band, across, along, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def _reduced(texture: np.ndarray, metres: float, wanted: float) -> tuple[np.ndarray, np.float32]:
    """The texture reduced to about `wanted` pixels per metre, never enlarged, and its pixels per metre."""
    side = texture.shape[0]
    factor = min(1.0, max(4 / side, 1.2 * wanted * metres / side))
    if factor < 0.8:
        texture = cv2.resize(texture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(texture), np.float32(texture.shape[0] / metres)
