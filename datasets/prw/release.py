"""Facts about the official release of PRW, to compare a folder with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from psdiff_jax.datasets.common.records import KNOWN, WARNING, AnnotatedImage, RawDataset, identities
from psdiff_jax.datasets.prw import files
from psdiff_jax.errors import InputError

CAMERAS = {1, 2, 3, 4, 5, 6}
PUBLISHED = {
    "train images": 5704, "train boxes": 18048, "train ids": 483,  # as annotated; the paper and ID_train.mat say 482
    "gallery images": 6112, "gallery boxes": 25062, "gallery ids": 450, "queries": 2057,
}  # fmt: skip


def compare(dataset: RawDataset, root: Path, names: Iterable[str]) -> None:
    """Sets the published counts if the listed frames `names` cover all six cameras, and describes the part if not.
    Compares the identities with ID_train.mat and ID_test.mat, if the folder holds them."""
    parts = [part for part in map(files.camera_sequence_number, names) if part]
    cameras, sequences = {part[0] for part in parts}, {part[1] for part in parts}
    if cameras >= CAMERAS:
        dataset.published = PUBLISHED
    else:
        dataset.part = f"cameras {_listing(cameras)}, sequences {_listing(sequences)}"
        what = f"a part of PRW: {dataset.part}; its counts are not compared with the published ones"
        dataset.note(KNOWN, "part of the release", root, what)
    for split, images in dataset.splits.items():
        _compare_ids(dataset, root, split, images)


def _compare_ids(dataset: RawDataset, root: Path, split: str, images: list[AnnotatedImage]) -> None:
    where = root / files.ID_FILES[split][0]
    try:
        listed = files.read_ids(root, split)
    except InputError as error:  # nothing is built from these files
        dataset.note(WARNING, "unreadable id list", where, str(error).removeprefix(f"{where}: "))
        return
    if listed is None:
        return
    annotated = identities(images)
    both = f"{len(annotated)} identities as annotated, {len(listed)} as listed"
    if annotated - listed:
        extra = f"pids {_listing(annotated - listed)} are annotated in {split} frames and not listed"
        dataset.note(KNOWN, f"pids not in {where.name}", where, f"{extra}; they count as identities: {both}")
    if listed - annotated:
        absent = f"pids {_listing(listed - annotated)} are listed, but in no {split} frame"
        dataset.note(WARNING, f"pids of {where.name} not annotated", where, f"{absent}: {both}")


def _listing(numbers: Iterable[int], most: int = 10) -> str:
    ordered = sorted(numbers)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return (", ".join(map(str, ordered[:most])) or "none that a frame name tells") + more
