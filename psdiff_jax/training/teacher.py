"""Trains the teacher on crops of a prepared dataset: hybrid memory loss, identity-balanced batches, Adam.

    teacher = train_teacher(config.teacher, dataset, workdir / "teacher", seed=config.seed)
    targets = teacher.targets(dataset, ("train",), folder=workdir / "targets")

Legend: B crops of a batch, h w rows and columns of a crop, N crops of the split, D embedding.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType

from psdiff_jax import parallel
from psdiff_jax.convert.backbone import load_backbone
from psdiff_jax.data.crops import BalancedBatches, CropSet, load_crops
from psdiff_jax.data.targets import Targets, boxes_hash, dataset_name, embed_crops, file_targets, network_targets
from psdiff_jax.errors import InputError
from psdiff_jax.models.teacher import Teacher, apply_teacher
from psdiff_jax.models.weights import assign, flatten_state, load_npz, read_npz, save_npz, state_hash
from psdiff_jax.training.checkpoint import Checkpoints
from psdiff_jax.training.loop import fit as plain_fit
from psdiff_jax.training.memory import MemoryState, init_memory, memory_loss, update_memory
from psdiff_jax.training.progress import say
from psdiff_jax.training.teacher_options import TeacherOptions

Batch = Mapping[str, Any]
Step = Callable[["TeacherState", Batch], tuple["TeacherState", dict[str, jax.Array]]]


class TeacherState(NamedTuple):
    """All that training changes: step int32 [], parameters, BatchNorm statistics, Adam's moments, the memory."""

    step: jax.Array
    params: Any
    stats: Any
    opt_state: Any
    memory: MemoryState


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
        return _embedder(self.options, self.state, train=False)

    def targets(
        self, dataset: Any, splits: Sequence[str] = ("train",), *, folder: str | Path, batch: int = 256,
        workers: int = 1,
    ) -> Targets:  # fmt: skip
        """Embeddings of the truth boxes of `splits`, kept in `folder` (see `data.targets.network_targets`)."""
        size = self.options.crop_size
        return network_targets(
            self.embed, self.hash, dataset, splits, crop_size=size, folder=folder, batch=batch, workers=workers
        )


def new_state(options: TeacherOptions, seed: int = 0) -> Any:
    """The state of a teacher with random weights, or with those of `options.init_from`.

    That file is a teacher's (`save_npz`), or a backbone's (see `convert.backbone`).
    """
    if options.init_from and is_teacher(options.init_from):
        return load_npz(options.init_from, abstract_state(options))
    # XLA compiles the default generator for 9 s on one CPU core for a small network, this one for 2.
    state = jax.jit(lambda key: nnx.state(_module(options, key)))(jax.random.key(seed, impl="rbg"))
    if not options.init_from:
        return state
    backbone = load_backbone(options.init_from, abstract_state(options)["backbone"]).state
    return assign(state, flatten_state(backbone), options.init_from, "backbone")


def is_teacher(path: str | Path) -> bool:
    """Whether a file holds a whole teacher, and not a backbone alone."""
    return Path(path).suffix == ".npz" and "neck/scale" in read_npz(path)


def abstract_state(options: TeacherOptions) -> Any:
    """Names and shapes of a teacher's state, without values: what `models.weights.load_npz` fills."""
    return nnx.state(nnx.eval_shape(lambda: _module(options)))


def split(options: TeacherOptions, state: Any) -> tuple[nnx.GraphDef, Any, Any]:
    """(graphdef, parameters, statistics) of a teacher with the given state."""
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: _module(options)))
    return graphdef, *nnx.split_state(state, nnx.Param, nnx.BatchStat)


def _module(options: TeacherOptions, key: jax.Array | int = 0) -> Teacher:
    return Teacher(options.spec(), options.embedding_dim, options.pooling, rngs=nnx.Rngs(key))


def _embedder(options: TeacherOptions, state: Any, train: bool) -> Callable[[np.ndarray], jax.Array]:
    """Crops [B,h,w,3] -> embeddings [B,D]; each of this machine's devices takes a part of the crops if they divide."""
    mesh = jax.make_mesh((jax.local_device_count(),), ("data",), (AxisType.Auto,), devices=jax.local_devices())
    graphdef, params, stats = split(options, parallel.put_replicated(parallel.fetch(state), mesh))
    apply = jax.jit(lambda p, s, crops: apply_teacher(graphdef, p, s, crops, train)[0])

    def embed(crops: np.ndarray) -> jax.Array:
        spread = len(crops) % mesh.size == 0
        return apply(params, stats, jax.device_put(crops, parallel.batch_sharding(mesh)) if spread else crops)

    return embed


def learning_rate(options: TeacherOptions) -> optax.Schedule:
    """Step -> learning rate."""
    peak, warmup = options.learning_rate, min(options.warmup_steps, options.steps // 2)
    decay = {
        "cosine": lambda: optax.cosine_decay_schedule(peak, max(options.steps, 1)),
        "step": lambda: optax.piecewise_constant_schedule(
            peak, {round(share * options.steps): 0.1 for share in options.decay_at}
        ),
        "constant": lambda: optax.constant_schedule(peak),
    }[options.schedule]()
    return lambda step: decay(step) * jnp.minimum(1.0, (step + 1) / max(warmup, 1))


def make_optimizer(options: TeacherOptions) -> optax.GradientTransformation:
    """Adam with L2 on kernels, as re-ID training has it (not AdamW)."""
    return optax.chain(
        optax.add_decayed_weights(options.weight_decay, mask=partial(jax.tree.map, lambda p: p.ndim > 1)),
        optax.adam(learning_rate(options)),
    )


def make_step(graphdef: nnx.GraphDef, options: TeacherOptions) -> Step:
    """The jitted step: (state, {"crops" uint8 [B,h,w,3], "labels" int32 [B]}) -> (state, scalars).

    The batch's leading axis may be sharded; the state that goes in is given up.
    """
    optimizer, schedule = make_optimizer(options), learning_rate(options)
    train, dtype = not options.freeze_statistics, jnp.bfloat16 if options.bfloat16 else jnp.float32

    def loss_fn(params: Any, state: TeacherState, batch: Batch) -> tuple[jax.Array, Any]:
        features, stats = apply_teacher(graphdef, params, state.stats, batch["crops"], train, dtype)
        loss, terms = memory_loss(features, batch["labels"], state.memory, options.temperature, options.hard_weight)
        return loss, (features, stats, terms)

    @partial(jax.jit, donate_argnums=0)
    def step(state: TeacherState, batch: Batch) -> tuple[TeacherState, dict[str, jax.Array]]:
        (loss, aux), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params, state, batch)
        features, stats, terms = aux
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        memory = update_memory(state.memory, features, batch["labels"], options.momentum)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": loss, **terms, "gradient_norm": optax.global_norm(gradients)}
        metrics["learning_rate"] = schedule(state.step)
        return TeacherState(state.step + 1, params, stats, opt_state, memory), metrics

    return step


def create_state(
    options: TeacherOptions, crops: CropSet, batches: BalancedBatches, seed: int = 0
) -> tuple[nnx.GraphDef, TeacherState]:
    """(graphdef, state at step 0): the network, and the memory as this network sees the crops."""
    state = new_state(options, seed)
    # The running statistics of a network from scratch, or of a new head, say nothing yet: use those of each batch then.
    # Batches must be mixed for that.
    fresh = not (options.init_from and is_teacher(options.init_from))
    order = np.random.default_rng(seed).permutation(len(crops)) if fresh else None
    embeddings = embed_crops(_embedder(options, state, fresh), crops.crops, 256, "memory: crops", order)
    memory = init_memory(embeddings, batches.labels, batches.people, options.negatives)
    graphdef, params, stats = split(options, state)
    return graphdef, TeacherState(jnp.zeros((), jnp.int32), params, stats, make_optimizer(options).init(params), memory)


def train_teacher(
    config_teacher: Mapping[str, Any],
    dataset: Any,
    workdir: str | Path,
    *,
    seed: int = 0,
    workers: int = 1,
    crops: CropSet | None = None,
    fit: Callable[..., TeacherState] | None = None,
) -> TrainedTeacher:
    """The teacher that `config.teacher` describes, trained on the truth boxes of the train split.

    It is left in `workdir/teacher.npz`; while it is trained its checkpoints are there too. Where a finished one was
    made from the same options, seed and boxes, it is used instead.

    Args:
      workers: threads that cut out crops. crops: those of the train split, when they are at hand.
      fit: `training.loop.fit` with the writer and mesh of the run.
    """
    options = TeacherOptions.from_config(config_teacher)
    path, origin = Path(workdir) / "teacher.npz", _origin(options, dataset, seed)
    if path.is_file() and path.with_suffix(".json").is_file():
        if json.loads(path.with_suffix(".json").read_text()) == origin:
            return TrainedTeacher(options, load_npz(path, abstract_state(options)))
        say(f"teacher: {path} was made with other options or data; training again")
    if options.steps == 0:
        state = new_state(options, seed)
    else:
        crops = crops or load_crops(dataset, "train", options.crop_size, folder=workdir, workers=workers)
        folder = Path(workdir) / f"checkpoints-{_digest(origin)}"
        state = _train(options, crops, folder, seed, fit or partial(plain_fit, prefix="teacher"))
    if parallel.is_main_process():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)  # a stop in between leaves nothing that looks finished
        save_npz(path, state)
        path.with_suffix(".json").write_text(json.dumps(origin, indent=2) + "\n")
    return TrainedTeacher(options, state)


def _train(options: TeacherOptions, crops: CropSet, folder: Path, seed: int, fit: Callable[..., TeacherState]) -> Any:
    """The trained state, on the host. Checkpoints in `folder` are deleted at the end."""
    batches = BalancedBatches(
        crops, options.people, options.crops_per_person, augment=options.augment(), seed=seed,
        unlabelled=options.unlabelled if options.negatives else 0,
    )  # fmt: skip
    count, index = jax.process_count(), jax.process_index()
    if batches.size % count:
        raise InputError(f"config.teacher: batches of {batches.size} crops do not divide by {count} processes")
    share = slice(index * batches.size // count, (index + 1) * batches.size // count)

    def open_at(step: int) -> Iterator[Batch]:
        return ({name: rows[share] for name, rows in batches.batch(i).items()} for i in itertools.count(step))

    graphdef, state = create_state(options, crops, batches, seed)
    with Checkpoints(folder, keep=2) as checkpoints:
        state = fit(
            make_step(graphdef, options), state, open_at, steps=options.steps, checkpoints=checkpoints,
            log_every=options.log_every, checkpoint_every=options.checkpoint_every,
        )  # fmt: skip
    if parallel.is_main_process():
        shutil.rmtree(folder, ignore_errors=True)
    return parallel.fetch(nnx.merge_state(state.params, state.stats))


def _origin(options: TeacherOptions, dataset: Any, seed: int) -> dict[str, Any]:
    """What decides the outcome of a training, as JSON gives it back."""
    said = dataclasses.asdict(options)
    for key in ("log_every", "checkpoint_every", "init_from", "folder"):
        del said[key]
    if options.init_from and not Path(options.init_from).is_file():
        raise InputError(f"config.teacher.init_from: {options.init_from}: no such file of weights")
    start = hashlib.sha256(Path(options.init_from).read_bytes()).hexdigest()[:16] if options.init_from else ""
    boxes = boxes_hash(dataset.annotations("train"))
    if options.steps == 0 and start and is_teacher(options.init_from):
        seed = 0  # nothing is random about a teacher that is taken as it is
    origin = {"options": said, "init_from": start, "dataset": dataset_name(dataset), "boxes": boxes, "seed": seed}
    return json.loads(json.dumps(origin))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def open_targets(
    config_teacher: Mapping[str, Any],
    dataset: Any,
    workdir: str | Path,
    splits: Sequence[str] = ("train",),
    *,
    embedding_dim: int,
    **training: Any,
) -> Targets:
    """The targets that `config.teacher` describes: from its file, or of the teacher trained (or found) in `workdir`.

    `embedding_dim` is config.model's; `training` goes to `train_teacher`.
    """
    options = TeacherOptions.from_config(config_teacher)
    if options.kind == "file":
        targets = file_targets(options.file, dataset, splits)
        for note in targets.notes:
            say(note)
    else:
        if options.embedding_dim != embedding_dim:  # known before anything is trained
            raise InputError(
                f"config.model.embedding_dim is {embedding_dim}, but config.teacher.embedding_dim is"
                f" {options.embedding_dim}: set both to the same"
            )
        teacher = train_teacher(config_teacher, dataset, workdir, **training)
        targets = teacher.targets(dataset, splits, folder=workdir, workers=training.get("workers", 1))
    targets.check_dim(embedding_dim)
    return targets
