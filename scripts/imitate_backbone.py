"""Trains config.model.backbone to make the maps of a published network on the images of config.data.

    python scripts/imitate_backbone.py --config configs/people_pretrain.py:imitate --config.data.root=TAR \\
        --imitated person-detection-0203.xml --workdir runs/finds
    python scripts/imitate_backbone.py --config configs/people_pretrain.py:imitate --config.data.root=TAR \\
        --imitated person-reidentification-retail-0277.xml --maps 752,939,1123,1126 \\
        --config.model.backbone=osnet_x0_25 --workdir runs/tells_apart

The first reads the file as a backbone (--like); with --maps it is an OpenVINO IR of any kind, whose nodes of these
names put out four maps, of strides 4 to 32 or of 4, 8, 16 and 16. Leaves `workdir/backbone.npz`, which
config.model.backbone_weights and reid_weights take. It is resumed where it stopped; no weight of the published file is
in the result (`psdiff_jax.training.imitation`).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from flax import nnx
from ml_collections import config_flags

from psdiff_jax import parallel
from psdiff_jax.command_line import run_script
from psdiff_jax.config import Config
from psdiff_jax.convert.backbone import load_backbone
from psdiff_jax.data.iterators import BatchIterator
from psdiff_jax.data.joined import open_training_set
from psdiff_jax.data.pipeline import train_batches
from psdiff_jax.errors import InputError
from psdiff_jax.models.backbones import BACKBONES, abstract_backbone
from psdiff_jax.models.weights import save_npz
from psdiff_jax.teacher.openvino import load_maps
from psdiff_jax.training.checkpoint import Checkpoints
from psdiff_jax.training.imitation import Imitator, blend, create_state, make_step
from psdiff_jax.training.loop import fit
from psdiff_jax.training.optimizer import learning_rate, make_optimizer
from psdiff_jax.training.writer import MetricWriter

CONFIG = config_flags.DEFINE_config_file("config", None, "the config")
WORKDIR = flags.DEFINE_string("workdir", None, "where checkpoints, metrics and backbone.npz go")
IMITATED = flags.DEFINE_string("imitated", None, "file of the published network")
LIKE = flags.DEFINE_string("like", "mobilenet_v2_omz", "what backbone that is: a name in models.backbones.BACKBONES")
MAPS = flags.DEFINE_list("maps", [], "instead of --like: names of the nodes of an IR that put out the four maps")

Maps = Callable[[np.ndarray], Sequence[Any]]  # images uint8 [B,H,W,3] RGB -> four maps [B,H/s,W/s,C]


class Lessons:
    """Training batches of blended images with the maps to be made of them; positioned as the batches are."""

    def __init__(self, batches: BatchIterator, maps: Maps, seed: int):
        self._batches, self._maps, self._seed = batches, maps, seed
        self.get_state, self.set_state, self.close = batches.get_state, batches.set_state, batches.close

    def __next__(self) -> dict[str, Any]:
        step = self._batches.get_state()["step"]
        images = blend(next(self._batches)["image"], np.random.default_rng((self._seed, step)))
        return {"image": images, "maps": tuple(np.asarray(each) for each in self._maps(images))}


def published_maps(image_size: tuple[int, int]) -> Maps:
    """What --imitated, --like and --maps name."""
    if MAPS.value:
        return load_maps(str(IMITATED.value), MAPS.value, image_size)
    if LIKE.value not in BACKBONES:
        raise InputError(f"--like {LIKE.value}: choose one of {', '.join(BACKBONES)}")
    backbone = abstract_backbone(BACKBONES[LIKE.value])
    nnx.update(backbone, load_backbone(str(IMITATED.value), nnx.state(backbone)).state)
    graphdef, state = nnx.split(backbone)
    return jax.jit(lambda images: nnx.merge(graphdef, state)(images.astype(np.float32)))


def main(config: Config) -> None:
    workdir = Path(str(WORKDIR.value)).expanduser()
    options, spec = config.train, BACKBONES[config.model.backbone]
    if not options.steps:  # as in a config that only puts trained parts together
        raise InputError("config.train.steps=0: an untrained backbone would be written; give 1 or more")
    parallel.setup_cpu_devices(config.cpu_devices, options.batch_size)
    mesh, dim = parallel.make_mesh(), config.model.embedding_dim
    batches = train_batches(
        open_training_set(config.data), config.data, batch_size=options.batch_size, seed=config.seed, embedding_dim=dim
    )
    lessons = Lessons(batches, published_maps(config.data.image_size), config.seed)
    sample = next(lessons)["maps"]
    if len(sample) != len(spec.channels):
        raise InputError(f"--maps: {len(sample)} maps; a backbone has {len(spec.channels)}, name as many")
    imitator = Imitator(spec, sample, rngs=nnx.Rngs(jax.random.key(config.seed, impl="rbg")))
    optimizer = make_optimizer(options, {})
    graphdef, state = create_state(imitator, optimizer)
    with MetricWriter(workdir) as writer, Checkpoints(workdir / "checkpoints", keep=2) as checkpoints:
        state = fit(
            make_step(graphdef, optimizer, learning_rate(options), mesh),
            state,
            lessons,
            steps=options.steps,
            writer=writer,
            checkpoints=checkpoints,
            log_every=options.log_every,
            checkpoint_every=options.checkpoint_every,
            mesh=mesh,
        )
    trained = nnx.merge_state(state.params, state.stats)
    save_npz(workdir / "backbone.npz", trained["backbone"])
    print(f"written: {workdir / 'backbone.npz'}")


if __name__ == "__main__":
    run_script(main, CONFIG, WORKDIR, IMITATED)
