"""MATLAB 5 files as MATLAB itself writes them, which scipy.io.savemat does not: numbers of class double stored in the
smallest type that holds them, characters as UTF-16, `[]` as a matrix of no bytes. Written from MathWorks' "MAT-File
Format"; scipy.io.loadmat reads it.

    save(path, "x", Struct(("name", "box"), [("a.jpg", [1, 2, 3, 4]), ("b.jpg", NOTHING)]))
"""

import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

STORED = {"int8": 1, "uint8": 2, "int16": 3, "uint16": 4, "int32": 5, "float64": 9}
NOTHING = b""


class Struct(NamedTuple):
    """[1, n] structs."""

    fields: tuple[str, ...]
    rows: list[tuple]


class Cell(NamedTuple):
    """[1, n] cells."""

    values: list


def save(path: Path, name: str, value, compressed: bool = True) -> None:
    data = matrix(value, name)
    if compressed:
        data = zlib.compress(data)
        data = struct.pack("<II", 15, len(data)) + data
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + data)


def matrix(value, name: str = "") -> bytes:
    if isinstance(value, bytes):
        return struct.pack("<II", 14, 0)
    kind, size, data = content(value)
    body = element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack("<ii", *size))
    body += element(1, name.encode(), small=len(name) in (1, 2, 3, 4)) + data
    return struct.pack("<II", 14, len(body)) + body


def content(value) -> tuple[int, tuple[int, int], bytes]:
    """(class, size, what follows the name)."""
    if isinstance(value, Cell):
        return 1, (1, len(value.values)), b"".join(map(matrix, value.values))
    if isinstance(value, Struct):
        names = b"".join(field.encode().ljust(32, b"\0") for field in value.fields)
        inner = b"".join(matrix(item) for row in value.rows for item in row)
        return 2, (1, len(value.rows)), element(5, struct.pack("<i", 32), small=True) + element(1, names) + inner
    if isinstance(value, str):
        return 4, (1, len(value)), element(4, value.encode("utf-16-le"), small=len(value) in (1, 2))
    numbers = np.asarray(value, np.float64)
    stored = next(name for name in STORED if (numbers.astype(name) == numbers).all())
    data = numbers.astype(stored).tobytes()
    return 6, (1, len(numbers)), element(STORED[stored], data, small=0 < len(data) <= 4)


def element(kind: int, data: bytes, small: bool = False) -> bytes:
    if small:
        return struct.pack("<HH", kind, len(data)) + data.ljust(4, b"\0")
    return struct.pack("<II", kind, len(data)) + data + b"\0" * (-len(data) % 8)
