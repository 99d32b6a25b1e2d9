"""What frozen backbones make of the training images, computed once: training then costs what is trained.

Each image is augmented config.train.views times, and the backbones' maps of those views are kept on the disk in half
precision (`data.views`): a run's own in its `workdir/features`, which is deleted when training is done, or in
config.train.views_folder, for all runs that read the same.
"""

import contextlib
import hashlib
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from psdiff_jax import parallel
from psdiff_jax.data.image_reader import Batch
from psdiff_jax.data.iterators import EvalBatches
from psdiff_jax.data.views import StoredViews, has_view, write_view
from psdiff_jax.errors import InputError
from psdiff_jax.files import locked, write_atomically, writing
from psdiff_jax.models.psdiff import Maps, PSDiff, merge
from psdiff_jax.models.weights import state_hash
from psdiff_jax.progress import progress

NAMES = ("stage_{}", "reid_{}", "head_{}")  # of the maps in a batch, by the field of `Maps`
# The options of a model that decide its maps, beside the weights.
MAP_OPTIONS = (
    "backbone",
    "downsample",
    "reid_backbone",
    "reid_scale",
    "reid_head",
    "reid_crops",
    "readout_strides",
    "dtype",
)


def maps_of(batch: dict[str, Any], dtype: Any) -> Maps:
    """The maps of a stored batch."""

    def named(name: str) -> tuple[jax.Array, ...]:
        return tuple(batch[name.format(i)].astype(dtype) for i in range(4) if name.format(i) in batch)

    return Maps(*map(named, NAMES))


def features_folder(workdir: Path) -> Path:
    """Where a run keeps its features."""
    return workdir / "features"


def remove_features(workdir: Path) -> None:
    """Deletes the features of a run that has made use of them."""
    if parallel.is_main_process():
        shutil.rmtree(features_folder(workdir), ignore_errors=True)


def store_features(
    folder: Path,
    model: PSDiff,
    view_batches: Callable[[int], EvalBatches],
    images: int,
    views: int,
    made_from: Any,
    *,
    shared: bool = False,
) -> StoredViews:
    """Computes what is missing in `folder` of the features of `views` views of the training images.

    Args:
      shared: each set of features has a folder in `folder`, which other processes may read and fill as well.
      view_batches: the batches of a view, in order. images: their number of images.
      made_from: what decides the views, for JSON; with another value, other weights or MAP_OPTIONS all are made anew.

    Raises:
      InputError: the disk is too small, or a map is not finite in half precision.
    """
    identity = _identity(model, made_from)
    if shared:
        folder /= hashlib.sha256(identity.encode()).hexdigest()[:10]
    with locked(folder.with_suffix(".lock"), f"makes {folder}") if shared else contextlib.nullcontext():
        return _store(folder, identity, model, view_batches, images, views)


def _identity(model: PSDiff, made_from: Any) -> str:
    """What decides a set of features, as JSON."""
    frozen = {name: nnx.state(getattr(model, name)) for name in model.backbone_specs}
    options = [getattr(model.options, name) for name in MAP_OPTIONS]
    return json.dumps({"weights": state_hash(frozen), "options": options, "made_from": made_from}, sort_keys=True)


def _store(
    folder: Path, identity: str, model: PSDiff, view_batches: Callable[[int], EvalBatches], images: int, views: int
) -> StoredViews:
    mark = folder / "made_from.json"
    if not mark.is_file() or mark.read_text(errors="replace") != identity:
        if has_view(folder, 0):
            print(
                f"{folder} is stale (other data, weights or options): computing it again", file=sys.stderr, flush=True
            )
        shutil.rmtree(folder, ignore_errors=True)
        write_atomically(mark, identity)
    graphdef, state = nnx.split(model)
    mesh = parallel.make_mesh()
    state = parallel.put_replicated(state, mesh)

    @jax.jit
    def compute(state: nnx.State, image: jax.Array, size: jax.Array) -> dict[str, jax.Array]:
        maps = merge(graphdef, state, folded=True).maps(image, size)
        named = zip(NAMES, maps, strict=True)
        return {name.format(i): x.astype(jnp.float16) for name, part in named for i, x in enumerate(part)}

    def with_maps(batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            inputs = parallel.put_batch({name: batch[name] for name in ("image", "image_size")}, mesh)
            maps = parallel.fetch(compute(state, inputs["image"], inputs["image_size"]))
            for name, array in maps.items():
                if not np.isfinite(array).all():
                    raise InputError(f"config.train.views: {name} does not fit into half precision; set it to 0")
            yield {**{name: rows for name, rows in batch.items() if name != "image"}, **maps}

    for view in range(views):
        if has_view(folder, view):
            continue
        batches = view_batches(view)
        if view == 0:
            first = next(iter(batches))
            maps = jax.eval_shape(compute, state, first.pop("image"), first["image_size"])
            _check_room(folder, [*first.values(), *maps.values()], images, views)
        shown = progress(batches, f"features, view {view + 1} of {views}", "images", images, _valid)
        write_view(folder, view, with_maps(shown), images)
    return StoredViews(folder, views)


def _valid(batch: Batch) -> int:
    return int(batch["valid"].sum())


def _check_room(folder: Path, batch: Sequence[jax.ShapeDtypeStruct | np.ndarray], images: int, views: int) -> None:
    """Raises InputError before hours of work are lost to a full disk. batch: what is stored of one, rows first."""
    needed = sum(rows.dtype.itemsize * math.prod(rows.shape[1:]) for rows in batch) * images * views
    with writing(folder):
        free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"config.train.views: the features of {views} views of {images} images need {needed / 2**30:.1f} GiB, and "
            f"{folder} has room for {free / 2**30:.1f}: choose fewer, or 0"
        )
