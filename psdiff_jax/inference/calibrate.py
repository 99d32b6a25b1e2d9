"""The search threshold, chosen on training images that were held out."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from psdiff_jax import parallel
from psdiff_jax.data.held_out import HeldOut
from psdiff_jax.data.records import Images
from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.calibration import choose_threshold
from psdiff_jax.files import write_atomically
from psdiff_jax.inference.embed import Embedder
from psdiff_jax.inference.embed_split import embed_all, shards_folder
from psdiff_jax.progress import progress

FILE = "calibration.json"


def calibrate(embedder: Embedder, workdir: Path, train_set: Images | None) -> dict[str, Any]:
    """{steps: Calibration as a dict} on the training images held out, also in `workdir/calibration.json`.

    {} when none are held out, or config.evaluate.calibrate is off. Numbers of steps at which nobody is found again are
    named and left out.
    """
    options, share = embedder.options, embedder.data.held_out
    if not (share and options.calibrate and train_set):
        return {}
    held_out = HeldOut(train_set, share)
    annotations, queries = held_out.annotations("gallery"), held_out.queries()
    print(
        f"choosing the search threshold on {len(annotations)} held-out training images, {len(queries)} queries",
        file=sys.stderr,
        flush=True,
    )
    chosen = {}
    for k, found in embed_all(embedder, held_out, shards_folder(workdir)).items():
        try:
            chosen[str(k)] = dataclasses.asdict(choose_threshold(*found, annotations, queries, progress=progress))
        except InputError as error:  # of a model that has hardly been trained: no reason to end here
            print(f"{k} steps: {error}; taking {options.search_threshold}", file=sys.stderr, flush=True)
    if parallel.is_main_process():
        write_atomically(workdir / FILE, json.dumps(chosen, indent=2) + "\n")
    return chosen


def calibrated_threshold(workdir: Path, steps: int) -> float | None:
    """The threshold that `calibrate` chose for a number of steps; None where it has not."""
    chosen = _calibration(workdir, steps)
    with _reading(workdir / FILE):
        return float(chosen["threshold"]) if chosen else None


def calibrated_precision(workdir: Path, steps: int) -> dict[str, list[float | None]] | None:
    """{"similarities", "precision"} that `calibrate` measured for a number of steps; None where it has not."""
    found = _calibration(workdir, steps)
    with _reading(workdir / FILE):
        return {key: found[key] for key in ("similarities", "precision")} if found.get("precision") else None


def _calibration(workdir: Path, steps: int) -> dict[str, Any]:
    path = workdir / FILE
    with _reading(path):
        return json.loads(path.read_text()).get(str(steps), {}) if path.is_file() else {}


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}): delete it, --mode evaluate makes it again") from error
