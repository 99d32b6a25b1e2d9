"""Detections with their re-ID embeddings: in memory, and as the folder that `--mode embed` writes.

Legend: K detections, D embedding width, M images.
A folder holds `embeddings.npy` [K,D], `boxes.npy` [K,4], `scores.npy` [K], `image_index.npy` [K] into `images.json`,
and for queries `person_id.npy` [K]. Any program may write one; `--mode evaluate --embeddings DIR` scores it.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from psdiff_jax.data.blocks import Blocks
from psdiff_jax.errors import InputError
from psdiff_jax.files import replacing_folder, write_npy_header

NORM_TOLERANCE = 1e-3  # the error of float16 unit vectors is well below
_ROWS_AT_ONCE = 65536  # limits the memory for checking a memory-mapped file

# field -> (kind of dtype accepted, dtype in memory, trailing shape; None = any width)
_LAYOUT = {
    "embeddings": ("f", np.float32, (None,)),
    "boxes": ("fiu", np.float32, (4,)),
    "scores": ("f", np.float32, ()),
    "image_index": ("iu", np.int32, ()),
    "person_id": ("iu", np.int64, ()),
}


@dataclasses.dataclass(frozen=True)
class Detections:
    """The detections (or query boxes) of a set of images, concatenated over all of them.

    images: names of the M images, including those without detections.
    boxes: float32 [K,4], xyxy in pixels of the original image.
    scores: float32 [K], detection confidence.
    embeddings: float32 [K,D], unit norm; `Blocks` where they lie in the shards that inference wrote.
    image_index: int32 [K], into `images`.
    person_id: int64 [K] for queries, else None.
    """

    images: tuple[str, ...]
    boxes: np.ndarray
    scores: np.ndarray
    embeddings: np.ndarray | Blocks
    image_index: np.ndarray
    person_id: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scores)


def save_embeddings(folder: str | Path, detections: Detections) -> None:
    """Writes `detections` as a folder, over an existing one.

    Raises:
      InputError: the arrays do not fit together; the folder holds other files, or cannot be written.
    """
    folder = Path(folder)
    check_detections(detections, str(folder))
    known = {"images.json", *(f"{field}.npy" for field in _LAYOUT)}
    if strange := sorted(path.name for path in folder.glob("*") if path.name not in known):
        raise InputError(f"{folder} holds {strange[0]}, which is none of its files: move it, or name another folder")
    with replacing_folder(folder) as unfinished:
        for field, (_, dtype, _) in _LAYOUT.items():
            if (value := getattr(detections, field)) is not None:
                _save_rows(unfinished / f"{field}.npy", value, np.dtype(dtype))
        text = json.dumps(list(detections.images), ensure_ascii=False, indent=0)
        (unfinished / "images.json").write_text(text, encoding="utf-8")


def _save_rows(path: Path, array: np.ndarray | Blocks, dtype: np.dtype) -> None:
    """What `np.save` writes, a block of rows at a time."""
    with path.open("wb") as file:
        write_npy_header(file, np.shape(array), dtype)
        for start in range(0, len(array), _ROWS_AT_ONCE):
            file.write(np.asarray(array[start : start + _ROWS_AT_ONCE], dtype).tobytes())


def load_embeddings(folder: str | Path, mmap: bool = True) -> Detections:
    """Reads a folder; the arrays are memory-mapped unless `mmap` is False or their dtype has to be converted.

    Raises:
      InputError: naming the file that is missing, unreadable, of a wrong shape or type, not finite, not of unit norm or
        out of range.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of embeddings (`--mode embed` writes one)")
    arrays = {}
    for field, (kinds, dtype, _) in _LAYOUT.items():
        path = folder / f"{field}.npy"
        if field == "person_id" and not path.exists():
            arrays[field] = None
            continue
        array = _read_array(path, mmap)
        if array.dtype.kind not in kinds:
            raise InputError(f"{path}: holds {array.dtype}, expected {np.dtype(dtype)}")
        arrays[field] = array if array.dtype == dtype else array.astype(dtype)
    detections = Detections(images=_read_images(folder / "images.json"), **arrays)
    check_detections(detections, str(folder))
    return detections


def check_detections(detections: Detections, where: str = "detections") -> None:
    """Raises InputError naming `where`/file of the first fault of `detections`."""
    rows = len(detections.embeddings)
    for field, (_, _, trailing) in _LAYOUT.items():
        array, path = getattr(detections, field), f"{where}/{field}.npy"
        if array is None:
            continue
        expected = (rows, *(str(n or "D") for n in trailing))
        fits = array.ndim == 1 + len(trailing) and all(
            n in (None, m) for n, m in zip(trailing, array.shape[1:], strict=True)
        )
        if not fits or len(array) != rows:
            wanted = f"[{', '.join(map(str, expected))}]"
            raise InputError(f"{path}: shape {list(array.shape)}, expected {wanted} (embeddings.npy has {rows} rows)")
        if array.dtype.kind == "f":
            _check_rows(array, path, lambda block: ~np.isfinite(block.reshape(len(block), -1)).all(1), "is not finite")
    inverted = np.flatnonzero((np.asarray(detections.boxes)[:, 2:] < np.asarray(detections.boxes)[:, :2]).any(1))
    if inverted.size:
        box = [round(float(v), 1) for v in detections.boxes[inverted[0]]]
        raise InputError(
            f"{where}/boxes.npy: row {inverted[0]} is {box}, x2 < x1 or y2 < y1 (the format is xyxy, not xywh)"
        )
    outside = np.flatnonzero((detections.image_index < 0) | (detections.image_index >= len(detections.images)))
    if outside.size:
        value, count = detections.image_index[outside[0]], len(detections.images)
        raise InputError(f"{where}/image_index.npy: row {outside[0]} is {value}, but images.json lists {count} images")
    _check_rows(
        detections.embeddings,
        f"{where}/embeddings.npy",
        _off_unit,
        "is not of unit norm (divide rows by their L2 norm)",
    )


def _off_unit(block: np.ndarray) -> np.ndarray:
    return np.abs(np.linalg.norm(block, axis=1) - 1.0) > NORM_TOLERANCE


def _check_rows(array: np.ndarray | Blocks, path: str, wrong, complaint: str) -> None:
    for start in range(0, len(array), _ROWS_AT_ONCE):
        bad = np.flatnonzero(wrong(np.asarray(array[start : start + _ROWS_AT_ONCE])))
        if bad.size:
            raise InputError(f"{path}: row {start + bad[0]} {complaint}")


def _read_array(path: Path, mmap: bool) -> np.ndarray:
    if not path.is_file():
        raise InputError(f"{path}: file is missing from the folder of embeddings")
    try:
        array = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except Exception as error:  # a damaged file fails in every way there is
        raise InputError(f"{path}: not a readable .npy file ({_first_line(error)})") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: not a single .npy array")
    return array


def _read_images(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise InputError(f"{path}: file is missing from the folder of embeddings")
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({_first_line(error)})") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: expected a list of image names")
    if len(set(names)) != len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise InputError(f"{path}: image {twice!r} is listed twice")
    return tuple(names)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
