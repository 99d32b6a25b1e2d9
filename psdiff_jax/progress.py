"""How far a long loop is, on standard error."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10.0


def progress(items: Sequence[T], what: str, unit: str = "items") -> Iterator[T]:
    """Passes `items` on and prints a line such as "search 300/2900  29.8 queries/s  ETA 87 s" every ten seconds."""
    begin = shown = time.perf_counter()
    for done, item in enumerate(items):
        now = time.perf_counter()
        if done and now - shown > SECONDS_BETWEEN_LINES:
            shown, speed = now, done / (now - begin)
            line = f"{what} {done}/{len(items)}  {speed:.1f} {unit}/s  ETA {(len(items) - done) / speed:.0f} s"
            print(line, file=sys.stderr, flush=True)
        yield item
