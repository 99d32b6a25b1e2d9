"""The schema of a prepared dataset: what a record holds and what is read back from it. The same for every builder.

TFDS gives all splits of a dataset the same features, so images and queries share one `FeaturesDict`: a query is a
record with exactly one box, whose `image_name` refers to a gallery record and whose `image` is empty. Builders yield
`image_example(...)` in the splits `train` and `gallery` and `query_example(...)` in `query`. `image_example` checks the
boxes, so that a wrong record is refused by name when the dataset is built and not in training.

Legend: `M` records of a split, `n` boxes of one image, `Q` queries. Boxes are float32 xyxy in pixels of the original
image (edges, not pixel centres: a box over the whole image is [0, 0, width, height]).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from psdiff_jax.data.example import parse_example
from psdiff_jax.errors import InputError
from psdiff_jax.ops.boxes import is_inside

UNKNOWN = -1  # camera or frame number
UNLABELLED = -1  # person id


@dataclass(frozen=True)
class Annotations:
    """A split without its pixels, in the order of the records: `M` images, each with its own `n` boxes."""

    image_names: tuple[str, ...]
    sizes: np.ndarray  # int32 [M, 2], (height, width)
    cameras: np.ndarray  # int32 [M], -1 unknown
    frames: np.ndarray  # int64 [M], number of the frame in its video, -1 unknown
    boxes: tuple[np.ndarray, ...]  # M times float32 [n, 4] xyxy pixels
    person_ids: tuple[np.ndarray, ...]  # M times int64 [n], -1 unlabelled

    def __len__(self) -> int:
        return len(self.image_names)


@dataclass(frozen=True)
class Queries:
    """The query list, in the order of the records: each query is a box in a gallery image."""

    image_names: tuple[str, ...]
    boxes: np.ndarray  # float32 [Q, 4] xyxy pixels
    person_ids: np.ndarray  # int64 [Q]
    cameras: np.ndarray  # int32 [Q]
    frames: np.ndarray  # int64 [Q]

    def __len__(self) -> int:
        return len(self.image_names)


def images_of_identities(person_ids: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
    """Labelled person id -> int64 rising indices of the images that show it. person_ids: M times int64 [n]."""
    counts = [len(ids) for ids in person_ids]
    all_ids = np.concatenate([np.zeros(0, np.int64), *person_ids])
    pairs = np.unique(np.stack([all_ids, np.repeat(np.arange(len(counts)), counts)], 1), axis=0)
    pairs = pairs[pairs[:, 0] >= 0]
    ids, first = np.unique(pairs[:, 0], return_index=True)
    return dict(zip(ids.tolist(), np.split(pairs[:, 1], first[1:]), strict=True)) if len(ids) else {}


def record_features() -> Any:
    """The `tfds.features.FeaturesDict` of every dataset, for images and queries alike."""
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "image_name": tfds.features.Text(),
            "height": np.int32,
            "width": np.int32,
            "scale": np.float32,
            "camera": np.int32,
            "frame": np.int64,
            "boxes": tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
            "person_ids": tfds.features.Tensor(shape=(None,), dtype=np.int64),
        }
    )


def read_record(data: bytes) -> dict[str, Any]:
    """A record as it was written with `record_features`, without TFDS; the image stays encoded."""
    features: dict[str, Any] = parse_example(data)
    return {
        "image": features["image"][0],
        "image_name": features["image_name"][0].decode(),
        **{name: int(features[name][0]) for name in ("height", "width", "camera", "frame")},
        "scale": float(features["scale"][0]) if "scale" in features else 1.0,  # older records have none
        "boxes": np.asarray(features["boxes"], np.float32).reshape(-1, 4),
        "person_ids": np.asarray(features["person_ids"], np.int64),
    }


def image_example(
    *,
    image: bytes,
    image_name: str,
    height: int,
    width: int,
    boxes: np.ndarray,
    person_ids: np.ndarray,
    camera: int = UNKNOWN,
    frame: int = UNKNOWN,
    scale: float = 1.0,
    over_the_border: bool = False,
) -> dict[str, Any]:
    """One record of `train` or `gallery`.

    Args:
      image: encoded JPEG or PNG of `height` x `width` pixels, or of `scale` times as many each way.
      boxes: [n, 4] xyxy pixels, inside the image and of positive size.
      person_ids: [n], -1 unlabelled.
      over_the_border: whether boxes may reach over the right and the lower border.

    Raises:
      InputError: boxes and ids that differ in number; a box outside its image or without area.
    """
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    person_ids = np.asarray(person_ids, np.int64).reshape(-1)
    if len(boxes) != len(person_ids):
        raise InputError(f"{image_name}: {len(boxes)} boxes but {len(person_ids)} person ids; give one id a box")
    for row, box in enumerate(boxes):
        if not is_inside(box, *((np.inf, np.inf) if over_the_border else (height, width))):
            raise InputError(
                f"{image_name}: box {row + 1} {box.tolist()} (xyxy) does not lie inside its"
                f" {width} x {height} image; correct or remove it"
            )
    return _record(image, image_name, height, width, scale, camera, frame, boxes, person_ids)


def query_example(
    *, image_name: str, box: np.ndarray, person_id: int, camera: int = UNKNOWN, frame: int = UNKNOWN
) -> dict[str, Any]:
    """One record of `query`: a box [4], xyxy pixels, in the gallery image `image_name`."""
    boxes = np.asarray(box, np.float32).reshape(1, 4)
    return _record(b"", image_name, 0, 0, 1.0, camera, frame, boxes, np.asarray([person_id], np.int64))


def _record(image, image_name, height, width, scale, camera, frame, boxes, person_ids) -> dict[str, Any]:
    return {
        "image": image,
        "image_name": image_name,
        "height": int(height),
        "width": int(width),
        "scale": np.float32(scale),
        "camera": int(camera),
        "frame": int(frame),
        "boxes": boxes,
        "person_ids": person_ids,
    }
