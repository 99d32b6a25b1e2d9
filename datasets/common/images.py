"""Image files: their headers, read without decoding the pixels."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import NamedTuple

from psdiff_jax.datasets.common.records import ERROR, RawDataset

# What a folder is searched for; a list may name any file that OpenCV decodes.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
NO_IMAGE = "missing or unreadable image"
OUTSIDE = "image outside of the dataset's folder"

_ORIENTATION = 0x0112  # the EXIF tag


class ImageHeader(NamedTuple):
    """Size in pixels as stored, and the EXIF orientation, 1 (upright) to 8."""

    height: int
    width: int
    orientation: int = 1

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def swaps_sides(self) -> bool:
        """Viewers show height and width swapped."""
        return self.orientation >= 5


def climbs_out(name: str) -> bool:
    """Whether a file name leads out of the folder it is looked for in."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return ".." in parts or parts[:1] == ("/",)


def read_header(path: Path) -> ImageHeader | None:
    """The header of an image file; None if it is missing or not an image. The pixels may still be damaged."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            # Only where the header brought EXIF: PNG may keep it behind the pixels, and getexif would decode them.
            orientation = image.getexif().get(_ORIENTATION, 1) if "exif" in image.info else 1
            known = orientation if orientation in range(1, 9) else 1
            return ImageHeader(image.height, image.width, known)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # Pillow raises all of them
        return None


def find_header(dataset: RawDataset, path: Path, image: str, advice: str) -> ImageHeader | None:
    """The header of the file of `image`; None, with an error that ends with `advice`, if it cannot be read."""
    header = read_header(path)
    if header is None:
        fault = "is not a readable image" if path.is_file() else "is missing, although a list names it"
        dataset.note(ERROR, NO_IMAGE, path, f"{fault}; {advice}", image)
    return header
