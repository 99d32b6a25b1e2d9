"""From the file name in a list to the image file."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from psdiff_jax.datasets.common.images import NO_IMAGE, OUTSIDE, ImageHeader, find_header
from psdiff_jax.datasets.common.records import ERROR, WARNING, RawDataset
from psdiff_jax.datasets.custom.listing import ImageEntry

ROTATED, OTHER_SIZE = "rotated image", "image size differs from the list"
_DRIVE = re.compile(r"[A-Za-z]:/")


def image_folders(root: Path, images: str = "") -> list[Path]:
    """Where images are looked for: the option `images` (in `root`, or absolute), else `root` and `root/images`."""
    return [root / Path(images).expanduser()] if images else [root, root / "images"]


def find_image(name: str, folders: list[Path], outside: bool = False) -> Path | None:
    """The file of an image, None if there is none.

    An absolute file name (of this machine or of another) that does not exist is looked for by its last parts, the
    longest match first: /data/cam1/7.jpg may be cam1/7.jpg here.

    outside: whether it may lie in none of the folders.
    """
    absolute = name.startswith("/") or _DRIVE.match(name)
    inside = any(Path(name).is_relative_to(folder.absolute()) for folder in folders)
    if absolute and (outside or inside) and Path(name).is_file():
        return Path(name)
    parts = PurePosixPath(_DRIVE.sub("", name).lstrip("/")).parts
    for start in range(len(parts) if absolute else 1):
        for folder in folders:
            path = folder.joinpath(*parts[start:])
            if path.is_file() and (outside or ".." not in parts[start:]):
                return path
    return None


def open_image(
    entry: ImageEntry, folders: list[Path], dataset: RawDataset, outside: bool = False
) -> tuple[Path, ImageHeader] | None:
    """File and header of an image; None, with an error, if it cannot be used. Notes where the list contradicts it."""
    path = find_image(entry.name, folders, outside)
    if path is None and find_image(entry.name, folders, outside=True) is not None:
        what = (
            f"{entry.name} lies outside of {', '.join(map(str, folders))}; copy it there, or allow such names with"
            " config.data.builder.outside=True"
        )
        dataset.note(ERROR, OUTSIDE, entry.where, what, entry.name)
        return None
    if path is None:
        what = f"{entry.name} is in none of {', '.join(map(str, folders))}; restore it, or name the image folder in"
        dataset.note(ERROR, NO_IMAGE, entry.where, f"{what} config.data.builder.images", entry.name)
        return None
    header = find_header(dataset, path, entry.name, "replace it")
    if header is None:
        return None
    _compare(entry, header, dataset)
    return path, header


def _compare(entry: ImageEntry, header: ImageHeader, dataset: RawDataset) -> None:
    stored, stated = header.size, entry.size
    text = f"{entry.name} is {header.width} x {header.height} as stored"
    rotated = f"rotated by its EXIF orientation {header.orientation}"
    if stated is None:
        if header.orientation != 1:
            what = f"{text} and {rotated}: boxes are read in pixels as stored; check that they fit"
            dataset.note(WARNING, ROTATED, entry.where, what, entry.name)
    elif stated == stored[::-1] != stored and header.swaps_sides:
        what = (
            f"{text}, {rotated}, and annotated as {stated[1]} x {stated[0]}: boxes are read in pixels as stored; store"
            " its pixels upright (as `mogrify -auto-orient` does)"
        )
        dataset.note(ERROR, ROTATED, entry.where, what, entry.name)
    elif stated != stored:
        what = (
            f"{text}, the list says {stated[1]} x {stated[0]}, so its boxes may be in other pixels; use the image that"
            " was annotated, or correct width and height"
        )
        dataset.note(ERROR, OTHER_SIZE, entry.where, what, entry.name)
