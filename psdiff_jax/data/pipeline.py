"""The input pipeline: prepared records -> batches of uint8 images and boxes, on grain.

    for batch in train_batches(dataset, options, batch_size=8, seed=0): ...            endless, shuffled, augmented
    for batch in eval_batches(dataset, "gallery", options, batch_size=8): ...          in order, once
    for batch in stored_batches(stored, options, batch_size=8, seed=0): ...            as the first, from `data.views`

A batch is a pure function of (seed, step): grain shuffles the positions of each epoch and counts steps, and reading,
decoding and augmenting a batch depend on nothing else. P processes read the same global batches as one would, process p
the p-th block of rows. The state of an iterator is therefore its step.

A batch is a dict of NumPy arrays. Legend: `B` images of this process, `(H, W)` = config.data.image_size, `M`
room for boxes (config.data.max_boxes in training, the most boxes of an image in evaluation), `D` embedding size.

    image        uint8   [B, H, W, 3]  RGB, zeros to the right and below
    image_size   int32   [B, 2]        (h, w) of the valid area
    scale        float32 [B]           valid area / original image (`transforms.to_original` is the inverse)
    boxes        float32 [B, M, 4]     xyxy pixels of the network image; zeros where padded
    boxes_mask   bool    [B, M]
    embeddings   float32 [B, M, D]     the teacher's targets; zeros without a teacher
    person_ids   int32   [B, M]        -1 unlabelled or padded
    image_index  int32   [B]           position in the split; -1 where `valid` is false
    valid        bool    [B]           only eval_batches: false on the padding of the last batch
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from psdiff_jax.data import transforms
from psdiff_jax.data.augment import Augmentation
from psdiff_jax.data.held_out import training_positions
from psdiff_jax.data.image_reader import Batch, ImageReader, Targets
from psdiff_jax.data.options import DataOptions
from psdiff_jax.data.prepared import Dataset
from psdiff_jax.data.views import StoredViews
from psdiff_jax.errors import InputError


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
        for key, value in self._identity.items():
            if state.get(key) != value:
                raise InputError(
                    f"the checkpoint's data position was saved with {key}={state.get(key)}, this run has {key}="
                    f"{value}: continue with the same setting, or start in another --workdir"
                )
        self.close()
        self._step = int(state["step"])

    def close(self) -> None:
        """Stops the threads or workers that read ahead."""
        if self._iterator is not None and hasattr(self._iterator, "close"):
            self._iterator.close()
        self._iterator = None


class EvalBatches:
    """The batches of a split in order, iterable repeatedly. `len`: their number, equal on all processes."""

    def __init__(self, open_: Callable[[], Any], count: int):
        self._open = open_
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._open())


def train_batches(
    dataset: Dataset,
    options: DataOptions,
    *,
    batch_size: int,
    seed: int,
    targets: Targets | None = None,
    embedding_dim: int = 0,
    processes: Processes = ALONE,
) -> BatchIterator:
    """Endless shuffled batches of `batch_size` images over all processes; this one gets its block of them.

    Args:
      targets: the teacher's, which must know every box; without them `embeddings` are zeros of `embedding_dim`.

    Raises:
      InputError: naming the key, image or file that is wrong, before the first batch.
    """
    reader, kept, augment = _training_images(dataset, options, targets, embedding_dim)

    def make(step: int, rows: np.ndarray, positions: np.ndarray) -> Batch:
        generators = [np.random.default_rng((seed, step, int(row))) for row in rows]
        chosen = kept[positions]
        return reader.batch(chosen, lambda sample, i: augment(sample, int(chosen[i]), generators[i]))

    return _shuffled(make, len(kept), options, batch_size, processes, {"seed": seed})


def view_batches(
    dataset: Dataset,
    options: DataOptions,
    *,
    view: int,
    batch_size: int,
    seed: int,
    targets: Targets | None = None,
    embedding_dim: int = 0,
) -> EvalBatches:
    """An augmented view of all training images, in order; the augmentation of an image depends on (seed, view) alone.

    As `eval_batches`, with room for config.data.max_boxes boxes.
    """
    # Read once or twice: a cache would only make memory grow.
    reader, kept, augment = _training_images(dataset, replace(options, cache=False), targets, embedding_dim)

    def change(sample: dict[str, Any], position: int) -> dict[str, Any]:
        return augment(sample, position, np.random.default_rng((seed, view, position)))

    return _in_order(reader, kept, options, batch_size, ALONE, change)


def stored_batches(
    stored: StoredViews, options: DataOptions, *, batch_size: int, seed: int, processes: Processes = ALONE
) -> BatchIterator:
    """Endless shuffled batches of stored views, as `train_batches`; every epoch takes the next view of an image."""

    def make(step: int, rows: np.ndarray, positions: np.ndarray) -> Batch:
        return stored.batch((step * batch_size + rows) // stored.images % stored.count, positions)

    return _shuffled(make, stored.images, options, batch_size, processes, {"seed": seed, "views": stored.count})


def _training_images(
    dataset: Dataset, options: DataOptions, targets: Targets | None, embedding_dim: int
) -> tuple[ImageReader, np.ndarray, Augmentation]:
    """(a reader of images large enough to be augmented, the positions that are not held out, what varies in them)."""
    zoom = max(1.0, options.augment.scale_jitter[1])
    reader = ImageReader(dataset, "train", options, targets, embedding_dim, zoom=zoom, max_boxes=options.max_boxes)
    kept = training_positions(reader.annotations, options.held_out)
    return reader, kept, Augmentation(options.augment, reader, kept)


def _shuffled(
    make: Callable[[int, np.ndarray, np.ndarray], Batch],
    images: int,
    options: DataOptions,
    batch_size: int,
    processes: Processes,
    identity: dict[str, Any],
) -> BatchIterator:
    """Endless batches `make(step, rows, positions)`: this process's rows of each, shuffled positions below `images`."""
    local_size = processes.share("config.train.batch_size", batch_size)
    rows = processes.index * local_size + np.arange(local_size)
    import grain

    batches = grain.MapDataset.range(images).seed(identity["seed"]).shuffle().repeat()
    batches = batches.batch(batch_size, batch_fn=np.asarray)
    batches = batches.map_with_index(lambda step, positions: make(step, rows, positions[rows]))
    identity = {**identity, "batch_size": batch_size, "images": images}
    return BatchIterator(lambda step: _read_ahead(batches.slice(slice(step, None)), options), identity)


def eval_batches(
    dataset: Dataset,
    split: str,
    options: DataOptions,
    *,
    batch_size: int,
    indices: Sequence[int] | np.ndarray | None = None,
    targets: Targets | None = None,
    embedding_dim: int = 0,
    processes: Processes = ALONE,
) -> EvalBatches:
    """A split in order, without augmentation: `train`, `gallery`, or `query` (each query's image, with its box alone).

    The last batch is padded with empty images, where `valid` is false. Process p gets the p-th block of each batch.

    Args:
      batch_size: images over all processes.
      indices: positions in the split; None: all.
    """
    # Read once: a cache would only make memory grow with the split.
    reader = ImageReader(dataset, split, replace(options, cache=False), targets, embedding_dim)
    chosen = np.arange(len(reader)) if indices is None else np.asarray(indices, np.int64)
    return _in_order(reader, chosen, options, batch_size, processes)


def _in_order(
    reader: ImageReader,
    chosen: np.ndarray,
    options: DataOptions,
    batch_size: int,
    processes: Processes,
    change: Callable[[dict[str, Any], int], dict[str, Any]] = lambda sample, _: sample,
) -> EvalBatches:
    """This process's rows of each batch of the chosen positions, changed by `change(sample, position)`; the last one is
    padded."""
    local_size = processes.share("config.evaluate.batch_size", batch_size)
    count = -(-len(chosen) // batch_size)

    def make(step: int) -> Batch:
        first = step * batch_size + processes.index * local_size
        positions = chosen[first : first + local_size]
        batch = reader.batch(positions, lambda sample, row: change(sample, int(positions[row])))
        valid = np.arange(local_size) < len(positions)
        fills = {"image_index": -1, "person_ids": -1, "scale": 1}
        batch = {key: transforms.pad_rows(rows, local_size, fills.get(key, 0)) for key, rows in batch.items()}
        batch["image_size"][~valid] = reader.image_size  # not zero: it is a divisor
        return {**batch, "valid": valid}

    import grain

    return EvalBatches(lambda: _read_ahead(grain.MapDataset.range(count).map(make), options), count)


def reading_threads(options: DataOptions) -> int:
    """How many threads decode images: config.data.threads, or one per core."""
    return options.threads or min(16, os.cpu_count() or 1)


def _ignore_ctrl_c(*_: int) -> None:
    """In a worker: a terminal sends Ctrl-C to all processes, and training ends its step before it ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _read_ahead(batches: Any, options: DataOptions) -> Any:
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
            worker_init_fn=_ignore_ctrl_c,
        )
    return iter(iterable)
