"""Decodes photographs to find the damaged ones, also those that a decoder takes without a word.

libjpeg makes up what is missing in a JPEG file. Two things tell: the end marker is not there, or libjpeg complained of
corrupt data, which it does on stderr alone. Photographs are decoded by threads, so a complaint has no name; only where
there was one, all are decoded again one by one.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from psdiff_jax.data.transforms import decode_image
from psdiff_jax.datasets.common import checks
from psdiff_jax.datasets.common.records import ERROR, Contents, Scene
from psdiff_jax.errors import InputError

NO_END, CORRUPT, OTHER_SIZE = "photograph without its end", "corrupt photograph", "photograph of another size"
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
START_OF_SCAN, FILL = 0xDA, 0xFF
WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD8))  # TEM and restart markers stand alone (ITU-T T.81, table B.1)
# What libjpeg says of picture data that it could not use; bytes too many between segments do no harm.
COMPLAINT = re.compile(rb"(Corrupt JPEG data: (?!\d+ extraneous)[^\r\n]*|Premature end of JPEG file)")

Tell = Callable[[int, int, float], None]


def decode_all(contents: Contents, tell: Tell = lambda *_: None) -> int:
    """Decodes every photograph, adds findings, and returns how many there are.

    Args:
      tell: called after each photograph with (done, all, seconds so far).
    """
    scenes = list({scene.path: scene for scene in [*contents.train, *contents.gallery]}.values())
    with c_stderr() as said:
        faults = _decode(scenes, tell)
        whole = [scene for scene, fault in zip(scenes, faults, strict=True) if fault is None]
        corrupt = _find_corrupt(whole, said, tell) if _complaint(said, 0) else {}
    for scene, fault in zip(scenes, faults, strict=True):
        fault = fault or corrupt.get(scene.path)
        if fault:
            contents.note(ERROR, fault[0], scene.path, fault[1], scene.name)
    return len(scenes)


def photograph_fault(scene: Scene) -> tuple[str, str] | None:
    """(check, what) when a photograph does not decode to what its scene says."""
    try:
        data = scene.path.read_bytes()
        height, width = decode_image(data, scene.name).shape[:2]
    except (OSError, InputError):
        return checks.NO_PHOTOGRAPH, "cannot be decoded: truncated or broken; replace it"
    if data.startswith(JPEG_START) and not has_jpeg_end(data):
        return NO_END, "its JPEG data stop before the end of the picture and the rest is made up; replace it"
    if (height, width) != (scene.height, scene.width):
        return OTHER_SIZE, (
            f"decodes to {width} x {height} pixels, its header or annotation says"
            f" {scene.width} x {scene.height}; replace it"
        )
    return None


def has_jpeg_end(data: bytes) -> bool:
    """Whether the end marker follows the picture. The marker of a thumbnail, inside a segment before the picture, does
    not count, and bytes after the end do no harm."""
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
def c_stderr() -> Iterator[BinaryIO]:
    """A file that takes what C libraries print on stderr meanwhile. Python's own stderr goes where it went."""
    before, python = os.dup(2), sys.stderr
    with tempfile.TemporaryFile() as said, open(before, "w", buffering=1, encoding="utf-8") as terminal:
        os.dup2(said.fileno(), 2)
        try:
            if _writes_to(python, 2):
                sys.stderr = terminal
            yield said
        finally:
            os.dup2(before, 2)
            sys.stderr = python


def _decode(scenes: list[Scene], tell: Tell) -> list[tuple[str, str] | None]:
    begin, faults = time.perf_counter(), []
    with ThreadPoolExecutor() as pool:  # OpenCV lets other threads run while it decodes
        for fault in pool.map(photograph_fault, scenes):
            faults.append(fault)
            tell(len(faults), len(scenes), time.perf_counter() - begin)
    return faults


def _find_corrupt(scenes: list[Scene], said: BinaryIO, tell: Tell) -> dict:
    """Path -> (check, what) of the photographs of which libjpeg complains."""
    begin, found = time.perf_counter(), {}
    for done, scene in enumerate(scenes, start=1):
        place = os.fstat(said.fileno()).st_size
        photograph_fault(scene)
        if complaint := _complaint(said, place):
            found[scene.path] = (CORRUPT, f"{complaint}; a part of the picture is made up; replace it")
        tell(done, len(scenes), time.perf_counter() - begin)
    return found


def _complaint(said: BinaryIO, place: int) -> str:
    """libjpeg's first complaint in a file from `place` on, "" if there is none."""
    match = COMPLAINT.search(os.pread(said.fileno(), os.fstat(said.fileno()).st_size - place, place))
    return match[0].decode(errors="replace") if match else ""


def _writes_to(stream: object, number: int) -> bool:
    try:
        return stream.fileno() == number
    except (AttributeError, io.UnsupportedOperation, ValueError):
        return False
