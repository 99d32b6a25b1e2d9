"""Trains config.model.backbone to make the maps of a published backbone on the images of config.data.

    python scripts/imitate_backbone.py --config configs/people_pretrain.py:mobilenet --config.data.root=TAR \\
        --imitated person-detection-0203.xml --workdir runs/imitated --config.train.steps=4000

Leaves `workdir/backbone.npz`, which config.model.backbone_weights takes. It is resumed where it stopped; no weight of
the published file is in the result (`psdiff_jax.training.imitation`).
"""

import sys
from pathlib import Path

import jax
from absl import app, flags, logging
from flax import nnx
from ml_collections import config_flags

from psdiff_jax import parallel
from psdiff_jax.config import from_values
from psdiff_jax.convert.backbone import load_backbone
from psdiff_jax.data.pipeline import train_batches
from psdiff_jax.data.records import open_dataset
from psdiff_jax.errors import InputError
from psdiff_jax.models.backbones import BACKBONES, abstract_backbone
from psdiff_jax.models.weights import save_npz
from psdiff_jax.training.checkpoint import Checkpoints
from psdiff_jax.training.imitation import check_same_maps, create_state, make_step
from psdiff_jax.training.loop import fit
from psdiff_jax.training.optimizer import learning_rate, make_optimizer
from psdiff_jax.training.writer import MetricWriter

CONFIG = config_flags.DEFINE_config_file("config", None, "the config", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "where checkpoints, metrics and backbone.npz go", required=True)
IMITATED = flags.DEFINE_string("imitated", None, "file of the published backbone", required=True)
LIKE = flags.DEFINE_string("like", "mobilenet_v2_omz", "what that backbone is: a name in models.backbones.BACKBONES")


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    config, workdir = from_values(CONFIG.value), Path(WORKDIR.value).expanduser()
    options, spec = config.train, BACKBONES[config.model.backbone]
    if LIKE.value not in BACKBONES:
        raise InputError(f"--like {LIKE.value}: choose one of {', '.join(BACKBONES)}")
    check_same_maps(spec, BACKBONES[LIKE.value])
    parallel.setup_cpu_devices(config.cpu_devices, options.batch_size)
    mesh = parallel.make_mesh()
    batches = train_batches(
        open_dataset(config.data),
        config.data,
        batch_size=options.batch_size,
        seed=config.seed,
        embedding_dim=config.model.embedding_dim,
    )
    imitated = abstract_backbone(BACKBONES[LIKE.value])
    nnx.update(imitated, load_backbone(IMITATED.value, nnx.state(imitated)).state)
    optimizer = make_optimizer(options, {})
    learner = spec.make(rngs=nnx.Rngs(jax.random.key(config.seed, impl="rbg")))
    graphdef, state = create_state(learner, optimizer, jax.random.key(config.seed))
    with MetricWriter(workdir) as writer, Checkpoints(workdir / "checkpoints", keep=2) as checkpoints:
        state = fit(
            make_step(graphdef, imitated, optimizer, learning_rate(options), mesh),
            state,
            batches,
            steps=options.steps,
            writer=writer,
            checkpoints=checkpoints,
            log_every=options.log_every,
            checkpoint_every=options.checkpoint_every,
            mesh=mesh,
        )
    save_npz(workdir / "backbone.npz", nnx.merge_state(state.params, state.stats))
    print(f"written: {workdir / 'backbone.npz'}")


if __name__ == "__main__":
    try:
        app.run(main)
    except InputError as error:
        sys.exit(f"error: {error}")
