"""Crops of a dataset's people as a folder that `crop_sheets` reads, to train what tells people apart on sheets.

    python scripts/cut_crops.py --config configs/people_pretrain.py:mobilenet --config.data.root=TAR --out crops

Writes `<person id>_<number>.jpg` of every ground truth of the split `train`, -1 where the identity is unknown, resized
to `--size` as a teacher's crops are.
"""

import re
from pathlib import Path

import cv2
from absl import flags
from ml_collections import config_flags

from psdiff_jax.command_line import run_script
from psdiff_jax.config import Config
from psdiff_jax.data.iterators import reading_threads
from psdiff_jax.data.records import open_dataset
from psdiff_jax.errors import InputError
from psdiff_jax.files import writing
from psdiff_jax.progress import progress
from psdiff_jax.teacher.crops import CropSet, load_crops

CONFIG = config_flags.DEFINE_config_file("config", None, "the config")
OUT = flags.DEFINE_string("out", None, "folder of the crops")
SIZE = flags.DEFINE_string("size", "160x72", "height x width of a crop in pixels")
QUALITY = 95  # of the JPEG files


def main(config: Config) -> None:
    size = re.fullmatch(r"(\d+)x(\d+)", SIZE.value)
    if not size:
        raise InputError(f"--size={SIZE.value}: give HEIGHTxWIDTH in pixels")
    out = Path(str(OUT.value))
    if out.is_dir() and any(out.iterdir()):  # crops of two datasets would share their people's numbers
        raise InputError(f"--out {out} is not empty; empty it, or name another folder")
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
    run_script(main, CONFIG, OUT)
