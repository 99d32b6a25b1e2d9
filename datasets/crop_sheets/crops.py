"""Crops and cut-outs: who is on them, who is for testing, and their pixels."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import cv2
import numpy as np

from psdiff_jax.data.decoding import decode
from psdiff_jax.data.transforms import decode_image
from psdiff_jax.datasets.common.person_images import (
    PersonFiles,
    PersonImage,
    find_person_images,
    in_hash_order,
    read_bytes,
    trimmed_cutout,
)

_NAME = re.compile(r"(?:.*/)?(?P<person>[^/_.][^/_]*)_[^/]*\.(?:jpe?g|png|webp)", re.IGNORECASE)
_NEGATIVE, _WHOLE = re.compile(r"-\d+"), re.compile(r"\d{1,18}")
_GRAINS = 24  # patches of a noisy ground along its height, at most


def find_crops(path: str) -> PersonFiles:
    """The crops of each person. Raises InputError."""
    return find_person_images(path, _NAME, "crops named <person>_<anything>.jpg, .png or .webp")


def person_numbers(people: Iterable[str]) -> tuple[dict[str, int], bool]:
    """The person id of each labelled person, and whether it is another number than the name.

    Names that are numbers are kept ("0305" is 305); if one is not, or if two are the same number, all are numbered from
    0 in sorted order. A negative number, as Market-1501 names its distractors, is no identity.
    """
    labelled = sorted(person for person in people if not _NEGATIVE.fullmatch(person))
    if all(_WHOLE.fullmatch(person) for person in labelled):
        numbers = {person: int(person) for person in labelled}
        if len(set(numbers.values())) == len(numbers):
            return numbers, False
    return {person: number for number, person in enumerate(labelled)}, True


def people_for_testing(people: Iterable[str], share: float) -> set[str]:
    """The last `share` of the people in the order of a hash of the name, rounded up."""
    order = in_hash_order(people)
    return set(order[len(order) - math.ceil(share * len(order)) :])


def read_crop(path: str, crop: PersonImage) -> np.ndarray:
    """uint8 [h, w, 3] RGB; of a cut-out [h, w, 4], trimmed to the figure, RGB multiplied by alpha.

    Raises:
      InputError: naming a file that is broken or fully transparent.
    """
    data, where = read_bytes(path, crop), f"{path}: {crop.name}"
    image = decode(data, cv2.IMREAD_UNCHANGED, where)
    if image is not None and image.ndim == 3 and image.shape[2] == 4:
        return trimmed_cutout(image, where)
    if image is not None and image.ndim == 3 and image.dtype == np.uint8:
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return decode_image(data, where)  # grey or 16-bit images, and the error


def draw_crop(image: np.ndarray, size: tuple[int, int], mirrored: bool, rng: np.random.Generator) -> np.ndarray:
    """A crop or cut-out from `read_crop` as it is pasted: uint8 [h, w, 3] of `size`, a cut-out on a random ground."""
    height, width = size
    image = np.ascontiguousarray(image[:, ::-1]) if mirrored else image
    shrinks = height < image.shape[0]
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    if image.shape[2] == 3:
        return image
    figure = image.astype(np.uint16)
    ground = draw_ground(size, rng) * (255 - figure[..., 3:]) // 255
    return np.minimum(figure[..., :3] + ground, 255).astype(np.uint8)


def draw_ground(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """uint8 [h, w, 3]: one colour, a gradient between two, or patches of noise around one."""
    height, width = size
    colours = rng.uniform(0, 255, (2, 3)).astype(np.float32)
    kind = rng.integers(3)
    if kind == 0:
        ground = np.broadcast_to(colours[0], (height, width, 3))
    elif kind == 1:
        angle = rng.uniform(0, 2 * math.pi)
        y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
        along = (x * math.cos(angle) + y * math.sin(angle)) / (abs(math.cos(angle)) + abs(math.sin(angle)))
        ground = colours[0] + (colours[1] - colours[0]) * (along[..., None] + 1) / 2
    else:
        rows = int(rng.integers(2, _GRAINS + 1))
        grains = rng.normal(0, rng.uniform(10, 60), (rows, max(2, rows * width // height), 3)).astype(np.float32)
        ground = colours[0] + cv2.resize(grains, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(ground, 0, 255).astype(np.uint8)
