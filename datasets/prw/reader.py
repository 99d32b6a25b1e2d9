"""PRW's folder -> `Contents`. The formats of its files are in `files`, what is known of the release in `release`.

pid -2 (any negative one) means unlabelled. Boxes leave here as float32 xyxy pixels inside their photograph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np

from psdiff_jax.data.schema import UNKNOWN, UNLABELLED
from psdiff_jax.datasets.common import checks
from psdiff_jax.datasets.common.records import ERROR, KNOWN, WARNING, Contents, Query, Scene
from psdiff_jax.datasets.prw import files, release
from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.detection import box_iou

# Frames of different sequences belong to different recordings. They are numbered sequence * SEQUENCE_STRIDE + number, a
# stride that no distance within a sequence (six digits) bridges: c6s1_042326 is frame 10,042,326 of camera 6.
SEQUENCE_STRIDE = 10_000_000
ROUNDING = 1.0  # pixels by which x, y, w, h of a query may differ from its frame's annotation, as 3 of the release do
T = TypeVar("T")


def read(root: Path) -> Contents:
    """Everything in a folder of PRW's format, in the order of the official lists.

    Raises:
      InputError: a list is missing or unreadable; all other faults are findings.
    """
    root = Path(root)
    files.check_folder(root)
    contents = Contents()
    names = {split: _listed(contents, root, split) for split in files.SPLIT_FILES}
    for stem in sorted(set(names["train"]) & set(names["gallery"])):
        contents.note(
            ERROR,
            checks.BOTH_SPLITS,
            root,
            f"frame {stem}.jpg is in frame_train.mat and in frame_test.mat; remove it from one",
            f"{stem}.jpg",
        )
    scenes = {stem: _scene(contents, root, stem) for stem in dict.fromkeys([*names["train"], *names["gallery"]])}
    contents.train = [scenes[stem] for stem in names["train"] if scenes[stem] is not None]
    contents.gallery = [scenes[stem] for stem in names["gallery"] if scenes[stem] is not None]
    gallery = {stem: scenes[stem] for stem in names["gallery"]}
    for number, line in files.read_query_lines(root):
        _query(contents, f"{root / files.QUERY_FILE} line {number}", line, gallery)
    release.compare(contents, root, [*names["train"], *names["gallery"]])
    return contents


def frame_number(name: str) -> tuple[int, int]:
    """(camera, frame) of a frame name; (-1, -1) for names of another form. See SEQUENCE_STRIDE."""
    parts = files.camera_sequence_number(name)
    return (parts[0], parts[1] * SEQUENCE_STRIDE + parts[2]) if parts else (UNKNOWN, UNKNOWN)


def to_box(rectangle: np.ndarray, height: int, width: int) -> np.ndarray:
    """A box [x, y, w, h] without `_box_fault` as float32 [4] xyxy inside its photograph.

    Negative x and y become 0 and keep w and h, as every PRW evaluator does it; then the far side is cut at the border.
    """
    x, y, w, h = _plain(rectangle)
    x, y = max(x, 0.0), max(y, 0.0)
    return np.asarray([x, y, min(x + w, width), min(y + h, height)], np.float32)


def _box_fault(rectangle: np.ndarray, height: int, width: int) -> tuple[str, str, str] | None:
    """(level, check, what) of a box [x, y, w, h] that cannot be used."""
    x, y, w, h = _plain(rectangle)
    text = f"the box {[x, y, w, h]} (x y w h)"
    if not np.isfinite([x, y, w, h]).all():
        return ERROR, checks.BOX_OUTSIDE, f"{text} is not finite"
    if w <= 0 or h <= 0:
        return KNOWN, checks.BOX_WITHOUT_AREA, f"{text} has no area"
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return ERROR, checks.BOX_OUTSIDE, f"{text} lies outside its {width} x {height} photograph"
    x1, y1, x2, y2 = to_box(rectangle, height, width)
    if x1 >= x2 or y1 >= y2:  # thinner than float32 can tell
        return KNOWN, checks.BOX_WITHOUT_AREA, f"{text} has no area"
    return None


def _listed(contents: Contents, root: Path, split: str) -> list[str]:
    """The names of a split, each once."""
    names = files.read_split(root, split)
    once = list(dict.fromkeys(names))
    for stem in once if len(once) < len(names) else ():
        if names.count(stem) > 1:
            contents.note(
                ERROR,
                checks.TWICE_IN_SPLIT,
                root / files.SPLIT_FILES[split][0],
                f"the frame {stem} stands there twice; remove one",
                f"{stem}.jpg",
            )
    return once


def _scene(contents: Contents, root: Path, stem: str) -> Scene | None:
    """One frame; None, and a finding, where it cannot be used."""
    path, annotation = root / "frames" / f"{stem}.jpg", root / "annotations" / f"{stem}.jpg.mat"
    size = _tried(contents, files.image_size, path, checks.NO_PHOTOGRAPH, path.name)
    rows = _tried(contents, files.read_rows, annotation, checks.NO_ANNOTATION, path.name)
    if size is None or rows is None:
        return None
    boxes, person_ids = _people(contents, annotation, stem, rows, size)
    for person_id in sorted({i for i in person_ids.tolist() if i >= 0 and (person_ids == i).sum() > 1}):
        contents.note(
            KNOWN,
            checks.PERSON_TWICE,
            annotation,
            f"pid {person_id} stands there {(person_ids == person_id).sum()} times; the first box counts",
            path.name,
        )
    for first, second in checks.same_boxes(boxes, person_ids):
        contents.note(
            KNOWN,
            checks.SAME_BOX,
            annotation,
            f"boxes {first + 1} and {second + 1} of pid {person_ids[first]} are the same; both are kept",
            path.name,
        )
    camera, frame = frame_number(stem)
    return Scene(path.name, path, *size, boxes, person_ids, camera, frame)


def _tried(contents: Contents, read_file: Callable[[Path], T], path: Path, check: str, image: str) -> T | None:
    """What a file holds; None, and a finding, where it cannot be read."""
    try:
        return read_file(path)
    except InputError as error:
        contents.note(ERROR, check, path, str(error).removeprefix(f"{path}: "), image)
        return None


def _people(
    contents: Contents, annotation: Path, stem: str, rows: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """(boxes float32 [n, 4] xyxy, person_ids int64 [n]) of the rows that can be used."""
    boxes, person_ids, image = [], [], f"{stem}.jpg"
    for number, (person_id, *rectangle) in enumerate(rows, start=1):
        row = f"{annotation} row {number} of frame {stem}"
        if not np.isfinite(person_id) or person_id != np.round(person_id):
            contents.note(ERROR, "pid is no whole number", row, f"pid {person_id:g}; correct or remove the row", image)
        elif fault := _box_fault(rectangle, *size):
            level, check, what = fault
            advice = "dropped" if level == KNOWN else "correct or remove it"
            contents.note(level, check, row, f"{what}; {advice}", image)
        else:
            boxes.append(to_box(rectangle, *size))
            person_ids.append(int(person_id) if person_id >= 0 else UNLABELLED)
            if min(rectangle[:2]) < 0:
                contents.note(
                    KNOWN,
                    "negative x or y",
                    row,
                    f"the box {_plain(rectangle)} (x y w h) begins at 0 instead, its width and height stay",
                    image,
                )
    return np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(person_ids, np.int64)


def _query(contents: Contents, where: str, line: str, gallery: dict[str, Scene | None]) -> None:
    """Adds the query of one line, or a finding. A frame that was left out has its own finding: no second one here."""
    fields = line.split()
    try:
        person_id, rectangle, stem = float(fields[0]), [float(v) for v in fields[1:5]], fields[5]
        if person_id != int(person_id):
            raise ValueError(fields[0])
    except (ValueError, IndexError, OverflowError):
        contents.note(ERROR, "malformed query", where, f"expected 'pid x y w h frame', found {line!r}")
        return
    stem = stem.removesuffix(".jpg")
    if stem not in gallery:
        contents.note(
            ERROR,
            checks.QUERY_OUTSIDE_GALLERY,
            where,
            f"{stem} is not among the test frames of frame_test.mat; correct or remove the line",
        )
    elif scene := gallery[stem]:
        if fault := _box_fault(rectangle, scene.height, scene.width):
            contents.note(
                ERROR, "query box without area or outside", where, f"{fault[2]}; correct or remove the line", scene.name
            )
            return
        box = to_box(rectangle, scene.height, scene.width)
        query = Query(scene.name, box, int(person_id), scene.camera, scene.frame)
        contents.queries.append(query)
        _compare_with_annotation(contents, where, query, scene)


def _compare_with_annotation(contents: Contents, where: str, query: Query, scene: Scene) -> None:
    """Notes where a query's box is not the one of its frame's annotation. Far ones are `checks.check`'s business."""
    boxes = scene.boxes[scene.person_ids == query.person_id]
    if not (box_iou(boxes, query.box[None]) >= checks.SAME_PERSON_IOU).any():
        return
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    own = np.concatenate([query.box[:2], query.box[2:] - query.box[:2]])
    nearest = np.abs(xywh - own).max(1).argmin()
    differs = float(np.abs(xywh[nearest] - own).max())
    if differs > 1e-3:
        level, check = (
            (KNOWN, "query box differs by rounding")
            if differs <= ROUNDING + 1e-3
            else (WARNING, "query box differs from its annotation")
        )
        contents.note(
            level,
            check,
            where,
            f"the box {own.tolist()} (x y w h) differs by {differs:.3g} pixels from the"
            f" annotation {xywh[nearest].tolist()} of pid {query.person_id}",
            scene.name,
        )


def _plain(rectangle: Iterable[float]) -> list[float]:
    return [float(value) for value in rectangle]
