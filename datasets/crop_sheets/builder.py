"""Builder of sheets of person crops: `config.data.name = "crop_sheets"`, `config.data.root` = the crops."""

from __future__ import annotations

import os
from typing import Any

import cv2

from psdiff_jax.data.schema import image_example
from psdiff_jax.datasets.common.builder import Examples, RecordBuilder, query_examples
from psdiff_jax.datasets.common.person_images import digest
from psdiff_jax.datasets.common.records import AnnotatedImage
from psdiff_jax.datasets.crop_sheets.crops import find_crops
from psdiff_jax.datasets.crop_sheets.options import SheetOptions
from psdiff_jax.datasets.crop_sheets.sheets import Sheets
from psdiff_jax.progress import progress

QUALITY = 95  # of the JPEG files


class CropSheets(RecordBuilder):
    """Sheets of crops with splits `train`, `gallery` and `query`.

    Args:
      data_dir: folder for the records.
      root: a folder or uncompressed tar of crops. README.md beside this file describes it.
      options: fields of `SheetOptions`.

    `report`, `person_names`: as in `RawDataset`; the report also has the crops that each split uses and the most boxes
    of a sheet.
    """

    def __init__(self, *, data_dir: str, root: str, **options: Any):
        self.root, self.options = root, SheetOptions.read(options)
        self.description = f"Person crops on sheets: {self.options}"
        self.report: dict[str, Any] = {}
        self.person_names: dict[int, str] = {}
        super().__init__(data_dir=data_dir)

    @classmethod
    def fingerprint(cls, root: str, **options: Any) -> str:
        """A digest of the crops, wherever they are; the options are fingerprinted separately."""
        del options
        path = os.path.expanduser(os.fspath(root))
        return digest(path, find_crops(path).people)

    def splits(self) -> dict[str, Examples]:
        sheets = Sheets(self.root, self.options)
        dataset = sheets.dataset()
        self.person_names = dict(dataset.person_names)
        most = max(len(image.boxes) for image in dataset.images)
        self.report = dataset.report() | {"crops": sheets.crops, "most boxes of a sheet": most}
        splits = {split: self._examples(sheets, split, images) for split, images in dataset.splits.items()}
        return splits | ({"query": query_examples(dataset.queries)} if dataset.queries else {})

    def _examples(self, sheets: Sheets, split: str, images: list[AnnotatedImage]) -> Examples:
        for key, image in enumerate(progress(images, f"crop_sheets {split}", "sheets")):
            bgr = cv2.cvtColor(sheets.image(split, key), cv2.COLOR_RGB2BGR)
            _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
            yield (
                key,
                image_example(
                    image=jpeg.tobytes(),
                    image_name=image.name,
                    height=image.height,
                    width=image.width,
                    boxes=image.boxes,
                    person_ids=image.person_ids,
                ),
            )
