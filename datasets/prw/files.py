"""The files of PRW, read one at a time, before anything is checked. An unreadable file raises InputError,
"{path}: {what}".

    frames/c{camera}s{sequence}_{number}.jpg
    annotations/<frame>.jpg.mat      rows [pid, x, y, w, h] under box_new, anno_file or anno_previous
    frame_train.mat, frame_test.mat  img_index_train, img_index_test: frame names without extension
    ID_train.mat, ID_test.mat        ID_train, ID_test2: the pids of each split; these two files are optional
    query_info.txt                   "pid x y w h frame" a line, any line ending, any white space
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from psdiff_jax.datasets.common.layout import check_layout
from psdiff_jax.datasets.common.mat import load_variable
from psdiff_jax.errors import InputError

BOX_KEYS = ("box_new", "anno_file", "anno_previous")
SPLIT_FILES = {"train": ("frame_train.mat", "img_index_train"), "gallery": ("frame_test.mat", "img_index_test")}
ID_FILES = {"train": ("ID_train.mat", "ID_train"), "gallery": ("ID_test.mat", "ID_test2")}
QUERY_FILE = "query_info.txt"
RESTORE = "restore it from the PRW release"
LISTS = (*(name for name, _ in (*SPLIT_FILES.values(), *ID_FILES.values())), QUERY_FILE)
_FRAME_NAME = re.compile(r"c(\d+)s(\d+)_(\d+)")


def check_folder(root: Path) -> None:
    """Raises InputError if `root` is not a folder in PRW's format."""
    check_layout(root, "PRW", ("frames", "annotations", "frame_train.mat", "frame_test.mat", QUERY_FILE))


def camera_sequence_number(name: str) -> tuple[int, int, int] | None:
    """The parts of a frame name, "c6s1_042326" -> (6, 1, 42326); None for names of another form."""
    match = _FRAME_NAME.match(name)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def read_split(root: Path, split: str) -> list[str]:
    """The frame names (without extension) of `train` or `gallery`, as listed."""
    path, key = root / SPLIT_FILES[split][0], SPLIT_FILES[split][1]
    cells = np.asarray(load_variable(path, [key], RESTORE)).reshape(-1)
    try:
        return [str(np.asarray(cell).reshape(-1)[0]).strip() for cell in cells]
    except IndexError as error:
        raise InputError(f"{path}: {key} has an empty cell; {RESTORE}") from error


def read_ids(root: Path, split: str) -> set[int] | None:
    """The official pids of `train` or `gallery`; None if the folder has no such file."""
    path, key = root / ID_FILES[split][0], ID_FILES[split][1]
    if not path.is_file():
        return None
    pids = np.asarray(load_variable(path, [key], RESTORE)).reshape(-1)
    try:
        return {int(pid) for pid in pids}
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {key} holds no numbers; {RESTORE}") from error


def read_rows(path: Path) -> np.ndarray:
    """The rows of one annotation, float64 [n, 5]: pid, x, y, w, h."""
    content = load_variable(path, BOX_KEYS, RESTORE)
    try:
        rows = np.asarray(content, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: its rows are no numbers; {RESTORE}") from error
    if rows.size == 0:
        return np.zeros((0, 5))
    if rows.ndim != 2 or rows.shape[1] != 5:
        raise InputError(f"{path}: its rows have shape {rows.shape}, expected [n, 5] of pid, x, y, w, h; {RESTORE}")
    return rows


def read_query_lines(root: Path) -> list[tuple[int, str]]:
    """(number, content) of each line of query_info.txt that is not blank."""
    lines = (root / QUERY_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
