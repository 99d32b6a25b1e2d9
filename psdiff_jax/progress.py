"""How far a long loop is, on standard error: a bar on a terminal, a plain line every ten seconds in a log file."""

import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10.0


def progress(
    items: Iterable[T],
    what: str,
    unit: str = "items",
    total: int | None = None,
    size: Callable[[T], int] = lambda _: 1,
    shown: bool = True,
) -> Iterator[T]:
    """Passes `items` on; a line reads "search 300/2900  29.80 queries/s  ETA 01:27".

    Args:
      what: the loop, in a word. unit: what is counted, in the plural. total: how many of them; None: len(items).
      size: how many of them an item stands for. shown: False reports nothing.
    """
    if total is None and isinstance(items, Collection):
        total = len(items)
    plain = not sys.stderr.isatty()
    every = max(SECONDS_BETWEEN_LINES, 1e-9) if plain else 0.1  # with a delay of 0 a bar reports the start, too
    with _Bar(
        desc=what,
        total=total,
        unit=f" {unit}",
        file=_Lines() if plain else sys.stderr,
        bar_format="{desc} {n_fmt}/{total_fmt}  {rate_noinv_fmt}  ETA {remaining}" if plain else None,
        mininterval=every,
        delay=every,
        miniters=1,
        smoothing=0,
        position=0,
        disable=not shown,
    ) as bar:
        for item in items:
            yield item
            if bar.n or not shown:
                bar.update(size(item))
            else:  # the first one waited for compilation: the rate, and with it the ETA, is that of the others
                bar.n = bar.initial = size(item)
                bar.start_t = time.time()


class _Bar(tqdm):
    monitor_interval = 0  # no thread of its own


class _Lines:
    """A file in which each state of a bar is a line of its own."""

    def write(self, text: str) -> None:
        if line := text.strip():
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        pass
