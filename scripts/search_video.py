"""Finds a person in a video: appearances as JSON and CSV, a timeline, and an annotated copy.

    python scripts/search_video.py --run runs/mine --video clip.mp4 --query photo.jpg:120,40,180,220 --out found
    python scripts/search_video.py --video clip.mp4 --query @12.5:120,40,180,220 --out found --rate 5

A query @SECONDS:x1,y1,x2,y2 is a person in the video itself. Without --run the shipped weights are used.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from psdiff_jax import PersonSearch
from psdiff_jax.command_line import split_query
from psdiff_jax.data.media import Frame, count_frames, frame_at, read_frames, read_image
from psdiff_jax.errors import InputError
from psdiff_jax.inference.appearances import SIMILARITY, of_tracks, write_csv, write_json
from psdiff_jax.inference.tracking import TrackingOptions
from psdiff_jax.progress import progress
from psdiff_jax.report.annotated_video import annotate_video
from psdiff_jax.report.naming import clock
from psdiff_jax.report.rankings import write_picture
from psdiff_jax.report.timeline import timeline_picture

EVERY_FRAME = 1000.0  # a rate above that of any video


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", help="the --workdir of a run, or an .npz of weights")
    parser.add_argument("--reid-weights", help="a re-ID network that embeds crops of the people found (docs/search.md)")
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument(
        "--query", required=True, metavar="IMAGE|@SECONDS:x1,y1,x2,y2", help="an image or a time, and a box"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--rate", type=float, default=5.0, help="frames looked at for each second")
    parser.add_argument("--similarity", type=float, default=SIMILARITY, help="smallest similarity of a track")
    args = parser.parse_args()
    try:
        if not 0 < args.rate < math.inf:
            raise InputError(f"--rate {args.rate:g}: give a number above 0")
        ps = PersonSearch.load(args.run, reid_weights=args.reid_weights)
        search(ps, args.video, args.query, args.out, args.rate, args.similarity)
    except InputError as error:
        sys.exit(f"error: {error}")


def search(ps: PersonSearch, video: Path, query: str, out: Path, rate: float, similarity: float) -> None:
    """Writes appearances.json, appearances.csv, timeline.png and annotated.mp4."""
    image, box = read_query(query, video)
    embedding = ps.embed(image, box)
    end = 0.0

    def frames() -> Iterator[Frame]:
        nonlocal end
        for frame in progress(read_frames(video, rate), video.name, "frames", count_frames(video, rate) or None):
            end = frame.time
            yield frame

    patience = max(TrackingOptions.patience, 2 / rate)  # of two frames at least
    options = TrackingOptions(cold_steps=ps.steps, track_score=ps.threshold, patience=patience)
    found = of_tracks(video.name, ps.track(frames(), options), embedding, similarity, gap=max(3.0, 2 / rate))
    write_json(out / "appearances.json", found)
    write_csv(out / "appearances.csv", found)
    picture = timeline_picture(found, lambda _, time: frame_at(video, time), {video.name: end})
    write_picture(out / "timeline.png", picture)
    annotate_video(out / "annotated.mp4", read_frames(video, EVERY_FRAME), found)
    for rank, each in enumerate(found, 1):
        print(f"{rank:3}  {each.best.similarity:.3f}  {clock(each.start)} to {clock(each.end)}")
    print(f"{len(found)} appearances: {out}")


def read_query(query: str, video: Path) -> tuple[np.ndarray, np.ndarray]:
    """(image, box) of IMAGE:x1,y1,x2,y2 or @SECONDS:x1,y1,x2,y2."""
    given = split_query(query)
    at = re.fullmatch(r"@(\d+(?:\.\d+)?)", given[0]) if given else None
    if given is None or (given[0].startswith("@") and not at):
        raise InputError(f"--query={query}: give IMAGE:x1,y1,x2,y2 or @SECONDS:x1,y1,x2,y2")
    name, box = given
    if not at:
        return read_image(Path(name).expanduser()), box
    end = count_frames(video, 1.0)  # seconds, rounded up; 0 where the file does not say
    if end and float(at[1]) > end:
        raise InputError(f"--query={query}: {video} ends after {end} seconds")
    return frame_at(video, float(at[1])), box


if __name__ == "__main__":
    main()
