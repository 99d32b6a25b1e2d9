"""What is known of the official release of PRW, to compare a folder with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from psdiff_jax.datasets.common.records import KNOWN, WARNING, Contents, Scene
from psdiff_jax.datasets.prw import files
from psdiff_jax.errors import InputError

CAMERAS = {1, 2, 3, 4, 5, 6}
PUBLISHED = {
    "train images": 5704, "train boxes": 18048, "train ids": 483,  # as annotated; the paper and ID_train.mat say 482
    "gallery images": 6112, "gallery boxes": 25062, "gallery ids": 450, "queries": 2057,
}  # fmt: skip


def compare(contents: Contents, root: Path, names: Iterable[str]) -> None:
    """Sets the published counts where the listed frames `names` are of all six cameras; says so where they are not.
    Compares the identities with ID_train.mat and ID_test.mat, where they are there."""
    parts = [part for part in map(files.camera_sequence_number, names) if part]
    cameras, sequences = {part[0] for part in parts}, {part[1] for part in parts}
    if cameras >= CAMERAS:
        contents.published = PUBLISHED
    else:
        contents.part = f"cameras {_listing(cameras)}, sequences {_listing(sequences)}"
        contents.note(
            KNOWN,
            "part of the release",
            root,
            f"a part of PRW: {contents.part}; its counts are not compared with the published ones",
        )
    for split, scenes in (("train", contents.train), ("gallery", contents.gallery)):
        _compare_ids(contents, root, split, scenes)


def _compare_ids(contents: Contents, root: Path, split: str, scenes: list[Scene]) -> None:
    where = root / files.ID_FILES[split][0]
    try:
        listed = files.read_ids(root, split)
    except InputError as error:  # nothing is built from these files
        contents.note(WARNING, "unreadable id list", where, str(error).removeprefix(f"{where}: "))
        return
    if listed is None:
        return
    annotated = {int(i) for scene in scenes for i in np.unique(scene.person_ids) if i >= 0}
    both = f"{len(annotated)} identities as annotated, {len(listed)} as listed"
    if annotated - listed:
        contents.note(
            KNOWN,
            f"pids not in {where.name}",
            where,
            f"pids {_listing(annotated - listed)} are annotated in"
            f" {split} frames and not listed; they count as identities: {both}",
        )
    if listed - annotated:
        contents.note(
            WARNING,
            f"pids of {where.name} not annotated",
            where,
            f"pids {_listing(listed - annotated)} are listed, and no {split} frame shows them: {both}",
        )


def _listing(numbers: Iterable[int], most: int = 10) -> str:
    ordered = sorted(numbers)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return (", ".join(map(str, ordered[:most])) or "none that a frame name tells") + more
