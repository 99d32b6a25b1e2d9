"""One experiment: from the command line's ConfigDict to typed options, once; opens the datasets; calls a mode."""

import contextlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from psdiff_jax import parallel
from psdiff_jax.compilation import keep_compiled
from psdiff_jax.config import FOLDER, PATHS, Config, check_files, from_values, read_config
from psdiff_jax.data.joined import open_training_set
from psdiff_jax.data.records import Images, PreparedDataset, open_dataset
from psdiff_jax.errors import InputError
from psdiff_jax.files import write_atomically
from psdiff_jax.options import describe, tree
from psdiff_jax.pod import fail
from psdiff_jax.silence import broken
from psdiff_jax.workdir import claimed


def run(
    values: Mapping[str, Any] | ConfigDict,
    workdir: Path,
    mode: str,
    *,
    embeddings: str | None = None,
    query: str | None = None,
    top: int = 10,
) -> None:
    """Does what `mode` says (see main.py); everything lands in `workdir`. InputError says what is wrong with it."""
    config = from_values(values)
    if config.is_folder:
        check_folder(config, mode)
    if mode.startswith("train"):
        check_files(config)
    elif mode == "evaluate_teacher":
        check_files(config, parts=("teacher",))
    if embeddings and mode != "evaluate":
        raise InputError("--embeddings goes with --mode evaluate")
    if (mode == "search") != bool(query):
        raise InputError("--query goes with --mode search, and that mode needs it: IMAGE:x1,y1,x2,y2")
    keep_compiled(config.compilation_cache)
    if config.distributed:
        parallel.join(config.distributed_timeout, trains=mode.startswith("train"))
    options = config.train
    parallel.setup_cpu_devices(config.cpu_devices, options.batch_size // options.accumulate, config.evaluate.batch_size)
    try:
        parallel.meet()
        silence = broken() if parallel.is_main_process() else contextlib.nullcontext()  # the first alone speaks
        with silence, _claimed(workdir.expanduser()) as folder:
            _run(config, folder, mode, embeddings, query, top)
    except (Exception, KeyboardInterrupt):
        fail()
        raise


@contextlib.contextmanager
def _claimed(workdir: Path) -> Iterator[Path]:
    """`workdir`, which the first process of a pod holds for all of them; where it cannot, all end with its line."""
    with contextlib.ExitStack() as stack:
        problem = ""
        if parallel.is_main_process():
            try:
                stack.enter_context(claimed(workdir))
            except InputError as error:
                problem = str(error)
        problem = parallel.gather_json(problem)[0]
        if problem:
            raise InputError(problem)
        yield workdir


def _run(config: Config, workdir: Path, mode: str, embeddings: str | None, query: str | None, top: int) -> None:
    written = workdir / "config.json"
    new = mode.startswith("train") or not written.is_file()  # looking at a run does not change what it says it was
    if parallel.is_main_process():
        if new:
            write_atomically(written, json.dumps(tree(config), indent=2) + "\n")
        else:
            _say_what_differs(config, written)

    if config.is_folder:
        from psdiff_jax import folder

        if mode == "search":
            folder.search(config, workdir, str(query), top)
        else:
            folder.embed(config, workdir)
        return

    from psdiff_jax import gallery, modes

    if embeddings:
        modes.evaluate_folder(config, workdir, open_gallery(config), Path(embeddings).expanduser())
        return
    if mode == "export":
        modes.export_predictor(config, workdir)
        return
    gallery_set, train_set = open_datasets(config, mode)
    if mode == "train_and_evaluate":
        modes.protocols_of(config, gallery_set)  # one that the dataset cannot serve is refused before training
    if mode.startswith("train"):
        modes.train(config, workdir, train_set or gallery_set, gallery_set)
    if mode in ("train_and_evaluate", "evaluate"):
        modes.evaluate(config, workdir, gallery_set, train_set)
    elif mode == "embed":
        gallery.embed(config, workdir, gallery_set)
    elif mode == "search":
        gallery.search(config, workdir, gallery_set, str(query), top)
    elif mode == "evaluate_teacher":
        modes.evaluate_teacher(config, workdir, gallery_set, train_set)


def _say_what_differs(config: Config, written: Path) -> None:
    """A model does worse with other such keys than it was trained with, and nothing else would tell why."""
    try:
        before = read_config(written, "")
    except InputError:  # the run does not need it
        return
    for group in ("model", "diffusion"):
        now, then = (describe(getattr(each, group), f"config.{group}") for each in (config, before))
        for option, trained in zip(now, then, strict=True):
            if option.value != trained.value and option.key.removeprefix("config.") not in PATHS:
                values = f"{option.value!r} now, and {trained.value!r} in {written}"
                print(f"note: {option.key} is {values}: the model was made with that", file=sys.stderr, flush=True)


def check_folder(config: Config, mode: str) -> None:
    """Raises InputError for a mode that needs annotations, or where the folder is not named."""
    group = "config.evaluate.data" if config.evaluate.data.is_given else "config.data"
    if mode not in ("embed", "search"):
        raise InputError(
            f"{group}.name={FOLDER}: a folder has no annotations; use --mode embed or --mode search, not {mode}"
        )
    if not config.evaluation_data.root:
        raise InputError(f"{group}.root is empty: name the folder of images and videos")


def open_datasets(config: Config, mode: str) -> tuple[PreparedDataset, Images | None]:
    """(the dataset whose gallery is searched, the dataset to train on or None where nothing of it is needed).

    They are the same one unless config.evaluate.data names another, or config.data.also adds to it.
    """
    gallery, another = open_gallery(config), config.evaluate.data.is_given
    if not (another or config.data.also):
        return gallery, gallery
    calibrates = mode == "evaluate" and config.data.held_out > 0 and config.evaluate.calibrate
    trains = mode.startswith("train") or mode == "evaluate_teacher"
    if not (trains or calibrates):
        return gallery, None
    return gallery, open_training_set(config.data, None if another else gallery)


def open_gallery(config: Config) -> PreparedDataset:
    """The dataset whose gallery is searched; errors name the keys that chose it."""
    try:
        return open_dataset(config.evaluation_data)
    except InputError as error:
        if not config.evaluate.data.is_given:
            raise
        named = re.sub(r"config\.data\.(name|root|builder)", r"config.evaluate.data.\1", str(error))
        raise InputError(named) from error
