"""Renders the scenes of a split in order, in one or several processes, with progress lines."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import cv2

from psdiff_jax.data.schema import image_example
from psdiff_jax.datasets.synthetic_street.street import Scene, Street
from psdiff_jax.interruption import starting_children
from psdiff_jax.progress import progress


def encode(scene: Scene) -> dict[str, Any]:
    """A scene as a record, with the image as JPEG."""
    height, width = scene.image.shape[:2]
    bgr = cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, scene.quality])
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
    count, what = street.length(split), f"synthetic_street {split}"
    if workers <= 1:
        records = (encode(street.scene(split, index)) for index in range(count))
        yield from progress(records, what, "scenes", count)
        return
    # Not fork: the caller may run JAX, whose threads do not survive one.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(street,)) as pool:
        chunk = max(1, min(32, count // (4 * workers)))
        with starting_children():
            records = pool.map(partial(_render_one, split), range(count), chunksize=chunk)
        try:
            yield from progress(records, what, "scenes", count)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_worker_street: Street | None = None


def _start_worker(street: Street) -> None:
    global _worker_street
    _worker_street = street
    cv2.setNumThreads(1)


def _render_one(split: str, index: int) -> dict[str, Any]:
    assert _worker_street is not None
    return encode(_worker_street.scene(split, index))
