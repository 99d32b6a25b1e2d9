"""The input pipeline: prepared records -> batches of uint8 images and boxes, on grain.

    for batch in train_batches(dataset, options, batch_size=8, seed=0): ...            endless, shuffled, augmented
    for batch in eval_batches(dataset, "gallery", options, batch_size=8): ...          in order, once
    for batch in stored_batches(stored, options, batch_size=8, seed=0): ...            as the first, from `data.views`

A batch is a pure function of (seed, step): grain shuffles the positions of each epoch and counts steps, and reading,
decoding and augmenting a batch depend on nothing else. P processes read the same global batches as one would, process p
the p-th block of rows. The state of an iterator is therefore its step.

A batch holds portrait images or landscape images, never both: config.data.image_size is meant for one of the two, and
has its sides exchanged for the other. It is a dict of NumPy arrays. Legend: `B` images of this process, `(H, W)` that
size, `M` room for boxes (config.data.max_boxes in training, the most boxes of an image in evaluation), `D` embedding
size.

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

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from psdiff_jax.data import transforms
from psdiff_jax.data.augment import Augmentation
from psdiff_jax.data.held_out import training_positions
from psdiff_jax.data.image_reader import Batch, ImageReader, Targets
from psdiff_jax.data.iterators import ALONE, BatchIterator, EvalBatches, Processes, read_ahead
from psdiff_jax.data.options import DataOptions
from psdiff_jax.data.prepared import Images
from psdiff_jax.data.views import StoredViews
from psdiff_jax.errors import InputError

EPOCHS = 2**32  # endless; grain counts records, and more overflows


def train_batches(
    dataset: Images,
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
        canvas = reader.canvas(positions[0])
        return reader.batch(positions, canvas, lambda sample, i: augment(sample, int(positions[i]), generators[i]))

    groups = reader.by_orientation(kept)
    identity = {"seed": seed} | ({"turned": len(groups[1])} if len(groups) > 1 else {})
    return _shuffled(make, groups, options, batch_size, processes, identity)


def view_batches(
    dataset: Images,
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

    Raises:
      InputError: there are portrait images and landscape images, which no array holds; and as `train_batches`.
    """
    # Read once or twice: a cache would only make memory grow.
    reader, kept, augment = _training_images(dataset, replace(options, cache=False), targets, embedding_dim)
    groups = reader.by_orientation(kept)
    if len(groups) > 1:
        first = reader.annotations.image_names[groups[1][0]]
        raise InputError(
            f"config.train.views: {len(groups[1])} training images ({first}, ...) have the other"
            " orientation than config.data.image_size, and views are kept of one orientation; set it to 0"
        )

    def change(sample: dict[str, Any], position: int) -> dict[str, Any]:
        return augment(sample, position, np.random.default_rng((seed, view, position)))

    return _in_order(reader, kept, options, batch_size, ALONE, change)


def stored_batches(
    stored: StoredViews, options: DataOptions, *, batch_size: int, seed: int, processes: Processes = ALONE
) -> BatchIterator:
    """Endless shuffled batches of stored views, as `train_batches`; every epoch takes the next view of an image."""

    def make(step: int, rows: np.ndarray, positions: np.ndarray) -> Batch:
        return stored.batch((step * batch_size + rows) // stored.images % stored.count, positions)

    identity = {"seed": seed, "views": stored.count}
    return _shuffled(make, [np.arange(stored.images)], options, batch_size, processes, identity)


def _training_images(
    dataset: Images, options: DataOptions, targets: Targets | None, embedding_dim: int
) -> tuple[ImageReader, np.ndarray, Augmentation]:
    """(a reader of images large enough to be augmented, the positions that are not held out, what varies in them)."""
    zoom = max(1.0, options.augment.scale_jitter[1])
    reader = ImageReader(dataset, "train", options, targets, embedding_dim, zoom=zoom, max_boxes=options.max_boxes)
    kept = training_positions(reader.annotations, options.held_out)
    return reader, kept, Augmentation(options.augment, reader, kept)


def _shuffled(
    make: Callable[[int, np.ndarray, np.ndarray], Batch],
    groups: Sequence[np.ndarray],
    options: DataOptions,
    batch_size: int,
    processes: Processes,
    identity: dict[str, Any],
) -> BatchIterator:
    """Endless batches `make(step, rows, positions)`: this process's rows of each. Every batch is of one group of
    positions, which is shuffled; groups take turns by their sizes."""
    local_size = processes.share("config.train.batch_size", batch_size)
    rows = processes.index * local_size + np.arange(local_size)
    import grain

    def shuffled(group: np.ndarray) -> Any:
        order = grain.MapDataset.range(len(group)).seed(identity["seed"]).shuffle().repeat(EPOCHS)
        return order.batch(batch_size, batch_fn=np.asarray).map(lambda chosen: group[chosen])

    sizes = [len(group) for group in groups]
    batches = grain.MapDataset.mix([shuffled(group) for group in groups], weights=sizes)
    batches = batches.map_with_index(lambda step, positions: make(step, rows, positions[rows]))
    identity = {**identity, "batch_size": batch_size, "images": sum(sizes)}
    return BatchIterator(lambda step: read_ahead(batches.slice(slice(step, None)), options), identity)


def eval_batches(
    dataset: Images,
    split: str,
    options: DataOptions,
    *,
    batch_size: int,
    indices: Sequence[int] | np.ndarray | None = None,
    targets: Targets | None = None,
    embedding_dim: int = 0,
    processes: Processes = ALONE,
    window: int = 0,
) -> EvalBatches:
    """A split in order, without augmentation: `train`, `gallery`, or `query` (each query's image, with its box alone).

    Images of the other orientation than config.data.image_size come last. The last batch of each orientation is padded
    with empty images, where `valid` is false. Process p gets the p-th block of each batch.

    Args:
      batch_size: images over all processes.
      indices: positions in the split; None: all.
      window: they come last among each so many positions; 0: among all.
    """
    # Read once: a cache would only make memory grow with the split.
    reader = ImageReader(dataset, split, replace(options, cache=False), targets, embedding_dim)
    chosen = np.arange(len(reader)) if indices is None else np.asarray(indices, np.int64)
    return _in_order(reader, chosen, options, batch_size, processes, window=window)


def _in_order(
    reader: ImageReader,
    chosen: np.ndarray,
    options: DataOptions,
    batch_size: int,
    processes: Processes,
    change: Callable[[dict[str, Any], int], dict[str, Any]] = lambda sample, _: sample,
    window: int = 0,
) -> EvalBatches:
    """This process's rows of each batch of the chosen positions, changed by `change(sample, position)`; the last one is
    padded."""
    local_size = processes.share("config.evaluate.batch_size", batch_size)
    plan = [
        kind[i : i + batch_size]
        for part in _windows(chosen, window)
        for kind in reader.by_orientation(part)
        for i in range(0, len(kind), batch_size)
    ]

    def make(step: int) -> Batch:
        positions = plan[step][processes.index * local_size :][:local_size]
        canvas = reader.canvas(plan[step][0])
        batch = reader.batch(positions, canvas, lambda sample, row: change(sample, int(positions[row])))
        valid = np.arange(local_size) < len(positions)
        fills = {"image_index": -1, "person_ids": -1, "scale": 1}
        batch = {key: transforms.pad_rows(rows, local_size, fills.get(key, 0)) for key, rows in batch.items()}
        batch["image_size"][~valid] = canvas  # not zero: it is a divisor
        return {**batch, "valid": valid}

    import grain

    return EvalBatches(lambda: read_ahead(grain.MapDataset.range(len(plan)).map(make), options), len(plan))


def _windows(positions: np.ndarray, window: int) -> list[np.ndarray]:
    """Positions, cut where another `window` of them begins; 0: not at all."""
    cuts = np.flatnonzero(np.diff(positions // window)) + 1 if window else []
    return np.split(positions, cuts)
