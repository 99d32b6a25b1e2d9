"""CUHK03's crops as a folder that the `custom` dataset reads, with identities held out to test a teacher.

    python scripts/unpack_cuhk03.py cuhk03_128x64.tar DIR --held-out 100

The tar holds `<person>_<nn>.jpg`, 00 to 04 from one camera and 05 to 09 from the other. Each crop becomes an image with
one box over all of it, and DIR/annotations.csv holds its person id. The gallery is all crops of the held-out
identities; the queries are the first crop of each of them from each camera; all other identities are for training.
CUHK03's published splits differ, so the numbers compare teachers with each other and not with the literature.
"""

import argparse
import csv
import re
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np

from psdiff_jax.data.decoding import decode
from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.reid import cross_camera_queries, hold_out

NAME = re.compile(r"(\d+)_(\d\d)\.jpg")
CROPS_PER_CAMERA = 5
COLUMNS = ("image", "x", "y", "width", "height", "person_id", "split", "camera", "query")


def unpack(archive: Path, folder: Path) -> list[tuple[str, int, int, int, int]]:
    """Writes the crops into `folder`/images. Returns (name, person id, camera, height, width) of each, sorted by name.

    Raises:
      InputError: no readable tar, or a member that is no crop.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    found = []
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if not member.isfile() or (file := tar.extractfile(member)) is None:
                    continue
                name = Path(member.name).name
                parts, content = NAME.fullmatch(name), file.read()
                crop = decode(content, cv2.IMREAD_COLOR, f"{archive}: {member.name}")
                if parts is None or crop is None:
                    raise InputError(f"{archive}: {member.name} is no crop called <person>_<nn>.jpg; leave it out")
                (folder / "images" / name).write_bytes(content)
                found.append((name, int(parts[1]), int(int(parts[2]) >= CROPS_PER_CAMERA), *crop.shape[:2]))
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"{archive}: not a readable tar of crops ({error})") from error
    if not found:
        raise InputError(f"{archive}: holds no crops")
    return sorted(found)


def lines(crops: list[tuple[str, int, int, int, int]], held_out: int, seed: int) -> list[list]:
    """The lines of annotations.csv."""
    person_ids, cameras = (np.asarray([crop[i] for crop in crops]) for i in (1, 2))
    gallery = np.isin(person_ids, hold_out(person_ids, held_out, seed))
    queries = set(cross_camera_queries(np.where(gallery, person_ids, -1), cameras).tolist())
    return [
        [name, 0, 0, width, height, person_id, "gallery" if gallery[i] else "train", camera, int(i in queries)]
        for i, (name, person_id, camera, height, width) in enumerate(crops)
    ]


def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("archive", type=Path, help="cuhk03_128x64.tar")
    parser.add_argument("folder", type=Path, help="where to write images and annotations.csv")
    parser.add_argument("--held-out", type=int, default=100, help="number of identities to test on")
    parser.add_argument("--seed", type=int, default=0, help="chooses them")
    args = parser.parse_args(argv)
    try:
        listed = lines(unpack(args.archive, args.folder), args.held_out, args.seed)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    with (args.folder / "annotations.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *listed])
    train, queries = sum(line[6] == "train" for line in listed), sum(line[8] for line in listed)
    print(
        f"{args.folder}: {train} training crops, {len(listed) - train} crops of {args.held_out} held-out identities, "
        f"{queries} queries"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
