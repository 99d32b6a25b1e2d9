"""Files and folders that are written whole are on the disk before they have their names."""

import errno
import fcntl
import os
import signal
import subprocess
import sys

import pytest

from psdiff_jax.files import adding_folder, replacing, replacing_folder, write_atomically


def whole_file(path):
    write_atomically(path, "content")


def whole_folder(path):
    with replacing_folder(path) as unfinished:
        (unfinished / "a").write_text("content")


def added_folder(path):
    with adding_folder(path) as unfinished:
        (unfinished / "a").write_text("content")


@pytest.mark.parametrize("write", [whole_file, whole_folder, added_folder])
def test_content_is_on_the_disk_before_its_name(write, tmp_path, monkeypatch):
    happened, real = [], {name: getattr(os, name) for name in ("fsync", "replace", "rename")}

    def sync(descriptor):
        happened.append(("sync", os.stat(descriptor).st_ino))
        real["fsync"](descriptor)

    def named(name):
        def rename(source, target, **given):
            happened.append(("name", os.stat(source).st_ino))
            real[name](source, target, **given)

        return rename

    monkeypatch.setattr(os, "fsync", sync)
    for name in ("replace", "rename"):
        monkeypatch.setattr(os, name, named(name))
    path = tmp_path / "path"
    write(path)
    content = path / "a" if path.is_dir() else path
    at = happened.index(("name", path.stat().st_ino))
    assert ("sync", content.stat().st_ino) in happened[:at] and ("sync", path.stat().st_ino) in happened[:at]
    assert happened[at + 1 :] == [("sync", tmp_path.stat().st_ino)]


def test_what_a_killed_process_left_is_written_over(tmp_path):
    program = """
import os, pathlib, signal, sys
from psdiff_jax.files import replacing
with replacing(pathlib.Path(sys.argv[1])) as temporary:
    temporary.write_text("half of it, and longer than the whole")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    path = tmp_path / "file"
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", program, str(path)]).returncode == -signal.SIGKILL
        (left,) = tmp_path.iterdir()
        assert left.suffix == ".tmp"
    write_atomically(path, "whole")
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "whole"


def test_two_at_once_write_to_two_files(tmp_path):
    path = tmp_path / "file"
    with replacing(path) as first:
        first.write_text("first")
        with replacing(path) as second:
            second.write_text("second")
            assert second != first
        assert path.read_text() == "second"
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "first"


@pytest.mark.parametrize("why", ["renamed since", "no locks", "another user's"])
def test_a_file_that_is_not_ours_alone_is_left_alone(why, tmp_path, monkeypatch):
    path = tmp_path / "file"

    def lock(file, _):
        if why == "no locks":
            raise OSError(errno.ENOLCK, "No locks available")
        if why == "another user's":  # in truth it is `open` that raises, but not where the tests' user may do all
            os.unlink(file.name)
            raise PermissionError(errno.EACCES, "Permission denied")
        os.replace(file.name, path)

    monkeypatch.setattr(fcntl, "flock", lock)
    write_atomically(path, "whole")
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "whole"
