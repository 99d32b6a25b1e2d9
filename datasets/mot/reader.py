"""A folder of MOTChallenge sequences as person search: tracks are identities, sequences are cameras.

`root` holds sequences (see `sequence`) directly or under `train/`, or is one itself. An id names another person in
every sequence, so a person is (sequence, id), numbered in sorted order over the whole folder; camera = number of the
sequence in sorted order, from 1; frame = frame number.

Splits: `test_sequences` are the gallery and all others train. Without it, each sequence is cut in time: the first
`train_share` of its photographs train, the rest are gallery. A track that crosses the cut keeps its identity on the
side with more of its photographs and is unlabelled on the other: no identity is in both splits. Those with as many on
either side go to the gallery and to train by turns, in the order of their ids.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from psdiff_jax.data.schema import UNLABELLED
from psdiff_jax.datasets.common import checks
from psdiff_jax.datasets.common.boxes import place_box
from psdiff_jax.datasets.common.images import read_header
from psdiff_jax.datasets.common.query_sampling import add_drawn_queries
from psdiff_jax.datasets.common.records import ERROR, KNOWN, WARNING, Contents, Scene
from psdiff_jax.datasets.mot.sequence import MotSequence, Row, check_photographs, check_sizes, read_rows
from psdiff_jax.errors import InputError

_COPY = re.compile(r"(.+)-(DPM|FRCNN|SDP)")  # MOT17 has each sequence once for every public detector
LAYOUT = "sequences (SEQ/img1/*.jpg, SEQ/gt/gt.txt, SEQ/seqinfo.ini), directly or under train/"


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
) -> Contents:
    """The two splits and the drawn queries.

    Args:
      test_sequences: names of the sequences that are the gallery (a list, or text with commas); None or empty: each
        sequence is cut in time at `train_share`.
      every: takes the first of every `every` photographs of a sequence, in the order of their frame numbers.
      min_visibility: leaves out boxes that are less visible, where gt.txt says how visible they are.
      query_gap, queries_per_track, seed: of the rule in `draw_queries`.

    Raises:
      InputError: no sequence with gt.txt in `root`; an option that makes no sense.
    """
    _check_options(train_share, every, min_visibility)
    contents = Contents()
    sequences = find_sequences(root, contents)
    testing = _test_names(test_sequences, sequences)
    rows = {sequence.name: read_rows(sequence, contents) for sequence in sequences}
    people = sorted({(name, row.track) for name, found in rows.items() for row in found if row.track >= 0})
    numbers = {person: number for number, person in enumerate(people)}
    contents.people = {number: f"{name} track {track}" for (name, track), number in numbers.items()}
    for camera, sequence in enumerate(sequences, start=1):
        visible = _visible(sequence, rows[sequence.name], min_visibility, contents)
        scenes = _scenes(sequence, camera, visible, numbers, every, contents)
        if testing:
            (contents.gallery if sequence.name in testing else contents.train).extend(scenes)
        else:
            _split_in_time(scenes, train_share, contents, sequence.folder)
    add_drawn_queries(contents, root, queries_per_track, query_gap, seed)
    return contents


def find_sequences(root: Path, contents: Contents) -> list[MotSequence]:
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
        contents.note(WARNING, "no ground truth", sequence.folder, "has no gt/gt.txt: the sequence is left out")
    if base != root and not _is_sequence(root):
        _note_beside(root, base, contents)
    sequences = _without_copies([s for s in sequences if s.ground_truth.is_file()], contents)
    if not sequences:
        raise InputError(
            f"config.data.root: no sequence with gt/gt.txt in {root}; name a folder with MOTChallenge"
            f" {LAYOUT}" + (", not the official test/" if folders else "")
        )
    return sequences


def _is_sequence(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("gt/gt.txt", "img1", "seqinfo.ini"))


def _note_beside(root: Path, base: Path, contents: Contents) -> None:
    """Sequences that are neither under train/ nor read."""
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and path != base):
        inside = [path for path in folder.iterdir() if path.is_dir() and _is_sequence(path)]
        if inside or _is_sequence(folder):
            contents.note(
                WARNING,
                "not read",
                folder,
                f"{len(inside) or 1} sequences beside train/ are left out; move those with gt/gt.txt there",
            )


def _without_copies(sequences: list[MotSequence], contents: Contents) -> list[MotSequence]:
    kept: dict[str, MotSequence] = {}
    for sequence in sequences:
        match = _COPY.fullmatch(sequence.name)
        first = kept.setdefault(match[1] if match else sequence.name, sequence)
        if first is sequence:
            continue
        contents.note(
            KNOWN,
            "copy of a sequence",
            sequence.folder,
            f"is {first.name} with another detector's detections and is left out",
        )
        if first.ground_truth.read_bytes() != sequence.ground_truth.read_bytes():
            contents.note(
                WARNING,
                "copies differ",
                sequence.ground_truth,
                f"differs from {first.ground_truth}, which is read; restore one of them",
            )
    return list(kept.values())


def _check_options(train_share: float, every: int, min_visibility: float) -> None:
    for name, value, right, range_ in (
        ("train_share", train_share, lambda x: 0 <= x < 1, "from 0 to below 1 (the rest is the gallery)"),
        ("every", every, lambda x: x >= 1 and x == int(x), "a whole number from 1"),
        ("min_visibility", min_visibility, lambda x: 0 <= x <= 1, "from 0 to 1"),
    ):
        if not (isinstance(value, (int, float)) and right(value)):
            raise InputError(f"config.data.builder.{name}: {value!r} makes no sense; it is {range_}")


def _test_names(given: Iterable[str] | str | None, sequences: list[MotSequence]) -> set[str]:
    """The names of the gallery's sequences; one of MOT17's copies stands for the one that is read."""
    wanted = given.split(",") if isinstance(given, str) else list(given or ())
    known = {sequence.name: sequence.name for sequence in sequences}
    for name in list(known):
        match = _COPY.fullmatch(name)
        known |= {f"{match[1]}{end}": name for end in ("", "-DPM", "-FRCNN", "-SDP")} if match else {}
    names = [name.strip() for name in wanted if name.strip()]
    for name in names:
        if name not in known:
            raise InputError(
                f"config.data.builder.test_sequences: there is no sequence {name!r}; there are"
                f" {', '.join(sequence.name for sequence in sequences)}"
            )
    return {known[name] for name in names}


def _visible(sequence: MotSequence, rows: list[Row], least: float, contents: Contents) -> list[Row]:
    kept = [row for row in rows if row.visibility is None or row.visibility >= least]
    if len(kept) < len(rows):
        contents.note(
            KNOWN,
            "hardly visible boxes",
            sequence.ground_truth,
            f"{len(rows) - len(kept)} boxes with a visibility below {least} are left out",
        )
    if least > 0 and any(row.visibility is None for row in rows):
        contents.note(
            WARNING,
            "no visibility",
            sequence.ground_truth,
            "has no column of visibilities (9 columns): min_visibility leaves nothing out",
        )
    return kept


def _scenes(
    sequence: MotSequence,
    camera: int,
    rows: list[Row],
    numbers: dict[tuple[str, int], int],
    every: int,
    contents: Contents,
) -> list[Scene]:
    """The scenes of every `every`th photograph, by rising frame number."""
    check_photographs(sequence, contents)
    by_frame: dict[int, list[Row]] = {}
    for row in rows:
        by_frame.setdefault(row.frame, []).append(row)
    there = dict(reversed(sequence.photographs))
    for frame in sorted(set(by_frame) - set(there)) if there else ():
        contents.note(
            ERROR,
            checks.NO_PHOTOGRAPH,
            f"{sequence.ground_truth} line {by_frame[frame][0].line}",
            f"there is no photograph of frame {frame} in {sequence.image_folder}; restore it or remove its rows",
        )
    scenes = []
    for frame, path in sorted(there.items())[:: int(every)]:
        scene = _scene(sequence, camera, frame, path, by_frame.get(frame, []), numbers, contents)
        scenes += [scene] if scene is not None else []
    check_sizes(sequence, {scene.path.name: (scene.height, scene.width) for scene in scenes}, contents)
    return scenes


def _scene(
    sequence: MotSequence,
    camera: int,
    frame: int,
    path: Path,
    rows: list[Row],
    numbers: dict[tuple[str, int], int],
    contents: Contents,
) -> Scene | None:
    name, header = f"{sequence.name}/{path.name}", read_header(path)
    if header is None:
        contents.note(ERROR, checks.NO_PHOTOGRAPH, path, "is not a readable image; restore it", name)
        return None
    boxes, people = [], []
    for row in rows:
        # From MOT16 on people are annotated beyond the border, and their visibility counts only what is inside.
        beyond = KNOWN if row.visibility == 0 else WARNING
        box = place_box(
            contents,
            f"{sequence.ground_truth} line {row.line}",
            row.rectangle,
            (header.height, header.width),
            name,
            outside=beyond,
        )
        if box is not None:
            boxes.append(box)
            people.append(numbers.get((sequence.name, row.track), UNLABELLED))
    return Scene(
        name,
        path,
        header.height,
        header.width,
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.asarray(people, np.int64),
        camera,
        frame,
    )


def _split_in_time(scenes: list[Scene], share: float, contents: Contents, where: Path) -> None:
    """The first `share` of a sequence's scenes train, the others are gallery."""
    cut = round(share * len(scenes))
    sides = scenes[:cut], scenes[cut:]
    shown = [
        Counter(person for scene in side for person in set(scene.person_ids[scene.person_ids >= 0].tolist()))
        for side in sides
    ]
    both = shown[0].keys() & shown[1].keys()
    as_many = sorted(person for person in both if shown[0][person] == shown[1][person])
    training = {person for person in both if shown[0][person] > shown[1][person]} | set(as_many[1::2])
    contents.train += [_without(scene, both - training) for scene in sides[0]]
    contents.gallery += [_without(scene, training) for scene in sides[1]]
    if both:
        contents.note(
            KNOWN,
            "track on both sides",
            where,
            f"{len(both)} tracks cross the cut in time: {len(training)} are labelled in train only,"
            f" {len(both) - len(training)} in the gallery only",
        )


def _without(scene: Scene, people: set[int]) -> Scene:
    """The scene with these people unlabelled."""
    ids = np.where(np.isin(scene.person_ids, list(people)), UNLABELLED, scene.person_ids)
    return Scene(
        scene.name, scene.path, scene.height, scene.width, scene.boxes, ids.astype(np.int64), scene.camera, scene.frame
    )
