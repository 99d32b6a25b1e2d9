"""Uploaded images: refused by size before they are in memory, by kind and by pixels before they are decoded."""

from __future__ import annotations

import io
import threading
import unicodedata
from collections.abc import AsyncIterator

import numpy as np
from PIL import Image

from psdiff_jax.data.media import decode_image
from psdiff_jax.data.transforms import resize
from psdiff_jax.errors import InputError

MAX_BYTES = 50 * 10**6
MAX_PIXELS = 64 * 10**6
LONGEST_SIDE = 2048  # pixels that are kept
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "HEIF")  # no decoder that runs a program or opens other files

CONTROL = ("Cc", "Cs", "Zl", "Zp")  # kinds of characters that are in no name: controls, halves, ends of lines

Image.init()  # Image.OPEN is complete
_decoding = threading.Lock()  # one image at a time: each may take MAX_PIXELS of memory


class UploadError(InputError):
    """A refused upload; `status` is the HTTP status."""

    def __init__(self, line: str, status: int):
        super().__init__(line)
        self.status = status


def checked_name(name: str) -> str:
    """The name of an uploaded file; UploadError where it is a path."""
    shown = "".join(c for c in name if unicodedata.category(c) not in CONTROL)
    if not name.strip() or shown != name or any(c in name for c in "/\\") or name in (".", ".."):
        raise UploadError(f'"{shown[:80]}" is no name of a file: give it without a path', 400)
    return name[-120:]


async def read_limited(chunks: AsyncIterator[bytes], declared: str | None, name: str) -> bytes:
    """The body of a request, of which no more than MAX_BYTES is ever held. declared: its Content-Length header.

    Raises:
      UploadError: it is longer than MAX_BYTES, or empty.
    """
    too_long = UploadError(f"{name} is larger than {MAX_BYTES // 10**6} MB; give a smaller image", 413)
    if declared and declared.isdigit() and int(declared) > MAX_BYTES:
        raise too_long
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > MAX_BYTES:
            raise too_long
    if not body:
        raise UploadError(f"{name} is empty; choose another image", 400)
    return bytes(body)


def decode(data: bytes, name: str) -> np.ndarray:
    """An uploaded file -> uint8 [H,W,3] RGB, upright, at most LONGEST_SIDE pixels long.

    Raises:
      UploadError: it is no image of a known format, has more than MAX_PIXELS, or is damaged.
    """
    try:
        with Image.open(io.BytesIO(data), formats=[each for each in FORMATS if each in Image.OPEN]) as header:
            width, height = header.size
    except Image.DecompressionBombError as error:
        raise _too_many_pixels(name, "far too many") from error
    except Exception as error:  # whatever a reader makes of foreign data
        raise UploadError(f"{name} is not an image that can be read; give a JPEG, PNG or WebP", 415) from error
    if width * height > MAX_PIXELS:
        raise _too_many_pixels(name, f"{width} x {height}")
    with _decoding:
        try:
            image = decode_image(data, name)
        except InputError as error:
            raise UploadError(f"{error}; give another copy", 415) from error
        small = resize(image, min(1.0, LONGEST_SIDE / max(image.shape[:2])))
    return small


def encode(image: np.ndarray, quality: int = 90) -> bytes:
    """uint8 [H,W,3] RGB -> JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _too_many_pixels(name: str, found: str) -> UploadError:
    return UploadError(
        f"{name} has {found} pixels; at most {MAX_PIXELS // 10**6} million can be read, shrink it first", 413
    )
