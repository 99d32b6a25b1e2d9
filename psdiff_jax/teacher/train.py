"""Kind "trained": a teacher trained here on the crops of a prepared dataset.

Training is supervised HHCL (Hu et al. 2021): hybrid memory bank, identity-balanced batches, Adam.

Legend: B crops of a batch, h w rows and columns of a crop, N crops of the split, D embedding.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from psdiff_jax import parallel
from psdiff_jax.data.records import Images
from psdiff_jax.earlier import todays_keys
from psdiff_jax.errors import InputError, one_line
from psdiff_jax.files import write_atomically
from psdiff_jax.models.weights import load_npz, save_npz, state_hash
from psdiff_jax.teacher.batches import BalancedBatches
from psdiff_jax.teacher.crop_teacher import CropTeacher
from psdiff_jax.teacher.crops import CropSet, load_crops
from psdiff_jax.teacher.options import TeacherOptions
from psdiff_jax.teacher.step import (
    Batch,
    TeacherState,
    abstract_state,
    create_state,
    embedder,
    is_teacher,
    make_step,
    new_state,
)
from psdiff_jax.teacher.targets import boxes_hash, dataset_name
from psdiff_jax.training.checkpoint import Checkpoints
from psdiff_jax.training.loop import fit as plain_fit
from psdiff_jax.training.progress import say


@dataclasses.dataclass(frozen=True)
class TrainedTeacher:
    """A teacher ready for use: its options and its state (parameters and statistics, `nnx.state(teacher)`)."""

    options: TeacherOptions
    state: Any

    @cached_property
    def hash(self) -> str:
        """Digest of the weights and of what else decides the embedding of a crop."""
        return f"{state_hash(self.state)}-{_digest([dataclasses.asdict(self.options.spec()), self.options.pooling])}"

    @cached_property
    def embed(self) -> Callable[[np.ndarray], jax.Array]:
        """Crops uint8 [B,h,w,3] -> float32 [B,D] of unit length (compiled once for each B)."""
        return embedder(self.options, self.state, train=False)

    def as_crop_teacher(self) -> CropTeacher:
        """This teacher as the rest of the program sees it."""
        name = self.options.backbone if isinstance(self.options.backbone, str) else "a backbone of its own"
        steps, given = self.options.steps, Path(self.options.init_from).name
        title = f"{name} trained here, {steps} steps" if steps else f"{name} with the weights of {given}"
        return CropTeacher(self.embed, self.options.embedding_dim, self.hash, self.options.crop_size, title)


def train_teacher(
    options: TeacherOptions,
    dataset: Images,
    workdir: str | Path,
    *,
    seed: int = 0,
    workers: int = 1,
    crops: CropSet | None = None,
    fit: Callable[..., TeacherState] | None = None,
) -> TrainedTeacher:
    """The teacher that `config.teacher` describes, trained on the ground-truth boxes of the train split.

    It is left in `workdir/teacher.npz`; while it is trained its checkpoints are there too. Where a finished one was
    made from the same options, seed and boxes, it is used instead.

    Args:
      workers: threads that cut out crops. crops: those of the train split, when they are at hand.
      fit: `training.loop.fit` with the writer and mesh of the run.
    """
    path, origin = Path(workdir) / "teacher.npz", _origin(options, dataset, seed)
    checkpoints = Path(workdir) / f"checkpoints-{_digest(origin)}"
    made = path.is_file() and path.with_suffix(".json").is_file()
    # All processes must agree: one that trained alone would wait for the others forever.
    if parallel.all_agree(made and _read_origin(path.with_suffix(".json")) == origin):
        return TrainedTeacher(options, load_npz(path, abstract_state(options)))
    if made:
        say(f"teacher: {path} was made with other options or data; training again")
    if options.steps == 0:
        state = new_state(options, seed)
    else:
        crops = crops or load_crops(dataset, "train", options.crop_size, folder=workdir, workers=workers)
        state = _train(options, crops, checkpoints, seed, fit or partial(plain_fit, prefix="teacher"))
    if parallel.is_main_process():  # in this order a stop loses nothing and leaves nothing that only looks finished
        path.with_suffix(".json").unlink(missing_ok=True)
        save_npz(path, state)
        write_atomically(path.with_suffix(".json"), json.dumps(origin, indent=2) + "\n")
        shutil.rmtree(checkpoints, ignore_errors=True)
    parallel.all_agree(True)  # only now may the other processes read the file, as `training.train.build_model` does
    return TrainedTeacher(options, state)


def _train(options: TeacherOptions, crops: CropSet, folder: Path, seed: int, fit: Callable[..., TeacherState]) -> Any:
    """The trained state, on the host; its checkpoints are in `folder`."""
    batches = BalancedBatches(
        crops,
        options.identities,
        options.crops_per_identity,
        unlabelled=options.unlabelled if options.negatives else 0,
        devices=jax.device_count(),
        augment=options,
        seed=seed,
    )
    if batches.size % jax.device_count():
        raise InputError(
            f"config.teacher: batches of {batches.size} crops (identities x crops_per_identity + unlabelled, here"
            f" {batches.identities_per_batch} x {batches.crops_per_identity} + {batches.unlabelled}) do not divide by"
            f" {jax.device_count()} devices; choose another config.teacher.crops_per_identity, or config.cpu_devices"
        )
    if batches.identities_per_batch < min(options.identities, batches.num_identities):
        say(f"teacher: {batches.identities_per_batch} identities a batch, which {jax.device_count()} devices can share")
    count, index = jax.process_count(), jax.process_index()
    share = slice(index * batches.size // count, (index + 1) * batches.size // count)

    def open_at(step: int) -> Iterator[Batch]:
        return ({name: rows[share] for name, rows in batches.batch(i).items()} for i in itertools.count(step))

    graphdef, state = create_state(options, crops, batches, seed)
    with Checkpoints(folder, keep=2) as checkpoints:
        state = fit(
            make_step(graphdef, options),
            state,
            open_at,
            steps=options.steps,
            checkpoints=checkpoints,
            log_every=options.log_every,
            checkpoint_every=options.checkpoint_every,
        )
    return parallel.fetch(nnx.merge_state(state.params, state.stats))


def _origin(options: TeacherOptions, dataset: Images, seed: int) -> dict[str, Any]:
    """What decides the outcome of a training, as JSON gives it back."""
    given = dataclasses.asdict(options)
    for key in "log_every checkpoint_every init_from folder file preprocessing interpolation whiten".split():
        del given[key]
    if options.init_from and not Path(options.init_from).is_file():
        raise InputError(f"config.teacher.init_from: {options.init_from}: no such file")
    start = hashlib.sha256(Path(options.init_from).read_bytes()).hexdigest()[:16] if options.init_from else ""
    boxes = boxes_hash(dataset.annotations("train"))
    if options.steps == 0 and start and is_teacher(options.init_from):
        seed = 0  # a teacher that is used as it is does not depend on it
    origin = {"options": given, "init_from": start, "dataset": dataset_name(dataset), "boxes": boxes, "seed": seed}
    return json.loads(json.dumps(origin))


def _read_origin(path: Path) -> dict[str, Any]:
    """The origin of a finished teacher, its options by today's names."""
    try:
        origin = json.loads(path.read_text(encoding="utf-8"))
        return {**origin, "options": todays_keys({"teacher": origin["options"]})["teacher"]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({one_line(error)}); delete it, and the teacher is trained again") from error


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]
