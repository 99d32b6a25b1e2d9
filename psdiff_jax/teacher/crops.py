"""Crops of ground-truth boxes, cut out of the original images.

Legend: N crops of a split, n boxes of an image, M images, h w rows and columns of a crop.
"""

import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from psdiff_jax.data.records import Annotations, Images
from psdiff_jax.data.stored_image import original_image
from psdiff_jax.errors import InputError
from psdiff_jax.progress import progress

CROP_RULE = 1  # raise it when `crop_boxes` makes other crops: kept embeddings depend on it
INTERPOLATION = {"bicubic": cv2.INTER_CUBIC, "bilinear": cv2.INTER_LINEAR}
IN_MEMORY = 2**31  # bytes of crops; more of them go to a file that is mapped


@dataclass(frozen=True)
class CropSet:
    """The crops of all boxes of a split, image by image in the order of its annotations.

    crops: uint8 [N,h,w,3] RGB. person_ids: int64 [N], -1 unlabelled. cameras: int32 [N]. image_index: int32 [N].
    """

    crops: np.ndarray
    person_ids: np.ndarray
    cameras: np.ndarray
    image_index: np.ndarray

    def __len__(self) -> int:
        return len(self.crops)


def crop_boxes(
    image: np.ndarray, boxes: np.ndarray, size: tuple[int, int], interpolation: str = "bicubic"
) -> np.ndarray:
    """The boxes [n,4] (xyxy pixels) of `image` uint8 [H,W,3], resized to (h, w): uint8 [n,h,w,3].

    Boxes are widened to whole pixels and clipped to the image.

    Raises:
      InputError: a box outside of the image.
    """
    height, width = image.shape[:2]
    crops = np.empty((len(boxes), *size, 3), np.uint8)
    for i, (x1, y1, x2, y2) in enumerate(np.asarray(boxes, np.float64)):
        # A box such as 10.0001 is not meant to reach into the next pixel.
        left, top = max(int(np.floor(x1 + 1e-2)), 0), max(int(np.floor(y1 + 1e-2)), 0)
        right, bottom = min(int(np.ceil(x2 - 1e-2)), width), min(int(np.ceil(y2 - 1e-2)), height)
        if left >= right or top >= bottom:
            raise InputError(f"box {boxes[i].tolist()} (xyxy) has no pixel in its {width} x {height} image")
        cv2.resize(image[top:bottom, left:right], size[::-1], dst=crops[i], interpolation=INTERPOLATION[interpolation])
    return crops


def load_crops(
    dataset: Images,
    split: str,
    size: tuple[int, int],
    *,
    folder: str | Path | None = None,
    workers: int = 1,
) -> CropSet:
    """Cuts out every ground-truth box of a split (`query`: the query boxes).

    Args:
      size: (h, w). folder: where more than `IN_MEMORY` bytes of crops go as a file while they are used; without it they
        stay in memory. workers: threads that decode.
    """
    annotations = dataset.annotations(split)
    counts = np.asarray([len(boxes) for boxes in annotations.boxes], np.int64)
    crops = _allocate((int(counts.sum()), *size, 3), None if folder is None else Path(folder))
    images = cut_crops(dataset, split, 0, crops, workers)
    for _ in progress(images, f"crops of {split}:", "images", int(np.count_nonzero(counts))):
        pass
    person_ids = np.concatenate([np.zeros(0, np.int64), *annotations.person_ids])
    image_index = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return CropSet(crops, person_ids, np.asarray(annotations.cameras, np.int32)[image_index], image_index)


def row_starts(annotations: Annotations) -> np.ndarray:
    """int64 [M+1]: the boxes of image i are rows starts[i]..starts[i+1] of the split."""
    return np.concatenate([[0], np.cumsum([len(boxes) for boxes in annotations.boxes])]).astype(np.int64)


def cut_crops(
    dataset: Images,
    split: str,
    first: int,
    out: np.ndarray,
    workers: int = 1,
    interpolation: str = "bicubic",
) -> Iterator[None]:
    """Fills `out` uint8 [n,h,w,3] with boxes `first` to `first`+n of a split; yields after each image."""
    annotations, source = dataset.annotations(split), dataset.source(split)
    starts = row_starts(annotations)
    begins, ends = (np.clip(edge - first, 0, len(out)) for edge in (starts[:-1], starts[1:]))  # of an image's rows

    def cut(i: int) -> None:
        name, skip = annotations.image_names[i], first + begins[i] - starts[i]
        image = original_image(source[i], name)
        try:
            boxes = annotations.boxes[i][skip : skip + ends[i] - begins[i]]
            out[begins[i] : ends[i]] = crop_boxes(image, boxes, out.shape[1:3], interpolation)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error

    with ThreadPoolExecutor(max(workers, 1)) as pool:
        yield from pool.map(cut, np.flatnonzero(ends > begins).tolist())


def _allocate(shape: tuple[int, ...], folder: Path | None) -> np.ndarray:
    """Room for crops; for many of them a file without a name, which no other process touches and which ends with us."""
    size = int(np.prod(shape, dtype=np.int64))
    if folder is None or size <= IN_MEMORY:
        return np.empty(shape, np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(folder).free) < size:  # writing to a map of a full disk kills the program
        raise InputError(
            f"{folder}: {shape[0]} crops take {size / 1e9:.1f} GB and {free / 1e9:.1f} are free: make room, or name a"
            " folder on another disk (config.teacher.folder)"
        )
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, np.uint8, "w+", shape=shape)
