"""Files and folders that are written whole are on the disk before they have their names."""

import os

import pytest

from psdiff_jax.files import adding_folder, replacing_folder, write_atomically


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
