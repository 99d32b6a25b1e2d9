"""Augmentation of crops before they train a teacher.

Legend: B crops, h w rows and columns of a crop.
"""

from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np

from psdiff_jax.options import FRACTION, NOT_NEGATIVE

GREY = (124, 116, 104)  # ImageNet's mean colour: what padding and erasing put in


@dataclass(frozen=True)
class AugmentOptions:
    """A part of config.teacher: HHCL's transforms but for the colours, where padding is black and erasing puts in
    (152, 142, 127). 0 or False switches a part off.

    erase: a rectangle of 2% to 40% of the area, 0.3 to 3.3 times as high as wide, is greyed (Zhong et al. 2020: drawn
    again until it fits into the crop). jitter: a gain and an offset a colour channel, uniform within +-jitter (of 1 and
    of 128). HHCL pads by 10 of 256 pixels.
    """

    flip: Annotated[bool, "mirror every other crop"] = True
    pad: Annotated[float, FRACTION, "largest shift of a crop, as a fraction of its height"] = 0.04
    erase: Annotated[float, FRACTION, "probability of random erasing"] = 0.5
    jitter: Annotated[float, NOT_NEGATIVE, "strength of colour jitter"] = 0.0


def augment_crops(crops: np.ndarray, options: AugmentOptions, rng: np.random.Generator) -> np.ndarray:
    """An augmented copy of `crops` uint8 [B,h,w,3]. Consumes the same random numbers whatever the switches are."""
    count, height, width, _ = crops.shape
    flip = rng.random(count) < 0.5
    reach = round(options.pad * height)
    shift = (rng.random((count, 2)) * (2 * reach + 1)).astype(int) - reach
    erased = rng.random(count) < options.erase
    corners, sides = _rectangles(count, height, width, rng)
    gain, offset = rng.uniform(-1, 1, (2, count, 3)) * options.jitter
    out = np.empty_like(crops)
    grey = np.full(crops.shape[1:], GREY, np.uint8)  # copied from: filling with three numbers takes six times as long
    for i, crop in enumerate(crops):
        _shift(cv2.flip(crop, 1) if options.flip and flip[i] else crop, shift[i], grey, out[i])
        if options.jitter:  # on the crop's own pixels and its padding alike; saturating
            cv2.transform(out[i], np.column_stack([np.diag(1 + gain[i]), 128 * offset[i]]), dst=out[i])
        if erased[i]:
            (y, x), (h, w) = corners[i], sides[i]
            out[i, y : y + h, x : x + w] = grey[:h, :w]
    return out


def _rectangles(count: int, height: int, width: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """What erasing greys, in rows and columns: corners [B,2] and sides [B,2]; 0 x 0 where none of ten draws fits."""
    area, ratio = rng.uniform(0.02, 0.4, (10, count)) * height * width, rng.uniform(0.3, 1 / 0.3, (10, count))
    sides = np.rint(np.sqrt([area * ratio, area / ratio])).astype(int)
    fits = (sides[0] < height) & (sides[1] < width)
    sides = sides[:, fits.argmax(0), np.arange(count)].T * fits.any(0)[:, None]
    return (rng.random((count, 2)) * (np.array([height, width]) - sides + 1)).astype(int), sides


def _shift(crop: np.ndarray, shift: np.ndarray, grey: np.ndarray, out: np.ndarray) -> None:
    """Writes `crop` [h,w,3] into `out`, `shift` pixels (down, to the right) away; grey comes in at the borders."""
    (dy, dx), (height, width, _) = shift, out.shape
    if dy or dx:
        out[:] = grey
    rows, columns = slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0))
    out[rows, columns] = crop[max(-dy, 0) : height - max(dy, 0), max(-dx, 0) : width - max(dx, 0)]
