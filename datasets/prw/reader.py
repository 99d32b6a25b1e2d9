"""PRW's folder -> `RawDataset`. `files` describes the formats of its files, `release` the official release.

A pid of -2 (or any other negative number) means unlabelled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from psdiff_jax.data.schema import UNKNOWN, UNLABELLED
from psdiff_jax.datasets.common import checks
from psdiff_jax.datasets.common.boxes import BOX_WITHOUT_AREA, box_text, clip_xywh
from psdiff_jax.datasets.common.images import OUTSIDE, climbs_out, find_header
from psdiff_jax.datasets.common.records import ERROR, KNOWN, WARNING, AnnotatedImage, Query, RawDataset
from psdiff_jax.datasets.prw import files, release
from psdiff_jax.errors import InputError
from psdiff_jax.ops.boxes import box_iou

# Frames of different sequences belong to different recordings. They are numbered sequence * SEQUENCE_STRIDE + number, a
# stride larger than any distance within a sequence (six digits): c6s1_042326 is frame 10,042,326 of camera 6.
SEQUENCE_STRIDE = 10_000_000
ROUNDING = 1.0  # pixels by which x, y, w, h of a query may differ from its frame's annotation, as 3 of the release do
NO_ANNOTATION = "missing or unreadable annotation"


def read(root: Path, boxes: str = "clipped") -> RawDataset:
    """A folder in PRW's format, in the order of the official lists. boxes: see `builder.Prw`.

    Raises:
      InputError: a list is missing or unreadable, or there is no such rule; all other faults are findings.
    """
    root = Path(root)
    if boxes not in RULES:
        raise InputError(f"config.data.builder.boxes={boxes!r}: choose from {', '.join(RULES)}")
    files.check_folder(root)
    dataset = RawDataset()
    names = {split: _listed(dataset, root, split) for split in files.SPLIT_FILES}
    for stem in sorted(set(names["train"]) & set(names["gallery"])):
        what = f"frame {stem}.jpg is in frame_train.mat and in frame_test.mat; remove it from one"
        dataset.note(ERROR, checks.BOTH_SPLITS, root, what, f"{stem}.jpg")
    images = {stem: _image(dataset, root, stem, boxes) for stem in dict.fromkeys([*names["train"], *names["gallery"]])}
    dataset.train = [image for stem in names["train"] if (image := images[stem])]
    dataset.gallery = [image for stem in names["gallery"] if (image := images[stem])]
    gallery = {stem: images[stem] for stem in names["gallery"]}
    for number, line in files.read_query_lines(root):
        _query(dataset, f"{root / files.QUERY_FILE} line {number}", line, gallery, boxes)
    release.compare(dataset, root, [*names["train"], *names["gallery"]])
    return dataset


def frame_number(name: str) -> tuple[int, int]:
    """(camera, frame) of a frame name; (-1, -1) for names of another form. See SEQUENCE_STRIDE."""
    parts = files.camera_sequence_number(name)
    return (parts[0], parts[1] * SEQUENCE_STRIDE + parts[2]) if parts else (UNKNOWN, UNKNOWN)


def _box(
    dataset: RawDataset,
    where: str,
    xywh: Sequence[float],
    size: tuple[int, int],
    image: str,
    rule: Callable[..., np.ndarray],
    empty: str,
) -> np.ndarray | None:
    """An annotated box by a rule of `RULES`: float32 [4] xyxy. None, with a finding, for one that cannot be used."""
    if clip_xywh(dataset, where, xywh, size, image, empty=empty) is None:
        return None
    box = rule(*xywh, size)
    if box[0] < box[2] and box[1] < box[3]:
        return box.astype(np.float32)
    what = f"the box {box_text(xywh, 'xywh')} has no area in whole pixels; it is left out"
    dataset.note(empty, BOX_WITHOUT_AREA, where, what, image)
    return None


def _clipped(x: float, y: float, width: float, height: float, size: tuple[int, int]) -> np.ndarray:
    """A negative corner moves to 0, width and height stay, as in the published evaluators; then it is clipped."""
    x, y = max(x, 0.0), max(y, 0.0)
    return np.asarray([x, y, min(x + width, size[1]), min(y + height, size[0])], np.float32)


def _seqnet(x: float, y: float, width: float, height: float, size: tuple[int, int]) -> np.ndarray:
    """SeqNet (82252c6), datasets/prw.py, `_load_annotations`."""
    del size
    x, y = max(x, 0.0), max(y, 0.0)
    return np.trunc([x, y, x + width, y + height])


def _seqnet_query(x: float, y: float, width: float, height: float, size: tuple[int, int]) -> np.ndarray:
    """SeqNet (82252c6), datasets/prw.py, `_load_queries`: the far corner stays where it is."""
    del size
    return np.maximum(np.trunc([x, y, x + width, y + height]), 0.0)


class Rule(NamedTuple):
    """From x, y, width, height and the image's size to xyxy, of a frame's annotation and of a query."""

    annotation: Callable[..., np.ndarray]
    query: Callable[..., np.ndarray]


RULES = {"clipped": Rule(_clipped, _clipped), "seqnet": Rule(_seqnet, _seqnet_query)}


def _listed(dataset: RawDataset, root: Path, split: str) -> list[str]:
    """The names of a split, each once."""
    names = files.read_split(root, split)
    once = list(dict.fromkeys(names))
    for stem in once if len(once) < len(names) else ():
        if names.count(stem) > 1:
            where, what = root / files.SPLIT_FILES[split][0], f"the frame {stem} is listed twice; remove one"
            dataset.note(ERROR, checks.TWICE_IN_SPLIT, where, what, f"{stem}.jpg")
    return once


def _image(dataset: RawDataset, root: Path, stem: str, rule: str) -> AnnotatedImage | None:
    """One frame; None, and a finding, if it cannot be used."""
    path, annotation = root / "frames" / f"{stem}.jpg", root / "annotations" / f"{stem}.jpg.mat"
    if climbs_out(stem):
        dataset.note(ERROR, OUTSIDE, root, f"a list names {stem}, which leads out of frames; {files.RESTORE}", stem)
        return None
    header = find_header(dataset, path, path.name, files.RESTORE)
    try:
        rows = files.read_rows(annotation)
    except InputError as error:
        what = str(error).removeprefix(f"{annotation}: ")
        dataset.note(ERROR, NO_ANNOTATION, annotation, what, path.name)
        return None
    if header is None:
        return None
    boxes, person_ids = _boxes(dataset, annotation, path.name, rows, header.size, rule)
    for person_id in sorted({i for i in person_ids.tolist() if i >= 0 and (person_ids == i).sum() > 1}):
        what = f"pid {person_id} has {(person_ids == person_id).sum()} boxes; search uses the first"
        dataset.note(KNOWN, checks.PERSON_TWICE, annotation, what, path.name)
    for first, second in checks.same_boxes(boxes, person_ids):
        what = f"boxes {first + 1} and {second + 1} of pid {person_ids[first]} are the same; both are kept"
        dataset.note(KNOWN, checks.SAME_BOX, annotation, what, path.name)
    camera, frame = frame_number(stem)
    return AnnotatedImage(path.name, path, *header.size, boxes, person_ids, camera, frame)


def _boxes(
    dataset: RawDataset, annotation: Path, image: str, rows: np.ndarray, size: tuple[int, int], rule: str
) -> tuple[np.ndarray, np.ndarray]:
    """(boxes float32 [n, 4] xyxy, person_ids int64 [n]) of the rows that can be used."""
    boxes, person_ids = [], []
    for number, (person_id, *xywh) in enumerate(rows.tolist(), start=1):
        where = f"{annotation} row {number}"
        if not np.isfinite(person_id) or person_id != np.round(person_id):
            what = f"pid {person_id:g}; correct or remove the row"
            dataset.note(ERROR, "pid is no whole number", where, what, image)
            continue
        box = _box(dataset, where, xywh, size, image, RULES[rule].annotation, empty=KNOWN)
        if box is not None:
            boxes.append(box)
            person_ids.append(int(person_id) if person_id >= 0 else UNLABELLED)
            if min(xywh[:2]) < 0:
                what = f"the box {box_text(xywh, 'xywh')} is moved to 0, its width and height stay"
                dataset.note(KNOWN, "negative x or y", where, what, image)
    return np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(person_ids, np.int64)


def _query(dataset: RawDataset, where: str, line: str, gallery: Mapping[str, AnnotatedImage | None], rule: str) -> None:
    """Adds the query of one line, or a finding. A frame that cannot be used has a finding already: no second one."""
    fields = line.split()
    try:
        person_id, xywh, stem = float(fields[0]), [float(v) for v in fields[1:5]], fields[5]
        if person_id != int(person_id):
            raise ValueError(fields[0])
    except (ValueError, IndexError, OverflowError):
        dataset.note(ERROR, "malformed query", where, f"expected 'pid x y w h frame', found {line!r}")
        return
    stem = stem.removesuffix(".jpg")
    if stem not in gallery:
        what = f"{stem} is not among the test frames of frame_test.mat; correct or remove the line"
        dataset.note(ERROR, checks.QUERY_OUTSIDE_GALLERY, where, what)
    elif image := gallery[stem]:
        box = _box(dataset, where, xywh, (image.height, image.width), image.name, RULES[rule].query, empty=ERROR)
        if box is not None:
            query = Query(image.name, box, int(person_id), image.camera, image.frame)
            dataset.queries.append(query)
            _compare_with_annotation(dataset, where, query, image)


def _compare_with_annotation(dataset: RawDataset, where: str, query: Query, image: AnnotatedImage) -> None:
    """Notes where a query's box differs from its frame's annotation. `checks.check` notes those that do not overlap."""
    boxes = image.boxes[image.person_ids == query.person_id]
    if not (box_iou(boxes, query.box[None]) >= checks.SAME_PERSON_IOU).any():
        return
    annotated, own = _to_xywh(boxes), _to_xywh(query.box)
    nearest = np.abs(annotated - own).max(1).argmin()
    distance = float(np.abs(annotated[nearest] - own).max())
    if distance > 1e-3:
        rounding = KNOWN, "query box differs by rounding"
        level, check = rounding if distance <= ROUNDING + 1e-3 else (WARNING, "query box differs from its annotation")
        what = (
            f"the box {box_text(own, 'xywh')} differs by {distance:.3g} pixels from the annotation"
            f" {box_text(annotated[nearest], 'xywh')} of pid {query.person_id}"
        )
        dataset.note(level, check, where, what, image.name)


def _to_xywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)
