"""Decodes images to find the damaged ones, including those that a decoder accepts silently.

libjpeg fills in what is missing in a JPEG file. Two signs remain: the end marker is missing, or libjpeg warned about
corrupt data, which it does on stderr only. Images are decoded by threads, so a warning cannot be attributed to an
image; only if there was one, all are decoded again one by one.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TextIO

from psdiff_jax.data.transforms import decode_image
from psdiff_jax.datasets.common.images import NO_IMAGE
from psdiff_jax.datasets.common.records import ERROR, AnnotatedImage, RawDataset
from psdiff_jax.errors import InputError
from psdiff_jax.progress import progress

NO_END, CORRUPT, OTHER_SIZE = "truncated image", "corrupt image", "image of another size"
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
START_OF_SCAN, FILL = 0xDA, 0xFF
WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD8))  # TEM and restart markers have no length (ITU-T T.81, table B.1)
# libjpeg's warnings about image data that it could not use; extraneous bytes between segments do no harm.
WARNING_TEXT = re.compile(rb"(Corrupt JPEG data: (?!\d+ extraneous)[^\r\n]*|Premature end of JPEG file)")

Fault = tuple[str, str]  # (check, what)


def decode_all(dataset: RawDataset) -> int:
    """Decodes every image, adds findings, and returns the number of images."""
    images = list({image.path: image for image in dataset.images}.values())
    with captured_c_stderr() as stderr:
        with ThreadPoolExecutor() as pool:  # OpenCV releases the GIL while it decodes
            faults = list(progress(pool.map(image_fault, images), "decoding", "images", len(images)))
        intact = [image for image, fault in zip(images, faults, strict=True) if fault is None]
        corrupt = _find_corrupt(intact, stderr) if _jpeg_warning(stderr, 0) else {}
    for image, fault in zip(images, faults, strict=True):
        fault = fault or corrupt.get(image.path)
        if fault:
            dataset.note(ERROR, fault[0], image.path, fault[1], image.name)
    return len(images)


def image_fault(image: AnnotatedImage) -> Fault | None:
    """The fault of an image that does not decode to its recorded size."""
    try:
        data = image.path.read_bytes()
        height, width = decode_image(data, image.name).shape[:2]
    except (OSError, InputError):
        return NO_IMAGE, "cannot be decoded: truncated or broken; replace it"
    if data.startswith(JPEG_START) and not has_jpeg_end(data):
        return NO_END, "its JPEG data end before the image does, and decoders fill in the rest; replace it"
    if (height, width) != (image.height, image.width):
        stated = f"its header or annotation says {image.width} x {image.height}"
        return OTHER_SIZE, f"decodes to {width} x {height} pixels, {stated}; replace it"
    return None


def has_jpeg_end(data: bytes) -> bool:
    """Whether the end marker follows the image. The marker of a thumbnail, inside a segment before the image, does not
    count, and bytes after the end do no harm."""
    place = 2
    while place + 4 <= len(data) and data[place] == FILL:
        marker = data[place + 1]
        if marker == START_OF_SCAN:
            return data.find(JPEG_END, place) >= 0  # inside a scan 0xFF is always escaped
        if marker == FILL:
            place += 1
        else:
            place += 2 if marker in WITHOUT_LENGTH else 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return False


@contextlib.contextmanager
def captured_c_stderr() -> Iterator[BinaryIO]:
    """A file that receives what C libraries print on stderr. Python's own stderr is not redirected."""
    before, python = os.dup(2), sys.stderr
    with tempfile.TemporaryFile() as captured, open(before, "w", buffering=1, encoding="utf-8") as terminal:
        os.dup2(captured.fileno(), 2)
        try:
            if _writes_to(python, 2):
                sys.stderr = terminal
            yield captured
        finally:
            os.dup2(before, 2)
            sys.stderr = python


def _find_corrupt(images: list[AnnotatedImage], stderr: BinaryIO) -> dict[Path, Fault]:
    """Path -> fault of the images that libjpeg warns about."""
    found = {}
    for image in progress(images, "decoding again", "images"):
        start = os.fstat(stderr.fileno()).st_size
        image_fault(image)
        if warning := _jpeg_warning(stderr, start):
            found[image.path] = (CORRUPT, f"{warning}; part of the image is filled in; replace it")
    return found


def _jpeg_warning(stderr: BinaryIO, start: int) -> str:
    """libjpeg's first warning in the captured output from `start` on, "" if there is none."""
    match = WARNING_TEXT.search(os.pread(stderr.fileno(), os.fstat(stderr.fileno()).st_size - start, start))
    return match[0].decode(errors="replace") if match else ""


def _writes_to(stream: TextIO, descriptor: int) -> bool:
    try:
        return stream.fileno() == descriptor
    except (AttributeError, io.UnsupportedOperation, ValueError):
        return False
