"""Training PSDiff from a config: dataset, teacher, model, loop."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from psdiff_jax import config as cfg
from psdiff_jax import parallel
from psdiff_jax.convert.backbone import load_backbone
from psdiff_jax.data.pipeline import eval_batches, reading_threads, train_batches
from psdiff_jax.data.records import PreparedDataset
from psdiff_jax.errors import InputError
from psdiff_jax.inference.predictor import Predictor
from psdiff_jax.models.psdiff import PSDiff
from psdiff_jax.models.weights import load_npz, save_npz
from psdiff_jax.report.drawing import draw_boxes
from psdiff_jax.teacher.train import open_targets
from psdiff_jax.training.checkpoint import Checkpoints
from psdiff_jax.training.loop import fit
from psdiff_jax.training.optimizer import learning_rate, make_optimizer
from psdiff_jax.training.step import TrainState, create_state, make_train_step
from psdiff_jax.training.writer import MetricWriter

PICTURES = 2  # photographs that TensorBoard shows


def new_model(config: Any) -> PSDiff:
    """A PSDiff with random weights. XLA's own generator compiles in a fifth of the default's time."""
    return PSDiff(cfg.model_spec(config), rngs=nnx.Rngs(jax.random.key(config.seed, impl="rbg")))


def build_model(config: Any, workdir: Path) -> PSDiff:
    """A PSDiff with the weights it starts from (config.train.init_from, or config.model.backbone_weights)."""
    model = new_model(config)
    if config.train.init_from:
        path = Path(config.train.init_from).expanduser()
        for part in config.train.init_parts or ("",):
            nnx.update(model, load_npz(path, nnx.state(model), source=part, target=part))
    elif config.model.backbone_weights == "teacher":
        state = load_npz(
            teacher_folder(config, workdir) / "teacher.npz", nnx.state(model), source="backbone", target="backbone"
        )
        nnx.update(model, state)
    elif config.model.backbone_weights:
        weights = Path(config.model.backbone_weights).expanduser()
        nnx.update(model.backbone, load_backbone(weights, nnx.state(model.backbone)).state)
    return model


def teacher_folder(config: Any, workdir: Path) -> Path:
    """Where the teacher and its targets are kept."""
    return Path(config.teacher.folder).expanduser() if config.teacher.folder else workdir / "teacher"


def initial_state(config: Any, model: PSDiff) -> tuple[nnx.GraphDef, TrainState]:
    """(graphdef, state at step 0)."""
    optimizer = make_optimizer(cfg.optimizer_spec(config))
    return create_state(
        model, optimizer, jax.random.key(config.seed), ema=config.train.ema_decay > 0, frozen=tuple(config.train.frozen)
    )


def train(config: Any, workdir: Path, dataset: PreparedDataset, shown: PreparedDataset | None = None) -> None:
    """Trains to config.train.steps, going on from the newest checkpoint in `workdir` when there is one.

    `shown`: the dataset whose gallery TensorBoard's pictures are of, where it is another.

    Leaves `workdir/checkpoints`, `workdir/model.npz` (the weights to evaluate or to start another run from),
    TensorBoard events and metrics.jsonl. The teacher and its targets are in `teacher_folder(config, workdir)`.
    """
    if not len(dataset.train_source):
        raise InputError(
            f"config.data: dataset {dataset.name} has no photographs to train on; --mode evaluate, embed "
            "and search work, with the weights of another run (config.train.init_from)"
        )
    mesh = parallel.make_mesh()
    parallel.check_divides(config.train.batch_size, mesh, "config.train.batch_size")
    with MetricWriter(workdir) as writer:
        targets = open_targets(
            config.teacher,
            dataset,
            teacher_folder(config, workdir),
            embedding_dim=config.model.embedding_dim,
            seed=config.seed,
            workers=reading_threads(config.data),
            fit=partial(fit, writer=writer, mesh=mesh, prefix="teacher"),
        )
        graphdef, state = initial_state(config, build_model(config, workdir))
        batches = train_batches(
            dataset,
            config,
            targets=targets,
            embedding_dim=config.model.embedding_dim,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            device_count=jax.device_count(),
        )
        spec = cfg.optimizer_spec(config)
        step = make_train_step(
            graphdef,
            make_optimizer(spec),
            cfg.noise_spec(config),
            cfg.match_spec(config),
            cfg.sampler_spec(config),
            config.train.ema_decay,
            learning_rate(spec),
        )
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        print(
            f"training {parameters / 1e6:.2f} M parameters on {mesh.size} {jax.devices()[0].platform} device(s), "
            f"{config.train.steps} steps of {config.train.batch_size} images",
            file=sys.stderr,
            flush=True,
        )
        hooks = [(config.train.image_every, prediction_pictures(config, shown or dataset, graphdef, writer, mesh))]
        with Checkpoints(workdir / "checkpoints", keep=config.train.keep_checkpoints) as checkpoints:
            state = fit(
                step,
                parallel.put_replicated(state, mesh),
                batches,
                steps=config.train.steps,
                writer=writer,
                checkpoints=checkpoints,
                log_every=config.train.log_every,
                checkpoint_every=config.train.checkpoint_every,
                prefix="train",
                mesh=mesh,
                hooks=hooks,
            )
    if parallel.is_main_process():
        save_npz(workdir / "model.npz", inference_state(state))


def inference_state(state: TrainState) -> Any:
    """The weights to predict with, whole: the moving average where there is one."""
    return nnx.merge_state(state.params if state.ema is None else state.ema, state.rest)


def load_trained(config: Any, workdir: Path) -> tuple[nnx.GraphDef, TrainState]:
    """The newest checkpoint of `workdir`; before the first, the weights of config.train.init_from as they are.

    Raises:
      InputError: there is neither.
    """
    mesh = parallel.make_mesh()
    graphdef, template = jax.eval_shape(lambda: initial_state(config, new_model(config)))
    template = parallel.shapes_replicated(template, mesh)._replace(
        key=parallel.put_replicated(jax.random.key(config.seed), mesh)
    )  # of a shape its generator cannot be asked
    with Checkpoints(workdir / "checkpoints", keep=config.train.keep_checkpoints) as checkpoints:
        restored = checkpoints.restore_latest(template)
    if restored is not None:
        return graphdef, restored[0]
    if not config.train.init_from:
        raise InputError(f"{workdir / 'checkpoints'} holds no checkpoint: train first, with --mode train")
    print(f"{workdir / 'checkpoints'} holds no checkpoint: using {config.train.init_from} as it is", file=sys.stderr)
    return initial_state(config, build_model(config, workdir))


def prediction_pictures(
    config: Any, dataset: PreparedDataset, graphdef: nnx.GraphDef, writer: MetricWriter, mesh: jax.sharding.Mesh
) -> Callable[[int, TrainState], None]:
    """A hook that writes two gallery photographs to TensorBoard: truths, and predictions at every number of steps."""
    predictor = Predictor(graphdef, cfg.sampler_spec(config), config.sampler.nms_threshold)
    steps = tuple(config.evaluate.steps)
    batch: dict[str, np.ndarray] = {}

    def write(step: int, state: TrainState) -> None:
        if not batch:  # as large as evaluation's, for then both run the same compiled program
            count = min(PICTURES, len(dataset.gallery_source))
            batch.update(
                next(
                    iter(
                        eval_batches(
                            dataset,
                            "gallery",
                            config,
                            indices=range(count),
                            process_index=jax.process_index(),
                            process_count=jax.process_count(),
                            device_count=jax.device_count(),
                        )
                    )
                )
            )
        params = state.params if state.ema is None else state.ema
        wanted = {name: batch[name] for name in ("image", "image_size", "image_index")}
        people = parallel.fetch(
            predictor(params, state.rest, parallel.put_batch(wanted, mesh), jax.random.key(config.seed), steps)
        )
        for i in np.flatnonzero(batch["valid"]):
            truths = batch["boxes"][i][batch["boxes_mask"][i]]
            for k in steps:
                found = jax.tree.map(lambda v, i=i: v[i], people[k])
                picture = draw_boxes(
                    batch["image"][i], found.boxes[found.keep], found.scores[found.keep], truths, min_score=0.3
                )
                writer.images(step, f"predictions/{i}/steps_{k}", picture)

    return write
