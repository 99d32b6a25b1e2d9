"""Warm start on videos: each frame from the people of the frame before, beside frames that begin from noise.

    python scripts/benchmark_video.py --config configs/mot.py:cpu --config.data.root=DATA/mot15 --workdir runs/mot \
        --cold 1,2,4,8 --warm 1,2 --seeds 0,1,2 --out video.json

The gallery's images are taken as videos: those of a camera in the order of their frame numbers, one at a time. Prints
detection AP and recall, mAP and top-1 of each protocol, identity switches of the tracks, and the time of a frame (wall
clock, and CPU time of the process, which other work on the machine changes less). Queries are embedded by their boxes,
once for each seed, in the largest number of config.evaluate.steps, which cold frames of warm runs have, too. The search
threshold is config.evaluate.search_threshold.
"""

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import config_flags

from psdiff_jax.api import load_embedder
from psdiff_jax.command_line import run_script
from psdiff_jax.config import Config
from psdiff_jax.data.detections import Detections
from psdiff_jax.data.prepared import PreparedDataset
from psdiff_jax.data.records import open_dataset
from psdiff_jax.data.stored_image import original_image
from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.detection import detection_metrics
from psdiff_jax.evaluation.person_search import score_search
from psdiff_jax.evaluation.protocols import make_protocols
from psdiff_jax.inference.embed import Embedder, People
from psdiff_jax.inference.embed_split import embed_queries, remove_shards, shards_folder
from psdiff_jax.inference.tracking import NO_TRACK, TrackedFrame, TrackingOptions, track
from psdiff_jax.ops.boxes import box_iou

CONFIG = config_flags.DEFINE_config_file("config", None, "the run's config")
WORKDIR = flags.DEFINE_string("workdir", None, "the run's folder")
COLD = flags.DEFINE_list("cold", ["1", "2", "4", "8"], "denoising steps of the frames that begin from noise")
WARM = flags.DEFINE_list("warm", ["1", "2"], "denoising steps of the frames that begin from the frame before")
MEMORY = flags.DEFINE_float("memory", 0.0, "weight of a track's earlier embeddings (TrackingOptions.memory)")
SEEDS = flags.DEFINE_list("seeds", ["0"], "seeds of the sampler")
RATE = flags.DEFINE_float("rate", 10.0, "frame numbers a second")
OUT = flags.DEFINE_string("out", None, "a JSON file for the numbers of each seed")


class Videos:
    """The gallery of a dataset as videos: for each camera the positions of its images, in the order of the frames."""

    def __init__(self, dataset: PreparedDataset):
        self.dataset, self.annotations = dataset, dataset.annotations("gallery")
        cameras, frames = self.annotations.cameras, self.annotations.frames
        self.positions = [
            rows[np.argsort(frames[rows], kind="stable")]
            for rows in (np.flatnonzero(cameras == camera) for camera in np.unique(cameras))
        ]

    def frames(self, video: int, rate: float) -> Iterator[tuple[float, np.ndarray]]:
        """(seconds, image) of a video."""
        for position in self.positions[video]:
            name = self.annotations.image_names[position]
            image = original_image(self.dataset.gallery_source[int(position)], name)
            yield float(self.annotations.frames[position]) / rate, image


Finder = Callable[[Iterator[tuple[float, np.ndarray]]], Iterator[TrackedFrame]]


def finder(embedder: Embedder, config: Config, steps: int, warm: bool) -> Finder:
    """Tracks with `steps` a frame; cold: every frame is one that begins from noise."""
    options = TrackingOptions(memory=MEMORY.value, track_score=config.evaluate.search_threshold)
    if warm:
        options = replace(options, cold_steps=config.exported_steps, warm_steps=steps)
    else:
        options = replace(options, cold_steps=steps, cold_every=1)
    return lambda frames: track(embedder.detect, frames, options)


def measure(find: Finder, videos: Videos, query: Detections, config: Config) -> dict[str, float]:
    """The numbers of one way to go through the videos; fractions, milliseconds and counts."""
    annotations, queries = videos.annotations, videos.dataset.queries()
    found: dict[int, TrackedFrame] = {}
    wall, cpu, switches = [], 0.0, 0
    for video, positions in enumerate(videos.positions):
        clock, processor = time.perf_counter(), time.process_time()
        for position, frame in zip(positions, find(videos.frames(video, RATE.value)), strict=True):
            found[int(position)] = frame
            wall.append(time.perf_counter() - clock)
            clock = time.perf_counter()
        cpu += time.process_time() - processor
        switches += count_switches([found[int(i)] for i in positions], positions, videos)
    gallery = as_detections([found[i].people for i in range(len(annotations))], annotations.image_names)
    numbers = detection_metrics(gallery, annotations, config.evaluate.detection_threshold)
    row: dict[str, float] = {"AP": numbers["AP"], "recall": numbers["recall"]}
    protocols = make_protocols(config.evaluate.protocols, annotations, queries)
    for result in score_search(gallery, query, annotations, queries, protocols, config.evaluate.search_threshold):
        summary = result.summary()
        row |= {f"{key}, {result.name}": summary[key] for key in ("mAP", "top-1")}
    times = {"ms a frame": 1000 * statistics.median(wall), "CPU ms a frame": 1000 * cpu / len(annotations)}
    return {**row, "switches": switches, **times, "frames/s": 1 / statistics.median(wall)}


def as_detections(people: list[People], names: tuple[str, ...]) -> Detections:
    """The people of all images in one."""
    boxes, scores, embeddings = (np.concatenate(part).astype(np.float32) for part in zip(*people, strict=True))
    index = np.repeat(np.arange(len(people)), [len(each.scores) for each in people])
    return Detections(names, boxes, scores, embeddings, index.astype(np.int32))


def count_switches(frames: list[TrackedFrame], positions: np.ndarray, videos: Videos) -> int:
    """How often the track on an identity (the best IoU of 0.5 or more) is another one than the last time."""
    last: dict[int, int] = {}
    count = 0
    for frame, position in zip(frames, positions, strict=True):
        rows = np.flatnonzero(frame.tracks != NO_TRACK)
        boxes, ids = videos.annotations.boxes[position], videos.annotations.person_ids[position]
        if not (len(rows) and len(boxes)):
            continue
        iou = box_iou(boxes, frame.people.boxes[rows])
        for person, overlap in zip(ids.tolist(), iou, strict=True):
            if person >= 0 and overlap.max() >= 0.5:
                number = int(frame.tracks[rows[overlap.argmax()]])
                count += last.setdefault(person, number) != number
                last[person] = number
    return count


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: means over the seeds, ± their sample standard deviation; rates in percent."""

    def cell(key: str, values: list[float]) -> str:
        scale = 100 if key.startswith(("AP", "recall", "mAP", "top")) else 1
        mean = f"{scale * statistics.mean(values):.1f}"
        return f"{mean} ± {scale * statistics.stdev(values):.1f}" if len(values) > 1 else mean

    keys = list(next(iter(rows.values()))[0])
    lines = ["| | " + " | ".join(keys) + " |", "|---" * (len(keys) + 1) + "|"]
    for name, runs in rows.items():
        lines.append(f"| {name} | " + " | ".join(cell(key, [run[key] for run in runs]) for key in keys) + " |")
    return "\n".join(lines)


def run(config: Config) -> None:
    if not 0 < RATE.value < math.inf:
        raise InputError(f"--rate {RATE.value:g}: give a number above 0")
    workdir = Path(str(WORKDIR.value)).expanduser()
    videos = Videos(open_dataset(config.evaluation_data))
    embedder, _ = load_embedder(config, workdir)
    cold, warm = ([int(steps) for steps in given] for given in (COLD.value, WARM.value))
    ways = [(f"cold, {k}", k, False) for k in cold] + [(f"warm, {k}", k, True) for k in warm]
    rows: dict[str, list[dict[str, float]]] = {}
    for _, steps, is_warm in ways:  # compiles
        list(zip(range(3), finder(embedder, config, steps, is_warm)(videos.frames(0, RATE.value)), strict=False))
    for seed in SEEDS.value:
        seeded = embedder.with_seed(int(seed))
        query = embed_queries(seeded, videos.dataset, shards_folder(workdir))[config.exported_steps]
        for name, steps, is_warm in ways:
            find = finder(seeded, config, steps, is_warm)
            rows.setdefault(name, []).append(measure(find, videos, query, config))
            print(f"seed {seed}  {name}: " + "  ".join(f"{k} {v:.3f}" for k, v in rows[name][-1].items()), flush=True)
    remove_shards(workdir)
    print(table(rows))
    if OUT.value:
        Path(OUT.value).write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    run_script(run, CONFIG, WORKDIR)
