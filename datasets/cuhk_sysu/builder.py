"""Builder of CUHK-SYSU: `config.data.name = "cuhk_sysu"`, `config.data.root` = a folder in its format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from psdiff_jax.datasets.common.builder import FolderBuilder
from psdiff_jax.datasets.common.layout import digest
from psdiff_jax.datasets.cuhk_sysu import reader


class CuhkSysu(FolderBuilder):
    """CUHK-SYSU with its official splits, `train` (Images.mat without pool.mat), `gallery` (pool.mat) and `query`
    (TestG), and those of the galleries "50", "100", "500", "1000", "2000", "4000", "occlusion" and "low_resolution"
    whose lists are in the folder.

    Args:
      data_dir: folder for the records.
      root: folder in CUHK-SYSU's on-disk format (see `reader`).
      stored_size: see `FolderBuilder`.
    """

    description = "CUHK-SYSU: street snaps and film stills, with labelled and unlabelled people."

    def __init__(self, *, data_dir: str, root: str, stored_size: tuple[int, int] | None = None):
        super().__init__(data_dir, reader.read, root, stored_size)

    @classmethod
    def fingerprint(cls, root: str, **options: Any) -> str:
        """A digest of the contents of `root`: a copy elsewhere is the same dataset, a changed one is not."""
        del options  # fingerprinted separately
        folder = Path(root).expanduser()
        reader.check_folder(folder)
        images = [path for path in (folder / reader.IMAGE_FOLDER).iterdir() if path.is_file()]
        return digest(folder, reader.annotation_files(folder), images)
