"""Copy-paste (Ghiasi et al. 2021) between images of one camera: people stay at their place, where the background fits.

    alpha I_other + (1 - alpha) I,   alpha = 1 in the box, falling to 0 over a margin around it

Legend: H W pixels, n boxes, D embedding.
"""

from typing import Any

import numpy as np

MARGIN = 0.15  # of a box's width and height


def paste_people(
    sample: dict[str, Any], other: dict[str, Any], most: int, generator: np.random.Generator
) -> dict[str, Any]:
    """`sample` with up to `most` people of `other` that overlap nobody, in either image, margins included.

    Both: image uint8 [H,W,3], boxes float32 [n,4] (xyxy pixels), person_ids [n], embeddings [n,D]. Images of two sizes,
    such as those of a camera that was set up anew, are left as they are.
    """
    if sample["image"].shape != other["image"].shape:
        return sample
    image, boxes, chosen = sample["image"].copy(), sample["boxes"], []
    for i in generator.permutation(len(other["boxes"])):
        if len(chosen) == most:
            break
        region = _with_margin(other["boxes"][i], image.shape[:2])
        if _overlaps(region, boxes) or _overlaps(region, np.delete(other["boxes"], i, axis=0)):
            continue
        _blend(image, other["image"], other["boxes"][i], region)
        boxes = np.concatenate([boxes, other["boxes"][i : i + 1]])
        chosen.append(i)
    added = {name: np.concatenate([sample[name], other[name][chosen]]) for name in ("person_ids", "embeddings")}
    return {**sample, "image": image, "boxes": boxes, **added}


def _with_margin(box: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """The whole pixels [4] (x1, y1, x2, y2) that a box and its margin touch inside an image of `size` (h, w)."""
    margin = MARGIN * np.tile(box[2:] - box[:2], 2) * (-1, -1, 1, 1)
    x1, y1, x2, y2 = box + margin
    return np.array([max(np.floor(x1), 0), max(np.floor(y1), 0), min(np.ceil(x2), size[1]), min(np.ceil(y2), size[0])])


def _overlaps(region: np.ndarray, boxes: np.ndarray) -> bool:
    return bool(np.any(np.all((boxes[:, :2] < region[2:]) & (boxes[:, 2:] > region[:2]), axis=1)))


def _blend(image: np.ndarray, other: np.ndarray, box: np.ndarray, region: np.ndarray) -> None:
    """Puts a region of `other` into `image`, in place."""
    x1, y1, x2, y2 = region.astype(int)
    columns, rows = np.arange(x1, x2) + 0.5, np.arange(y1, y2) + 0.5
    width, height = np.maximum(MARGIN * (box[2:] - box[:2]), 1e-6)
    away_x = np.maximum(box[0] - columns, columns - box[2]) / width
    away_y = np.maximum(box[1] - rows, rows - box[3]) / height
    alpha = 1 - np.clip(np.maximum(away_x, away_y[:, None]), 0, 1)[..., None].astype(np.float32)
    mixed = alpha * other[y1:y2, x1:x2] + (1 - alpha) * image[y1:y2, x1:x2]
    image[y1:y2, x1:x2] = np.round(mixed)
