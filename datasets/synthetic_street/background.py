"""The empty street of a camera: sky, house fronts, road, kerbs and pavement. Drawn once per camera and cached."""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np

from psdiff_jax.datasets.synthetic_street.camera import StreetCamera
from psdiff_jax.datasets.synthetic_street.facades import house_front

FAR = 90.0  # metres; the end of the street


def draw_background(camera: StreetCamera, rng: np.random.Generator) -> np.ndarray:
    """uint8 [h, w, 3] RGB."""
    size = camera.size
    # Drawn at twice the resolution against aliasing of distant window bars and slabs.
    camera = dataclasses.replace(
        camera, size=(size[0] * 2, size[1] * 2), focal=camera.focal * 2, horizon=camera.horizon * 2
    )
    image = _sky(camera, rng)
    _ground(camera, rng, image)
    fronts = []
    for side, wall in zip((-1, 1), camera.walls, strict=True):
        start = -40.0
        while start < FAR:
            width = rng.uniform(6, 13)
            fronts.append((side, wall, start, start + width, int(rng.integers(2**31))))
            start += width
    # A row of houses closes the street.
    for k in range(-6, 6):
        fronts.append((0, FAR, k * 12.0, (k + 1) * 12.0, int(rng.integers(2**31))))
    fronts.sort(key=lambda front: -_distance(camera, front))
    for front in fronts:
        _house(camera, front, image)
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


def _distance(camera: StreetCamera, front) -> float:
    side, wall, start, end, _ = front
    middle = (start + end) / 2
    t, s = (wall, middle) if side else (middle, wall)
    x, z = camera.from_street(t, s)
    return float(math.hypot(float(x), float(z)))


def _house(camera: StreetCamera, front, image: np.ndarray) -> None:
    """Warps one house front onto the scene; the part behind the camera is cut off first."""
    side, wall, start, end, seed = front
    rng = np.random.default_rng(seed)
    height = rng.uniform(7, 16)
    ends = [(wall, start), (wall, end)] if side else [(start, wall), (end, wall)]
    (x0, z0), (x1, z1) = (tuple(map(float, camera.from_street(t, s))) for t, s in ends)
    nearest = 0.6
    if max(z0, z1) <= nearest:
        return
    cut0, cut1 = 0.0, 1.0
    if z0 < nearest:
        cut0 = (nearest - z0) / (z1 - z0)
    if z1 < nearest:
        cut1 = (nearest - z0) / (z1 - z0)
    a = (x0 + cut0 * (x1 - x0), z0 + cut0 * (z1 - z0))
    b = (x0 + cut1 * (x1 - x0), z0 + cut1 * (z1 - z0))
    corners = [camera.pixel(x, y, z) for (x, z), y in ((a, height), (b, height), (b, 0.0), (a, 0.0))]
    columns = [float(c) for c, _ in corners]
    if max(columns) < 0 or min(columns) > camera.size[1]:
        return
    closest = max(min(a[1], b[1]), 3.0)
    density = float(np.clip(camera.scale(closest) * 1.3, 10, 100))
    texture = house_front(end - start, height, density, rng)
    # Walls along the street are in shade on the side of the light; distant ones are hazy.
    lit = 1.0 if side == 0 else 0.82 if side * camera.light > 0 else 1.06
    haze = min(0.5, (z0 + z1) / 2 / FAR * 0.6)
    texture = np.clip(texture * (lit * (1 - haze)) + 196 * haze, 0, 255).astype(np.uint8)
    target = np.array(corners, np.float32)
    # Reduced to about its size in the image, so that the warp does not skip pixels.
    seen = (np.ptp(target[:, 0]) * 1.5 / (cut1 - cut0), np.ptp(target[:, 1]) * 1.3)
    rows, wide = (int(np.clip(s, 4, full)) for s, full in zip(seen[::-1], texture.shape, strict=False))
    texture = cv2.resize(texture, (wide, rows), interpolation=cv2.INTER_AREA)
    source = np.array([[cut0 * wide, 0], [cut1 * wide, 0], [cut1 * wide, rows], [cut0 * wide, rows]], np.float32)
    if columns[0] > columns[1]:
        source[:, 0] = wide - source[:, 0]
    left, top = np.maximum(np.floor(target.min(0)), 0).astype(int)
    right, bottom = np.minimum(np.ceil(target.max(0)) + 1, camera.size[::-1]).astype(int)
    if right <= left or bottom <= top:
        return
    shape = (int(right - left), int(bottom - top))
    warp = cv2.getPerspectiveTransform(source, target - np.array([left, top], np.float32))
    warped = cv2.warpPerspective(texture, warp, shape, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    mask = cv2.warpPerspective(np.full((rows, wide), 255, np.uint8), warp, shape, flags=cv2.INTER_LINEAR)
    share = mask[..., None].astype(np.float32) / 255
    under = image[top:bottom, left:right]
    under[:] = (under * (1 - share) + warped * share).astype(np.uint8)


def _sky(camera: StreetCamera, rng: np.random.Generator) -> np.ndarray:
    rows, columns = camera.size
    overcast = camera.sun == 0.0
    top = np.array((176, 184, 192) if overcast else (104, 152, 208), np.float32) + rng.normal(0, 8)
    low = np.array((208, 212, 214) if overcast else (196, 214, 230), np.float32)
    share = np.linspace(0, 1, rows, dtype=np.float32)[:, None, None] ** 0.7
    sky = np.broadcast_to(top * (1 - share) + low * share, (rows, columns, 3)).copy()
    clouds = cv2.resize(rng.random((5, 9)).astype(np.float32), (columns, rows), interpolation=cv2.INTER_CUBIC)
    clouds += 0.5 * cv2.resize(rng.random((12, 20)).astype(np.float32), (columns, rows), interpolation=cv2.INTER_CUBIC)
    cover = np.clip((clouds - 0.75) * 2.2, 0, 0.8)[..., None]
    return np.clip(sky * (1 - cover) + 238 * cover, 0, 255).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class _Paving:
    """Colours (RGB) and measures (metres) of the ground."""

    asphalt: np.ndarray
    stone: np.ndarray
    slab: float
    offset: float  # of every second row of slabs
    crossing: float  # s of the zebra crossing, infinite where there is none


def _ground(camera: StreetCamera, rng: np.random.Generator, image: np.ndarray) -> None:
    """Colours every pixel below the horizon by the point of the street that it shows."""
    rows, columns = camera.size
    first = max(0, math.ceil(camera.horizon + camera.focal * camera.height / (2 * FAR)))
    if first >= rows:
        return
    slab = rng.uniform(0.5, 0.9)
    paving = _Paving(
        asphalt=(rng.uniform(84, 112) * np.array((1.0, 1.0, 1.03))).astype(np.float32),
        stone=(rng.uniform(142, 176) * np.array((1.03, 1.0, rng.uniform(0.88, 0.98)))).astype(np.float32),
        slab=slab,
        offset=slab * rng.choice((0.0, 0.5)),
        crossing=rng.uniform(3, 14) if rng.random() < 0.6 else math.inf,
    )
    patches = cv2.resize(rng.random((9, 14), np.float32), (columns, rows - first), interpolation=cv2.INTER_CUBIC)
    column = np.arange(columns, dtype=np.float32)[None] + 0.5 - columns / 2
    # In strips that fit into the processor's cache: three times as fast on large scenes.
    for top in range(first, rows, 48):
        row = np.arange(top, min(rows, top + 48), dtype=np.float32)[:, None] + 0.5
        z = camera.focal * camera.height / (row - np.float32(camera.horizon))
        t, s = camera.to_street(column * (z / np.float32(camera.focal)), z)
        # Fine lines fade where a pixel covers more ground than they do.
        fine = np.clip(1.6 - z * z / (camera.focal * camera.height) * 1.2, 0, 1)
        tone = _pave(camera, paving, t.astype(np.float32), s.astype(np.float32), fine.astype(np.float32))
        grain = rng.standard_normal(t.shape, np.float32)
        tone *= (0.93 + 0.14 * patches[top - first : top - first + len(row)] + 0.03 * grain)[..., None]
        image[top : top + len(row)] = np.clip(tone, 0, 255)


def _pave(camera: StreetCamera, paving: _Paving, t: np.ndarray, s: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """float32 RGB of the ground at street (t, s), both [h, w]; `fine` [h, 1] is the visibility of fine lines."""
    left, right = camera.kerbs
    road = (t > left) & (t < right)
    tone = np.where(road[..., None], paving.asphalt, paving.stone)
    # Every slab has its own grey; the joint between two is dark.
    along = s / paving.slab
    across = (t + (np.floor(along) % 2) * paving.offset) / paving.slab
    grey = (np.sin(np.floor(along) * 12.9 + np.floor(across) * 78.2) * 43758.5) % 1
    joint = (along % 1 < 0.06) | (across % 1 < 0.06)
    tone *= np.where(road, 1, 1 + fine * (0.1 * (grey - 0.5) - 0.2 * joint))[..., None].astype(np.float32)
    inwards = np.minimum(t - left, right - t)
    dashes = (np.abs(t - (left + right) / 2) < 0.08) & (s % 3.0 < 1.6)
    edge = (inwards < 0.45) & (inwards > 0.33)
    tone[road & (dashes | edge)] = 206
    tone[road & (np.abs(s - paving.crossing) < 1.4) & ((t / 0.55) % 2 < 1)] = 210
    kerb = np.abs(inwards)
    tone[kerb < 0.11] = 178
    tone[(kerb > 0.11) & (kerb < 0.2) & road] *= 0.62
    wall = np.minimum(np.abs(t - camera.walls[0]), np.abs(t - camera.walls[1]))
    tone *= (1 - 0.35 * np.exp(-wall / 0.5))[..., None]
    return tone
