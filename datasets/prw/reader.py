"""PRW's on-disk format, without TFDS.

    frames/c{camera}s{sequence}_{number}.jpg
    annotations/<frame>.jpg.mat      rows [pid, x, y, w, h] under box_new, anno_file or anno_previous
    frame_train.mat, frame_test.mat  img_index_train, img_index_test: frame names without extension
    query_info.txt                   "pid x y w h frame" a line, any line ending, any white space

pid -2 (any negative one) means unlabelled. Boxes leave here as float32 xyxy pixels inside their photograph.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from psdiff_jax.data.schema import UNKNOWN, UNLABELLED
from psdiff_jax.errors import InputError

BOX_KEYS = ("box_new", "anno_file", "anno_previous")
SPLIT_FILES = {"train": ("frame_train.mat", "img_index_train"), "gallery": ("frame_test.mat", "img_index_test")}
EXPECTED = ("frames", "annotations", "frame_train.mat", "frame_test.mat", "query_info.txt")

# Frames of different sequences belong to different recordings. They are numbered sequence * SEQUENCE_STRIDE + number, a
# stride that no distance within a sequence (six digits) bridges: c6s1_042326 is frame 10,042,326 of camera 6.
SEQUENCE_STRIDE = 10_000_000
_FRAME_NAME = re.compile(r"c(\d+)s(\d+)_(\d+)")


@dataclass(frozen=True)
class Scene:
    """One annotated frame. `dropped` counts its boxes without area."""

    name: str  # with extension, as in annotations/<name>.mat
    path: Path
    height: int
    width: int
    camera: int
    frame: int
    boxes: np.ndarray  # float32 [n, 4] xyxy pixels
    person_ids: np.ndarray  # int64 [n], -1 unlabelled
    dropped: int


@dataclass(frozen=True)
class Query:
    """One line of query_info.txt."""

    image_name: str
    box: np.ndarray  # float32 [4] xyxy pixels
    person_id: int
    camera: int
    frame: int


def check_folder(root: Path) -> None:
    """Raises InputError when `root` is not a folder in PRW's format."""
    if not root.is_dir():
        raise InputError(
            f"config.data.root: there is no folder {root}; name the PRW folder that holds {', '.join(EXPECTED)}"
        )
    for name in EXPECTED:
        if not (root / name).exists():
            raise InputError(f"config.data.root: {root / name} is missing; a PRW folder holds {', '.join(EXPECTED)}")


def fingerprint(root: Path) -> str:
    """A digest of what counts: the contents of lists and annotations, the names and sizes of the frames."""
    digest = hashlib.sha256()
    annotations = sorted((root / "annotations").glob("*.mat"))
    for path in [root / "frame_train.mat", root / "frame_test.mat", root / "query_info.txt", *annotations]:
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    for path in sorted((root / "frames").iterdir()):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
    return digest.hexdigest()


def frame_number(name: str) -> tuple[int, int]:
    """(camera, frame) of a frame name; (-1, -1) for names of another form. See SEQUENCE_STRIDE."""
    match = _FRAME_NAME.match(name)
    if match is None:
        return UNKNOWN, UNKNOWN
    camera, sequence, number = (int(group) for group in match.groups())
    return camera, sequence * SEQUENCE_STRIDE + number


def read_scenes(root: Path, split: str) -> list[Scene]:
    """The frames of `train` or `gallery`, in the order of the official list.

    Raises:
      InputError: a list, frame or annotation that is missing or unreadable; a box outside its photograph.
    """
    return [_read_scene(root, name) for name in read_split(root, split)]


def read_split(root: Path, split: str) -> list[str]:
    """The frame names (without extension) of `train` or `gallery`."""
    file_name, key = SPLIT_FILES[split]
    content = _load_mat(root / file_name)
    if key not in content:
        raise InputError(f"{root / file_name} has no variable {key}; take the file from the PRW release")
    names = [str(np.asarray(cell).reshape(-1)[0]).strip() for cell in np.asarray(content[key]).reshape(-1)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{root / file_name} lists the frame {twice} twice; remove one")
    return names


def read_queries(root: Path, gallery: list[Scene]) -> list[Query]:
    """query_info.txt, each line's box clipped to its frame.

    Raises:
      InputError: naming the line, when it is malformed, its frame is no test frame or its box lies outside the frame.
    """
    path = root / "query_info.txt"
    scenes = {scene.name: scene for scene in gallery}
    queries = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        where, fields = f"{path} line {number}", line.split()
        try:
            person_id, rectangle, name = int(float(fields[0])), [float(v) for v in fields[1:5]], fields[5]
        except (ValueError, IndexError) as error:
            raise InputError(f"{where}: expected 'pid x y w h frame', found {line.strip()!r}") from error
        scene = scenes.get(name if name.endswith(".jpg") else f"{name}.jpg")
        if scene is None:
            raise InputError(
                f"{where}: {name} is not among the test frames of frame_test.mat; correct or remove the line"
            )
        box = to_box(rectangle, scene.height, scene.width, where)
        if box is None:
            raise InputError(f"{where}: the query box {rectangle} (x y w h) has no area; correct or remove the line")
        queries.append(Query(scene.name, box, person_id, scene.camera, scene.frame))
    return queries


def to_box(rectangle: list[float] | np.ndarray, height: int, width: int, where: str) -> np.ndarray | None:
    """A box [x, y, w, h] as float32 [4] xyxy inside its photograph, or None when it has no area.

    Negative x and y become 0 and keep w and h, as every PRW evaluator does it; then the far side is cut at the border.

    Raises:
      InputError: the box lies outside entirely, or is not finite; `where` names frame and row.
    """
    x, y, w, h = (float(v) for v in rectangle)
    if not np.isfinite([x, y, w, h]).all():
        raise InputError(f"{where}: the box {[x, y, w, h]} (x y w h) is not finite; correct or remove it")
    if w <= 0 or h <= 0:
        return None
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        raise InputError(
            f"{where}: the box {[x, y, w, h]} (x y w h) lies outside its {width} x {height} photograph;"
            " correct or remove it"
        )
    x, y = max(x, 0.0), max(y, 0.0)
    return np.asarray([x, y, min(x + w, width), min(y + h, height)], np.float32)


def _read_scene(root: Path, stem: str) -> Scene:
    name = f"{stem}.jpg"
    path = root / "frames" / name
    if not path.is_file():
        raise InputError(f"{path} is missing, though the frame lists name it; restore it from the PRW release")
    height, width = _image_size(path)
    annotation = root / "annotations" / f"{name}.mat"
    boxes, person_ids, dropped = [], [], 0
    for row, (person_id, *rectangle) in enumerate(_read_rows(annotation), start=1):
        box = to_box(rectangle, height, width, f"{annotation} row {row} of frame {stem}")
        if box is None:
            dropped += 1
            continue
        boxes.append(box)
        person_ids.append(int(person_id) if person_id >= 0 else UNLABELLED)
    return Scene(
        name=name,
        path=path,
        height=height,
        width=width,
        camera=frame_number(stem)[0],
        frame=frame_number(stem)[1],
        boxes=np.asarray(boxes, np.float32).reshape(-1, 4),
        person_ids=np.asarray(person_ids, np.int64),
        dropped=dropped,
    )


def _read_rows(path: Path) -> np.ndarray:
    """The annotation rows [n, 5]: pid, x, y, w, h."""
    content = _load_mat(path)
    key = next((key for key in BOX_KEYS if key in content), None)
    if key is None:
        raise InputError(f"{path} has none of the variables {', '.join(BOX_KEYS)}; restore it from the PRW release")
    rows = np.asarray(content[key], np.float64)
    if rows.size == 0:
        return np.zeros((0, 5))
    if rows.ndim != 2 or rows.shape[1] != 5:
        raise InputError(f"{path}: {key} has shape {rows.shape}, expected rows of pid, x, y, w, h; restore the file")
    if not np.isfinite(rows[:, 0]).all():
        raise InputError(f"{path}: {key} has a pid that is not a number; correct or remove the row")
    return rows


def _load_mat(path: Path) -> dict:
    import scipy.io

    if not path.is_file():
        raise InputError(f"{path} is missing; restore it from the PRW release")
    try:
        return scipy.io.loadmat(path)
    except Exception as error:  # scipy raises half a dozen kinds on a damaged file
        raise InputError(
            f"{path} cannot be read as a MATLAB file ({error}); restore it from the PRW release"
        ) from error


def _image_size(path: Path) -> tuple[int, int]:
    """(height, width) from the header, without decoding."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, SyntaxError) as error:
        raise InputError(f"{path} is not a readable image; restore it from the PRW release") from error
