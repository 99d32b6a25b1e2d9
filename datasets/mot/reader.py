"""A folder of MOTChallenge sequences as person search: tracks are identities, sequences are cameras.

`root` holds sequences (see `sequence`) directly or under `train/`, or is one itself. A track id names another person in
every sequence, so an identity is (sequence, track id), numbered in sorted order over the whole folder; camera = number
of the sequence in sorted order, from 1; frame = frame number.

Splits: `test_sequences` are the gallery and all others train. Without it, each sequence is cut in time: the first
`train_share` of its images are train, the rest gallery. A track on both sides of the cut keeps its identity on the side
with more of its images and is unlabelled on the other, so that no identity is in both splits. Tracks with as many
images on either side go to the gallery and to train alternately, in the order of their ids.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from psdiff_jax.data.schema import UNLABELLED
from psdiff_jax.datasets.common.boxes import clip_xywh
from psdiff_jax.datasets.common.images import NO_IMAGE, find_header
from psdiff_jax.datasets.common.query_sampling import add_sampled_queries
from psdiff_jax.datasets.common.records import ERROR, KNOWN, WARNING, AnnotatedImage, RawDataset
from psdiff_jax.datasets.mot.sequence import MotSequence, Row, check_images, check_sizes, read_rows
from psdiff_jax.errors import InputError

_COPY = re.compile(r"(.+)-(DPM|FRCNN|SDP)")  # MOT17 has each sequence once for every public detector
LAYOUT = "sequences (SEQ/img1/*.jpg, SEQ/gt/gt.txt, SEQ/seqinfo.ini), directly or under train/"

Numbers = dict[tuple[str, int], int]  # (sequence, track id) -> person id


def read(
    root: Path,
    *,
    test_sequences: Iterable[str] | str | None = None,
    train_share: float = 0.5,
    every: int = 1,
    min_visibility: float = 0.0,
    query_gap: int = 25,
    queries_per_track: int = 1,
    seed: int = 0,
) -> RawDataset:
    """The two splits and the sampled queries.

    Args:
      test_sequences: names of the sequences that are the gallery (a list, or text with commas); None or empty: each
        sequence is cut in time at `train_share`.
      every: takes the first of every `every` images of a sequence, in the order of their frame numbers.
      min_visibility: leaves out boxes that are less visible, if gt.txt states the visibility.
      query_gap, queries_per_track, seed: of the rule in `query_sampling`.

    Raises:
      InputError: no sequence with gt.txt in `root`; an invalid option.
    """
    _check_options(train_share, every, min_visibility)
    dataset = RawDataset()
    sequences = find_sequences(root, dataset)
    testing = _test_names(test_sequences, sequences)
    rows = {sequence.name: read_rows(sequence, dataset) for sequence in sequences}
    tracks = sorted({(name, row.track) for name, found in rows.items() for row in found if row.track >= 0})
    numbers = {track: number for number, track in enumerate(tracks)}
    dataset.person_names = {number: f"{name} track {track}" for (name, track), number in numbers.items()}
    for camera, sequence in enumerate(sequences, start=1):
        visible = _visible(sequence, rows[sequence.name], min_visibility, dataset)
        images = _images(sequence, camera, visible, numbers, every, dataset)
        if testing:
            dataset.splits["gallery" if sequence.name in testing else "train"].extend(images)
        else:
            _split_in_time(images, train_share, dataset, sequence.folder)
    add_sampled_queries(dataset, root, queries_per_track, query_gap, seed)
    return dataset


def find_sequences(root: Path, dataset: RawDataset) -> list[MotSequence]:
    """The sequences with ground truth, sorted by name, MOT17's copies once; what is left out is noted.

    Raises:
      InputError: there are none.
    """
    if not root.is_dir():
        raise InputError(f"config.data.root: there is no folder {root}; name one with MOTChallenge {LAYOUT}")
    base = root / "train" if (root / "train").is_dir() and not _is_sequence(root / "train") else root
    folders = [root] if _is_sequence(root) else [path for path in base.iterdir() if _is_sequence(path)]
    sequences = sorted((MotSequence(path) for path in folders), key=lambda sequence: sequence.name)
    for sequence in [s for s in sequences if not s.ground_truth.is_file()]:
        dataset.note(WARNING, "no ground truth", sequence.folder, "has no gt/gt.txt: the sequence is left out")
    if base != root and not _is_sequence(root):
        _note_beside(root, base, dataset)
    sequences = _without_copies([s for s in sequences if s.ground_truth.is_file()], dataset)
    if not sequences:
        hint = ", not the official test/" if folders else ""
        raise InputError(
            f"config.data.root: no sequence with gt/gt.txt in {root}; name a folder with MOTChallenge {LAYOUT}{hint}"
        )
    return sequences


def _is_sequence(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("gt/gt.txt", "img1", "seqinfo.ini"))


def _note_beside(root: Path, base: Path, dataset: RawDataset) -> None:
    """Notes sequences beside train/, which are not read."""
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and path != base):
        inside = [path for path in folder.iterdir() if path.is_dir() and _is_sequence(path)]
        if inside or _is_sequence(folder):
            what = f"{len(inside) or 1} sequences beside train/ are left out; move those with gt/gt.txt there"
            dataset.note(WARNING, "not read", folder, what)


def _without_copies(sequences: list[MotSequence], dataset: RawDataset) -> list[MotSequence]:
    kept: dict[str, MotSequence] = {}
    for sequence in sequences:
        match = _COPY.fullmatch(sequence.name)
        first = kept.setdefault(match[1] if match else sequence.name, sequence)
        if first is sequence:
            continue
        what = f"is {first.name} with another detector's detections and is left out"
        dataset.note(KNOWN, "copy of a sequence", sequence.folder, what)
        if first.ground_truth.read_bytes() != sequence.ground_truth.read_bytes():
            what = f"differs from {first.ground_truth}, which is read; restore one of them"
            dataset.note(WARNING, "copies differ", sequence.ground_truth, what)
    return list(kept.values())


def _check_options(train_share: float, every: int, min_visibility: float) -> None:
    for name, value, is_valid, allowed in (
        ("train_share", train_share, lambda x: 0 <= x < 1, "from 0 to below 1 (the rest is the gallery)"),
        ("every", every, lambda x: x >= 1 and x == int(x), "a whole number from 1"),
        ("min_visibility", min_visibility, lambda x: 0 <= x <= 1, "from 0 to 1"),
    ):
        if not (isinstance(value, (int, float)) and is_valid(value)):
            raise InputError(f"config.data.builder.{name}: {value!r} is invalid; it is {allowed}")


def _test_names(given: Iterable[str] | str | None, sequences: list[MotSequence]) -> set[str]:
    """The names of the gallery sequences. The name of any of MOT17's copies selects the one that is read."""
    wanted = given.split(",") if isinstance(given, str) else () if given is None else given
    if not isinstance(wanted, list | tuple) or not all(isinstance(name, str) for name in wanted):
        raise InputError(
            f"config.data.builder.test_sequences={given!r}: give names with commas between; numbers are quoted twice:"
            " \"'0001,0002'\""
        )
    known = {sequence.name: sequence.name for sequence in sequences}
    for name in list(known):
        match = _COPY.fullmatch(name)
        known |= {f"{match[1]}{end}": name for end in ("", "-DPM", "-FRCNN", "-SDP")} if match else {}
    names = [name.strip() for name in wanted if name.strip()]
    for name in names:
        if name not in known:
            existing = ", ".join(sequence.name for sequence in sequences)
            raise InputError(f"config.data.builder.test_sequences: there is no sequence {name!r}; there are {existing}")
    return {known[name] for name in names}


def _visible(sequence: MotSequence, rows: list[Row], least: float, dataset: RawDataset) -> list[Row]:
    kept = [row for row in rows if row.visibility is None or row.visibility >= least]
    if len(kept) < len(rows):
        what = f"{len(rows) - len(kept)} boxes with a visibility below {least} are left out"
        dataset.note(KNOWN, "hardly visible boxes", sequence.ground_truth, what)
    if least > 0 and any(row.visibility is None for row in rows):
        what = "has no column of visibilities (9 columns): min_visibility leaves nothing out"
        dataset.note(WARNING, "no visibility", sequence.ground_truth, what)
    return kept


def _images(
    sequence: MotSequence, camera: int, rows: list[Row], numbers: Numbers, every: int, dataset: RawDataset
) -> list[AnnotatedImage]:
    """Every `every`th image of a sequence, by rising frame number."""
    check_images(sequence, dataset)
    by_frame: dict[int, list[Row]] = {}
    for row in rows:
        by_frame.setdefault(row.frame, []).append(row)
    files = dict(reversed(sequence.frames))
    for frame in sorted(set(by_frame) - set(files)) if files else ():
        where = f"{sequence.ground_truth} line {by_frame[frame][0].line}"
        what = f"there is no image of frame {frame} in {sequence.image_folder}; restore it or remove its rows"
        dataset.note(ERROR, NO_IMAGE, where, what)
    found = [
        _image(sequence, camera, frame, path, by_frame.get(frame, []), numbers, dataset)
        for frame, path in sorted(files.items())[:: int(every)]
    ]
    images = [image for image in found if image is not None]
    check_sizes(sequence, {image.path.name: (image.height, image.width) for image in images}, dataset)
    return images


def _image(
    sequence: MotSequence,
    camera: int,
    frame: int,
    path: Path,
    rows: list[Row],
    numbers: Numbers,
    dataset: RawDataset,
) -> AnnotatedImage | None:
    name = f"{sequence.name}/{path.name}"
    header = find_header(dataset, path, name, "restore it")
    if header is None:
        return None
    boxes, person_ids = [], []
    for row in rows:
        # From MOT16 on people are annotated beyond the border, and their visibility counts only what is inside.
        outside = KNOWN if row.visibility == 0 else WARNING
        where = f"{sequence.ground_truth} line {row.line}"
        box = clip_xywh(dataset, where, row.xywh, header.size, name, outside=outside)
        if box is not None:
            boxes.append(box)
            person_ids.append(numbers.get((sequence.name, row.track), UNLABELLED))
    return AnnotatedImage(
        name,
        path,
        *header.size,
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.asarray(person_ids, np.int64),
        camera,
        frame,
    )


def _split_in_time(images: list[AnnotatedImage], share: float, dataset: RawDataset, where: Path) -> None:
    """Adds the first `share` of a sequence's images to train, the others to the gallery."""
    cut = round(share * len(images))
    sides = images[:cut], images[cut:]
    shown = [
        Counter(i for image in side for i in set(image.person_ids[image.person_ids >= 0].tolist())) for side in sides
    ]
    both = shown[0].keys() & shown[1].keys()
    as_many = sorted(i for i in both if shown[0][i] == shown[1][i])
    training = {i for i in both if shown[0][i] > shown[1][i]} | set(as_many[1::2])
    dataset.train += [_without(image, both - training) for image in sides[0]]
    dataset.gallery += [_without(image, training) for image in sides[1]]
    if both:
        what = (
            f"{len(both)} tracks cross the cut in time: {len(training)} are labelled in train only,"
            f" {len(both) - len(training)} in the gallery only"
        )
        dataset.note(KNOWN, "track on both sides", where, what)


def _without(image: AnnotatedImage, person_ids: set[int]) -> AnnotatedImage:
    """The image with these identities unlabelled."""
    ids = np.where(np.isin(image.person_ids, list(person_ids)), UNLABELLED, image.person_ids)
    return dataclasses.replace(image, person_ids=ids.astype(np.int64))
