"""Building and opening prepared datasets, with a builder of the user's own (`module:Class`)."""

import errno
import importlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from psdiff_jax.data import prepared
from psdiff_jax.data.prepared import Source
from psdiff_jax.data.records import image_example, query_example
from psdiff_jax.errors import InputError
from psdiff_jax.files import writing

from ..options import open_dataset

BUILDER = """
import cv2
import numpy as np
import tensorflow_datasets as tfds
from psdiff_jax.data.records import query_example, image_example, record_features

BUILT = []  # how often, for the tests

class Boxes(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, data_dir, count=3, query_image="gallery1.png", workers=1):
        self.count, self.query_image, self.report = count, query_image, {}
        super().__init__(data_dir=data_dir)

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=record_features(), disable_shuffling=True)

    def _split_generators(self, dl_manager):
        BUILT.append(self.count)
        self.report["count"] = self.count
        return {"train": self._generate_examples("train"), "gallery": self._generate_examples("gallery"),
                "query": self._queries()}

    def _generate_examples(self, split):
        for i in range(self.count):
            image = cv2.imencode(".png", np.full((20, 30, 3), i, np.uint8))[1].tobytes()
            boxes = np.asarray([[0, 0, 5 + b, 9] for b in range(i)], np.float32)
            yield i, image_example(image=image, image_name=f"{split}{i}.png", height=20, width=30, boxes=boxes,
                                   person_ids=np.arange(i) - 1, camera=i, frame=100 * i)

    def _queries(self):
        yield 0, query_example(image_name=self.query_image, box=[0, 0, 5, 9], person_id=7, camera=1, frame=100)
"""


@pytest.fixture(scope="module")
def own_builder(tmp_path_factory):
    """A module with a builder; imported once, since TFDS registers names for good."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_builder.py").write_text(BUILDER)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield importlib.import_module("own_builder")


@pytest.fixture
def config(tmp_path, own_builder):
    own_builder.BUILT.clear()
    return ConfigDict(
        {"name": "own_builder:Boxes", "root": "", "prepared_dir": str(tmp_path / "prepared"), "builder": {}}
    )


def built():
    return sys.modules["own_builder"].BUILT


def test_records_come_back_as_given(config):
    for _ in range(2):  # built, then opened; annotations read from the records, then from their own file
        dataset = open_dataset(config)
        assert len(dataset.train_source) == len(dataset.gallery_source) == 3
        annotations = dataset.annotations("gallery")
        assert annotations.image_names == ("gallery0.png", "gallery1.png", "gallery2.png")
        assert annotations.sizes.tolist() == [[20, 30]] * 3 and annotations.sizes.dtype == np.int32
        assert annotations.cameras.tolist() == [0, 1, 2] and annotations.frames.tolist() == [0, 100, 200]
        assert [boxes.tolist() for boxes in annotations.boxes] == [[], [[0, 0, 5, 9]], [[0, 0, 5, 9], [0, 0, 6, 9]]]
        assert [boxes.shape for boxes in annotations.boxes] == [(0, 4), (1, 4), (2, 4)]
        assert [ids.tolist() for ids in annotations.person_ids] == [[], [-1], [-1, 0]]
        record = dataset.gallery_source[2]
        assert record["image_name"] == "gallery2.png" and record["image"].startswith(b"\x89PNG")
        assert dataset.report == {"count": 3}
    assert built() == [3]
    assert "tensorflow" not in sys.modules


def test_queries_and_their_images(config):
    dataset = open_dataset(config)
    queries = dataset.queries()
    assert queries.image_names == ("gallery1.png",) and queries.boxes.tolist() == [[0, 0, 5, 9]]
    assert queries.person_ids.tolist() == [7] and queries.cameras.tolist() == [1] and queries.frames.tolist() == [100]
    images = dataset.annotations("query")
    assert images.sizes.tolist() == [[20, 30]] and images.boxes[0].tolist() == [[0, 0, 5, 9]]
    assert dataset.query_source[0]["image"] == dataset.gallery_source[1]["image"]


def test_in_a_read_only_folder_annotations_come_from_the_records(config, monkeypatch):
    def read_only(path, _):
        with writing(path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    expected = open_dataset(config).annotations("gallery")
    dataset = open_dataset(config)
    monkeypatch.setattr(prepared, "write_atomically", read_only)
    (dataset.folder / "annotations-gallery.npz").unlink()
    assert dataset.annotations("gallery").image_names == expected.image_names
    assert not (dataset.folder / "annotations-gallery.npz").exists()


def test_other_options_make_another_folder(config):
    first = open_dataset(config)
    config.builder = {"count": 2}
    second = open_dataset(config)
    assert first.folder != second.folder and built() == [3, 2]
    assert len(first.annotations("train")) == 3 and len(second.annotations("train")) == 2
    options = json.loads((second.folder.parents[1] / "prepared.json").read_text())["options"]
    assert options == {"count": 2}
    config.builder = {"count": 2, "workers": 2}  # changes no record
    open_dataset(config)
    assert built() == [3, 2]


def test_another_version_of_the_builder_makes_another_folder(config, monkeypatch):
    import tensorflow_datasets as tfds

    first = open_dataset(config)
    monkeypatch.setattr(importlib.import_module("own_builder").Boxes, "VERSION", tfds.core.Version("1.1.0"))
    assert open_dataset(config).folder.parents[1] != first.folder.parents[1] and built() == [3, 3]


def test_a_killed_build_is_built_again(config):
    folder = open_dataset(config).folder
    half = folder.with_name("incomplete.ABCDEF_1.0.0")
    folder.rename(half)  # what a kill leaves behind: everything but the final rename
    (folder.parents[1] / "prepared.json").unlink()
    dataset = open_dataset(config)
    assert dataset.folder == folder and len(dataset.train_source) == 3 and built() == [3, 3]
    assert not half.exists()


def test_a_build_killed_before_its_report_is_built_again(config):
    folder = open_dataset(config).folder
    (folder.parents[1] / "prepared.json").unlink()  # the last thing that is written
    (folder / "left over").touch()
    assert open_dataset(config).report == {"count": 3} and built() == [3, 3]
    assert not (folder / "left over").exists()


def test_a_source_can_be_pickled(config):
    source = open_dataset(config).query_source
    again = pickle.loads(pickle.dumps(source))
    assert isinstance(again, Source) and again[0]["image"] == source[0]["image"]


def test_a_damaged_annotation_file_is_made_again(config):
    dataset = open_dataset(config)
    expected = dataset.annotations("train")
    path = dataset.folder / "annotations-train.npz"
    path.write_bytes(path.read_bytes()[:100])
    found = open_dataset(config).annotations("train")
    assert found.image_names == expected.image_names and [len(b) for b in found.boxes] == [0, 1, 2]


def test_a_missing_record_file_is_named(config):
    dataset = open_dataset(config)
    path = next(Path(dataset.folder).glob("*-train.array_record*"))
    path.unlink()
    with pytest.raises(InputError) as caught:
        open_dataset(config).train_source  # noqa: B018
    assert str(caught.value) == f"{path} is missing: delete the folder {dataset.folder}, it is then built again"


def test_a_query_outside_the_gallery_is_named(config):
    config.builder = {"query_image": "elsewhere.png"}
    with pytest.raises(InputError) as caught:
        open_dataset(config).queries()
    assert str(caught.value) == (
        "dataset own_builder:Boxes: query image elsewhere.png is not in its gallery; add it or drop the query"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"name": "prv"},
            "config.data.name: there is no dataset 'prv'; choose one of crop_sheets, cuhk_sysu, custom, mot, prw,"
            " synthetic_street, or name a module:Class",
        ),
        (
            {"name": "no_such_module:X"},
            "config.data.name: 'no_such_module:X' cannot be imported (No module named 'no_such_module')",
        ),
        (
            {"builder": {"count": "many"}},
            "config.data.builder.count='many': expected a value like 3",
        ),
        (
            {"builder": {"query_image": 2024}},
            "config.data.builder.query_image=2024: expected a value like 'gallery1.png'; a text that looks like"
            " a number is quoted twice: \"'2024'\"",
        ),
        (
            {"builder": {"cuont": 3}},
            "config.data.builder.cuont: dataset own_builder:Boxes takes no such option;"
            " it knows count, query_image, workers",
        ),
        (
            {"root": "x"},
            "config.data.root: dataset own_builder:Boxes takes no such option; it knows count, query_image, workers",
        ),
        ({"name": "prw"}, "config.data.root is not set: dataset prw needs --config.data.root=..."),
        (
            {"prepared_dir": ""},
            "config.data.prepared_dir is empty: name the folder that prepared datasets are kept in",
        ),
    ],
)
def test_wrong_keys(config, change, message):
    config.update(change)
    with pytest.raises(InputError) as caught:
        open_dataset(config)
    assert str(caught.value) == message


def test_prepared_dir_that_cannot_be_written(config, tmp_path):
    (tmp_path / "file").write_text("")
    config.prepared_dir = str(tmp_path / "file")
    with pytest.raises(InputError) as caught:
        open_dataset(config)
    assert str(caught.value) == f"config.data.prepared_dir: cannot write to {tmp_path / 'file'} (Not a directory)"


@pytest.mark.parametrize("box", [[-1, 0, 5, 5], [0, 0, 31, 5], [4, 0, 4, 5], [40, 30, 50, 40], [0, 0, np.nan, 5]])
def test_a_box_outside_its_image_is_named(box):
    with pytest.raises(InputError) as caught:
        image_example(
            image=b"x", image_name="a.jpg", height=20, width=30, boxes=[[0, 0, 30, 20], box], person_ids=[1, 2]
        )
    assert str(caught.value) == (
        f"a.jpg: box 2 {[float(v) for v in box]} (xyxy) does not lie inside its 30 x 20 image; correct or remove it"
    )


def test_every_box_has_an_id():
    with pytest.raises(InputError, match=r"^a\.jpg: 1 boxes but 2 person ids; give one id a box$"):
        image_example(image=b"x", image_name="a.jpg", height=20, width=30, boxes=[[0, 0, 5, 5]], person_ids=[1, 2])
    assert query_example(image_name="a", box=[0, 0, 1, 1], person_id=4)["person_ids"].tolist() == [4]


def test_the_schema_needs_numpy_alone():
    heavy = {"tensorflow_datasets", "grain", "cv2", "jax"}
    code = f"import sys, psdiff_jax.data.schema; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
