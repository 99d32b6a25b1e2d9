"""Rows that are expensive to compute: computed once, block by block, kept in a file and mapped from there.

    rows = cached_rows(folder / "targets-train.npy", key, (K, D), compute)

`key` is everything that the rows depend on. Beside `targets-train.npy` lie
  - `.json`: the key and the checksum of each block; a file that does not agree with it is not used;
  - `.unfinished` and `.journal`: the rows so far, and the key and checksums of the blocks on the disk. A run that was
    stopped continues from there;
  - `.lock`: of several processes one computes and the others wait.

Legend: K rows, D embedding.
"""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from psdiff_jax import parallel
from psdiff_jax.errors import InputError
from psdiff_jax.files import locked, write_atomically, write_npy_header, writing
from psdiff_jax.interruption import AGAIN, stage

Block = tuple[int, int]  # the row it ends before, CRC-32 of its bytes
JOINED_AT_ONCE = 65_536  # rows of a process's share
Compute = Callable[[int], Iterator[np.ndarray]]


def cached_rows(path: Path, key: Mapping[str, Any], shape: tuple[int, int], compute: Compute) -> np.ndarray:
    """float32 `shape` [K,D], memory-mapped and read-only; from `path` where it was made from `key`.

    If it was made from another key, a line says what differs and the rows are computed again.

    Args:
      key: JSON: name, in words -> value. The names appear in that line.
      compute: `compute(start)` yields float32 blocks [n,D] of the rows from `start` on, in order.

    Raises:
      InputError: the folder cannot be written to, or is full.
    """
    rows = kept_rows(path, key, shape)  # without the lock: a finished file needs no waiting
    if rows is not None:
        return rows
    key = json.loads(json.dumps(dict(key)))
    with locked(path.with_suffix(".lock"), f"computes {path}"):
        rows, differs = _open(path, key, shape)  # another process may have computed it meanwhile
        if rows is None:
            if differs:
                _say(f"{path} is stale ({', '.join(differs)} changed): computing it again")
            _fill(path, key, shape, compute)
            rows, differs = _open(path, key, shape)
    if rows is None:
        raise InputError(f"{path}: differs from what was just written ({', '.join(differs)}); check the disk")
    return rows


def kept_rows(path: Path, key: Mapping[str, Any], shape: tuple[int, int]) -> np.ndarray | None:
    """What `cached_rows` kept at `path`, if it was made from `key`."""
    return _open(path, json.loads(json.dumps(dict(key))), shape)[0]


def rows_of_all_processes(
    path: Path, key: Mapping[str, Any], shape: tuple[int, int], compute: Callable[[int, int], Iterator[np.ndarray]]
) -> np.ndarray:
    """`cached_rows`, of which every process of a pod computes a share; `compute(start, end)` yields those rows.

    The shares are files beside `path`, each kept as `cached_rows` keeps it, until all are in one.
    """
    index, count, _ = parallel.place()
    if count == 1:
        return cached_rows(path, key, shape, lambda start: compute(start, shape[0]))
    kept = kept_rows(path, key, shape)
    if parallel.all_agree(kept is not None) and kept is not None:
        return kept
    edges = [shape[0] * i // count for i in range(count + 1)]
    paths = [path.with_name(f"{path.stem}-{i}-of-{count}.npy") for i in range(count)]
    first, end = edges[index], edges[index + 1]
    share = {**key, "rows": [first, end]}
    cached_rows(paths[index], share, (end - first, shape[1]), lambda start: compute(first + start, end))
    parallel.meet()

    def joined(start: int) -> Iterator[np.ndarray]:
        for part, (first, end) in zip(paths, pairwise(edges), strict=True):
            rows = _map(part)
            for row in range(max(start, first), end, JOINED_AT_ONCE):
                yield rows[row - first : row - first + JOINED_AT_ONCE]

    rows = parallel.first_alone(lambda: cached_rows(path, key, shape, joined))
    parallel.meet()  # nobody deletes before all have read
    for suffix in (".npy", ".json", ".lock"):
        paths[index].with_suffix(suffix).unlink(missing_ok=True)
    return rows


def _open(path: Path, key: Mapping[str, Any], shape: tuple[int, int]) -> tuple[np.ndarray | None, list[str]]:
    """(the rows, or None; what makes the file unusable: names of the key, or what is damaged)."""
    beside = path.with_suffix(".json")
    if not (path.is_file() and beside.is_file()):
        return None, []
    try:
        kept = json.loads(beside.read_text())
        differs = _names(kept["key"], key)
        rows = _map(path)
        if not differs and (rows.shape != shape or rows.dtype != np.float32):
            differs = ["its shape"]
        if not differs and not _agree(rows, kept["blocks"]):
            differs = ["its bytes"]
    except (ValueError, OSError, EOFError, LookupError, TypeError, AttributeError):
        return None, ["its format"]
    return (None if differs else rows), differs


def _names(kept: Mapping[str, Any], key: Mapping[str, Any]) -> list[str]:
    """Names under which two keys differ."""
    return [name for name in dict.fromkeys([*key, *kept]) if kept.get(name) != key.get(name)]


def _map(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:  # files without rows cannot be mapped
        return np.load(path, allow_pickle=False)


def _agree(rows: np.ndarray, blocks: list[Block]) -> bool:
    start = 0
    for end, checksum in blocks:
        if zlib.crc32(np.ascontiguousarray(rows[start:end]).data) != checksum:
            return False
        start = end
    return start == len(rows)


def _fill(path: Path, key: Mapping[str, Any], shape: tuple[int, int], compute: Compute) -> None:
    unfinished, journal = path.with_suffix(".unfinished"), path.with_suffix(".journal")
    with writing(unfinished):
        blocks = _resume(unfinished, journal, key, shape)
    start = blocks[-1][0] if blocks else 0
    if start:
        _say(f"{path}: continuing after {start} of {shape[0]} rows")
    # Written, not mapped: a full disk then raises an error instead of a signal that ends the process.
    with stage(f"computing {path}", lambda: f"{start} of {shape[0]} rows are kept; {AGAIN}"):
        for rows in compute(start) if start < shape[0] else ():
            content = np.ascontiguousarray(rows, "<f4").tobytes()
            _append(unfinished, content)  # the rows first, then the line of the journal
            blocks.append((start + len(rows), zlib.crc32(content)))
            _append(journal, (json.dumps(blocks[-1]) + "\n").encode())
            start += len(rows)
    with writing(path):
        path.unlink(missing_ok=True)  # a stop between these lines is a stop after the last block
        write_atomically(path.with_suffix(".json"), json.dumps({"key": key, "blocks": blocks}) + "\n")
        unfinished.replace(path)
        journal.unlink()


def _append(path: Path, content: bytes) -> None:
    with writing(path), path.open("ab") as file:  # closing writes too and may fail
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _resume(unfinished: Path, journal: Path, key: Mapping[str, Any], shape: tuple[int, int]) -> list[Block]:
    """The intact blocks of an earlier run; both files are truncated, or started over, to hold just these."""
    head = json.dumps({"key": key, "shape": shape}) + "\n"
    blocks, length = [], 0
    if unfinished.is_file() and journal.is_file():
        lines = journal.read_text(errors="replace").splitlines(keepends=True)
        differs = _differs(lines[:1], head)
        if differs:
            _say(f"{unfinished} is stale ({', '.join(differs)} changed): starting over")
        else:
            blocks, length = _good_blocks(unfinished, lines[1:], shape)
    if blocks:
        os.truncate(unfinished, length)
    else:
        with unfinished.open("wb") as file:
            _write_header(file, shape)
    write_atomically(journal, head + "".join(json.dumps(block) + "\n" for block in blocks))
    return blocks


def _differs(first: list[str], head: str) -> list[str]:
    try:
        kept, wanted = json.loads(first[0]), json.loads(head)
        return _names(kept["key"], wanted["key"]) or ["its shape"] * (kept["shape"] != wanted["shape"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return ["its format"]


def _good_blocks(unfinished: Path, lines: list[str], shape: tuple[int, int]) -> tuple[list[Block], int]:
    """(the blocks that agree with the journal, up to the first that does not; the length of the file up to there)."""
    blocks, start = [], 0
    with unfinished.open("rb") as file:
        try:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            length = file.tell()
            for line in lines:
                end, checksum = json.loads(line)
                content = file.read((end - start) * shape[1] * 4)
                if not start < end <= shape[0] or zlib.crc32(content) != checksum:
                    break
                blocks.append((end, checksum))
                start, length = end, file.tell()
        except (ValueError, TypeError):  # a line that was cut short
            pass
    return blocks, length if blocks else 0


def _write_header(file: Any, shape: tuple[int, int]) -> None:
    write_npy_header(file, shape, np.dtype("<f4"))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
