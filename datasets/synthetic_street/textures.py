"""Procedural textures of walls, floors and objects: a bank of each kind, drawn once, recoloured at each use.

Fractal noise, bricks, tiles, leaves, glass fronts and overlapping shapes are computed from a seed; nothing is read. A
texture is uint8 [SIDE, SIDE, 3] RGB and shows METRES x METRES.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np

from psdiff_jax.datasets.synthetic_street.facades import house_front

SIDE = 256  # pixels
METRES = 5.0
BANK = 24  # textures of a kind


def pick_texture(kind: str, rng: np.random.Generator, side: int = SIDE) -> np.ndarray:
    """A texture of `kind`, or a part of `side` x `side` pixels of it, mirrored at random and recoloured."""
    texture = _bank(kind, int(rng.integers(BANK)))
    y, x = rng.integers(0, SIDE - side + 1, 2)
    texture = texture[y : y + side, x : x + side]
    if rng.random() < 0.5:
        texture = texture[:, ::-1]
    mixed = np.eye(3) + rng.normal(0, 0.04, (3, 3))
    mixed *= np.exp(rng.normal(0, 0.22))
    return cv2.transform(texture, mixed)


@functools.lru_cache(maxsize=512)
def _bank(kind: str, number: int) -> np.ndarray:
    return _KINDS[kind](np.random.default_rng([606, sorted(_KINDS).index(kind), number]))


def fractal(rng: np.random.Generator, shape: tuple[int, int], first: int = 3, fall: float = 0.6) -> np.ndarray:
    """float32 [h, w] in 0..1: noise in octaves, from `first` cells along the longer side, each `fall` times weaker."""
    rows, columns = shape
    longest = max(shape)
    noise, cells, weight = np.zeros(shape, np.float32), first, 1.0
    while cells < longest:
        grid = rng.random((max(2, cells * rows // longest), max(2, cells * columns // longest)), np.float32)
        noise += weight * cv2.resize(grid, (columns, rows), interpolation=cv2.INTER_CUBIC)
        cells, weight = cells * 2, weight * fall
    low, high = float(noise.min()), float(noise.max())
    return (noise - low) / max(high - low, 1e-6)


def colour(
    rng: np.random.Generator, saturation: float = 0.15, bright: tuple[float, float] = (0.15, 0.85)
) -> np.ndarray:
    """float32 [3]: a random RGB colour, mostly grey, rather warm or cold than green or violet; some are vivid."""
    if rng.random() < saturation / 2:
        vivid = np.array([[[rng.uniform(0, 360), rng.uniform(0.3, 0.9), 255 * rng.uniform(*bright)]]], np.float32)
        return cv2.cvtColor(vivid, cv2.COLOR_HSV2RGB)[0, 0]
    warm, green = saturation * rng.normal(0.2, 1), 0.3 * saturation * rng.normal()
    grey = 255 * rng.uniform(*bright)
    return np.clip(grey * np.array((1 + warm, 1 + green, 1 - warm)), 8, 250).astype(np.float32)


def _blend(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    return a + (b - a) * share[..., None]


def _finish(texture: np.ndarray) -> np.ndarray:
    return np.clip(texture, 0, 255).astype(np.uint8)


def _stone(rng: np.random.Generator) -> np.ndarray:
    """Plaster, concrete, asphalt or gravel: two near colours mixed by noise, and grain."""
    base = colour(rng, 0.1)
    noise = fractal(rng, (SIDE, SIDE), int(rng.integers(2, 9)), rng.uniform(0.45, 1.0))
    texture = _blend(base * rng.uniform(0.7, 0.95), base * rng.uniform(1.0, 1.2), noise)
    return _finish(texture + rng.uniform(0, 12) * rng.standard_normal((SIDE, SIDE, 1), np.float32))


def _natural(rng: np.random.Generator) -> np.ndarray:
    """Fractal noise in three colours, as of soil, rock or distant ground."""
    texture = _blend(colour(rng), colour(rng), fractal(rng, (SIDE, SIDE), 2, rng.uniform(0.5, 0.95)))
    return _finish(_blend(texture, colour(rng), fractal(rng, (SIDE, SIDE), 4, 0.8) ** 2))


def _grid(rng: np.random.Generator, tall: float, wide: float, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """(tone of each cell [S, S, 1], joints between cells [S, S]) of bricks of `tall` x `wide` metres."""
    metres = np.arange(SIDE, dtype=np.float32) * (METRES / SIDE)
    down = metres[:, None] / tall
    across = metres[None] / wide + shift * (np.floor(down) % 2)
    tones = rng.normal(1, rng.uniform(0.02, 0.14), (64, 64)).astype(np.float32)
    tone = tones[np.floor(down).astype(int) % 64, np.floor(across).astype(int) % 64]
    joint = rng.uniform(0.012, 0.03)
    return tone[..., None], (down % 1 < joint / tall) | (across % 1 < joint / wide)


def _brick(rng: np.random.Generator) -> np.ndarray:
    base = np.array(((150, 78, 58), (176, 128, 92), (132, 126, 120), (196, 178, 150))[rng.integers(4)], np.float32)
    tone, joint = _grid(rng, rng.uniform(0.07, 0.3), rng.uniform(0.2, 0.7), 0.5)
    texture = base * rng.normal(1, 0.1, 3).astype(np.float32) * tone
    texture[joint] = base * rng.uniform(0.55, 1.35)
    return _finish(texture * (0.8 + 0.35 * fractal(rng, (SIDE, SIDE), 4, 0.7))[..., None])


def _tiles(rng: np.random.Generator) -> np.ndarray:
    """Paving or floor tiles, some with bands of a second colour, some like a chessboard."""
    side = rng.uniform(0.15, 1.1)
    tone, joint = _grid(rng, side, side * rng.choice((1.0, 1.0, 2.0)), rng.choice((0.0, 0.5)))
    base, second = colour(rng, 0.1), colour(rng, 0.15)
    texture = base * tone
    cells = np.floor(np.arange(SIDE) * (METRES / SIDE) / side)
    kind = rng.random()
    if kind < 0.2:
        texture[(cells[:, None] + cells[None]) % 2 == 0] = second
    elif kind < 0.45:
        texture[cells % rng.integers(3, 8) == 0] = second
    texture[joint] *= rng.uniform(0.5, 1.3)
    return _finish(texture * (0.85 + 0.25 * fractal(rng, (SIDE, SIDE), 3, 0.7))[..., None])


def _planks(rng: np.random.Generator) -> np.ndarray:
    """Boards, corrugated sheets or blinds: stripes that run up."""
    tone, joint = _grid(rng, METRES, rng.uniform(0.08, 0.6), 0.0)
    texture = colour(rng, 0.2) * tone * (0.75 + 0.4 * fractal(rng, (SIDE, SIDE), 5, 0.6))[..., None]
    texture[joint] *= 0.5
    return _finish(texture)


def _green(rng: np.random.Generator) -> np.ndarray:
    hue = np.array(((70, 104, 44), (92, 120, 60), (54, 84, 50), (120, 116, 62), (110, 88, 52))[rng.integers(5)])
    return (hue * rng.uniform(0.7, 1.3)).astype(np.float32)


def _foliage(rng: np.random.Generator) -> np.ndarray:
    """Leaves in dark clumps: coarse noise decides the light, fine noise the leaves."""
    clumps = fractal(rng, (SIDE, SIDE), int(rng.integers(3, 8)), 0.5)
    leaves = fractal(rng, (SIDE, SIDE), int(rng.integers(24, 60)), 0.9)
    light = np.clip(0.15 + 1.1 * clumps * (0.35 + leaves), 0, 1.5)
    texture = _green(rng) * 1.25 * light[..., None]
    if rng.random() < 0.25:  # blossom or fruit
        texture[leaves > 0.86] = colour(rng, 0.6, (0.5, 0.9))
    return _finish(texture)


def _grass(rng: np.random.Generator) -> np.ndarray:
    blades = cv2.resize(rng.random((SIDE // 3, SIDE), np.float32), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    patches = fractal(rng, (SIDE, SIDE), 3, 0.7)
    texture = _blend(_green(rng) * 1.1, _green(rng) * 1.35, patches) * (0.7 + 0.5 * blades)[..., None]
    if rng.random() < 0.4:  # leaves or flowers lie on it
        texture[rng.random((SIDE, SIDE)) < rng.uniform(0.002, 0.02)] = colour(rng, 0.5, (0.4, 0.9))
    return _finish(texture)


def _shapes(rng: np.random.Generator) -> np.ndarray:
    """Overlapping shapes of all sizes (dead leaves): shelves, heaps, market stalls, reflections."""
    texture = np.empty((SIDE, SIDE, 3), np.uint8)
    texture[:] = colour(rng)
    for _ in range(int(rng.integers(80, 400))):
        size = 3.0 / (0.012 + rng.random())  # a power law: few large, many small
        x, y = rng.integers(0, SIDE, 2)
        half = np.maximum(1, size * rng.uniform(0.3, 1.0, 2)).astype(int)
        paint = tuple(colour(rng, 0.25, (0.06, 0.95)).tolist())
        if rng.random() < 0.5:
            cv2.rectangle(texture, (x - half[0], y - half[1]), (x + half[0], y + half[1]), paint, -1)
        elif rng.random() < 0.85:
            cv2.ellipse(texture, (int(x), int(y)), half.tolist(), rng.uniform(0, 180), 0, 360, paint, -1, cv2.LINE_AA)
        else:
            end = (rng.integers(0, SIDE, 2)).tolist()
            cv2.line(texture, (int(x), int(y)), end, paint, int(rng.integers(1, 5)), cv2.LINE_AA)
    return _finish(texture * (0.75 + 0.4 * fractal(rng, (SIDE, SIDE), 3, 0.8))[..., None])


def _glass(rng: np.random.Generator) -> np.ndarray:
    """A glass front: dark rooms and reflections behind a grid of frames, some panes lit."""
    behind = _shapes(rng) * rng.uniform(0.15, 0.5) + colour(rng, 0.1) * rng.uniform(0.05, 0.5)
    glare = fractal(rng, (SIDE, SIDE), 2, 0.5)[..., None] * rng.uniform(10, 110)
    tall, wide = rng.uniform(0.8, 2.6), rng.uniform(0.6, 2.4)
    tone, _ = _grid(rng, tall, wide, 0.0)
    texture = behind * tone + glare
    metres = np.arange(SIDE) * (METRES / SIDE)
    frame = colour(rng, 0.1, (0.08, 0.9))
    bar = rng.uniform(0.04, 0.14)
    texture[metres % tall < bar] = frame
    texture[:, metres % wide < bar] = frame
    return _finish(texture)


def _lettering(rng: np.random.Generator) -> np.ndarray:
    """Posters and signs: panels with letters and plain pictures."""
    texture = _stone(rng)
    for _ in range(int(rng.integers(2, 9))):
        x, y = rng.integers(0, SIDE - 40, 2)
        w, h = rng.integers(25, 110, 2)
        cv2.rectangle(texture, (x, y), (x + w, y + h), colour(rng, 0.4).tolist(), -1)
        ink = colour(rng, 0.5, (0.05, 0.95)).tolist()
        for line in range(int(rng.integers(1, 5))):
            text = "".join(chr(c) for c in rng.integers(65, 91, rng.integers(3, 12)))
            size = rng.uniform(0.25, 1.1)
            cv2.putText(texture, text, (int(x), int(y + 12 + 22 * size * line)), 0, size, ink, 1 + (size > 0.6), 16)
    return texture


def _front(rng: np.random.Generator) -> np.ndarray:
    """A house front; the street level is at the lower edge."""
    front = house_front(METRES * 1.6, METRES * 1.6, SIDE / METRES / 1.6, rng)
    return cv2.resize(front, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.uint8)


_KINDS = {
    "stone": _stone, "natural": _natural, "brick": _brick, "tiles": _tiles, "planks": _planks, "foliage": _foliage,
    "grass": _grass, "shapes": _shapes, "glass": _glass, "lettering": _lettering, "front": _front,
}  # fmt: skip
