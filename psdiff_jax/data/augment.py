"""Random augmentation of a training sample: people pasted in, flip, scale jitter with a random crop, brightness and
contrast."""

from __future__ import annotations

from typing import Any

import numpy as np

from psdiff_jax.data import transforms
from psdiff_jax.data.copy_paste import paste_people
from psdiff_jax.data.image_reader import ImageReader
from psdiff_jax.data.options import AugmentOptions

MIN_VISIBLE = 0.25  # visible share below which a random crop drops a box from the ground truth


class Augmentation:
    """What varies in the training images at `positions` that `reader` reads."""

    def __init__(self, options: AugmentOptions, reader: ImageReader, positions: np.ndarray):
        self.options, self.reader = options, reader
        cameras = np.asarray(reader.annotations.cameras)[positions]
        self.same_camera = {int(camera): positions[cameras == camera] for camera in np.unique(cameras[cameras >= 0])}

    def __call__(self, sample: dict[str, Any], position: int, generator: np.random.Generator) -> dict[str, Any]:
        """The sample at `position`, as `augment_sample` leaves it."""
        most = min(self.options.copy_paste, self.reader.max_boxes - len(sample["boxes"]))
        camera = int(self.reader.annotations.cameras[position])
        if most > 0 and camera in self.same_camera:
            other = int(generator.choice(self.same_camera[camera]))
            sample = paste_people(sample, self.reader.sample(other), most, generator)
        return augment_sample(sample, self.options, generator)


def augment_sample(sample: dict[str, Any], augment: AugmentOptions, generator: np.random.Generator) -> dict[str, Any]:
    """A randomly augmented sample whose image fits config.data.image_size; the randomness is that of `generator`.

    `sample["fit"]` is ((H, W), the fitting scale); the image may be larger than (H, W) with scale jitter. After a crop,
    `scale` still relates sizes to the original image, but positions no longer.
    """
    sample = _rescale(sample, generator.uniform(*augment.scale_jitter), generator)
    image, boxes = sample["image"], sample["boxes"]
    if augment.flip and generator.random() < 0.5:
        image, boxes = transforms.flip_image(image), transforms.flip_boxes(boxes, image.shape[1])
    if augment.color:
        brightness, contrast = generator.uniform(1 - augment.color, 1 + augment.color, size=2)
        image = transforms.adjust_color(image, brightness, contrast)
    return {**sample, "image": image, "boxes": boxes}


def _rescale(sample: dict[str, Any], factor: float, generator: np.random.Generator) -> dict[str, Any]:
    (height, width), fit = sample["fit"]
    ratio = factor * fit / sample["scale"]
    image = transforms.resize(sample["image"], ratio)
    boxes = transforms.clip_boxes(sample["boxes"] * np.float32(ratio), image.shape[:2])
    top = int(generator.integers(0, max(0, image.shape[0] - height) + 1))
    left = int(generator.integers(0, max(0, image.shape[1] - width) + 1))
    image = image[top : top + height, left : left + width]
    boxes, visible = transforms.crop_boxes(boxes, top, left, image.shape[:2])
    keep = visible >= MIN_VISIBLE
    return {
        **sample,
        "image": image,
        "scale": factor * fit,
        "boxes": boxes[keep],
        "person_ids": sample["person_ids"][keep],
        "embeddings": sample["embeddings"][keep],
    }
