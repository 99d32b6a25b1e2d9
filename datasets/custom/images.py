"""From the file name that a list gives to the photograph on disk."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from psdiff_jax.datasets.common import checks
from psdiff_jax.datasets.common.images import ImageHeader, read_header
from psdiff_jax.datasets.common.records import ERROR, WARNING, Contents
from psdiff_jax.datasets.custom.listing import Photograph

_DRIVE = re.compile(r"[A-Za-z]:/")


def folders(root: Path, images: str = "") -> list[Path]:
    """Where photographs are looked for: the option `images` (in `root`, or absolute), else `root` and `root/images`."""
    return [root / Path(images).expanduser()] if images else [root, root / "images"]


def find_photograph(name: str, places: list[Path]) -> Path | None:
    """The file, None when it is nowhere.

    A file name that is absolute (of this machine or of another) and leads nowhere is looked for by its last parts,
    the most first: /data/cam1/7.jpg may be cam1/7.jpg here.
    """
    absolute = name.startswith("/") or _DRIVE.match(name)
    if absolute and Path(name).is_file():
        return Path(name)
    parts = PurePosixPath(_DRIVE.sub("", name).lstrip("/")).parts
    for start in range(len(parts) if absolute else 1):
        for place in places:
            path = place.joinpath(*parts[start:])
            if path.is_file():
                return path
    return None


def checked_header(
    photograph: Photograph, path: Path | None, places: list[Path], contents: Contents
) -> ImageHeader | None:
    """The photograph's header; None, and a finding, where it cannot be used. Notes where the list contradicts it."""
    name, where = photograph.name, photograph.where
    if path is None:
        contents.note(
            ERROR,
            checks.NO_PHOTOGRAPH,
            where,
            f"{name} is in none of {', '.join(map(str, places))};"
            " restore it, or name the photographs' folder in config.data.builder.images",
            name,
        )
        return None
    header = read_header(path)
    if header is None:
        contents.note(ERROR, checks.NO_PHOTOGRAPH, where, f"{path} is not a readable image; replace it", name)
        return None
    _compare(photograph, header, contents)
    return header


def _compare(photograph: Photograph, header: ImageHeader, contents: Contents) -> None:
    stored, stated, name = (header.height, header.width), photograph.size, photograph.name
    text = f"{name} is {header.width} x {header.height} as stored"
    if stated == stored[::-1] != stored and header.lies_on_its_side:
        contents.note(
            ERROR,
            "turned photograph",
            photograph.where,
            f"{text}, turned by its EXIF orientation"
            f" {header.orientation}, and annotated as {stated[1]} x {stated[0]}: boxes are read in pixels as"
            " stored; store its pixels upright (as `mogrify -auto-orient` does)",
            name,
        )
    elif stated is not None and stated != stored:
        contents.note(
            ERROR,
            "size differs",
            photograph.where,
            f"{text}, the list says {stated[1]} x {stated[0]}, so"
            " its boxes may be in other pixels; take the photograph that was annotated, or correct width"
            " and height",
            name,
        )
    elif header.orientation != 1 and stated is None:
        contents.note(
            WARNING,
            "turned photograph",
            photograph.where,
            f"{text} and turned by its EXIF orientation"
            f" {header.orientation}: boxes are read in pixels as stored; look whether they fit",
            name,
        )
