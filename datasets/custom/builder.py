"""Builder of the user's own images: `config.data.name = "custom"`, `config.data.root` = their folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from psdiff_jax.datasets.common.builder import FolderBuilder
from psdiff_jax.datasets.common.layout import digest
from psdiff_jax.datasets.common.records import RawDataset
from psdiff_jax.datasets.custom import reader
from psdiff_jax.datasets.custom.images import find_image, image_folders


class Custom(FolderBuilder):
    """Images with COCO or CSV lists. README.md beside this file describes the formats, `reader.read` the options,
    `FolderBuilder` `stored_size`."""

    description = "Annotated images of the user's own."

    def __init__(
        self,
        *,
        data_dir: str,
        root: str,
        images: str = "",
        outside: bool = False,
        query_gap: int = 25,
        queries_per_person: int = 1,
        seed: int = 0,
        stored_size: tuple[int, int] | None = None,
    ):
        super().__init__(
            data_dir,
            reader.read,
            root,
            stored_size,
            images=images,
            outside=outside,
            query_gap=query_gap,
            queries_per_person=queries_per_person,
            seed=seed,
        )

    @classmethod
    def fingerprint(cls, root: str, images: str = "", outside: bool = False, **options: Any) -> str:
        """A digest of the lists and of the images that they name; the options are fingerprinted separately."""
        del options
        folder = Path(root).expanduser()
        listing, files = reader.read_lists(folder, RawDataset())
        folders = image_folders(folder, images)
        found = {path for name in listing.images if (path := find_image(name, folders, outside)) is not None}
        inside = {path for path in found if path.is_relative_to(folder)}
        elsewhere = [path.absolute() for path in found - inside]
        return digest(folder, files, inside) + digest(Path(folders[0].anchor or "/"), [], elsewhere)
