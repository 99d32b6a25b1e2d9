"""One program at a time in a --workdir.

    with claimed(Path("runs/mine")):
        ...

`DIR/.lock` names the host and the process, and is locked with flock(2). The system releases such a lock when the
program ends, however it ends: what a crash left is stale at once. Some network file systems do not lock, or lock within
one host only. The program therefore touches the file every few seconds, and one that finds the name of another host
watches for that before it takes over.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from psdiff_jax.errors import InputError

LOCK = ".lock"
BEAT = 15.0  # seconds between two touches
WATCH = (
    75.0  # seconds without one after which a program on another host is taken for dead; NFS and gcsfuse cache for 60
)


@contextlib.contextmanager
def claimed(workdir: Path) -> Iterator[None]:
    """Makes the folder `workdir` and keeps other programs out of it.

    Raises:
      InputError: another program works in it, or it cannot be made or written to.
    """
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"--workdir {workdir} is a file; give a folder")
    path = workdir / LOCK
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"--workdir {workdir}: cannot be made or written to ({error.strerror}); give another folder"
        ) from error
    with file:
        locks = _lock(file, workdir)
        holder = _holder(file.read())
        if holder and not (locks and holder["host"] == socket.gethostname()):
            _wait_for_its_death(path, holder, workdir)
        _write(file, workdir, {"host": socket.gethostname(), "process": os.getpid(), "since": time.strftime("%F %T")})
        over = threading.Event()
        threading.Thread(target=_beat, args=(path, over), name="workdir-lock", daemon=True).start()
        try:
            yield
        finally:
            over.set()
            _write(file, workdir, None)


def _lock(file: TextIO, workdir: Path) -> bool:
    """Whether the file system can lock. InputError: another program holds the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _busy(workdir, _holder(file.read())) from None
    except OSError:
        return False
    return True


def _busy(workdir: Path, holder: dict[str, Any] | None) -> InputError:
    who = "process {process} on host {host}, since {since}".format(**holder) if holder else "which has just started"
    return InputError(
        f"--workdir {workdir}: another program works in it ({who}); wait for it, stop it, or give another --workdir"
    )


def _holder(text: str) -> dict[str, Any] | None:
    """What the file says of the program that holds it; None if it was left in order, or cannot be read."""
    try:
        found = json.loads(text)
        return {name: str(found[name]) for name in ("host", "process", "since")}
    except (ValueError, KeyError, TypeError):
        return None


def _write(file: TextIO, workdir: Path, holder: dict[str, Any] | None) -> None:
    try:
        file.seek(0)
        file.truncate()
        file.write(json.dumps(holder) + "\n" if holder else "")
        file.flush()
    except OSError as error:
        if holder:
            raise InputError(f"--workdir {workdir}: cannot be written to ({error.strerror}); make room") from error


def _beat(path: Path, over: threading.Event) -> None:
    while not over.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(path)


def _wait_for_its_death(path: Path, holder: dict[str, Any], workdir: Path) -> None:
    """InputError as soon as another program shows that it lives."""
    print(
        f"--workdir {workdir}: process {holder['process']} on host {holder['host']} did not leave it in order; "
        f"watching for {WATCH:.0f} s whether it still runs",
        file=sys.stderr,
        flush=True,
    )
    before, end = _touched(path), time.monotonic() + WATCH
    while time.monotonic() < end:
        time.sleep(min(1.0, WATCH / 10))
        if _touched(path) != before:
            raise _busy(workdir, holder)


def _touched(path: Path) -> tuple[int, str]:
    with path.open(encoding="utf-8", errors="replace") as file:  # opened anew: NFS then asks its server
        return os.fstat(file.fileno()).st_mtime_ns, file.read()
