"""The empty place before a varied camera: a square, a wall, a park, a yard or a hall."""

from __future__ import annotations

import itertools

import cv2
import numpy as np

from psdiff_jax.datasets.synthetic_street.surfaces import Wall, draw_plane, draw_wall
from psdiff_jax.datasets.synthetic_street.textures import METRES, colour, fractal, pick_texture
from psdiff_jax.datasets.synthetic_street.varied_camera import VariedCamera

PAVED = ("tiles", "tiles", "stone", "brick", "natural")
GREEN = ("grass", "grass", "natural", "stone")
BUILT = ("brick", "stone", "glass", "glass", "planks", "front", "front", "tiles", "lettering", "shapes")
INDOOR = ("stone", "stone", "glass", "planks", "tiles", "lettering", "shapes", "brick")
OPENINGS = ("glass", "shapes", "lettering", "stone", "planks")
GROWN = ("foliage", "foliage", "foliage", "natural", "planks")

Point = tuple[float, float]  # camera (x, z) in metres
Line = tuple[Point, Point]


def draw_scenery(camera: VariedCamera, rng: np.random.Generator) -> np.ndarray:
    """uint8 [h, w, 3] RGB: sky or ceiling, what closes the view, side walls, floor."""
    image = _sky(camera, rng)
    ground = GREEN if camera.place in ("park", "yard") else PAVED
    turn = float(rng.uniform(-np.pi, np.pi))
    draw_plane(image, camera, *_surface(ground, rng), turn)
    if rng.random() < 0.5:
        _second_ground(image, camera, rng, PAVED if ground is GREEN else PAVED + GREEN)
    if camera.place == "hall":
        _hall(image, camera, rng)
    elif camera.place == "wall":
        _across(image, camera, rng, BUILT, float(rng.uniform(2.0, 12.0)), 1.0)
    elif camera.place == "square":
        _beyond(image, camera, rng)
        _across(image, camera, rng, BUILT, float(rng.uniform(3, 14)), float(rng.uniform(1.0, 3.0)))
        _along(image, camera, rng, BUILT, float(rng.uniform(3, 12)), chance=0.5)
    else:
        _beyond(image, camera, rng)
        _across(image, camera, rng, GROWN, float(rng.uniform(0.6, 7)), float(rng.uniform(1.0, 2.5)))
        _along(image, camera, rng, GROWN if rng.random() < 0.7 else BUILT, float(rng.uniform(0.6, 5)), chance=0.4)
    return image


def _surface(kinds: tuple[str, ...], rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """A texture of one of `kinds`, and how many metres it shows."""
    return pick_texture(kinds[rng.integers(len(kinds))], rng), METRES * float(np.exp(rng.normal(0, 0.35)))


def _sky(camera: VariedCamera, rng: np.random.Generator) -> np.ndarray:
    rows, columns = camera.size
    clear = np.array((rng.uniform(70, 150), rng.uniform(120, 180), rng.uniform(170, 245)), np.float32)
    white = np.full(3, rng.uniform(170, 250), np.float32)
    clouds = fractal(rng, (rows // 2, columns // 2), 3, 0.55)[..., None]
    cover = np.clip(clouds * rng.uniform(0.3, 2.5) + rng.uniform(-0.6, 0.8), 0, 1)
    cover = np.maximum(cover, np.linspace(0, rng.uniform(0, 1), rows // 2, dtype=np.float32)[:, None, None])
    return cv2.resize((clear + (white - clear) * cover).astype(np.uint8), (columns, rows))


def _second_ground(image: np.ndarray, camera: VariedCamera, rng: np.random.Generator, kinds: tuple[str, ...]) -> None:
    """A road, a path, steps or a lawn: a part of the floor in another texture, cut off by a line or two."""
    other = image.copy()
    draw_plane(other, camera, *_surface(kinds, rng), float(rng.uniform(-np.pi, np.pi)))
    rows, columns = camera.size
    line = np.zeros((rows, columns), np.uint8)
    middle = np.array((rng.uniform(0, columns), rng.uniform(0.3 * rows, rows)))
    angle = rng.normal(0, 0.5) if rng.random() < 0.6 else rng.uniform(-np.pi / 2, np.pi / 2)
    along, across = np.array((np.cos(angle), np.sin(angle))), np.array((-np.sin(angle), np.cos(angle)))
    # Parallels converge: the far end of a strip is narrower.
    near, far = rng.uniform(0.05, 0.6) * rows, rng.uniform(0.02, 0.3) * rows
    corners = [middle - 2 * columns * along - near * across, middle + 2 * columns * along - far * across,
               middle + 2 * columns * along + far * across, middle - 2 * columns * along + near * across]  # fmt: skip
    cv2.fillPoly(line, [np.rint(corners).astype(np.int32)], 255)
    line[: max(0, int(camera.horizon) + 1)] = 0
    np.copyto(image, other, where=line[..., None] > 0)
    if rng.random() < 0.5:  # a kerb or a painted line
        edge = colour(rng, 0.1, (0.3, 0.95)).tolist()
        cv2.line(image, np.rint(corners[0]).astype(int).tolist(), np.rint(corners[1]).astype(int).tolist(), edge,
                 int(rng.integers(1, 4)), cv2.LINE_AA)  # fmt: skip


def _beyond(image: np.ndarray, camera: VariedCamera, rng: np.random.Generator) -> None:
    """Far houses and trees over the horizon."""
    far = 4 * max(camera.back) + 20
    for _ in range(int(rng.integers(0, 4))):
        middle, half = rng.uniform(-0.8, 0.8) * far, rng.uniform(0.1, 0.8) * far
        grown = rng.random() < 0.5
        texture, metres = _surface(("foliage",) if grown else ("front", "glass", "stone", "brick"), rng)
        crown = rng.uniform(-3, 3, int(rng.integers(5, 25))) if grown else None
        texture = cv2.addWeighted(texture, 0.7, np.full_like(texture, 180), 0.3, 0)
        high = float(rng.uniform(0.08, 0.5) * far)
        wall = Wall((middle - half, far), (middle + half, far), 0, high, texture, metres * high / 12, crown)
        draw_wall(image, camera, wall)


def _crown(kinds: tuple[str, ...], high: float, rng: np.random.Generator) -> np.ndarray | None:
    """The irregular upper edge of what has grown."""
    return high * rng.uniform(0.02, 0.3) * rng.normal(0, 1, int(rng.integers(4, 40))) if kinds is GROWN else None


def _across(
    image: np.ndarray, camera: VariedCamera, rng: np.random.Generator, kinds: tuple[str, ...], high: float, far: float
) -> None:
    """What closes the view at `far` times the camera's back, and what stands before it: a plinth, a hedge, a fence."""
    wide = 3 * max(camera.back) + 10
    sides = (camera.back[0] * far, camera.back[1] * far)
    slant = (sides[1] - sides[0]) / (camera.sides[1] - camera.sides[0])
    start, end = ((x, max(1.0, sides[0] + slant * (x - camera.sides[0]))) for x in (-wide, wide))
    ends = (start, end)
    pieces = int(rng.integers(1, 6)) if kinds is not GROWN else 1
    cuts = np.concatenate([[0.0], np.sort(rng.random(pieces - 1)), [1.0]])
    for first, last in itertools.pairwise(cuts):
        a, b = _on(ends, first), _on(ends, last)
        tall = high * (1 if pieces == 1 else float(rng.uniform(0.6, 1.1)))
        draw_wall(image, camera, Wall(a, b, 0, tall, *_surface(kinds, rng), _crown(kinds, high, rng)))
        _openings(image, camera, rng, (a, b), tall)
    if rng.random() < 0.4:
        low = float(rng.uniform(0.2, 1.2))
        draw_wall(image, camera, Wall(_on(ends, 0, 0.2), _on(ends, 1, 0.2), 0, low, *_surface(BUILT + GROWN, rng)))


def _on(ends: Line, share: float, before: float = 0.0) -> Point:
    """The point a share of the way along a line, `before` metres nearer to the camera."""
    (x0, z0), (x1, z1) = ends
    return float(x0 + share * (x1 - x0)), float(z0 + share * (z1 - z0) - before)


def _openings(image: np.ndarray, camera: VariedCamera, rng: np.random.Generator, ends: Line, high: float) -> None:
    """Doors, windows, posters and niches on a wall: upright panels, some as high as people."""
    length = float(np.hypot(ends[1][0] - ends[0][0], ends[1][1] - ends[0][1]))
    for _ in range(int(rng.integers(0, 7))):
        wide, tall = rng.uniform(0.4, 3.0), rng.uniform(0.5, 2.6)
        at = 0.5 + rng.normal(0, 0.15)  # near the middle of the view, of which the wall is much wider
        low = 0.0 if rng.random() < 0.4 else rng.uniform(0.3, max(0.4, high - tall))
        texture = pick_texture(OPENINGS[rng.integers(len(OPENINGS))], rng)
        if rng.random() < 0.4:
            texture = (texture * rng.uniform(0.15, 0.6)).astype(np.uint8)  # an open door, a dark room
        start, end = _on(ends, at, 0.05), _on(ends, at + wide / length, 0.05)
        panel = Wall(start, end, float(low), float(min(high, low + tall)), texture, float(max(wide, tall)))
        draw_wall(image, camera, panel)


def _along(
    image: np.ndarray,
    camera: VariedCamera,
    rng: np.random.Generator,
    kinds: tuple[str, ...],
    high: float,
    chance: float,
) -> None:
    """Walls or hedges beside the people, from the camera to the back."""
    for side, back in zip(camera.sides, camera.back, strict=True):
        if rng.random() < chance:
            length = back * rng.uniform(0.5, 1.0)
            start = 0.0 if rng.random() < 0.6 else length * rng.uniform(0.2, 0.6)
            wall = Wall((side, start), (side, length), 0, high, *_surface(kinds, rng), _crown(kinds, high, rng))
            draw_wall(image, camera, wall)


def _hall(image: np.ndarray, camera: VariedCamera, rng: np.random.Generator) -> None:
    """A room or corridor: ceiling with lamps, back and side walls."""
    high = max(2.6, camera.height + 0.4) + float(rng.exponential(1.2))
    texture, metres = _surface(("stone", "tiles", "planks"), rng)
    ceiling = texture.copy()
    if rng.random() < 0.7:
        step, wide = int(rng.integers(40, 128)), int(rng.integers(6, 30))
        for x in range(step // 2, 256, step):
            ceiling[int(rng.integers(0, 90)) :, x : x + wide] = rng.uniform(215, 255)
    draw_plane(image, camera, ceiling, metres, float(rng.choice((0.0, np.pi / 2))), above=high)
    _across(image, camera, rng, INDOOR, high * 1.7, 1.0)
    _along(image, camera, rng, INDOOR, high, chance=0.85)
