"""What hands batches out: which process gets which rows, iterators that can be resumed, and reading ahead, on grain."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from psdiff_jax.data.image_reader import Batch
from psdiff_jax.data.options import DataOptions
from psdiff_jax.errors import InputError

LATER = 10.0  # seconds that a worker goes on after SIGTERM; a pod agrees on a step in one or two


@dataclass(frozen=True)
class Processes:
    """The processes that read together: this one's `index` of `count`, and the `devices` of all of them."""

    index: int
    count: int
    devices: int

    def share(self, key: str, batch_size: int) -> int:
        """This process's images of a batch; InputError naming `key` if the devices cannot share it evenly."""
        if batch_size % self.count or batch_size % self.devices:
            raise InputError(
                f"{key} is {batch_size}, which does not divide by the {self.devices} devices of {self.count} "
                f"processes: choose a multiple of {np.lcm(self.devices, self.count)}"
            )
        return batch_size // self.count


ALONE = Processes(0, 1, 1)


class BatchIterator(Iterator[Batch]):
    """Endless training batches. `get_state()` is a small dict for JSON; `set_state` continues from there."""

    def __init__(self, open_at: Callable[[int], Any], identity: Mapping[str, Any]):
        self._open_at = open_at
        self._identity = dict(identity)
        self._step = 0
        self._iterator: Any = None

    def __next__(self) -> Batch:
        if self._iterator is None:
            self._iterator = self._open_at(self._step)
        batch = next(self._iterator)
        self._step += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """What `set_state` needs: the number of batches handed out, and what they depend on."""
        return {"step": self._step, **self._identity}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues where `state` was taken, also in the middle of an epoch.

        Raises:
          InputError: the state was taken with other settings, under which step k meant other images.
        """
        for key in dict.fromkeys([*self._identity, *state]):
            before, now = state.get(key), self._identity.get(key)
            if key != "step" and before != now:
                raise InputError(
                    f"the checkpoint's data position was saved with {key}={before}, this run has {key}="
                    f"{now}: continue with the same setting, or start in another --workdir"
                )
        self.close()
        self._step = int(state["step"])

    def close(self) -> None:
        """Stops the threads or workers that read ahead."""
        if self._iterator is not None and hasattr(self._iterator, "close"):
            self._iterator.close()
        self._iterator = None


class EvalBatches:
    """The batches of a split, iterable repeatedly. `len`: their number, equal on all processes."""

    def __init__(self, open_: Callable[[], Any], count: int):
        self._open = open_
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._open())


def reading_threads(options: DataOptions) -> int:
    """How many threads decode images: config.data.threads, or one per core."""
    return options.threads or min(16, os.cpu_count() or 1)


def _outlive_signals(*_: int) -> None:
    """In a worker: a terminal or a scheduler signals all processes, and training ends its step before its workers. It
    asks them to end by other means than SIGTERM, which Python sends to those that are left at its own end."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: threading.Timer(LATER, os._exit, (1,)).start())


def read_ahead(batches: Any, options: DataOptions) -> Any:
    """A grain iterator whose batches are made by threads of this process, or by worker processes."""
    import grain
    from absl import flags

    cv2.setNumThreads(0)  # one thread a batch: OpenCV's own would compete with grain's and XLA's
    threads = 1 if options.workers else reading_threads(options)
    read_options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)
    iterable = batches.to_iter_dataset(read_options)
    if options.workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain's workers read absl flags, even in a program without flags
        iterable = iterable.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=options.workers, per_worker_buffer_size=2),
            worker_init_fn=_outlive_signals,
        )
    return iter(iterable)
