"""Flipped bits and cut files in what the program writes and reads again: the same values, or one line, or made anew."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psdiff_jax.config import Config, read_config
from psdiff_jax.data.detections import load_embeddings
from psdiff_jax.data.galleries import GalleryList, load_galleries, save_galleries
from psdiff_jax.errors import InputError
from psdiff_jax.inference.calibrate import calibrated_precision, calibrated_threshold
from psdiff_jax.models.weights import read_npz
from psdiff_jax.options import tree
from psdiff_jax.teacher.train import _read_origin
from psdiff_jax.training.writer import read_metrics

from . import stages

pytestmark = pytest.mark.slow
TRIES = 24


def read_model(place: Path) -> Any:
    return read_npz(place / "model.npz")["params"].tolist()


def read_embeddings(place: Path) -> Any:
    found = load_embeddings(place / "gallery", mmap=False)
    return found.images, *(np.asarray(getattr(found, name)).tolist() for name in ("boxes", "scores", "embeddings"))


# What is made, by which stage, the files that are damaged, how it is read again, and whether each value is checked.
CASES: dict[str, tuple[str, str, Callable[[Path], Any], bool]] = {
    "weights": ("training", "model.npz", read_model, True),
    "targets": ("targets", "targets.*", stages.targets, True),
    "prepared records": ("preparation", "prepared/*/custom/*/*array_record*", stages.preparation, True),
    "their annotations": ("preparation", "prepared/*/custom/*/*.npz", stages.preparation, True),
    "their descriptions": ("preparation", "prepared/*/**/*.json", stages.preparation, False),
    "embeddings": ("embeddings", "gallery/*", read_embeddings, False),
    "shards of a split": ("shards", "shards/*/1/*.*", stages.shard_contents, True),
    "maps of frozen backbones": ("views", "[01]/*.*", stages.views, True),
    "index, searched": ("indexing", "index/**/*.*", lambda place: stages.index_contents(place / "index"), False),
    "arrays of an index, updated": ("indexing", "index/shards/*/*.npy", stages.indexing, True),
}


@pytest.mark.parametrize("name", CASES)
def test_damage_is_noticed(name, tmp_path, tried):
    stage, pattern, read, exact = CASES[name]
    stages.STAGES[stage](tmp_path)
    whole = read(tmp_path)
    files = sorted(path for path in tmp_path.glob(pattern) if path.is_file() and path.stat().st_size)
    assert files
    rng = np.random.default_rng(0)
    for number in range(TRIES):
        file = files[number % len(files)]
        content = file.read_bytes()
        file.write_bytes(damaged(content, rng))
        others = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path != file}
        try:
            outcome = "the same values" if read(tmp_path) == whole else "other values"
        except InputError as error:
            outcome = "one line"
            assert "\n" not in str(error), repr(error)
        assert outcome != "other values" or not exact, file
        tried(f"a flipped bit or a cut: {name}", outcome)
        file.write_bytes(content)
        for path, before in others.items():  # what reading has made anew
            path.write_bytes(before)


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    if rng.random() < 0.3:
        return content[: rng.integers(len(content))]
    broken = bytearray(content)
    broken[rng.integers(len(broken))] ^= 1 << rng.integers(8)
    return bytes(broken)


SMALL: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "config.json": (json.dumps(tree(Config())), lambda path: read_config(path, "")),
    "calibration.json": (
        json.dumps({"1": {"threshold": 0.4, "similarities": [0.5, 0.7], "precision": [0.5, None]}}),
        lambda path: (calibrated_threshold(path.parent, 1), calibrated_precision(path.parent, 1)),
    ),
    "teacher.json": (json.dumps({"options": {"people": 16, "steps": 8}, "seed": 0, "boxes": "0f"}), _read_origin),
    "metrics.jsonl": ('{"step": 1, "split": "train", "loss": 1.5}\n' * 5, read_metrics),
}


@pytest.mark.parametrize("name", SMALL)
def test_small_files(name, tmp_path, tried):
    content, read = SMALL[name]
    path, rng = tmp_path / name, np.random.default_rng(0)
    path.write_text(content)
    whole = read(path)
    for _ in range(60):
        path.write_bytes(damaged(content.encode(), rng))
        try:
            found = read(path)
            outcome = "the same values" if found == whole else "other values"
            if name == "metrics.jsonl":
                lines = path.read_bytes().split(b"\n")
                assert sum(record == whole[0] for record in found) >= lines.count(content.encode().split(b"\n")[0])
                outcome = "the other lines are read"
        except InputError as error:
            outcome = "one line"
            assert "\n" not in str(error), repr(error)
        tried(f"a flipped bit or a cut: {name}", outcome)


def test_galleries_and_names_of_people(tmp_path, tried):
    galleries = {"TestG50": GalleryList(np.arange(2), *([np.arange(3)] * 2 for _ in range(2)), [np.ones((3, 4))] * 2)}
    path, rng = tmp_path / "galleries.npz", np.random.default_rng(0)
    save_galleries(path, galleries)
    content = path.read_bytes()
    whole = repr(load_galleries(path))
    for _ in range(60):
        path.write_bytes(damaged(content, rng))
        try:
            assert repr(load_galleries(path)) == whole
            outcome = "the same values"
        except InputError as error:
            outcome = "one line"
            assert "\n" not in str(error), repr(error)
        tried("a flipped bit or a cut: galleries", outcome)
