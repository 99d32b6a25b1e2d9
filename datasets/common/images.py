"""What a photograph's header says, without decoding it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

# What a folder is searched for; whatever OpenCV decodes and a list names by its own file name is read as well.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

_ORIENTATION = 0x0112  # the EXIF tag


class ImageHeader(NamedTuple):
    """Size in pixels as stored, and how a viewer would turn them: EXIF's orientation, 1 (not at all) to 8."""

    height: int
    width: int
    orientation: int = 1

    @property
    def lies_on_its_side(self) -> bool:
        """Viewers show height and width swapped."""
        return self.orientation >= 5


def read_header(path: Path) -> ImageHeader | None:
    """The header of a photograph; None for a file that is missing or no image. Its pixels may still be broken."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            # Only where the header brought EXIF: PNG may keep it behind the pixels, and getexif would decode them.
            orientation = image.getexif().get(_ORIENTATION, 1) if "exif" in image.info else 1
            known = orientation if orientation in range(1, 9) else 1
            return ImageHeader(image.height, image.width, known)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # Pillow raises all of them
        return None
