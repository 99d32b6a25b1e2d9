"""TFDS builder of sheets of person crops: `config.data.name = "crop_sheets"`, `config.data.root` = the crops."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import cv2
import tensorflow_datasets as tfds

from psdiff_jax.data.schema import image_example, record_features
from psdiff_jax.datasets.common.builder import query_examples
from psdiff_jax.datasets.common.person_images import digest
from psdiff_jax.datasets.common.records import AnnotatedImage
from psdiff_jax.datasets.crop_sheets.crops import find_crops
from psdiff_jax.datasets.crop_sheets.options import SheetOptions
from psdiff_jax.datasets.crop_sheets.sheets import Sheets
from psdiff_jax.progress import progress

QUALITY = 95  # of the JPEG files


class CropSheets(tfds.core.GeneratorBasedBuilder):
    """Sheets of crops with splits `train`, `gallery` and `query`.

    Args:
      data_dir: where TFDS keeps the prepared records.
      root: a folder or uncompressed tar of crops. README.md beside this file describes it.
      options: fields of `SheetOptions`.

    `report`, `person_names`: as in `RawDataset`; the report also has the crops that each split uses and the most boxes
    of a sheet.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, data_dir: str, root: str, **options: Any):
        self.root, self.options = root, SheetOptions.read(options)
        self.report: dict[str, Any] = {}
        self.person_names: dict[int, str] = {}
        super().__init__(data_dir=data_dir)

    @classmethod
    def fingerprint(cls, root: str, **options: Any) -> str:
        """A digest of the crops, wherever they are; the options are fingerprinted separately."""
        del options
        path = os.path.expanduser(os.fspath(root))
        return digest(path, find_crops(path).people)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Person crops on sheets: {self.options}",
            features=record_features(),
            disable_shuffling=True,  # record i of a split is sheet i
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        sheets = Sheets(self.root, self.options)
        dataset = sheets.dataset()
        self.person_names = dict(dataset.person_names)
        most = max(len(image.boxes) for image in dataset.images)
        self.report = dataset.report() | {"crops": sheets.crops, "most boxes of a sheet": most}
        splits = {split: self._generate_examples(sheets, split, images) for split, images in dataset.splits.items()}
        # TFDS writes no empty split; `PreparedDataset` reads a missing one as empty.
        return splits | ({"query": query_examples(dataset.queries)} if dataset.queries else {})

    def _generate_examples(
        self, sheets: Sheets, split: str, images: list[AnnotatedImage]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
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
