"""Images of one person each, in a folder or an uncompressed tar; the name of a file says who it shows."""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from psdiff_jax.errors import InputError

# A pixel belongs to a figure, and to its box, if its alpha is at least this (of 255).
SOLID = 96


class PersonImage(NamedTuple):
    """A file. name: in the folder or tar; person: whom it shows; offset, length: in the tar, -1 and 0 in a folder."""

    name: str
    person: str
    offset: int
    length: int


class PersonFiles(NamedTuple):
    """What a folder or tar holds: person -> images by name, and the names of the files that show no one."""

    people: dict[str, list[PersonImage]]
    others: list[str]


def find_person_images(path: str, pattern: re.Pattern, expected: str) -> PersonFiles:
    """The files of a folder, or of a tar with whatever folders in it.

    Args:
      pattern: matches the names of images, with the group `person`.
      expected: what they are, for messages ("cut-outs named ...").

    Raises:
      InputError: nothing is there, it is no tar, or no name matches.
    """
    entries: list[tuple[str, int, int]] = []
    if os.path.isdir(path):
        entries = [(name, -1, 0) for name in os.listdir(path)]
    elif os.path.isfile(path):
        try:
            with tarfile.open(path, "r:") as archive:
                entries = [(member.name, member.offset_data, member.size) for member in archive if member.isfile()]
        except tarfile.TarError as error:
            raise InputError(f"{path}: not an uncompressed tar file ({error}); it should hold {expected}") from error
    else:
        raise InputError(f"{path}: no such folder or tar file; name one that holds {expected}")
    found = PersonFiles({}, [])
    for name, offset, length in sorted(entries):
        if match := pattern.fullmatch(name):
            found.people.setdefault(match["person"], []).append(PersonImage(name, match["person"], offset, length))
        else:
            found.others.append(name)
    if not found.people:
        raise InputError(f"{path}: holds no {expected}")
    return found


def in_hash_order(people: Iterable[str]) -> list[str]:
    """Sorted by a hash of the name: shares of this order are splits that no seed changes."""
    return sorted(people, key=lambda person: (zlib.crc32(person.encode()), person))


def read_bytes(path: str, image: PersonImage) -> bytes:
    """The content of an image's file."""
    if image.offset < 0:
        with open(os.path.join(path, image.name), "rb") as file:
            return file.read()
    with open(path, "rb") as file:
        file.seek(image.offset)
        return file.read(image.length)


def digest(path: str, people: Mapping[str, Sequence[PersonImage]]) -> str:
    """Identifies the images by name and content: the same for a folder and a tar of it."""
    total = hashlib.sha256()
    for person, images in sorted(people.items()):
        for image in images:
            total.update(person.encode() + os.path.basename(image.name).encode() + read_bytes(path, image))
    return total.hexdigest()


def trimmed_cutout(bgra: np.ndarray | None, where: str) -> np.ndarray:
    """A decoded cut-out, cropped to the extent of its figure: uint8 [h, w, 4], RGB multiplied by alpha.

    Raises:
      InputError: naming `where`, for anything but uint8 [h, w, 4] (as OpenCV decodes) with a figure in it.
    """
    if bgra is None or bgra.ndim != 3 or bgra.shape[2] != 4 or bgra.dtype != np.uint8:
        raise InputError(f"{where} is not an 8-bit RGBA image")
    solid = bgra[..., 3] >= SOLID
    if not solid.any():
        raise InputError(f"{where} is fully transparent")
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    trimmed = bgra[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    rgba = trimmed[..., (2, 1, 0, 3)].astype(np.uint16)
    rgba[..., :3] = rgba[..., :3] * rgba[..., 3:] // 255
    return rgba.astype(np.uint8)
