"""Writing files: whole or not at all, and by one process at a time."""

import contextlib
import errno
import fcntl
import json
import os
import platform
import secrets
import shutil
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from psdiff_jax.errors import InputError

CHECKSUMS = "checksums.json"  # file name -> CRC-32
NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, errno.EACCES, errno.EPERM)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes a file (text as UTF-8) whole or not at all; makes its folder."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_npy_header(file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Begins an .npy file whose rows are written one part after the other."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def write_checksums(folder: Path) -> None:
    """Writes the CRC-32 of every .npy file of a folder to its `CHECKSUMS`."""
    write_atomically(folder / CHECKSUMS, json.dumps(_checksums(folder)))


def is_as_written(folder: Path) -> bool:
    """Whether a folder's .npy files are those that `write_checksums` saw. Reads them: a second for each gigabyte."""
    try:
        return bool(json.loads((folder / CHECKSUMS).read_bytes()) == _checksums(folder))
    except (OSError, ValueError, RecursionError):
        return False


def _checksums(folder: Path) -> dict[str, int]:
    found = {path.name: 0 for path in folder.glob("*.npy")}
    for name in found:
        with (folder / name).open("rb") as file:
            while part := file.read(1 << 24):
                found[name] = zlib.crc32(part, found[name])
    return found


def cache_folder() -> Path:
    """This program's folder among the user's caches; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "psdiff_jax"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write to that becomes `path` at the end, or is deleted where anything fails; makes its folder.

    Raises:
      InputError: the disk is full, the folder is read-only, ...
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(path) as temporary:
            try:
                yield temporary
                flush(temporary)
                temporary.replace(path)
                flush(path.parent)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A name beside `path` that nobody else writes to: the same one each time, so that what a killed process left is
    written over; one of its own while another process or thread has that, or where files cannot be locked."""
    usual, alone = path.with_name(f"{path.name}.{platform.node()}.tmp"), False  # other hosts may not see the lock
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(usual.open("ab"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = os.path.samestat(os.fstat(file.fileno()), usual.stat())
        except (BlockingIOError, FileNotFoundError, PermissionError):  # in use, renamed since, or another user's
            pass
        except OSError:
            usual.unlink(missing_ok=True)
        yield usual if alone else path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A folder to write to that takes the place of `path` at the end, or is deleted where anything fails. Between the
    old one and the new one there is none, but never a mixture.

    Raises:
      InputError: the disk is full, the folder is read-only, ...
    """
    unfinished, old = path.with_name(f".{path.name}.unfinished"), path.with_name(f".{path.name}.old")
    with writing(path):
        try:
            shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
            unfinished.mkdir(parents=True)
            yield unfinished
            flush(*unfinished.rglob("*"), unfinished)
            shutil.rmtree(old, ignore_errors=True)
            if path.exists():
                path.rename(old)
            unfinished.rename(path)
            flush(path.parent)
            shutil.rmtree(old, ignore_errors=True)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise


def why_not_written(error: BaseException | None) -> str | None:
    """The system's words where a disk is full, read-only or broken, or a file may not be written; None for another
    error. Libraries in C++ hand on the words alone."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NOT_WRITABLE:
            return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        for number in NOT_WRITABLE:
            if os.strerror(number) in str(error):
                return os.strerror(number)
        error = error.__cause__ or error.__context__
    return None


@contextlib.contextmanager
def adding_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that becomes `path` at the end; what a killed process leaves is hidden (`remove_unfinished`)."""
    unfinished = path.with_name(f".{path.name}")
    unfinished.mkdir(parents=True)
    yield unfinished
    flush(*unfinished.rglob("*"), unfinished)
    unfinished.rename(path)
    flush(path.parent)


def flush(*paths: Path) -> None:
    """Has files and folders written to the disk itself: otherwise a name may outlive a power failure, and what it names
    not."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_unfinished(parent: Path) -> None:
    """Deletes what killed processes left of `adding_folder` in `parent`; no process may be adding there."""
    for folder in parent.glob(".[0-9]*"):
        shutil.rmtree(folder)


@contextlib.contextmanager
def writing(path: Path, advice: str = "make room and run again") -> Iterator[None]:
    """Turns an OSError into an InputError that names `path` and ends with `advice`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); {advice}") from error


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Holds an exclusive lock between processes; a line says when it waits for another one that `what`.

    On a file system without locks it holds nothing.

    Raises:
      InputError: the lock's folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise InputError(f"{path.parent}: cannot be written to ({error.strerror}); choose another folder") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that {what}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)  # released by the system, also when that process is killed
        except OSError:
            pass  # there `workdir.claimed` keeps a second program out by other means
        yield
