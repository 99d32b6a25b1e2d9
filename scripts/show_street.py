"""Contact sheets of synthetic street scenes, for visual inspection.

    python scripts/show_street.py --out /tmp/street --preset tiny --scenes 24
    python scripts/show_street.py --out /tmp/street --preset full --scenes 4 --source people.tar --people 8
    python scripts/show_street.py --out /tmp/street --preset varied --scenes 30 --source people.tar --drawn-share 0.5 \\
        --identities 570 120

Writes scenes.png (one column per camera, eight at most, with boxes if asked for) and people.png (one row per test
identity, with its crops from the gallery).
"""

from __future__ import annotations

import argparse
import pathlib
import sys

import cv2
import numpy as np

from psdiff_jax.data.transforms import decode_image
from psdiff_jax.datasets.synthetic_street import PRESETS, Scene, Street, StreetOptions
from psdiff_jax.datasets.synthetic_street.render import encode
from psdiff_jax.errors import InputError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder to write to")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="tiny")
    parser.add_argument("--scenes", type=int, default=24, help="scenes on the sheet")
    parser.add_argument("--people", type=int, default=12, help="test identities in people.png (0: not written)")
    parser.add_argument("--split", choices=("train", "gallery"), default="gallery")
    parser.add_argument("--source", default="drawn", help="'drawn', or a folder or tar of cut-outs")
    parser.add_argument("--drawn-share", type=float, default=0.0, help="with cut-outs: share of drawn people")
    parser.add_argument("--identities", type=int, nargs=2, metavar=("TRAIN", "TEST"), help="numbers of identities")
    parser.add_argument("--cameras", type=int, help="another number of cameras")
    parser.add_argument("--camera-seed", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--boxes", action="store_true", help="draw boxes: green with identity, grey without")
    parser.add_argument("--zoom", type=int, default=1)
    args = parser.parse_args()
    if min(args.scenes, args.zoom) < 1:
        raise InputError("--scenes and --zoom must be 1 or more")

    changes = {key: getattr(args, key) for key in ("source", "drawn_share", "camera_seed", "seed")}
    if args.cameras:
        changes["cameras"] = args.cameras
    if args.identities:
        changes["train_identities"], changes["test_identities"] = args.identities
    street = Street(StreetOptions.preset(args.preset, **changes))
    args.out.mkdir(parents=True, exist_ok=True)
    scenes = [street.scene(args.split, k) for k in range(min(args.scenes, street.length(args.split)))]
    _write(args.out / "scenes.png", scene_sheet(scenes, min(8, street.options.cameras), args.boxes), args.zoom)
    if args.people:
        _write(args.out / "people.png", people_sheet(street, args.people), args.zoom)


def scene_sheet(scenes: list[Scene], columns: int, boxes: bool) -> np.ndarray:
    """uint8 RGB [H, W, 3]: scenes in rows of `columns`."""
    images = []
    for scene in scenes:
        image = decode_image(encode(scene)["image"], scene.name).copy()  # as it is stored
        for box, person_id in zip(scene.boxes, scene.person_ids, strict=True) if boxes else ():
            x0, y0, x1, y1 = (int(v) for v in box)
            cv2.rectangle(image, (x0, y0), (x1 - 1, y1 - 1), (60, 220, 60) if person_id >= 0 else (190, 190, 190), 1)
        images.append(np.pad(image, ((0, 2), (0, 2), (0, 0)), constant_values=255))
    columns = min(columns, len(images))
    images += [np.full_like(images[0], 255)] * (-len(images) % columns)
    return np.vstack([np.hstack(images[k : k + columns]) for k in range(0, len(images), columns)])


def people_sheet(street: Street, people: int, most: int = 10) -> np.ndarray:
    """uint8 RGB [H, W, 3]: one row per test identity, its crops from the gallery side by side."""
    tall, wide = round(street.options.size[0] * 0.7), round(street.options.size[0] * 0.35)
    rows = []
    for number in range(min(people, street.options.test_identities)):
        cells = []
        for index in [k for k, shown in enumerate(street.plan) if number in shown][:most]:
            scene = street.scene("gallery", index)
            box = scene.boxes[list(scene.person_ids).index(number + street.options.train_identities)].astype(int)
            crop = scene.image[box[1] : box[3], box[0] : box[2]]
            factor = min(tall / crop.shape[0], wide / crop.shape[1])
            crop = cv2.resize(crop, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)[:tall, :wide]
            cell = np.full((tall, wide, 3), 255, np.uint8)
            cell[: crop.shape[0], : crop.shape[1]] = crop
            cells.append(cell)
        cells += [np.full((tall, wide, 3), 255, np.uint8)] * (most - len(cells))
        rows.append(np.hstack(cells))
    return np.vstack(rows)


def _write(path: pathlib.Path, image: np.ndarray, zoom: int) -> None:
    image = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST)
    cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    print(path)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
