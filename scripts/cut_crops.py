"""Crops of a dataset's people as a folder that `crop_sheets` reads, to train what tells people apart on sheets.

    python scripts/cut_crops.py --config configs/people_pretrain.py:mobilenet --config.data.root=TAR --out crops

Writes `<person id>_<number>.jpg` of every ground truth of the split `train`, -1 where the identity is unknown, resized
to `--size` as a teacher's crops are.
"""

import re
import sys
from pathlib import Path

import cv2
from absl import app, flags
from ml_collections import config_flags

from psdiff_jax.config import from_values
from psdiff_jax.data.iterators import reading_threads
from psdiff_jax.data.records import open_dataset
from psdiff_jax.errors import InputError
from psdiff_jax.files import writing
from psdiff_jax.progress import progress
from psdiff_jax.teacher.crops import CropSet, load_crops

CONFIG = config_flags.DEFINE_config_file("config", None, "the config", lock_config=True)
OUT = flags.DEFINE_string("out", None, "folder of the crops", required=True)
SIZE = flags.DEFINE_string("size", "160x72", "height x width of a crop in pixels")
QUALITY = 95  # of the JPEG files


def main(_: list[str]) -> None:
    size = re.fullmatch(r"(\d+)x(\d+)", SIZE.value)
    if not size:
        raise InputError(f"--size={SIZE.value}: give HEIGHTxWIDTH in pixels")
    config, out = from_values(CONFIG.value), Path(OUT.value)
    crops = load_crops(
        open_dataset(config.data),
        "train",
        (int(size[1]), int(size[2])),
        folder=out.parent,
        workers=reading_threads(config.data),
    )
    write_crops(crops, out)
    print(f"{len(crops)} crops: {out}")


def write_crops(crops: CropSet, out: Path) -> None:
    """Writes crops as JPEG files; InputError where that fails."""
    for number, (crop, person) in enumerate(
        zip(progress(crops.crops, "crops", "crops"), crops.person_ids, strict=True)
    ):
        _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        path = out / f"{person}_{number:06d}.jpg"
        with writing(path, "make room or name another place"):
            out.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg.tobytes())


if __name__ == "__main__":
    try:
        app.run(main)
    except InputError as error:
        sys.exit(f"error: {error}")
