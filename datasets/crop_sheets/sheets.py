"""All sheets of a folder or tar of crops.

The layout of a split is made at once; a sheet's pixels depend on the options and its number only.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from psdiff_jax.data.schema import UNLABELLED
from psdiff_jax.datasets.common.person_images import PersonImage
from psdiff_jax.datasets.common.query_sampling import add_sampled_queries
from psdiff_jax.datasets.common.records import WARNING, AnnotatedImage, RawDataset
from psdiff_jax.datasets.crop_sheets.crops import draw_crop, find_crops, people_for_testing, person_numbers, read_crop
from psdiff_jax.datasets.crop_sheets.layout import (
    ASPECT_JITTER,
    PlacedCrop,
    WidthOf,
    drawn_width,
    lay_out,
    own_width,
    shuffled,
)
from psdiff_jax.datasets.crop_sheets.options import SheetOptions
from psdiff_jax.errors import InputError
from psdiff_jax.progress import progress

SPLITS = ("train", "gallery")
GROUND = 110  # grey level where nothing lies


class Sheets:
    """The sheets of one folder and one SheetOptions.

    layouts: split -> the crops on each sheet. crops: how many different ones each split has. numbers: labelled person
    -> person id. others: files that are no crops.

    Raises:
      InputError: there are no crops, or too few people to split; a crop fits no row.
    """

    def __init__(self, root: str | os.PathLike, options: SheetOptions) -> None:
        self.path, self.options = os.path.expanduser(os.fspath(root)), options
        people, self.others = find_crops(self.path)
        self.numbers, self.renumbered = person_numbers(people)
        self.unlabelled = people.keys() - self.numbers.keys()
        test = people_for_testing(self.numbers, options.test_share)
        if len(test) == len(self.numbers):
            raise InputError(f"{self.path}: {len(test)} people are too few to split; add more or lower test_share")
        crops: dict[str, list[PersonImage]] = {split: [] for split in SPLITS}
        for person, images in sorted(people.items()):
            crops["gallery" if person in test else "train"] += images
        self.crops = {split: len(found) for split, found in crops.items()}
        width_of = self._width_of([*crops["train"], *crops["gallery"]])
        self.layouts: dict[str, list[list[PlacedCrop]]] = {}
        for number, split in enumerate(SPLITS):
            # A gallery with a crop twice would have queries whose match is the same picture.
            passes = options.repeats if split == "train" else 1
            queue = shuffled(crops[split], options, passes, number)
            rng = np.random.default_rng([options.seed, number, 0])
            self.layouts[split] = lay_out(queue, self.unlabelled, options, width_of, rng)

    def _width_of(self, crops: list[PersonImage]) -> WidthOf:
        if not self.options.own_aspect:
            return drawn_width(self.options)
        aspects, highest, room = {}, self.options.person_height[1], self.options.size[1]
        for crop in progress(crops, "crop_sheets: sizes", "crops"):
            height, width = read_crop(self.path, crop).shape[:2]
            aspects[crop.name] = width / height
            if highest * (1 + ASPECT_JITTER) * width / height > room:
                raise InputError(
                    f"{self.path}: {crop.name} is {width} x {height} pixels, too wide for a row of {highest} pixels of "
                    f"size={self.options.size}; lower person_height, raise size or set own_aspect=False"
                )
        return own_width(aspects)

    def image(self, split: str, index: int) -> np.ndarray:
        """uint8 [h, w, 3] RGB of sheet `index` of 'train' or 'gallery'. Raises InputError naming a broken crop."""
        rng = np.random.default_rng([self.options.seed, SPLITS.index(split), 2, index])
        sheet = np.full((*self.options.size, 3), GROUND, np.uint8)
        for crop, (x1, y1, x2, y2), mirrored in self.layouts[split][index]:
            sheet[y1:y2, x1:x2] = draw_crop(read_crop(self.path, crop), (y2 - y1, x2 - x1), mirrored, rng)
        return sheet

    def dataset(self) -> RawDataset:
        """The sheets with their boxes and identities, and the queries."""
        dataset = RawDataset()
        for split, images in dataset.splits.items():
            images += [self._annotated(split, index) for index in range(len(self.layouts[split]))]
        if self.renumbered:
            dataset.person_names = {number: person for person, number in self.numbers.items()}
        for name in self.others:
            what = "is not named <person>_<anything>.jpg, .png or .webp; it is not used"
            dataset.note(WARNING, "file that is no crop", f"{self.path}: {name}", what)
        add_sampled_queries(dataset, self.path, self.options.queries_per_person, 0, self.options.seed)
        return dataset

    def _annotated(self, split: str, index: int) -> AnnotatedImage:
        layout, name = self.layouts[split][index], f"{split}_{index:06d}.jpg"
        boxes = np.asarray([placed.box for placed in layout], np.float32)
        person_ids = [self.numbers.get(placed.crop.person, UNLABELLED) for placed in layout]
        return AnnotatedImage(name, Path(name), *self.options.size, boxes, np.asarray(person_ids, np.int64))
