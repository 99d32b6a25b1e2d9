"""CUHK03's crops as a folder that the `custom` dataset reads, with people held out to test a teacher on.

    python scripts/unpack_cuhk03.py cuhk03_128x64.tar DIR --held-out 100

The tar holds `<person>_<nn>.jpg`, 00 to 04 from one camera and 05 to 09 from the other. Each crop becomes a photograph
with one box over all of it, and DIR/annotations.csv says who it shows. All crops of the people held out are the
gallery, and the first crop from each camera of each of them is a query; everybody else is there to train on. CUHK03's
published splits are others, so numbers compare teachers with each other and not with the literature.
"""

import argparse
import csv
import re
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np

from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.reid import cross_camera_queries, hold_out

NAME = re.compile(r"(\d+)_(\d\d)\.jpg")
OF_ONE_CAMERA = 5  # crops
COLUMNS = ("image", "x", "y", "width", "height", "person_id", "split", "camera", "query")


def unpack(archive: Path, folder: Path) -> list[tuple[str, int, int, int, int]]:
    """Writes the crops into `folder`/images; (name, person, camera, height, width) of each, sorted by name.

    Raises:
      InputError: no readable tar, or a member that is no crop.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    found = []
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if not member.isfile():
                    continue
                name = Path(member.name).name
                parts, content = NAME.fullmatch(name), tar.extractfile(member).read()
                crop = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
                if parts is None or crop is None:
                    raise InputError(f"{archive}: {member.name} is no crop called <person>_<nn>.jpg; leave it out")
                (folder / "images" / name).write_bytes(content)
                found.append((name, int(parts[1]), int(int(parts[2]) >= OF_ONE_CAMERA), *crop.shape[:2]))
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"{archive}: not a readable tar of crops ({error})") from error
    if not found:
        raise InputError(f"{archive}: holds no crops")
    return sorted(found)


def lines(crops: list[tuple[str, int, int, int, int]], held_out: int, seed: int) -> list[list]:
    """The lines of annotations.csv."""
    people, cameras = (np.asarray([crop[i] for crop in crops]) for i in (1, 2))
    gallery = np.isin(people, hold_out(people, held_out, seed))
    queries = set(cross_camera_queries(np.where(gallery, people, -1), cameras).tolist())
    return [
        [name, 0, 0, width, height, person, "gallery" if gallery[i] else "train", camera, int(i in queries)]
        for i, (name, person, camera, height, width) in enumerate(crops)
    ]


def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("archive", type=Path, help="cuhk03_128x64.tar")
    parser.add_argument("folder", type=Path, help="where to write images and annotations.csv")
    parser.add_argument("--held-out", type=int, default=100, help="people to test on")
    parser.add_argument("--seed", type=int, default=0, help="which people")
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
        f"{args.folder}: {train} crops to train on, {len(listed) - train} of {args.held_out} people held out, "
        f"{queries} queries"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
