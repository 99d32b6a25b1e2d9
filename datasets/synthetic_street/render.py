"""Renders the scenes of a split in order, in one or several processes, with progress lines."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import cv2

from psdiff_jax.data.schema import image_example
from psdiff_jax.datasets.synthetic_street.street import Scene, Street

QUALITY = 92


def encode(scene: Scene) -> dict[str, Any]:
    """A scene as a record, with the image as JPEG of quality 92."""
    height, width = scene.image.shape[:2]
    bgr = cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return image_example(
        image=jpeg.tobytes(),
        image_name=scene.name,
        height=height,
        width=width,
        boxes=scene.boxes,
        person_ids=scene.person_ids,
        camera=scene.camera,
        frame=scene.frame,
    )


def render(street: Street, split: str, workers: int = 1) -> Iterator[dict[str, Any]]:
    """The records of 'train' or 'gallery' in order; the same for any number of workers."""
    count = street.length(split)
    if workers <= 1:
        yield from _with_progress((encode(street.scene(split, index)) for index in range(count)), split, count)
        return
    # Not fork: the caller may run JAX, whose threads do not survive one.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(street,)) as pool:
        chunk = max(1, min(32, count // (4 * workers)))
        yield from _with_progress(pool.map(partial(_render_one, split), range(count), chunksize=chunk), split, count)


_worker_street: Street | None = None


def _start_worker(street: Street) -> None:
    global _worker_street
    _worker_street = street
    cv2.setNumThreads(1)


def _render_one(split: str, index: int) -> dict[str, Any]:
    assert _worker_street is not None
    return encode(_worker_street.scene(split, index))


def _with_progress(records: Iterator[dict[str, Any]], split: str, count: int) -> Iterator[dict[str, Any]]:
    """The records; a line on standard error every five seconds."""
    begin = last = time.monotonic()
    for done, record in enumerate(records, 1):
        yield record
        now = time.monotonic()
        if now - last > 5 or (done == count and now - begin > 5):
            rate, last = done / (now - begin), now
            left = round((count - done) / rate)
            line = f"synthetic_street {split}: {done}/{count} scenes, {rate:.0f}/s, {left // 60}:{left % 60:02d} left"
            print(line, file=sys.stderr, flush=True)
