"""Training on several datasets at once: the records, annotations, batches and targets of all, and nothing mixed up."""

import pickle

import numpy as np
import pytest
from ml_collections import ConfigDict

from psdiff_jax import experiment
from psdiff_jax.config import from_values
from psdiff_jax.configs.base import get_config as base
from psdiff_jax.data.joined import open_training_set
from psdiff_jax.errors import InputError
from psdiff_jax.teacher.crop_teacher import CropTeacher, network_targets

from ..datasets.custom_tree import GALLERY, json_tree, write_images, write_json
from ..options import data_options, open_dataset, train_batches


def other_tree(root):
    """One training image with bob, an unknown and anna, whose ids are those of others in `json_tree`."""
    write_images(root)
    boxes = [("bob", [1, 2, 10, 20]), (None, [30, 30, 5, 5]), ("anna", [40, 3, 9, 22])]
    people = [{"id": i, "image_id": "y", "bbox": box, "person_id": who} for i, (who, box) in enumerate(boxes)]
    images = [{"id": "y", "file_name": "a/1.jpg", "camera": 0}]
    write_json(root / "train.json", {"images": images, "annotations": people})
    write_json(root / "gallery.json", GALLERY)
    return root


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    place = tmp_path_factory.mktemp("joined")
    return json_tree(place / "first"), other_tree(place / "second"), place / "prepared"


@pytest.fixture
def options(trees):
    first, second, prepared = trees
    return {"name": "custom", "root": str(first), "prepared_dir": str(prepared), "also": (f"custom={second}",) * 2}


def alone(options, root):
    return open_dataset({**options, "root": str(root), "also": ()})


def test_the_parts_follow_each_other_and_share_no_person_no_camera_and_no_name(options, trees):
    joined = open_training_set(data_options(options))
    assert joined.folder != open_training_set(data_options({**options, "also": options["also"][:1]})).folder
    first, second = alone(options, trees[0]), alone(options, trees[1])
    found, one, two = joined.annotations("train"), first.annotations("train"), second.annotations("train")
    assert len(joined.source("train")) == len(found) == 2 + 1 + 1
    assert found.image_names == (*one.image_names, "2-custom/a/1.jpg", "3-custom/a/1.jpg")
    for i, image in enumerate([first.train_source[0], first.train_source[1], *[second.train_source[0]] * 2]):
        assert joined.source("train")[i]["image"] == image["image"]
        np.testing.assert_array_equal(joined.source("train")[i]["boxes"], found.boxes[i])
    assert found.sizes.tolist() == [*one.sizes.tolist(), *two.sizes.tolist() * 2]
    people = [set(ids[ids >= 0].tolist()) for ids in found.person_ids]
    assert people[0] == people[1] and len(people[0]) == 1  # anna, of the first
    assert [len(ids) for ids in people[2:]] == [2, 2] and len(set().union(*people)) == 1 + 2 + 2
    assert [int((ids < 0).sum()) for ids in found.person_ids[2:]] == [1, 1]
    assert len({int(camera) for camera in found.cameras[2:]}) == 2 and set(found.cameras[:2]) == set(one.cameras)
    assert not set(found.cameras[2:].tolist()) & set(found.cameras[:2].tolist())


def test_a_source_can_be_cut_and_sent_to_another_process(options):
    source = open_training_set(data_options(options)).source("train")
    sent = pickle.loads(pickle.dumps(source.at(np.array([3, 0]))))
    assert len(sent) == 2 and [sent[0]["image"], sent[1]["image"]] == [source[3]["image"], source[0]["image"]]
    for outside in (-1, 4):
        with pytest.raises(IndexError):
            source[outside]


def test_batches_and_targets_hold_all_of_them(options, tmp_path):
    joined = open_training_set(data_options(options))
    mean = CropTeacher(mean_colour, 3, "abc", (16, 8), "mean colour")
    targets = network_targets(mean, joined, folder=tmp_path)
    assert len(targets.all("train")) == sum(map(len, joined.annotations("train").boxes)) == 3 + 3 + 3
    np.testing.assert_array_equal(targets.lookup("train", 2), targets.lookup("train", 3))  # the same image twice
    config = ConfigDict({"data": {**options, "image_size": (48, 64), "max_boxes": 4}, "train": {"batch_size": 4},
                         "seed": 0})  # fmt: skip
    batch = next(train_batches(joined, config, targets=targets))
    assert sorted(batch["image_index"].tolist()) == [0, 1, 2, 3]
    for row, position in enumerate(batch["image_index"]):
        expected = targets.lookup("train", int(position))
        np.testing.assert_array_equal(batch["embeddings"][row, : len(expected)], expected)


def test_targets_are_made_again_when_another_dataset_joins(options, tmp_path, capsys):
    mean = CropTeacher(mean_colour, 3, "abc", (16, 8), "mean colour")
    one = data_options({**options, "also": options["also"][:1]})
    network_targets(mean, open_training_set(one), folder=tmp_path)
    capsys.readouterr()
    again = network_targets(mean, open_training_set(data_options(options)), folder=tmp_path)
    assert len(again.all("train")) == 9 and "dataset" in capsys.readouterr().err


def mean_colour(crops):
    means = crops.reshape(len(crops), -1, 3).mean(axis=1) + 1
    return means / np.linalg.norm(means, axis=1, keepdims=True)


@pytest.mark.parametrize(
    "entry, complaint",
    [
        ("custom", "config.data.root is not set"),
        ("costum=x", "there is no dataset 'costum'"),
        ("custom=/nowhere", "/nowhere"),
    ],
)
def test_a_wrong_entry_is_named(options, entry, complaint):
    with pytest.raises(InputError, match=f"config.data.also, '{entry}' \\(NAME=FOLDER\\): .*{complaint}"):
        open_training_set(data_options({**options, "also": (entry,)}))


def test_a_dataset_without_training_images_is_refused(options, tmp_path):
    write_images(tmp_path / "third")
    write_json(tmp_path / "third/gallery.json", GALLERY)
    with pytest.raises(InputError, match=r"third' .*: it has no images to train on"):
        open_training_set(data_options({**options, "also": (f"custom={tmp_path / 'third'}",)}))


def test_the_gallery_stays_that_of_the_first(options, trees):
    config = base()
    config.data.update(options)
    gallery, train_set = experiment.open_datasets(from_values(config), "train")
    assert gallery.annotations("gallery").image_names == alone(options, trees[0]).annotations("gallery").image_names
    assert len(train_set.source("train")) == 4 and len(gallery.train_source) == 2
    assert experiment.open_datasets(from_values(config), "evaluate")[1] is None  # not even opened
    with pytest.raises(InputError, match="no split 'gallery' in common"):
        train_set.annotations("gallery")
