"""The files of PRW, one at a time: what is in them, before it is judged. One that cannot be read raises InputError,
"{path}: {what}".

    frames/c{camera}s{sequence}_{number}.jpg
    annotations/<frame>.jpg.mat      rows [pid, x, y, w, h] under box_new, anno_file or anno_previous
    frame_train.mat, frame_test.mat  img_index_train, img_index_test: frame names without extension
    ID_train.mat, ID_test.mat        ID_train, ID_test2: the pids of each split; these two files may be missing
    query_info.txt                   "pid x y w h frame" a line, any line ending, any white space
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from psdiff_jax.datasets.common.images import read_header
from psdiff_jax.datasets.common.mat import load_mat
from psdiff_jax.errors import InputError

BOX_KEYS = ("box_new", "anno_file", "anno_previous")
SPLIT_FILES = {"train": ("frame_train.mat", "img_index_train"), "gallery": ("frame_test.mat", "img_index_test")}
ID_FILES = {"train": ("ID_train.mat", "ID_train"), "gallery": ("ID_test.mat", "ID_test2")}
QUERY_FILE = "query_info.txt"
RESTORE = "restore it from the PRW release"
EXPECTED = ("frames", "annotations", "frame_train.mat", "frame_test.mat", QUERY_FILE)
LISTS = (*(name for name, _ in (*SPLIT_FILES.values(), *ID_FILES.values())), QUERY_FILE)
_FRAME_NAME = re.compile(r"c(\d+)s(\d+)_(\d+)")


def check_folder(root: Path) -> None:
    """Raises InputError when `root` is not a folder in PRW's format."""
    if not root.is_dir():
        raise InputError(
            f"config.data.root: there is no folder {root}; name the PRW folder that holds {', '.join(EXPECTED)}"
        )
    for name in EXPECTED:
        if not (root / name).exists():
            raise InputError(f"config.data.root: {root / name} is missing; a PRW folder holds {', '.join(EXPECTED)}")


def camera_sequence_number(name: str) -> tuple[int, int, int] | None:
    """What a frame name says, "c6s1_042326" -> (6, 1, 42326); None for names of another form."""
    match = _FRAME_NAME.match(name)
    return tuple(int(group) for group in match.groups()) if match else None


def read_split(root: Path, split: str) -> list[str]:
    """The frame names (without extension) of `train` or `gallery`, as they stand in the list."""
    file_name, key = SPLIT_FILES[split]
    cells = np.asarray(_variable(root / file_name, key)).reshape(-1)
    try:
        return [str(np.asarray(cell).reshape(-1)[0]).strip() for cell in cells]
    except IndexError as error:
        raise InputError(f"{root / file_name}: {key} has an empty cell; {RESTORE}") from error


def read_ids(root: Path, split: str) -> set[int] | None:
    """The official pids of `train` or `gallery`; None where the folder has no such file."""
    file_name, key = ID_FILES[split]
    if not (root / file_name).is_file():
        return None
    pids = np.asarray(_variable(root / file_name, key)).reshape(-1)
    try:
        return {int(pid) for pid in pids}
    except (TypeError, ValueError) as error:
        raise InputError(f"{root / file_name}: {key} holds no numbers; {RESTORE}") from error


def read_rows(path: Path) -> np.ndarray:
    """The rows of one annotation, float64 [n, 5]: pid, x, y, w, h."""
    content = load_mat(path, RESTORE)
    key = next((key for key in BOX_KEYS if key in content), None)
    if key is None:
        keys = ", ".join(BOX_KEYS)
        raise InputError(f"{path}: none of the variables {keys} is in it; {RESTORE}")
    try:
        rows = np.asarray(content[key], np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {key} holds no numbers; {RESTORE}") from error
    if rows.size == 0:
        return np.zeros((0, 5))
    if rows.ndim != 2 or rows.shape[1] != 5:
        raise InputError(f"{path}: {key} has shape {rows.shape}, expected rows of pid, x, y, w, h; restore the file")
    return rows


def read_query_lines(root: Path) -> list[tuple[int, str]]:
    """(number, content) of each line of query_info.txt that is not blank."""
    lines = (root / QUERY_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) from the header, without decoding."""
    if not path.is_file():
        raise InputError(f"{path}: missing, though the frame lists name it; {RESTORE}")
    header = read_header(path)
    if header is None:
        raise InputError(f"{path}: not a readable image; {RESTORE}")
    return header.height, header.width


def _variable(path: Path, key: str) -> Any:
    content = load_mat(path, RESTORE)
    if key not in content:
        raise InputError(f"{path}: there is no variable {key} in it; {RESTORE}")
    return content[key]
