"""Work on many images at once, in their order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def map_ahead(function: Callable[[T], R], items: Iterable[T], threads: int = 0) -> Iterator[R]:
    """`map(function, items)`, computed by threads a few items ahead: OpenCV decodes and encodes without Python's lock.

    What `function` raises comes at its item's turn; then nothing more is begun.

    Args:
      threads: 0 = one for each core, at most 16.
    """
    count = threads or min(16, os.cpu_count() or 1)
    rest = iter(items)
    pool = ThreadPoolExecutor(count)
    try:
        waiting = deque(pool.submit(function, item) for item in islice(rest, 2 * count))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(rest, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)
