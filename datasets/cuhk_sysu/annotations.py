"""Images.mat, pool.mat and Train.mat of CUHK-SYSU as plain Python, however their cells and structs are nested."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from psdiff_jax.datasets.common.mat import load_variable
from psdiff_jax.errors import InputError

RESTORE = "restore it from the CUHK-SYSU release"


@dataclass(frozen=True)
class Identity:
    """An identity of Train.mat: the images that show it, and its box in each, float64 [n, 4] xywh."""

    id_name: str
    image_names: list[str]
    boxes: np.ndarray


def read_images(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The images of Images.mat, each with its boxes, float64 [n, 4] xywh; NaN for one of other than four numbers."""
    for record in _records(_variable(path, "Img")):
        boxes = [_box(_field(path, person, "idlocate")) for person in _records(_field(path, record, "box"))]
        yield _text(_field(path, record, "imname")), np.asarray(boxes, np.float64).reshape(-1, 4)


def read_pool(path: Path) -> list[str]:
    """The names of the gallery images, in the order of pool.mat."""
    return [_text(cell) for cell in np.asarray(_variable(path, "pool")).reshape(-1)]


def read_train(path: Path) -> Iterator[Identity]:
    """The identities of Train.mat, in its order."""
    for record in _records(_variable(path, "Train")):
        scenes = _records(_field(path, record, "scene"))
        yield Identity(
            id_name=_text(record["idname"]) if "idname" in _fields(record) else "",
            image_names=[_text(_field(path, scene, "imname")) for scene in scenes],
            boxes=np.asarray([_box(_field(path, scene, "idlocate")) for scene in scenes], np.float64).reshape(-1, 4),
        )


def _variable(path: Path, name: str) -> Any:
    return load_variable(path, [name], RESTORE, any_name=True)


def _records(value: Any) -> list[np.void]:
    """The structs of a struct array, or of cells (of cells ...) of structs; none of what is empty."""
    array = np.asarray(value)
    if array.dtype.names:
        return list(array.reshape(-1))
    return [record for cell in array.reshape(-1) for record in _records(cell)] if array.dtype == object else []


def _fields(record: np.void) -> tuple[str, ...]:
    return record.dtype.names or ()


def _field(path: Path, record: np.void, name: str) -> Any:
    if name not in _fields(record):
        raise InputError(f"{path}: a record has no field {name}, only {', '.join(_fields(record))}; {RESTORE}")
    return record[name]


def _inner(value: Any) -> np.ndarray:
    """The content of nested one-element cells."""
    array = np.asarray(value)
    while array.dtype == object and array.size == 1:
        array = np.asarray(array.reshape(-1)[0])
    return array


def _text(value: Any) -> str:
    array = _inner(value)
    return str(array.reshape(-1)[0]).strip() if array.size else ""


def _box(value: Any) -> np.ndarray:
    array = _inner(value)
    numbers = array.reshape(-1).astype(np.float64) if array.dtype.kind in "iufb" else np.zeros(0)
    return numbers if len(numbers) == 4 else np.full(4, np.nan)
