"""Training PSDiff: its first weights, the loop, and what a finished or stopped training left."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from psdiff_jax import parallel
from psdiff_jax.convert.backbone import load_backbone
from psdiff_jax.data.iterators import BatchIterator
from psdiff_jax.errors import InputError
from psdiff_jax.models.backbones import OneKey
from psdiff_jax.models.psdiff import PSDiff
from psdiff_jax.models.weights import load_npz, read_npz, save_npz
from psdiff_jax.training import checkpoint
from psdiff_jax.training.checkpoint import Checkpoints, hashes, named_leaves, newest_hashes
from psdiff_jax.training.loop import Hook, StepFn, fit
from psdiff_jax.training.optimizer import learning_rate, make_optimizer
from psdiff_jax.training.options import TrainingConfig
from psdiff_jax.training.step import TrainState, create_state, is_trained, leaving_out, make_train_step
from psdiff_jax.training.writer import MetricWriter


def new_model(config: TrainingConfig, shapes: bool = False) -> PSDiff:
    """A PSDiff with random weights. XLA's own generator compiles in a fifth of the default's time.

    shapes: only its shapes are asked for, under `eval_shape`: that takes a third of the time.
    """
    rngs = cast(nnx.Rngs, OneKey()) if shapes else nnx.Rngs(jax.random.key(config.seed, impl="rbg"))
    return PSDiff(config.model, config.diffusion, rngs=rngs)


def abstract_model(config: TrainingConfig) -> PSDiff:
    """The model of a config: names and shapes without values."""
    return nnx.eval_shape(lambda: new_model(config, shapes=True))


def build_model(config: TrainingConfig, teacher: Path) -> PSDiff:
    """A PSDiff with the weights it starts from: those of its backbones, config.train.init_from and readout_from.

    teacher: `.npz` of the trained teacher, for backbone_weights = "teacher".
    """
    model, options = new_model(config), config.train
    given = (options.init_parts or tuple(model.backbone_specs)) if options.init_from else ()
    missing = [name for name in model.backbone_specs if name not in given]
    if "backbone" in missing and config.model.backbone_weights == "teacher":
        nnx.update(model, load_npz(teacher, nnx.state(model), source="backbone", target="backbone"))
    elif "backbone" in missing and config.model.backbone_weights:
        _load_backbone(model.backbone, config.model.backbone_weights)
    if "reid_backbone" in missing and config.model.reid_weights:
        _load_backbone(model.reid_backbone, config.model.reid_weights)
    if options.init_from:
        path = Path(options.init_from).expanduser()
        for part in options.init_parts or ("",):
            nnx.update(model, load_npz(path, nnx.state(model), source=part, target=part))
    if options.readout_from:
        _load_readout(model, Path(options.readout_from).expanduser())
    return model


def _load_readout(model: PSDiff, path: Path) -> None:
    """The row read-out of another run, and the backbone that it reads there if this model has one for it alone."""
    nnx.update(model, load_npz(path, nnx.state(model), source="readout", target="readout"))
    for layer in model.cdl:
        layer.leave_embeddings_to_readout()
    if model.options.reid_backbone:
        of_its_own = any(name.startswith("reid_backbone/") for name in read_npz(path))
        source = "reid_backbone" if of_its_own else "backbone"
        nnx.update(model, load_npz(path, nnx.state(model), source=source, target="reid_backbone"))


def _load_backbone(backbone: Any, weights: str) -> None:
    nnx.update(backbone, load_backbone(Path(weights).expanduser(), nnx.state(backbone)).state)


def initial_state(config: TrainingConfig, model: PSDiff) -> tuple[nnx.GraphDef, TrainState]:
    """(graphdef, state at step 0)."""
    optimizer, key = make_optimizer(config.train, model.backbone_specs), jax.random.key(config.seed)
    return create_state(model, optimizer, key, ema=config.train.ema_decay > 0, frozen=config.train.frozen)


def training_step(config: TrainingConfig, graphdef: nnx.GraphDef, model: PSDiff, mesh: Mesh) -> StepFn:
    """The jitted step of a config, for a state on `mesh`."""
    options = config.train
    step = make_train_step(
        graphdef,
        make_optimizer(options, model.backbone_specs),
        config.noise,
        config.matching,
        config.sampler,
        options.ema_decay,
        learning_rate(options),
        options.objective,
        options.accumulate,
        options.remat,
        mesh,
    )
    return leaving_out(step) if options.skip_not_finite else step


def train(
    config: TrainingConfig,
    workdir: Path,
    model: PSDiff,
    batches: BatchIterator,
    writer: MetricWriter,
    hooks: Sequence[Hook] = (),
) -> TrainState:
    """Trains to config.train.steps, from the newest checkpoint in `workdir` when there is one.

    Leaves `workdir/checkpoints`, and `workdir/model.npz`: the weights to evaluate or to start another run from.
    """
    options, mesh = config.train, training_mesh(config)
    graphdef, state = initial_state(config, model)
    step = training_step(config, graphdef, model, mesh)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    print(
        f"training {parameters / 1e6:.2f} M parameters on {mesh.size} {jax.devices()[0].platform} device(s), "
        f"{options.steps} steps of {options.batch_size} images",
        file=sys.stderr,
        flush=True,
    )
    with Checkpoints(workdir / "checkpoints", keep=options.keep_checkpoints) as checkpoints:
        state = fit(
            step,
            parallel.put_sharded(state, mesh),
            batches,
            steps=options.steps,
            writer=writer,
            checkpoints=checkpoints,
            log_every=options.log_every,
            checkpoint_every=options.checkpoint_every,
            prefix="train",
            mesh=mesh,
            hooks=hooks,
            skip=options.skip_not_finite,
        )
    whole = parallel.fetch((weights(state), state.rest))
    if parallel.is_main_process():
        save_npz(workdir / "model.npz", nnx.merge_state(*whole))
    return state


def training_mesh(config: TrainingConfig) -> Mesh:
    """All devices, config.train.shards of them in the second axis; InputError where a batch does not divide by them."""
    options, devices = config.train, jax.device_count()
    if options.shards and devices % options.shards:
        raise InputError(f"config.train.shards is {options.shards}: choose a divisor of the {devices} devices")
    mesh = parallel.make_mesh(options.shards or devices)
    key = "config.train.batch_size" + (" / config.train.accumulate" if options.accumulate > 1 else "")
    parallel.check_divides(options.batch_size // options.accumulate, mesh, key)
    return mesh


def newest_step(workdir: Path) -> int:
    """The step from which a training in `workdir` would continue; 0 = there is no checkpoint."""
    return checkpoint.newest_step(workdir / "checkpoints")


def weights(state: TrainState) -> Any:
    """The parameters to predict with: the moving average where there is one."""
    return state.params if state.ema is None else state.ema


def load_weights(config: TrainingConfig, path: Path) -> tuple[nnx.GraphDef, Any, Any]:
    """(graphdef, parameters, the rest) of a model whose weights are all in the `.npz` at `path`; InputError if not."""
    model = abstract_model(config)
    nnx.update(model, load_npz(path, nnx.state(model)))
    graphdef, params, rest = nnx.split(model, is_trained(model), ...)
    return graphdef, params, rest


def load_parts(config: TrainingConfig) -> tuple[nnx.GraphDef, Any, Any]:
    """(graphdef, parameters, the rest) of a model of config.train.init_from and the files of backbones."""
    model = build_model(config, Path())
    graphdef, params, rest = nnx.split(model, is_trained(model), ...)
    return graphdef, params, rest


def whole_weights(config: TrainingConfig, workdir: Path) -> Path | None:
    """The file that holds the whole model where there is no checkpoint: what a training of no steps left or somebody
    copied, `workdir/model.npz`, or else config.train.init_from; None if there is none."""
    options = config.train
    given = "" if options.init_parts or options.readout_from else options.init_from
    return next((path for path in (workdir / "model.npz", Path(given).expanduser()) if path.is_file()), None)


def load_trained(config: TrainingConfig, workdir: Path, teacher: Path) -> tuple[nnx.GraphDef, TrainState]:
    """The newest checkpoint of `workdir`; without one `whole_weights`, or the parts that config.train names.

    The state of the optimizer is None where the weights come from `workdir/model.npz`, which is read in a third of the
    time; that is where it holds what the newest checkpoint holds.

    Raises:
      InputError: there is neither, or only a part of the model has weights from such a file.
    """
    finished = _finished(config, workdir)
    if parallel.all_agree(finished is not None) and finished is not None:
        return finished
    mesh = parallel.make_mesh()
    graphdef, template = jax.eval_shape(lambda: initial_state(config, new_model(config, shapes=True)))
    template = parallel.shapes_replicated(template, mesh)._replace(
        key=parallel.put_replicated(jax.random.key(config.seed), mesh)
    )  # of a shape its generator cannot be asked
    with Checkpoints(workdir / "checkpoints", keep=config.train.keep_checkpoints) as checkpoints:
        restored = checkpoints.restore_latest(template)
    if restored is not None:
        return graphdef, restored[0]
    if whole := whole_weights(config, workdir):
        print(f"{workdir / 'checkpoints'} holds no checkpoint: using {whole} as it is", file=sys.stderr, flush=True)
        graphdef, params, rest = load_weights(config, whole)
        return graphdef, TrainState(jnp.int32(0), params, rest, None, None, jax.random.key(config.seed))
    if not config.train.init_from:
        raise InputError(f"{workdir / 'checkpoints'} holds no checkpoint: train first, with --mode train")
    if untrained := _untrained(config):
        raise InputError(
            f"{workdir / 'checkpoints'} holds no checkpoint, and config.train.init_parts takes"
            f" {', '.join(config.train.init_parts)} alone from {config.train.init_from}: nothing has trained"
            f" {', '.join(untrained)}; set config.train.init_parts=() to use the file as it is"
        )
    print(f"{workdir / 'checkpoints'} holds no checkpoint: using {config.train.init_from} as it is", file=sys.stderr)
    return initial_state(config, build_model(config, teacher))


def _untrained(config: TrainingConfig) -> list[str]:
    """The modules of a model at step 0 that no file gives weights to."""
    options, model = config.train, config.model
    if not options.init_parts:
        return []
    files = {"backbone": model.backbone_weights, "fpn": "", "cdl": ""}
    if model.reid_backbone:
        files["reid_backbone"] = options.readout_from or model.reid_weights
    if model.readout_rows:
        files["readout"] = options.readout_from
    return [part for part, file in files.items() if not file and part not in options.init_parts]


def _finished(config: TrainingConfig, workdir: Path) -> tuple[nnx.GraphDef, TrainState] | None:
    """The weights in `workdir/model.npz`, if they are those of the newest checkpoint, leaf by leaf."""
    path, newest = workdir / "model.npz", newest_hashes(workdir / "checkpoints")
    if newest is None or not path.is_file():
        return None
    step, written = newest
    try:
        graphdef, params, rest = load_weights(config, path)
    except InputError:
        return None  # of another config; restoring the checkpoint names the leaf
    found = hashes({name: np.asarray(leaf) for part in (params, rest) for name, leaf in named_leaves(part)})
    for name, digest in found.items():
        said = [written[f"{part}.{name}"] for part in ("ema", "params", "rest") if f"{part}.{name}" in written]
        if said[:1] != [digest]:
            return None
    return graphdef, TrainState(jnp.int32(step), params, rest, None, None, jax.random.key(config.seed))
