"""One experiment: check the config, open the dataset, then train, evaluate (PSDiff or its teacher), embed or search."""

import json
import re
from pathlib import Path
from typing import Any

import jax

from psdiff_jax import config as cfg
from psdiff_jax import parallel
from psdiff_jax.data.records import PreparedDataset, open_dataset
from psdiff_jax.errors import InputError


def run(
    config: Any, workdir: Path, mode: str, *, embeddings: str | None = None, query: str | None = None, top: int = 10
) -> None:
    """Does what `mode` says (see main.py); everything lands in `workdir`. InputError says what is wrong with it."""
    cfg.fill_in_root(config)
    cfg.validate(config)
    if mode.startswith("train"):
        cfg.check_files(config)
    elif mode == "evaluate_teacher":
        cfg.check_files(config, parts=("teacher",))
    if embeddings and mode != "evaluate":
        raise InputError("--embeddings goes with --mode evaluate")
    if (mode == "search") != bool(query):
        raise InputError("--query goes with --mode search, and that mode needs it: PHOTOGRAPH:x1,y1,x2,y2")
    if config.distributed:
        jax.distributed.initialize()
    parallel.setup_cpu_devices(config.cpu_devices, config.train.batch_size, config.evaluate.batch_size)
    workdir = workdir.expanduser()
    workdir.mkdir(parents=True, exist_ok=True)
    written = workdir / "config.json"
    if mode.startswith("train") or not written.is_file():  # looking at a run does not change what it says it was
        written.write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
    if embeddings:
        from psdiff_jax.modes import evaluate_folder

        evaluate_folder(config, workdir, open_gallery(config), Path(embeddings).expanduser())
        return
    gallery, train_set = open_datasets(config, mode)
    if mode == "evaluate_teacher":
        from psdiff_jax.teacher.evaluate import evaluate_teacher

        evaluate_teacher(config, workdir, gallery, train_set)
        return
    if mode in ("train_and_evaluate", "evaluate"):
        from psdiff_jax.modes import protocols_of

        protocols_of(config, gallery)  # one that this dataset cannot serve is told before the hours of training
    if mode in ("train_and_evaluate", "train"):
        from psdiff_jax.training.train import train

        train(config, workdir, train_set, gallery)
    if mode != "train":
        from psdiff_jax import modes as looking

        if mode == "search":
            looking.search(config, workdir, gallery, query, top)
        elif mode == "embed":
            looking.embed(config, workdir, gallery)
        else:
            looking.evaluate_model(config, workdir, gallery, train_set)


def open_datasets(config: Any, mode: str) -> tuple[PreparedDataset, PreparedDataset | None]:
    """(the dataset to look for people in, the dataset to train on or None where nothing of it is needed).

    They are the same one unless config.evaluate.data names another.
    """
    gallery = open_gallery(config)
    if not cfg.transfers(config):
        return gallery, gallery
    calibrates = mode == "evaluate" and config.data.held_out > 0 and config.evaluate.calibrate
    trains = mode.startswith("train") or mode == "evaluate_teacher"
    return gallery, open_dataset(config.data) if trains or calibrates else None


def open_gallery(config: Any) -> PreparedDataset:
    """The dataset to look for people in; what is wrong with it is told by the keys that name it."""
    if not cfg.transfers(config):
        return open_dataset(config.data)
    try:
        return open_dataset(cfg.evaluation_data(config))
    except InputError as error:
        told = re.sub(r"config\.data\.(name|root|builder)", r"config.evaluate.data.\1", str(error))
        raise InputError(told) from error
