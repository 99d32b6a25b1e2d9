"""The pixels of a record. A builder may store images smaller than they were annotated (`stored_size`), which saves
reading; boxes, height and width are of the original all the same, and the record's `scale` says how they relate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from psdiff_jax.data.transforms import canvas, decode_image, fit_scale, resize
from psdiff_jax.errors import InputError

JPEG_QUALITY = 95


def shrink_to(image: np.ndarray, stored_size: tuple[int, int]) -> tuple[bytes, float] | None:
    """An image uint8 [h, w, 3] fitted into `stored_size` as into config.data.image_size, as JPEG with unreduced colour,
    and its scale, which is a float32 as the record holds it; None if it fits already."""
    size = image.shape[:2]
    scale = float(np.float32(fit_scale(size, canvas(size, stored_size))))
    if scale >= 1:
        return None
    flags = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    flags += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    small = cv2.cvtColor(resize(image, scale), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", small, flags)[1].tobytes(), scale


def stored_image(record: Mapping[str, Any], where: str) -> np.ndarray:
    """The image of a record as it is stored, uint8 [h, w, 3] RGB: `record["scale"]` times its original size.

    Raises:
      InputError: naming `where`: not readable, or not of the recorded size.
    """
    image = decode_image(record["image"], where)
    expected = _size(record, record["scale"])
    if image.shape[:2] != expected:
        raise InputError(
            f"{where} is {image.shape[1]} x {image.shape[0]}, recorded as {expected[1]} x {expected[0]}: delete the"
            " prepared dataset, it is then built again"
        )
    return image


def original_image(record: Mapping[str, Any], where: str) -> np.ndarray:
    """The same at its original size, to which an image that is stored smaller is enlarged."""
    image = stored_image(record, where)
    if record["scale"] == 1:
        return image
    height, width = _size(record, 1)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def _size(record: Mapping[str, Any], scale: float) -> tuple[int, int]:
    """(height, width) times a scale, rounded as `transforms.resize` rounds them."""
    return max(1, round(record["height"] * scale)), max(1, round(record["width"] * scale))
