"""Varied appearance of the same person: mirrored, stretched, lit and coloured anew at each sight."""

from __future__ import annotations

import dataclasses
import functools

import cv2
import numpy as np

from psdiff_jax.datasets.synthetic_street.recording import smear
from psdiff_jax.datasets.synthetic_street.sources import PeopleSource
from psdiff_jax.datasets.synthetic_street.sprite import Sprite, View
from psdiff_jax.datasets.synthetic_street.textures import fractal


class VariedPeople:
    """The people of another source, each sight of them varied; who they are stays the same."""

    def __init__(self, people: PeopleSource) -> None:
        self.people = people

    def draw(self, role: str, number: int, family: str, view: View, rng: np.random.Generator) -> Sprite:
        child = role == "stranger" and rng.random() < 0.1
        scale = view.scale * (rng.uniform(0.55, 0.85) if child else float(np.exp(rng.normal(0, 0.04))))
        sprite = self.people.draw(role, number, family, dataclasses.replace(view, scale=scale), rng)
        return _recolour(_reshape(sprite, rng), rng)


def _reshape(sprite: Sprite, rng: np.random.Generator) -> Sprite:
    """Mirrored, stretched to the side, sometimes smeared by its motion."""
    rgba, (x, y) = sprite.rgba, sprite.foot
    rows, columns = rgba.shape[:2]
    if rng.random() < 0.5:
        rgba, x = rgba[:, ::-1], columns - x
    wide = max(2, round(columns * float(np.exp(rng.normal(0, 0.07)))))
    rgba = cv2.resize(rgba, (wide, rows), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.12 and rows > 40:
        pad = 6
        rgba = smear(
            cv2.copyMakeBorder(rgba, 0, 0, pad, pad, cv2.BORDER_CONSTANT), rng.uniform(2, 0.04 * rows + 2), 0.0
        )
        rgba[..., :3] = np.minimum(rgba[..., :3], rgba[..., 3:])
        return Sprite(rgba, (x * wide / columns + pad, y))
    return Sprite(rgba, (x * wide / columns, y))


def _recolour(sprite: Sprite, rng: np.random.Generator) -> Sprite:
    """Another saturation, contrast and cast, light from another side, and folds in the cloth."""
    rgba = sprite.rgba
    rows, columns = rgba.shape[:2]
    saturation = rng.uniform(0.6, 1.05)
    mixed = saturation * np.eye(3) + (1 - saturation) * np.array((0.3, 0.59, 0.11))[None]
    mixed *= np.exp(rng.normal(-0.05, 0.16)) * (1 + rng.normal(0, 0.05, 3))[:, None]
    rgb = cv2.transform(rgba[..., :3], mixed)
    light = 1 + rng.uniform(0, 0.4) * (_folds(int(rng.integers(16))) - 0.5)
    light = cv2.resize(light, (columns, rows), interpolation=cv2.INTER_LINEAR)
    light *= 1 + np.linspace(-1, 1, columns, dtype=np.float32)[None] * np.float32(rng.normal(0, 0.2))
    light *= 1 + np.linspace(1, -1, rows, dtype=np.float32)[:, None] * np.float32(rng.normal(0.05, 0.1))
    light = np.maximum(light, 0.1)
    rgb = cv2.multiply(rgb, cv2.merge([light] * 3), dtype=cv2.CV_8U)
    # Gamma of the colours as seen through the alpha: the range of a premultiplied colour ends at its alpha.
    gamma = np.exp(rng.normal(0.1, 0.15))
    table = np.clip(255 * np.linspace(0, 1, 256) ** gamma, 0, 255).astype(np.uint8)
    rgb = np.minimum(cv2.LUT(rgb, table), rgba[..., 3:])
    return Sprite(np.dstack([rgb, rgba[..., 3]]), sprite.foot)


@functools.cache
def _folds(number: int) -> np.ndarray:
    """float32 [96, 48] in 0..1: light and dark of folds and of a weave."""
    return fractal(np.random.default_rng([808, number]), (96, 48), 6, 0.8)
