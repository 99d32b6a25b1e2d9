"""Reading tf.train.Example without TensorFlow or TFDS: what the records of a prepared dataset are.

    Example     {1: Features}          Features {1: repeated map entry}      map entry {1: name, 2: Feature}
    Feature     {1: BytesList, 2: FloatList, 3: Int64List}, each {1: repeated values}

(tensorflow/core/example/feature.proto, in protobuf's wire format: https://protobuf.dev/programming-guides/encoding/).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types


def parse_example(data: bytes) -> dict[str, list[bytes] | np.ndarray]:
    """The features by name: a list of bytes, float32 [n] or int64 [n].

    Raises:
      ValueError: the bytes are no Example.
    """
    features: dict[str, list[bytes] | np.ndarray] = {}
    for _, message in _fields(memoryview(data)):
        for _, entry in _fields(message):
            pair = dict(_fields(entry))
            features[bytes(pair[1]).decode()] = _values(pair[2])
    return features


def _values(feature: memoryview) -> list[bytes] | np.ndarray:
    for kind, values in _fields(feature):
        if kind == 1:
            return [bytes(value) for _, value in _fields(values)]
        if kind == 2:
            parts = [np.frombuffer(part, "<f4") for _, part in _fields(values)]
            return np.concatenate([np.zeros(0, np.float32), *parts])
        numbers = [n for _, part in _fields(values) for n in ([part] if isinstance(part, int) else _varints(part))]
        return np.asarray(numbers, np.uint64).astype(np.int64)
    return []


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field: an int for a varint, the bytes for the rest."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == BYTES:
            size, at = _varint(message, at)
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
        else:
            raise ValueError(f"wire type {kind} at byte {at}")
        if at + size > len(message):
            raise ValueError(f"a field of {size} bytes at byte {at} of {len(message)}")
        yield number, message[at : at + size]
        at += size


def _varints(packed: memoryview) -> Iterator[int]:
    at = 0
    while at < len(packed):
        value, at = _varint(packed, at)
        yield value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """(the number of seven bits a byte, lowest first, at byte `at`; the byte after it)."""
    value = shift = 0
    while at < len(message):
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("a number without end")
