"""MATLAB 5 files read as a stream, one element of a struct array at a time.

The official galleries are struct arrays of struct arrays: TestG4000.mat holds 2,900 x 4,000 entries of three matrices
each. `scipy.io.loadmat` makes an array of each of these 35 million matrices, which takes many gigabytes and minutes.
This reader decompresses the file piece by piece and parses only the fields that are asked for.

The format is "MAT-File Level 5" of MathWorks' "MAT-File Format" (R2023a, chapter 1): every data element begins with a
tag (type, number of bytes) of 8 bytes; a matrix is an element that holds elements: flags, dimensions, name, then
  numbers, characters   one element of data
  cells                 one matrix a cell
  structs               the length of a field name, all field names, then one matrix a field, struct after struct

Legend: E elements of an array, F fields. Offsets are in bytes; `words` are the same bytes as uint32.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

Read = Callable[[int], bytes]

CELL, STRUCT, CHAR = 1, 2, 4  # array classes; all others here are numbers
MATRIX, COMPRESSED = 14, 15  # element types
NUMBERS = {1: "<i1", 2: "<u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
ENCODINGS = {1: "latin-1", 2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le", 18: "utf-32-le"}
DAMAGE = (EOFError, IndexError, KeyError, MemoryError, ValueError, struct.error, zlib.error)  # raised by bad bytes


class Header(NamedTuple):
    """What precedes the data of a matrix."""

    kind: int
    count: int  # of elements
    name: str
    fields: tuple[str, ...]


class Matrix:
    """A matrix in memory. `body`: all bytes after its tag; only the header is parsed at once."""

    def __init__(self, body: bytes):
        self.body = body
        source = io.BytesIO(body)
        empty = Header(6, 0, "", ())  # `[]` may be written as a matrix of no bytes
        self.kind, self.count, _, self.fields = read_header(source.read) if body else empty
        self.start = source.tell()

    @cached_property
    def words(self) -> np.ndarray:
        return np.frombuffer(self.body, "<u4", len(self.body) // 4)

    def offsets(self) -> np.ndarray:
        """Offsets of the tags of the matrices within a cell or struct array: int64 [E, F], with F = 1 for cells."""
        if self.kind not in (CELL, STRUCT):
            raise ValueError("it is no cell or struct array")
        width = len(self.fields) if self.kind == STRUCT else 1
        # A word with a tag's alignment and value is a tag, or by accident data: then the sizes do not add up.
        places = self.start // 4 + 2 * np.flatnonzero(self.words[self.start // 4 :: 2] == MATRIX)
        ends = places + 2 + (self.words.take(places + 1, mode="clip") >> 2)
        begins = np.append(places, len(self.words))
        if len(places) != self.count * width or begins[0] != self.start // 4 or (begins[1:] != ends).any():
            places = self._walked(self.count * width)
        return 4 * places.reshape(self.count, width)

    def _walked(self, number: int) -> np.ndarray:
        """int64 [number]: the words at which the inner matrices begin, found by following their sizes."""
        words = memoryview(self.body)[: len(self.body) // 4 * 4].cast("I")
        found, at = [], self.start // 4
        for _ in range(number):
            if words[at] != MATRIX:
                raise ValueError("its elements do not follow one another")
            found.append(at)
            at += 2 + (words[at + 1] >> 2)
        if at > len(words):
            raise EOFError("it ends in the middle of an element")
        return np.asarray(found, np.int64)

    def at(self, offset: int) -> Matrix:
        """The matrix whose tag is at `offset`."""
        size = int(self.words[offset // 4 + 1])
        return Matrix(self.body[offset + 8 : offset + 8 + size])

    def records(self) -> list[dict[str, Matrix]]:
        """The elements of a struct array, or of cells (of cells ...) of structs, by the names of their fields."""
        if self.count == 0:
            return []
        rows = self.offsets().tolist()
        if self.kind == CELL:
            return [record for (offset,) in rows for record in self.at(offset).records()]
        return [{name: self.at(offset) for name, offset in zip(self.fields, row, strict=True)} for row in rows]

    def text(self) -> str:
        """The characters of a char array, also in a cell; "" if it is empty; numbers are formatted."""
        if self.count == 0:
            return ""
        if self.kind == CELL:
            return self.at(int(self.offsets()[0, 0])).text()
        kind, data = self._data()
        if self.kind == CHAR:
            return decode(data, kind)
        return " ".join(f"{number:g}" for number in self.numbers())

    def numbers(self) -> np.ndarray:
        """float64 [E], whatever type they are stored in; also in a cell."""
        if self.count == 0:
            return np.zeros(0)
        if self.kind == CELL:
            return self.at(int(self.offsets()[0, 0])).numbers()
        kind, data = self._data()
        if kind not in NUMBERS:
            raise ValueError(f"its numbers are of the unknown type {kind}")
        return np.frombuffer(data, NUMBERS[kind]).astype(np.float64)

    def _data(self) -> tuple[int, bytes]:
        source = io.BytesIO(self.body)
        source.seek(self.start)
        return read_element(source.read)


def decode(data: bytes, kind: int) -> str:
    """Characters stored as element type `kind`."""
    if kind not in ENCODINGS:
        raise ValueError(f"its characters are of the unknown type {kind}")
    return data.decode(ENCODINGS[kind]).strip()


def read_element(read: Read) -> tuple[int, bytes]:
    """(type, data) of the next element. Up to four bytes of data may be inside the tag; longer data are padded to 8."""
    tag = read(8)
    kind, size = struct.unpack("<II", tag)
    if kind >> 16:
        return kind & 0xFFFF, tag[4 : 4 + (kind >> 16)]
    return kind, read(size + -size % 8)[:size]


def read_header(read: Read) -> Header:
    """The header of a matrix whose tag has been read."""
    flags, dimensions, name = (read_element(read)[1] for _ in range(3))
    kind = flags[0]
    fields: tuple[str, ...] = ()
    if kind == STRUCT:
        width = int(np.frombuffer(read_element(read)[1], "<i4")[0])
        names = read_element(read)[1]
        fields = tuple(names[i : i + width].split(b"\0")[0].decode() for i in range(0, len(names), width))
    return Header(kind, math.prod(np.frombuffer(dimensions, "<i4").tolist()), name.decode(), fields)


def stream(path: Path, variable: str) -> Iterator[dict[str, Matrix]]:
    """The elements of a struct array, or cell array of structs, one after the other, by the names of their fields.

    Args:
      variable: its name; the only variable of a file is taken whatever it is called.

    Raises:
      ValueError (or another of `DAMAGE`): the file is damaged, of another format, or has no such variable.
    """
    with path.open("rb") as file:
        head = file.read(128)
        if len(head) < 128 or head[124:128] != b"\x00\x01IM":
            raise ValueError("it is not a MATLAB 5 file of little-endian order (save it with -v7)")
        names = []
        while True:
            begin, tag = file.tell(), file.read(8)
            if not tag:
                break
            kind, size = struct.unpack("<II", tag)
            source = Inflated(file, size) if kind == COMPRESSED else Plain(file)
            if kind == COMPRESSED:
                kind = struct.unpack("<II", source.read(8))[0]
            if kind == MATRIX:
                header = read_header(source.read)
                names.append(header.name)
                if header.name == variable or (not names[1:] and _is_last(file, begin + 8 + size)):
                    yield from _elements(header, source.read)
                    source.finish()
                    return
            file.seek(begin + 8 + size)
    raise ValueError(f"it has no variable {variable}, only {', '.join(names) or 'none'}")


def _elements(header: Header, read: Read) -> Iterator[dict[str, Matrix]]:
    if header.kind not in (CELL, STRUCT):
        raise ValueError(f"its variable {header.name} is no cell or struct array")
    for _ in range(header.count):
        if header.kind == CELL:
            yield from _next(read).records()
        else:
            yield {name: _next(read) for name in header.fields}


def _next(read: Read) -> Matrix:
    kind, size = struct.unpack("<II", read(8))
    if kind != MATRIX:
        raise ValueError("its elements do not follow one another")
    return Matrix(read(size))


def _is_last(file: BinaryIO, end: int) -> bool:
    place = file.tell()
    last = file.seek(0, io.SEEK_END)
    file.seek(place)
    return end >= last


class Plain:
    """An uncompressed element."""

    def __init__(self, file: BinaryIO):
        self._file = file

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise EOFError("it ends in the middle of an element")
        return data

    def finish(self) -> None:
        """An uncompressed element has no checksum."""


class Inflated:
    """An element of `size` compressed bytes, inflated while it is read: no more is in memory than a read asks for."""

    def __init__(self, file: BinaryIO, size: int):
        self._file, self._left, self._inflate = file, size, zlib.decompressobj()

    def read(self, size: int) -> bytes:
        parts = []
        while size:
            part = self._some(size)
            size -= len(part)
            parts.append(part)
        return b"".join(parts)

    def finish(self) -> None:
        """Reads the rest, so that zlib verifies its checksum."""
        while not self._inflate.eof:
            self._some(1 << 16)

    def _some(self, most: int) -> bytes:
        data = self._inflate.unconsumed_tail
        if not data:
            data = self._file.read(min(self._left, 1 << 16))
            self._left -= len(data)
        part = self._inflate.decompress(data, most)
        if not part and not data:
            raise EOFError("it ends in the middle of an element")
        return part
