"""Pixels of a layout: objects pasted on the empty street, and their shadows."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from psdiff_jax.datasets.synthetic_street.camera import Camera
from psdiff_jax.datasets.synthetic_street.layout import SceneObject, overlap


def paste(image: np.ndarray, thing: SceneObject) -> None:
    """Draws an object over uint8 [h, w, 3]."""
    here, there = overlap(thing.sprite.rgba.shape, thing.corner, image.shape)
    part = thing.sprite.rgba[here].astype(np.uint16)
    under = image[there]
    under[:] = np.minimum(part[..., :3] + under * (255 - part[..., 3:]) // 255, 255)


def cast_shadows(background: np.ndarray, objects: Sequence[SceneObject], camera: Camera) -> np.ndarray:
    """The street, uint8 [h, w, 3], darkened under and beside every object."""
    height, width = background.shape[:2]
    # Shadows are soft: half the resolution is enough.
    shadow = np.zeros(((height + 1) // 2, (width + 1) // 2), np.uint8)
    for thing in objects:
        if thing.footprint is not None:  # a car has its own shadow
            continue
        x, y = thing.foot[0] / 2, thing.foot[1] / 2
        scale = camera.scale(thing.depth) / 2
        if camera.sun > 0:
            # Sheared and flattened silhouette, away from the light.
            alpha = thing.sprite.rgba[..., 3]
            lean = -0.9 * camera.light
            fx, fy = thing.sprite.foot
            matrix = np.array([[0.5, -lean * 0.5, 0], [0, 0.14, 0]], np.float64)
            matrix[0, 2] = x - 0.5 * fx + lean * 0.5 * fy
            matrix[1, 2] = y - 0.14 * fy
            cast = cv2.warpAffine(alpha, matrix, shadow.shape[::-1], flags=cv2.INTER_LINEAR)
            np.maximum(shadow, (cast * camera.sun).astype(np.uint8), out=shadow)
        blob = np.zeros_like(shadow)
        centre = (round(x * 16), round((y - 0.02 * scale) * 16))
        axes = (round(thing.spread * scale * 16), round(0.28 * thing.spread * scale * 16))
        cv2.ellipse(blob, centre, axes, 0, 0, 360, 130, -1, shift=4)
        np.maximum(shadow, blob, out=shadow)
    shadow = cv2.GaussianBlur(shadow, (0, 0), max(0.6, height / 220))
    shadow = cv2.resize(shadow, (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.multiply(background, cv2.merge([255 - shadow] * 3), scale=1 / 255)
