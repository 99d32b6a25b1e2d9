"""Reading the files of a folder ahead of the model: images in threads, videos frame by frame."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from psdiff_jax.data.media import Media, count_frames, decode_image, read_bytes, read_frames
from psdiff_jax.errors import InputError
from psdiff_jax.inference.changes import digest_of, status_of
from psdiff_jax.inference.shards import MediaFile

T = TypeVar("T")
Prepare = Callable[[np.ndarray], Any]  # uint8 [H,W,3] RGB -> what the model takes
Todo = tuple[Media, float | None]  # a file, and the time of the last frame of a video that is in the index already


class Reading(NamedTuple):
    """An image or a frame, ready for the model; or, with image None, the end of a video.

    file: without what is found in it; None: nothing is kept. time: NaN for an image. error: why this is the end.
    """

    path: str
    file: MediaFile | None
    time: float = math.nan
    image: Any = None
    last: bool = True
    error: str = ""


def count_images(root: Path, todo: Todo, rate: float) -> int:
    """About how many images and frames are still to be read of a file."""
    media, after = todo
    if media.kind == "image":
        return 1
    return max(0, count_frames(root / media.path, rate) - math.ceil((after or 0) * rate))


def read_all(prepare: Prepare, root: Path, todo: Sequence[Todo], rate: float) -> Iterator[Callable[[], Reading]]:
    """Calls that give the readings in order; images are read in threads from the moment their call is made."""
    with ThreadPoolExecutor(max(2, min(16, os.cpu_count() or 2))) as pool:
        for media, after in todo:
            if media.kind == "image":
                yield pool.submit(_read_image, prepare, root, media).result
            else:
                for reading in _read_video(prepare, root, media, rate, after):
                    yield lambda reading=reading: reading


def _read_image(prepare: Prepare, root: Path, media: Media) -> Reading:
    path = root / media.path
    try:
        status = status_of(path)
        data = read_bytes(path)
        image = decode_image(data, str(path))
        file = MediaFile(media.path, media.kind, *status, digest_of(data), image.shape[1], image.shape[0], 0)
        return Reading(media.path, file, image=prepare(image))
    except InputError as error:
        return Reading(media.path, None, error=str(error).removeprefix(f"{path}: "))


def _read_video(prepare: Prepare, root: Path, media: Media, rate: float, after: float | None) -> Iterator[Reading]:
    path, file, time = root / media.path, None, after
    try:
        status, digest = status_of(path), digest_of(path)
        file = MediaFile(media.path, media.kind, *status, digest, 0, 0, 0, images=0) if after is not None else None
        for time, image in read_frames(path, rate, after):
            file = MediaFile(media.path, media.kind, *status, digest, image.shape[1], image.shape[0], 0, images=0)
            yield Reading(media.path, file, time, prepare(image), last=False)
        yield Reading(media.path, file, error="" if file else "a video without frames")
    except InputError as error:
        reason = str(error).removeprefix(f"{path}: ")
        if file is not None:
            reason += f"; indexed up to {time:.1f} s"
        yield Reading(media.path, None, error=reason)  # unfinished: the next update goes on, the disk may be at fault


def ahead(items: Iterator[T], depth: int) -> Iterator[T]:
    """`items`, taken by a thread that is up to `depth` of them ahead."""
    end: Any = object()
    thread = ThreadPoolExecutor(1)
    try:
        waiting = deque(thread.submit(next, items, end) for _ in range(depth))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(thread.submit(next, items, end))
            yield item
    finally:
        thread.shutdown(cancel_futures=True)
