"""CUHK03's crops become a folder that the `custom` dataset reads, and the config trains on it."""

import csv
import io
import tarfile

import cv2
import numpy as np
import pytest

from ..options import open_dataset
from .loading import load_script


def make_tar(path, people=6, name="{:04d}_{:02d}.jpg"):
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for person in range(people):
            for number in (0, 1, 5, 7):
                content = cv2.imencode(".jpg", rng.integers(0, 256, (16, 8, 3), np.uint8))[1].tobytes()
                member = tarfile.TarInfo("./" + name.format(person, number))
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def test_the_folder_is_a_dataset(tmp_path, capsys):
    script = load_script("unpack_cuhk03")
    folder = tmp_path / "cuhk03"
    assert script.main([str(make_tar(tmp_path / "c.tar")), str(folder), "--held-out", "2"]) == 0
    assert "16 training crops, 8 crops of 2 held-out identities, 4 queries" in capsys.readouterr().out
    with (folder / "annotations.csv").open() as file:
        rows = list(csv.DictReader(file))
    held = {row["person_id"] for row in rows if row["split"] == "gallery"}
    assert len(rows) == 24 and len(held) == 2 and not held & {r["person_id"] for r in rows if r["split"] == "train"}
    assert {row["camera"] for row in rows if row["image"].endswith(("_00.jpg", "_01.jpg"))} == {"0"}

    dataset = open_dataset({"name": "custom", "root": str(folder), "prepared_dir": str(tmp_path / "prepared")})
    queries, gallery = dataset.queries(), dataset.annotations("gallery")
    assert len(dataset.train_source) == 16 and len(gallery) == 8 and len(queries) == 4
    assert sorted(queries.cameras.tolist()) == [0, 0, 1, 1]
    np.testing.assert_array_equal(gallery.boxes[0], [[0, 0, 8, 16]])


@pytest.mark.parametrize("name", ["{:04d}-{:02d}.jpg", "{:04d}_{:02d}.png"])
def test_other_names_are_refused(tmp_path, capsys, name):
    script = load_script("unpack_cuhk03")
    assert script.main([str(make_tar(tmp_path / "c.tar", name=name)), str(tmp_path / "out")]) == 1
    assert "is no crop called" in capsys.readouterr().err


def test_something_else_than_a_tar_is_refused(tmp_path, capsys):
    (tmp_path / "c.tar").write_bytes(b"not a tar")
    assert load_script("unpack_cuhk03").main([str(tmp_path / "c.tar"), str(tmp_path / "out")]) == 1
    assert "not a readable tar" in capsys.readouterr().err
