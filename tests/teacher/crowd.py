"""A crowd in memory and its targets, for tests and for the processes that they start and kill.

python -m tests.teacher.crowd FOLDER PAUSE; as a process of a pod: with PORT COUNT INDEX before them, on a disk without
locks, and `filled` says which process wrote what.
"""

import errno
import fcntl
import sys
import time
from pathlib import Path

import numpy as np

from psdiff_jax.data.schema import Annotations
from psdiff_jax.teacher import target_cache
from psdiff_jax.teacher.crop_teacher import CropTeacher, network_targets

from ..stored import stored

SIZE = (48, 64)
PEOPLE, DIM, BATCH = 120, 32, 16


class Crowd:
    """60 images of 0 to 4 people in noise: a PreparedDataset with a train split."""

    name = "crowd"

    def __init__(self):
        rng = np.random.default_rng(0)
        corners = [rng.uniform(0, 20, (i % 5, 2)) for i in range(60)]
        self.boxes = [np.concatenate([c, c + rng.uniform(10, 25, c.shape)], 1) for c in corners]
        images = [rng.integers(0, 256, (*SIZE, 3), np.uint8) for _ in corners]
        self.train_source = [stored(image) for image in images]

    def source(self, split):
        return self.train_source

    def annotations(self, split):
        count = len(self.boxes)
        return Annotations(
            tuple(f"{i}.png" for i in range(count)), np.full((count, 2), SIZE, np.int32), np.zeros(count, np.int32),
            np.arange(count), tuple(b.astype(np.float32) for b in self.boxes),
            tuple(np.full(len(b), -1) for b in self.boxes),
        )  # fmt: skip


def crowd_targets(folder, pause=0.0, teacher="abc", fail_at=None):
    """Targets of the crowd by a small random network; every call leaves a line in `calls`."""
    folder = Path(folder)
    weights = np.random.default_rng(1).normal(size=(16 * 8 * 3, DIM)).astype(np.float32)
    calls = []

    def embed(crops):
        calls.append(len(crops))
        if len(calls) == fail_at:
            raise KeyboardInterrupt
        with (folder / "calls").open("a") as file:
            file.write(f"{len(crops)}\n")
        time.sleep(pause)
        x = np.tanh(crops.reshape(len(crops), -1).astype(np.float32) / 255 - 0.5)
        # One by one, for on some processors a row's last bits depend on where in its batch it stands.
        x = np.stack([crop @ weights for crop in x])
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    crops = CropTeacher(embed, DIM, teacher, (16, 8), "crowd")
    return network_targets(crops, Crowd(), folder=folder, batch=BATCH).all("train")


def without_locks(*_):
    raise OSError(errno.ENOLCK, "No locks available")


def note_who_fills(folder, index):
    real = target_cache._fill

    def fill(path, *given):
        with (folder / "filled").open("a") as file:
            file.write(f"{path.name} {index}\n")
        real(path, *given)

    target_cache._fill = fill


if __name__ == "__main__":
    *place, at, rest = sys.argv[1:]
    if place:
        from ..pod import join_pod

        fcntl.flock = without_locks
        note_who_fills(Path(at), join_pod(*place))
    crowd_targets(at, float(rest))
