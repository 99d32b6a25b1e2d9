"""A full or read-only disk at every place where something is written; then there is space, and it goes on."""

import builtins
import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from psdiff_jax.errors import InputError
from psdiff_jax.files import why_not_written

from .stages import STAGES, leftovers

MOST = 5  # places tried of a stage

pytestmark = pytest.mark.slow


class Full:
    """A file on a full disk."""

    def __init__(self, file):
        self._file = file

    def write(self, *_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writelines = write

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()


class Disk:
    """Counts the files in `place` that are opened for writing; the one numbered `fails` meets a fault."""

    def __init__(self, monkeypatch, place: Path, fails: int = -1, fault: str = ""):
        self.opened, real = 0, io.open

        def open_(file, mode="r", *args, **given):
            inside = isinstance(file, str | os.PathLike) and Path(os.fspath(file)).is_relative_to(place)
            if not (inside and set(mode) & set("wax+")):
                return real(file, mode, *args, **given)
            self.opened += 1
            if self.opened - 1 == fails and fault == "read-only":
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(file))
            opened = real(file, mode, *args, **given)
            return Full(opened) if self.opened - 1 == fails else opened

        monkeypatch.setattr(io, "open", open_)
        monkeypatch.setattr(builtins, "open", open_)


@pytest.mark.parametrize("fault", ["full", "read-only"])
@pytest.mark.parametrize("name", STAGES)
def test_each_place_fails_in_one_line_and_then_goes_on(name, fault, tmp_path, monkeypatch, tried):
    stage = STAGES[name]
    with monkeypatch.context() as patch:
        disk = Disk(patch, tmp_path / "whole")
        whole = stage(tmp_path / "whole")
    assert disk.opened > 0
    for number in sorted({round(i) for i in np.linspace(0, disk.opened - 1, MOST)}):
        place = tmp_path / str(number)
        with monkeypatch.context() as patch:
            Disk(patch, place, number, fault)
            try:
                outcome, found = "not noticed by anyone", stage(place)
                assert found == whole
            except Exception as error:
                outcome, line = "one line, then it went on", str(error)
                assert isinstance(error, InputError) or why_not_written(error), repr(error)
                assert "\n" not in line and os.strerror({"full": 28, "read-only": 30}[fault]) in line, line
        tried(f"{fault} disk: {name}", outcome)
        assert stage(place) == whole
        assert not leftovers(place)


@pytest.mark.parametrize(("name", "largest"), [("training", 300), ("preparation", 2000)])
def test_what_libraries_in_cpp_write(name, largest, tmp_path, tried):
    """A limit on the size of files, which checkpoints and records meet outside of Python, too."""
    command = [sys.executable, "-m", "tests.faults.stages", name, str(tmp_path / "run")]
    limited = subprocess.run([*command, str(largest)], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    lines = [line for line in limited.stderr.splitlines() if "error" in line]
    assert limited.returncode == 1 and "Traceback" not in limited.stderr, limited.stderr
    assert len(lines) == 1 and lines[0].startswith("error: ") and "File too large" in lines[0], limited.stderr
    again, whole = (
        subprocess.run([*line, "0"], capture_output=True, text=True, cwd=Path(__file__).parents[2])
        for line in (command, [*command[:-1], str(tmp_path / "whole")])
    )
    assert again.returncode == 0 and again.stdout.splitlines()[-1] == whole.stdout.splitlines()[-1], again.stderr
    tried(f"files limited to {largest} bytes: {name}", "one line, then it went on")
