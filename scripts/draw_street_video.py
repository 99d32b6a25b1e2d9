"""Videos of the synthetic street in MOTChallenge's layout: people walk before fixed cameras, some several times.

    python scripts/draw_street_video.py --out street_video --sequences 2 --frames 200 --rate 5

The folder is a dataset: --config.data.name=mot --config.data.root=street_video.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import cv2

from psdiff_jax.datasets.synthetic_street import PRESETS, StreetOptions
from psdiff_jax.datasets.synthetic_street.walking import street_video
from psdiff_jax.errors import InputError

SEQINFO = """[Sequence]
name={name}
imDir=img1
frameRate={rate:g}
seqLength={frames}
imWidth={width}
imHeight={height}
imExt=.jpg
"""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="tiny", help="size and camera of the frames")
    parser.add_argument("--sequences", type=int, default=2, help="cameras, each with people of its own")
    parser.add_argument("--frames", type=int, default=200, help="frames of each")
    parser.add_argument("--rate", type=float, default=5.0, help="frames a second")
    parser.add_argument("--identities", type=int, default=20, help="people of each sequence")
    parser.add_argument("--crossings", type=int, default=2, help="how often each walks by")
    parser.add_argument("--camera-seed", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    if not 0 < args.rate < math.inf:
        raise InputError(f"--rate {args.rate:g}: give a number above 0")
    for number in range(args.sequences):
        options = StreetOptions.preset(
            args.preset, test_identities=args.identities, camera_seed=args.camera_seed, seed=args.seed + number
        )
        folder = args.out / f"street-{number + 1:02d}"
        (folder / "img1").mkdir(parents=True, exist_ok=True)
        (folder / "gt").mkdir(exist_ok=True)
        rows = []
        for index, shown in enumerate(street_video(options, number, args.frames, args.rate, args.crossings), 1):
            image = cv2.cvtColor(shown.image, cv2.COLOR_RGB2BGR)
            jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
            (folder / "img1" / f"{index:06d}.jpg").write_bytes(jpeg.tobytes())
            for (x1, y1, x2, y2), person_id in zip(shown.boxes.tolist(), shown.person_ids.tolist(), strict=True):
                rows.append(f"{index},{person_id + 1},{x1 + 1:g},{y1 + 1:g},{x2 - x1:g},{y2 - y1:g},1,-1,-1,-1\n")
        (folder / "gt" / "gt.txt").write_text("".join(rows))
        height, width = options.size
        info = SEQINFO.format(name=folder.name, rate=args.rate, frames=args.frames, width=width, height=height)
        (folder / "seqinfo.ini").write_text(info)
        print(f"{folder}: {args.frames} frames, {len(rows)} boxes")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
