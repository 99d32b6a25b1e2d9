"""OpenCV's decoder, for the images of datasets: what is too large is refused by its header, before it is decoded."""

from __future__ import annotations

import io
import warnings

import cv2
import numpy as np

from psdiff_jax.errors import InputError

MAX_PIXELS = 2**27  # of an image or a frame: 400 MB as RGB; more is taken for a decompression bomb

warnings.filterwarnings("ignore", r"Image size .* could be decompression bomb")  # Pillow's; the limit is MAX_PIXELS


def decode(data: bytes, flags: int, name: str) -> np.ndarray | None:
    """What `cv2.imdecode` makes of an encoded image; None where it is empty, truncated or no image.

    Raises:
      InputError: naming `name`, if it has more than `MAX_PIXELS`.
    """
    from PIL import Image  # here, for drawing scenes needs NumPy and OpenCV alone

    try:
        with Image.open(io.BytesIO(data)) as header:
            width, height = header.size
    except Image.DecompressionBombError as error:
        raise InputError(too_large(name)) from error
    except Exception:  # whatever Pillow raises on broken data, or on a format that it does not know
        width = height = 0
    check_size(width, height, name)
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:  # a size that Pillow could not read, and more than OpenCV's own limit
        return None


def check_size(width: int, height: int, name: str) -> None:
    """Raises InputError, naming `name`, for more than `MAX_PIXELS`."""
    if width * height > MAX_PIXELS:
        raise InputError(f"{name}: {width} x {height} pixels, more than {MAX_PIXELS / 1e6:.0f} million")


def too_large(name: str) -> str:
    """What is said of an image that Pillow itself refuses."""
    return f"{name}: more than {MAX_PIXELS / 1e6:.0f} million pixels"
