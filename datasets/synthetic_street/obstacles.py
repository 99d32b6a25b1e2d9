"""Things in a varied scene that hide people or resemble them: props of the street, bicycles, posts, fences, heaps."""

from __future__ import annotations

import functools
import itertools
import math

import cv2
import numpy as np

from psdiff_jax.datasets.synthetic_street import props
from psdiff_jax.datasets.synthetic_street.cars import LENGTH, WIDTH, draw_car
from psdiff_jax.datasets.synthetic_street.props import Prop
from psdiff_jax.datasets.synthetic_street.sprite import Brush, Sprite, shade
from psdiff_jax.datasets.synthetic_street.textures import colour, fractal, pick_texture
from psdiff_jax.datasets.synthetic_street.varied_camera import VariedCamera

SCALE = 70.0  # pixels per metre at which a prop is drawn, to be resized for each use
VARIANTS = 12  # of each prop
OUTDOORS = ("tree", "tree", "bare tree", "lamp", "sign", "bollard", "bin", "planter", "bicycle", "bicycle", "fence")
INDOORS = ("bin", "planter", "fence", "bicycle")
LOOKING_LIKE = ("cardboard", "dummy", "board")
TEXTURES = ("stone", "natural", "planks", "shapes", "lettering", "foliage", "brick", "glass")


def draw_obstacles(camera: VariedCamera, rng: np.random.Generator) -> tuple[Prop, ...]:
    """Up to five among the people, from before the nearest to behind the farthest, and up to fifteen behind them."""
    things = []
    names = INDOORS if camera.place == "hall" else OUTDOORS
    nearest, farthest = camera.depths
    between = (max(1.0, 0.9 * nearest), 1.15 * farthest)
    behind = (farthest, max(1.3 * farthest, 0.97 * min(camera.back)))
    zones = [between] * int(rng.integers(0, 6)) + [behind] * int(rng.integers(0, 16))
    for near, far in zones:
        depth = 1 / rng.uniform(1 / far, 1 / near)
        column = rng.uniform(-0.05, 1.05) * camera.size[1]
        x = (column - camera.size[1] / 2) / camera.scale(depth)
        if not camera.walkable(x, depth):
            continue
        kind = rng.random()
        if kind < 0.45:
            sprite = _textured(rng, camera.scale(depth))
        elif kind < 0.49:
            sprite = _stock(LOOKING_LIKE[rng.integers(len(LOOKING_LIKE))], rng, camera.scale(depth))
        else:
            sprite = _stock(names[rng.integers(len(names))], rng, camera.scale(depth))
        foot = (float(column), float(camera.pixel(0.0, 0.0, depth)[1]))
        things.append(Prop(sprite, sprite.corner(*foot), foot, float(depth), 1.0, 0.25))
    if camera.place in ("square", "yard") and rng.random() < 0.5:
        things += _cars(camera, rng)
    return tuple(things)


def _cars(camera: VariedCamera, rng: np.random.Generator) -> list[Prop]:
    """Up to three cars, each turned like the camera's street axes."""
    cars = []
    for _ in range(int(rng.integers(1, 4))):
        z = rng.uniform(0.7, 1.1) * camera.depths[1] + LENGTH / 2
        t, s = camera.to_street(rng.uniform(-0.5, 0.5) * camera.size[1] / camera.scale(z), z)
        footprint = (float(t - WIDTH / 2), float(t + WIDTH / 2), float(s - LENGTH / 2), float(s + LENGTH / 2))
        depths = [float(camera.from_street(a, b)[1]) for a in footprint[:2] for b in footprint[2:]]
        drawn = draw_car(camera, footprint, rng) if min(depths) > max(3.0, camera.depths[0]) else None
        if drawn is not None:
            foot = props.ground_pixel(camera, *(float(v) for v in camera.from_street(t, s)))
            cars.append(Prop(drawn[0], drawn[1], foot, max(depths), 1.0, WIDTH / 2, footprint))
    return cars


def _stock(name: str, rng: np.random.Generator, scale: float) -> Sprite:
    """One of the variants of a prop, at `scale` pixels per metre, with its own brightness and side."""
    drawn = _variant(name, int(rng.integers(VARIANTS)))
    rgba, foot = drawn.rgba, drawn.foot
    if rng.random() < 0.5:
        rgba, foot = rgba[:, ::-1], (rgba.shape[1] - foot[0], foot[1])
    factor = min(scale / SCALE * float(np.exp(rng.normal(0, 0.12))), 2.5)
    size = (max(2, round(rgba.shape[1] * factor)), max(2, round(rgba.shape[0] * factor)))
    rgba = cv2.resize(rgba, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    gains = np.exp(rng.normal(0, 0.3)) * (1 + rng.normal(0, 0.08, 3))
    rgba = cv2.transform(rgba, np.diag([*gains, 1.0]))
    rgba[..., :3] = np.minimum(rgba[..., :3], rgba[..., 3:])
    return Sprite(rgba, (foot[0] * factor, foot[1] * factor))


@functools.lru_cache(maxsize=256)
def _variant(name: str, number: int) -> Sprite:
    rng = np.random.default_rng([707, sorted(_STOCK).index(name), number])
    sprite = _STOCK[name](rng, SCALE)
    return _leafy(sprite, rng) if name in ("tree", "planter") else sprite


def _leafy(sprite: Sprite, rng: np.random.Generator) -> Sprite:
    """Leaves on the smooth blobs of a tree: light and dark, holes and a ragged edge where it is green."""
    rgba = sprite.rgba.astype(np.float32)
    leaves = fractal(rng, rgba.shape[:2], int(rng.integers(20, 50)), 0.9)
    green = rgba[..., 1] > 1.05 * rgba[..., 0]
    holes = green & (leaves < rng.uniform(0.3, 0.45))
    rgba[green, :3] *= (0.35 + 1.3 * leaves[green])[:, None]
    rgba[holes] = 0
    return Sprite(np.minimum(rgba, 255).astype(np.uint8), sprite.foot)


def _bare_tree(rng: np.random.Generator, scale: float) -> Sprite:
    """A trunk that branches, without leaves."""
    brush = Brush(2.2, 0.1, 5.2, scale)
    bark = shade((88, 76, 66), rng.uniform(0.5, 1.2))

    def grow(x: float, y: float, angle: float, length: float, thick: float) -> None:
        end = (x + length * math.sin(angle), y + length * math.cos(angle))
        brush.capsule((x, y), end, thick, 0.75 * thick, bark)
        if thick > 0.012:
            for _ in range(2 if thick > 0.03 else 3):
                grow(*end, angle + rng.normal(0, 0.5), length * rng.uniform(0.55, 0.85), 0.62 * thick)

    grow(0.0, 0.0, rng.normal(0, 0.05), rng.uniform(1.4, 2.2), rng.uniform(0.07, 0.18))
    return brush.sprite()


def _bicycle(rng: np.random.Generator, scale: float) -> Sprite:
    """A bicycle from the side, or two of them."""
    brush = Brush(1.3, 0.1, 1.3, scale)
    for shift in (0.0,) if rng.random() < 0.6 else (-0.3, 0.25):
        paint, dark = shade(colour(rng, 0.6), 1.0), (30, 30, 32)
        x0, x1 = shift - 0.52, shift + 0.52
        for x in (x0, x1):
            turn = np.linspace(0, 2 * math.pi, 15)
            rim = [(x + 0.33 * math.cos(a), 0.33 + 0.33 * math.sin(a)) for a in turn]
            for a, b in itertools.pairwise(rim):
                brush.capsule(a, b, 0.022, 0.022, dark)
            for a in turn[::3]:
                brush.capsule(
                    (x, 0.33), (x + 0.3 * math.cos(a), 0.33 + 0.3 * math.sin(a)), 0.004, 0.004, (150, 150, 150)
                )
        seat, crank, head = (shift - 0.2, 0.85), (shift - 0.08, 0.32), (shift + 0.36, 0.88)
        for a, b in ((seat, crank), (crank, head), (seat, head), ((x0, 0.33), crank), ((x0, 0.33), seat),
                     (head, (x1, 0.33))):  # fmt: skip
            brush.capsule(a, b, 0.022, 0.02, paint)
        brush.capsule((shift - 0.3, 0.93), (shift - 0.08, 0.93), 0.04, 0.03, dark)
        brush.capsule(head, (shift + 0.32, 1.04), 0.02, 0.02, dark)
        brush.capsule((shift + 0.22, 1.05), (shift + 0.4, 1.03), 0.02, 0.02, dark)
        if rng.random() < 0.4:
            brush.polygon([(shift + 0.42, 0.7), (shift + 0.75, 0.7), (shift + 0.8, 0.98), (shift + 0.4, 0.98)],
                          shade(paint, 0.6))  # fmt: skip
    return brush.sprite()


def _fence(rng: np.random.Generator, scale: float) -> Sprite:
    """A railing or fence of upright bars, which people are seen through."""
    half, tall = rng.uniform(0.8, 2.5), rng.uniform(0.6, 1.3)
    brush = Brush(half + 0.1, 0.1, tall + 0.2, scale)
    paint, thick = shade(colour(rng, 0.15), 1.0), rng.uniform(0.008, 0.025)
    for y in (0.15, tall):
        brush.capsule((-half, y), (half, y), thick, thick, paint)
    for x in np.arange(-half, half + 0.01, rng.uniform(0.12, 0.45)):
        brush.capsule((x, 0.0), (x, tall), thick * 0.7, thick * 0.7, shade(paint, 0.9))
    return brush.sprite()


_STOCK = {
    "tree": props.draw_tree, "lamp": props.draw_lamp, "sign": props.draw_pole_sign, "bollard": props.draw_bollard,
    "bin": props.draw_bin, "board": props.draw_board, "planter": props.draw_planter, "dummy": props.draw_dummy,
    "cardboard": props.draw_cardboard_man, "bicycle": _bicycle, "fence": _fence,
    "bare tree": _bare_tree,
}  # fmt: skip


def _textured(rng: np.random.Generator, scale: float) -> Sprite:
    """A post, trunk, box, heap or bush: a shape of a person's size or of any other, in one to three textures."""
    kind = rng.random()
    if kind < 0.35:  # post or trunk
        wide, tall = rng.uniform(0.06, 0.8), rng.uniform(1.2, 6.0)
    elif kind < 0.65:  # of a person's proportions
        tall = rng.uniform(0.8, 2.2)
        wide = tall * rng.uniform(0.25, 0.6)
    else:
        wide, tall = rng.uniform(0.3, 2.5), rng.uniform(0.3, 2.0)
    columns, rows = (int(np.clip(metres * scale, 3, 700)) for metres in (wide, tall))
    mask = np.zeros((64, 64), np.uint8)
    if kind < 0.35 or rng.random() < 0.3:
        lean = rng.integers(0, 14, 2)
        cv2.fillConvexPoly(mask, np.array(((lean[0], 0), (63 - lean[0], 0), (63 - lean[1], 63), (lean[1], 63))), 255)
    elif rng.random() < 0.5:
        cv2.ellipse(mask, (32, 36), (30, 34), 0, 0, 360, 255, -1)
        mask[60:] = mask[59]
    else:  # a lump: noise inside an ellipse
        y, x = np.mgrid[-1:1:64j, -1:1:64j]
        lump = 1.15 - np.hypot(x, y) + 0.9 * (fractal(rng, (64, 64), 4, 0.6) - 0.5)
        mask = np.clip((lump - 0.35) * 900, 0, 255).astype(np.uint8)
    mask = cv2.resize(mask, (columns, rows), interpolation=cv2.INTER_AREA if rows < 64 else cv2.INTER_LINEAR)
    if rows >= 64:
        mask = np.clip(mask.astype(np.int16) * 4 - 384, 0, 255).astype(np.uint8)
    rgba = np.dstack([_cover(rng, rows, columns), mask])
    rgba[..., :3] = cv2.multiply(rgba[..., :3], cv2.merge([mask] * 3), scale=1 / 255)
    return Sprite(rgba, (columns / 2, rows * 0.98))


def _cover(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """uint8 [rows, columns, 3]: one to three textures one above the other, shaded across."""
    out = np.empty((rows, columns, 3), np.uint8)
    cuts = [0, *sorted(rng.integers(0, rows, int(rng.integers(0, 3))).tolist()), rows]
    for top, bottom in itertools.pairwise(cuts):
        if bottom > top:
            texture = pick_texture(TEXTURES[rng.integers(len(TEXTURES))], rng, int(rng.integers(24, 128)))
            out[top:bottom] = cv2.resize(texture, (columns, bottom - top), interpolation=cv2.INTER_LINEAR)
    ramp = 1 - rng.uniform(0, 0.5) * np.abs(np.linspace(-1, 1, columns) - rng.uniform(-0.8, 0.8)).astype(np.float32)
    return np.clip(out * ramp[None, :, None], 0, 255).astype(np.uint8)
