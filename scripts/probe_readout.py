"""What the row read-out that a config begins with is worth: person search at the ground-truth boxes.

    python scripts/probe_readout.py --config configs/prw_c6s1.py:cpu --config.data.root=DATA/prw_c6s1 \\
        [--config.model.reid_backbone=... --config.model.readout_rows=...]

The read-out is set in closed form on the training images, with config.train.closed_form=False left as
config.train.init_from or readout_from has it, and then ranks the gallery's ground truths by its embeddings alone: with
perfect boxes, and without what denoising adds. Nothing is written but the teacher's targets, in --workdir.
"""

from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import config_flags

from psdiff_jax.command_line import run_script
from psdiff_jax.config import Config, check_files
from psdiff_jax.data.image_reader import Batch
from psdiff_jax.data.iterators import reading_threads
from psdiff_jax.data.pipeline import eval_batches
from psdiff_jax.data.records import PreparedDataset, open_dataset
from psdiff_jax.errors import InputError
from psdiff_jax.models.psdiff import PSDiff
from psdiff_jax.modes import closed_form, protocols_of
from psdiff_jax.ops.normalize import unit_rows
from psdiff_jax.teacher.crops import row_starts
from psdiff_jax.teacher.evaluate import SPLITS, score_targets
from psdiff_jax.teacher.kinds import open_targets
from psdiff_jax.teacher.targets import Targets
from psdiff_jax.training.closed_form import box_features
from psdiff_jax.training.train import build_model

CONFIG = config_flags.DEFINE_config_file("config", None, "the config")
WORKDIR = flags.DEFINE_string("workdir", "runs/probe", "where the teacher's targets are kept")


def main(config: Config) -> None:
    if not config.model.readout_rows:
        raise InputError("config.model.readout_rows=0: there is nothing to probe; give 1 or more")
    check_files(config)
    dataset, folder = open_dataset(config.data), config.teacher_folder(Path(WORKDIR.value))
    targets = open_targets(
        config.teacher,
        dataset,
        folder,
        embedding_dim=config.model.embedding_dim,
        seed=config.seed,
        workers=reading_threads(config.data),
    )
    model = build_model(config, folder / "teacher.npz")
    if config.train.closed_form:
        closed_form(config, dataset, model, targets)
    rows = {split: embeddings(config, dataset, model, split) for split in SPLITS}
    starts = {split: row_starts(dataset.annotations(split)) for split in SPLITS}
    found = score_targets({"read-out": Targets(rows, starts, "row read-out")}, dataset, protocols_of(config, dataset))
    for protocol, sizes in found["search"].items():
        for size, by in sizes.items():
            scores = ", ".join(f"{name} {100 * by['read-out'][name]:.1f}" for name in ("mAP", "top-1"))
            print(f"{protocol}, gallery {size}: {scores}")


def embeddings(config: Config, dataset: PreparedDataset, model: PSDiff, split: str) -> np.ndarray:
    """Unit embeddings [K,D] of the ground truths of a split, as far as the read-out goes."""
    assert model.readout is not None
    size, dim = config.evaluate.batch_size, config.model.embedding_dim
    batches = eval_batches(dataset, split, config.data, batch_size=size, embedding_dim=dim)
    images: list[int] = []

    def noted() -> Iterator[Batch]:
        for batch in batches:  # not in the split's order where it has portrait and landscape images
            images.extend(batch["image_index"][batch["valid"]].tolist())
            yield batch

    nothing = jnp.zeros((1, 2 * model.options.dim))
    read = [np.asarray(model.readout(jnp.asarray(x)[None], nothing))[0] for x, _, _ in box_features(model, noted())]
    starts = row_starts(dataset.annotations(split))
    rows = np.concatenate([np.arange(*starts[image : image + 2]) for image in images])
    return unit_rows(np.concatenate(read)[np.argsort(rows)])


if __name__ == "__main__":
    run_script(main, CONFIG)
