"""Crops of people: cut out of the original photographs once, then drawn as identity-balanced, augmented batches.

Legend: N crops of a split, B crops of a batch = P people x K crops + U unlabelled, h w rows and columns of a crop.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from psdiff_jax.data.schema import Annotations
from psdiff_jax.data.transforms import decode_image
from psdiff_jax.errors import InputError

GREY = (124, 116, 104)  # ImageNet's mean colour: what padding and erasing put in
CROP_RULE = 1  # raise it when `crop_boxes` makes other crops: embeddings that are kept depend on it
IN_MEMORY = 2**31  # bytes of crops; more of them go to a file that is mapped


@dataclass(frozen=True)
class CropSet:
    """All people of a split, image by image in the order of its annotations.

    crops: uint8 [N,h,w,3] RGB. person_ids: int64 [N], -1 unlabelled. cameras: int32 [N]. image_index: int32 [N].
    """

    crops: np.ndarray
    person_ids: np.ndarray
    cameras: np.ndarray
    image_index: np.ndarray

    def __len__(self) -> int:
        return len(self.crops)


def crop_boxes(image: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The people in `boxes` [n,4] (xyxy pixels) of `image` uint8 [H,W,3], resized bicubically: uint8 [n,h,w,3].

    Boxes are widened to whole pixels and clipped to the photograph; one outside of it is an InputError.
    """
    height, width = image.shape[:2]
    crops = np.empty((len(boxes), *size, 3), np.uint8)
    for i, (x1, y1, x2, y2) in enumerate(np.asarray(boxes, np.float64)):
        # A box such as 10.0001 is not meant to reach into the next pixel.
        left, top = max(int(np.floor(x1 + 1e-2)), 0), max(int(np.floor(y1 + 1e-2)), 0)
        right, bottom = min(int(np.ceil(x2 - 1e-2)), width), min(int(np.ceil(y2 - 1e-2)), height)
        if left >= right or top >= bottom:
            raise InputError(f"box {boxes[i].tolist()} (xyxy) has no pixel in its {width} x {height} photograph")
        cv2.resize(image[top:bottom, left:right], size[::-1], dst=crops[i], interpolation=cv2.INTER_CUBIC)
    return crops


def load_crops(
    dataset: Any, split: str, size: tuple[int, int], *, folder: str | Path | None = None, workers: int = 1
) -> CropSet:
    """Cuts out every truth box of a split of a `PreparedDataset` (`query`: the query boxes).

    Args:
      size: (h, w). folder: where more than `IN_MEMORY` bytes of crops go as a file while they are used; without it they
        stay in memory.
      workers: threads that decode.
    """
    annotations = dataset.annotations(split)
    counts = np.asarray([len(boxes) for boxes in annotations.boxes], np.int64)
    shape = (int(counts.sum()), *size, 3)
    crops = _allocate(shape, None if folder is None else Path(folder))
    photographs = cut_crops(dataset, split, 0, crops, workers)
    for _ in progress(photographs, np.count_nonzero(counts), f"crops of {split}: photographs"):
        pass
    person_ids = np.concatenate([np.zeros(0, np.int64), *annotations.person_ids])
    image_index = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return CropSet(crops, person_ids, np.asarray(annotations.cameras, np.int32)[image_index], image_index)


def row_starts(annotations: Annotations) -> np.ndarray:
    """int64 [M+1]: the boxes of image i are rows starts[i]..starts[i+1] of the split."""
    return np.concatenate([[0], np.cumsum([len(boxes) for boxes in annotations.boxes])]).astype(np.int64)


def cut_crops(dataset: Any, split: str, first: int, out: np.ndarray, workers: int = 1) -> Iterator[None]:
    """Fills `out` uint8 [n,h,w,3] with truth boxes `first` to `first`+n of a split; yields after each photograph."""
    annotations, source = dataset.annotations(split), getattr(dataset, f"{split}_source")
    starts = row_starts(annotations)
    begins, ends = (np.clip(edge - first, 0, len(out)) for edge in (starts[:-1], starts[1:]))  # of a photograph's rows

    def cut(i: int) -> None:
        name, skip = annotations.image_names[i], first + begins[i] - starts[i]
        image = decode_image(source[i]["image"], name)
        try:
            boxes = annotations.boxes[i][skip : skip + ends[i] - begins[i]]
            out[begins[i] : ends[i]] = crop_boxes(image, boxes, out.shape[1:3])
        except InputError as error:
            raise InputError(f"{name}: {error}") from error

    with ThreadPoolExecutor(max(workers, 1)) as pool:
        yield from pool.map(cut, np.flatnonzero(ends > begins).tolist())


def _allocate(shape: tuple[int, ...], folder: Path | None) -> np.ndarray:
    """Room for crops; for many of them a file without a name: other processes cannot touch it, and it ends with us."""
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


def progress(items: Iterator[Any], total: int, what: str, every: float = 10.0) -> Iterator[Any]:
    """Passes `items` on and prints `what done/total` to stderr every so many seconds."""
    begin = last = time.perf_counter()
    for done, item in enumerate(items, 1):
        yield item
        now = time.perf_counter()
        if now - last >= every:
            left = (now - begin) / done * (total - done)
            print(f"{what} {done}/{total}, {left:.0f} s left", file=sys.stderr, flush=True)
            last = now


@dataclass(frozen=True)
class Augment:
    """What happens to a crop before training; 0 or False switches a part off.

    HHCL's transforms, but for the colours: there padding is black, and erasing puts in (152, 142, 127).

    Attributes:
      flip: mirror half of the crops.
      pad: share of the height by which a crop is shifted at most, either way (HHCL: 10 of 256 pixels).
      erase: probability that a rectangle of 2% to 40% of the area, 0.3 to 3.3 times as high as wide, is greyed (Zhong
        et al. 2020: drawn again until it fits into the crop).
      jitter: a gain and an offset a colour channel, uniform within +-jitter (of 1 and of 128).
    """

    flip: bool = True
    pad: float = 0.04
    erase: float = 0.5
    jitter: float = 0.0


def augment_crops(crops: np.ndarray, options: Augment, rng: np.random.Generator) -> np.ndarray:
    """An augmented copy of `crops` uint8 [B,h,w,3]. Consumes the same random numbers whatever the switches are."""
    count, height, width, _ = crops.shape
    flip = rng.random(count) < 0.5
    reach = round(options.pad * height)
    shift = (rng.random((count, 2)) * (2 * reach + 1)).astype(int) - reach
    erased = rng.random(count) < options.erase
    # Area and side ratio of the rectangle to erase, ten times over: the first that fits; and where it lies.
    area, ratio = rng.uniform(0.02, 0.4, (10, count)) * height * width, rng.uniform(0.3, 1 / 0.3, (10, count))
    sides = np.rint(np.sqrt([area * ratio, area / ratio])).astype(int)
    fits = (sides[0] < height) & (sides[1] < width)
    sides = sides[:, fits.argmax(0), np.arange(count)].T
    erased &= fits.any(0)
    place = rng.random((count, 2))
    gain, offset = rng.uniform(-1, 1, (2, count, 3)) * options.jitter
    out = np.empty_like(crops)
    grey = np.full(crops.shape[1:], GREY, np.uint8)  # copied from: filling with three numbers takes six times as long
    for i, crop in enumerate(crops):
        if options.flip and flip[i]:
            crop = cv2.flip(crop, 1)
        dy, dx = shift[i]
        if dy or dx:
            out[i] = grey
            out[i, max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)] = (
                crop[max(-dy, 0) : height - max(dy, 0), max(-dx, 0) : width - max(dx, 0)]
            )  # fmt: skip
        else:
            out[i] = crop
        if options.jitter:  # on the crop's own pixels and its padding alike; saturating
            cv2.transform(out[i], np.column_stack([np.diag(1 + gain[i]), 128 * offset[i]]), dst=out[i])
    for i in np.flatnonzero(erased):
        h, w = sides[i]
        y, x = int(place[i, 0] * (height - h + 1)), int(place[i, 1] * (width - w + 1))
        out[i, y : y + h, x : x + w] = grey[:h, :w]
    return out


class BalancedBatches:
    """Batches of P people x K crops, and U unlabelled crops at the end; batch `step` depends on (seed, step) alone.

    Every person comes once an epoch of `steps_per_epoch` steps (a remainder smaller than P waits for the next shuffle).
    People with fewer than K crops repeat some. Without unlabelled crops U is 0. Any crop of a person is as likely as
    any other, for not every dataset knows its cameras: HHCL's sampler takes the other K - 1 from cameras other than the
    first one's, where it can.

    Attributes:
      labels: int32 [N], 0..people-1 by rising person id, -1 unlabelled. people: number of identities.
      size: B.
    """

    def __init__(
        self, crops: CropSet, people: int, crops_per_identity: int, *, unlabelled: int = 0,
        augment: Augment | None = None, seed: int = 0,
    ):  # fmt: skip
        self.crops, self.augment, self.seed = crops, augment or Augment(), seed
        known = crops.person_ids >= 0
        ids = np.unique(crops.person_ids[known])
        if len(ids) < 2:
            raise InputError(
                "config.teacher.kind=trained needs people with identities and the train split has fewer than two:"
                " bring a teacher along (kind network, onnx or file)"
            )
        self.labels = np.where(known, np.searchsorted(ids, crops.person_ids), -1).astype(np.int32)
        self.people = len(ids)
        self.people_per_batch, self.crops_per_identity = min(people, self.people), crops_per_identity
        order = np.argsort(self.labels, kind="stable")
        self._members = np.split(order, np.searchsorted(self.labels[order], np.arange(self.people)))
        self._unlabelled, self._members = self._members[0], self._members[1:]
        self.unlabelled = unlabelled if len(self._unlabelled) else 0
        self.steps_per_epoch = self.people // self.people_per_batch
        self.size = self.people_per_batch * crops_per_identity + self.unlabelled

    def rows(self, step: int) -> np.ndarray:
        """int [B], which crops batch `step` shows: K of the first person, K of the second, ..., the unlabelled."""
        epoch, place = divmod(step, self.steps_per_epoch)
        chosen = np.random.default_rng([self.seed, 1, epoch]).permutation(self.people)
        chosen = chosen[place * self.people_per_batch :][: self.people_per_batch]
        rng = np.random.default_rng([self.seed, 2, step])
        rows = [_draw(rng, self._members[person], self.crops_per_identity) for person in chosen]
        return np.concatenate([*rows, _draw(rng, self._unlabelled, self.unlabelled)])

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """{"crops": uint8 [B,h,w,3], "labels": int32 [B]}."""
        rows = self.rows(step)
        rng = np.random.default_rng([self.seed, 3, step])
        return {"crops": augment_crops(self.crops.crops[rows], self.augment, rng), "labels": self.labels[rows]}


def _draw(rng: np.random.Generator, members: np.ndarray, count: int) -> np.ndarray:
    """`count` of `members`, each as often as any other, give or take one."""
    if count == 0:
        return np.zeros(0, np.int64)
    repeats = -(-count // len(members))
    return np.concatenate([rng.permutation(members) for _ in range(repeats)])[:count]
