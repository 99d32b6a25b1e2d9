"""Renders the scenes of a split in order, on one or several processes, with a line that says how long it will take."""

from __future__ import annotations

import dataclasses
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import cv2
import numpy as np

from psdiff_jax.datasets.synthetic_street.street import Scene, Street

QUALITY = 92


@dataclasses.dataclass(frozen=True)
class EncodedScene:
    """A Scene whose image is a JPEG file of `height` x `width` pixels; the other fields as in Scene."""

    jpeg: bytes
    height: int
    width: int
    boxes: np.ndarray
    person_ids: np.ndarray
    camera: int
    frame: int
    name: str


def encode(scene: Scene) -> EncodedScene:
    """JPEG-encodes a scene at quality 92."""
    height, width = scene.image.shape[:2]
    bgr = cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return EncodedScene(
        jpeg.tobytes(), height, width, scene.boxes, scene.person_ids, scene.camera, scene.frame, scene.name
    )


def render(
    street: Street, split: str, workers: int = 1, say: Callable[[str], None] | None = None
) -> Iterator[EncodedScene]:
    """The scenes of 'train' or 'gallery' in order; the same whatever the number of workers.

    `say` receives progress lines (default: standard error), the first after some seconds.
    """
    count = street.length(split)
    if workers <= 1:
        scenes: Iterator[EncodedScene] = (encode(street.scene(split, index)) for index in range(count))
        yield from _with_progress(scenes, split, count, say or _say)
        return
    # Not fork: the caller may hold a running JAX, whose threads do not survive one.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(street,)) as pool:
        scenes = pool.map(partial(_render_one, split), range(count), chunksize=max(1, min(32, count // (4 * workers))))
        yield from _with_progress(scenes, split, count, say or _say)


_worker_street: Street | None = None


def _start_worker(street: Street) -> None:
    global _worker_street
    _worker_street = street
    cv2.setNumThreads(1)


def _render_one(split: str, index: int) -> EncodedScene:
    assert _worker_street is not None
    return encode(_worker_street.scene(split, index))


def _with_progress(
    scenes: Iterator[EncodedScene], split: str, count: int, say: Callable[[str], None]
) -> Iterator[EncodedScene]:
    begin = last = time.monotonic()
    for done, scene in enumerate(scenes, 1):
        yield scene
        now = time.monotonic()
        if now - last > 5 or (done == count and now - begin > 5):
            rate, last = done / (now - begin), now
            left = round((count - done) / rate)
            say(f"synthetic_street {split}: {done}/{count} scenes, {rate:.0f}/s, {left // 60}:{left % 60:02d} left")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
