"""One program at a time in a --workdir. As a program: holds the folder that is named until it is killed."""

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from psdiff_jax import experiment, workdir
from psdiff_jax.errors import InputError
from psdiff_jax.files import locked
from psdiff_jax.workdir import LOCK, claimed

from .tiny import tiny_config


@pytest.fixture
def held(tmp_path):
    """A folder that another program holds."""
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "tests.test_workdir", str(folder)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield folder, process
        process.kill()


def test_the_second_program_is_refused_and_the_first_goes_on(held):
    folder, process = held
    wanted = rf"--workdir {folder}: another program works in it \(process {process.pid} on host .*, since 20.*\); wait"
    for attempt in (lambda: claimed(folder).__enter__(), lambda: experiment.run(tiny_config(folder), folder, "train")):
        with pytest.raises(InputError, match=wanted) as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert process.poll() is None and [path.name for path in folder.iterdir()] == [LOCK]


def test_what_a_crash_left_is_stale_at_once(held, capsys):
    folder, process = held
    process.kill()
    process.wait()
    assert json.loads((folder / LOCK).read_text())["process"] == process.pid
    with claimed(folder):
        assert json.loads((folder / LOCK).read_text())["process"] == os.getpid()
    assert (folder / LOCK).read_text() == "" and capsys.readouterr().err == ""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder with the name of a program on another host in it, and short times."""
    monkeypatch.setattr(workdir, "WATCH", 0.5)
    monkeypatch.setattr(workdir, "BEAT", 0.05)
    (tmp_path / LOCK).write_text(json.dumps({"host": "elsewhere", "process": 7, "since": "yesterday"}))
    return tmp_path


def test_another_host_is_watched_where_locks_end_at_the_host(elsewhere, capsys):
    over = workdir.threading.Event()
    beating = workdir.threading.Thread(target=workdir._beat, args=(elsewhere / LOCK, over))
    beating.start()
    with pytest.raises(InputError, match=r"another program works in it \(process 7 on host elsewhere, since yesterday"):
        claimed(elsewhere).__enter__()
    over.set()
    beating.join()
    assert "process 7 on host elsewhere did not leave it in order; watching" in capsys.readouterr().err
    with claimed(elsewhere):  # nobody touches it any more
        pass


def test_a_file_system_without_locks(tmp_path, elsewhere, monkeypatch):
    def unsupported(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with locked(elsewhere / "targets.lock", "computes targets"):
        pass
    with claimed(elsewhere):
        with pytest.raises(InputError, match=f"process {os.getpid()} on host"):
            claimed(elsewhere).__enter__()
    with claimed(elsewhere):  # left in order: nothing to watch
        pass


@pytest.mark.parametrize("left", ["", "{", "[]", '{"host": 3}', "\x00\xff"])
def test_a_lock_file_that_says_nothing_is_free(tmp_path, left):
    (tmp_path / LOCK).write_text(left)
    with claimed(tmp_path):
        pass


def test_folders_that_cannot_be_used(tmp_path):
    (tmp_path / "file").touch()
    for folder, what in (
        (tmp_path / "file", "is a file; give a folder"),
        (tmp_path / "file/run", r"cannot be made or written to \(Not a directory\)"),
        (Path("/proc/run"), "cannot be made or written to"),
    ):
        with pytest.raises(InputError, match=f"--workdir {folder}:? {what}"):
            claimed(folder).__enter__()


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    real = os.fdopen

    class Full:
        def __init__(self, file):
            self._file = file

        def __getattr__(self, name):
            return getattr(self._file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._file.close()

        def flush(self):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdopen", lambda *args, **given: Full(real(*args, **given)))
    with pytest.raises(InputError, match=r"cannot be written to \(No space left on device\); make room"):
        claimed(tmp_path).__enter__()


if __name__ == "__main__":
    with claimed(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(600)
