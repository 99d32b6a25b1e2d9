"""The layout of sheets: crops side by side in rows of random height, each identity once on a sheet at most."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np

from psdiff_jax.datasets.common.person_images import PersonImage
from psdiff_jax.datasets.crop_sheets.options import SheetOptions

ASPECT_JITTER = 0.1  # of the option own_aspect

# (crop, height of the row, random generator) -> width of its box
WidthOf = Callable[[PersonImage, int, np.random.Generator], int]


class PlacedCrop(NamedTuple):
    """A crop on a sheet. box: xyxy in whole pixels, the pasted rectangle; mirrored: left and right are swapped."""

    crop: PersonImage
    box: tuple[int, int, int, int]
    mirrored: bool


def shuffled(crops: Sequence[PersonImage], options: SheetOptions, passes: int, split: int) -> list[PersonImage]:
    """The crops `passes` times, each time in another order."""
    orders = [np.random.default_rng([options.seed, split, 1, k]).permutation(len(crops)) for k in range(passes)]
    return [crops[i] for order in orders for i in order]


def lay_out(
    crops: Sequence[PersonImage],
    unlabelled: Collection[str],
    options: SheetOptions,
    width_of: WidthOf,
    rng: np.random.Generator,
) -> list[list[PlacedCrop]]:
    """As many sheets as it takes to show every crop once, in their order.

    A crop whose identity is on the sheet already waits for the next one. People in `unlabelled` are no identity.
    """
    waiting, sheets = deque(crops), []
    while waiting:
        sheets.append(_fill_sheet(waiting, unlabelled, options, width_of, rng))
    return sheets


def _fill_sheet(
    waiting: deque[PersonImage],
    unlabelled: Collection[str],
    options: SheetOptions,
    width_of: WidthOf,
    rng: np.random.Generator,
) -> list[PlacedCrop]:
    """Takes the crops of one sheet out of `waiting`."""
    placed: list[PlacedCrop] = []
    shown: set[str] = set()
    y, (lowest, highest) = 0, options.person_height
    while options.size[0] - y >= lowest:
        drawn = round(math.exp(rng.uniform(math.log(lowest), math.log(highest))))
        height = min(drawn, options.size[0] - y)  # the last row takes what is left
        x = 0
        while (place := next((k for k, crop in enumerate(waiting) if crop.person not in shown), None)) is not None:
            crop = waiting[place]
            width = width_of(crop, height, rng)
            if x + width > options.size[1]:
                break
            del waiting[place]
            if crop.person not in unlabelled:
                shown.add(crop.person)
            placed.append(PlacedCrop(crop, (x, y, x + width, y + height), bool(rng.random() < 0.5)))
            x += width
        y += height
    return placed


def drawn_width(options: SheetOptions) -> WidthOf:
    """Widths of the option person_width."""
    return lambda crop, height, rng: max(1, math.floor(height * rng.uniform(*options.person_width)))


def own_width(aspects: dict[str, float]) -> WidthOf:
    """Widths of the option own_aspect. aspects: width over height, by the name of a crop."""
    low, high = 1 - ASPECT_JITTER, 1 + ASPECT_JITTER
    return lambda crop, height, rng: max(1, math.floor(height * aspects[crop.name] * rng.uniform(low, high)))
