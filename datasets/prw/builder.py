"""Builder of PRW: `config.data.name = "prw"`, `config.data.root` = a folder in PRW's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from psdiff_jax.datasets.common.builder import FolderBuilder
from psdiff_jax.datasets.common.layout import digest
from psdiff_jax.datasets.prw import files, reader


class Prw(FolderBuilder):
    """PRW with its official splits: `train` (frame_train), `gallery` (frame_test), `query` (query_info).

    Args:
      data_dir: folder for the records.
      root: folder in PRW's on-disk format (see `files`).
      boxes: "clipped" keeps fractions and clips boxes to the image; "seqnet" is the rule of SeqNet's loader, which
        published numbers have: whole pixels, truncated, and not clipped.
      stored_size: see `FolderBuilder`.
    """

    description = "PRW: frames of six cameras on a campus, with labelled and unlabelled people."

    def __init__(self, *, data_dir: str, root: str, boxes: str = "clipped", stored_size: tuple[int, int] | None = None):
        super().__init__(data_dir, reader.read, root, stored_size, boxes=boxes)
        self.over_the_border = boxes == "seqnet"

    @classmethod
    def fingerprint(cls, root: str, **options: Any) -> str:
        """A digest of the contents of `root`: a copy elsewhere is the same dataset, a changed one is not."""
        del options  # fingerprinted separately
        folder = Path(root).expanduser()
        files.check_folder(folder)
        lists = [folder / name for name in files.LISTS if (folder / name).is_file()]
        images = [path for path in (folder / "frames").iterdir() if path.is_file()]
        return digest(folder, [*lists, *(folder / "annotations").glob("*.mat")], images)
