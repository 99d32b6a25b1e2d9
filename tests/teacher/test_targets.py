"""Targets: rows of a file find their boxes; what a network computes is kept and renewed; the evaluator takes them."""

from dataclasses import replace

import numpy as np
import pytest

from psdiff_jax.data.schema import Annotations, Queries
from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.person_search import score_search
from psdiff_jax.evaluation.protocols import make_protocols
from psdiff_jax.teacher.crop_teacher import CropTeacher, network_targets
from psdiff_jax.teacher.embed import embed_crops
from psdiff_jax.teacher.embedding_file import file_targets
from psdiff_jax.teacher.targets import teacher_detections

from ..stored import stored

SIZE = (48, 64)


def colour(person: int) -> tuple[int, int, int]:
    return 40 * person + 60, 215 - 40 * person, 99


class Dataset:
    """Coloured rectangles on black: a PreparedDataset in memory. Person p has `colour(p)`."""

    name = "memory"

    def __init__(self):
        self.boxes = {
            "train": ([[2, 3, 18, 40], [30, 5, 50, 44]], [], [[10, 10, 40.5, 48]]),
            "gallery": ([[4, 4, 20, 40]], [[8, 2, 30, 40], [32, 2, 60, 40]], [[1, 1, 30, 44], [33, 3, 63, 44]]),
            "query": ([[4, 4, 20, 40]], [[32, 2, 60, 40]]),
        }
        self.ids = {
            "train": ([0, 1], [], [-1]),
            "gallery": ([2], [2, 3], [3, 4]),
            "query": ([2], [3]),
        }
        self.names = {split: [f"{split}{i}.jpg" for i in range(len(b))] for split, b in self.boxes.items()}
        self.names["query"] = ["gallery0.jpg", "gallery1.jpg"]
        for split in self.boxes:
            setattr(self, f"{split}_source", [stored(self.image(n)) for n in self.names[split]])

    def image(self, name: str) -> np.ndarray:
        split, i = name[:-5], int(name[-5])
        image = np.zeros((*SIZE, 3), np.uint8)
        for (x1, y1, x2, y2), person in zip(self.boxes[split][i], self.ids[split][i], strict=True):
            image[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))] = colour(person)
        return image[..., ::-1]

    def source(self, split: str):
        return getattr(self, f"{split}_source")

    def annotations(self, split: str) -> Annotations:
        count = len(self.names[split])
        return Annotations(
            tuple(self.names[split]), np.full((count, 2), SIZE, np.int32), np.zeros(count, np.int32), np.arange(count),
            tuple(np.asarray(b, np.float32).reshape(-1, 4) for b in self.boxes[split]),
            tuple(np.asarray(p, np.int64) for p in self.ids[split]),
        )  # fmt: skip

    def queries(self) -> Queries:
        a = self.annotations("query")
        return Queries(a.image_names, np.concatenate(a.boxes), np.concatenate(a.person_ids), a.cameras, a.frames)


def embed(crops: np.ndarray) -> np.ndarray:
    """The mean colour as a unit vector: tells these people apart perfectly."""
    x = crops.reshape(len(crops), -1, 3).mean(1) + 1e-3
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def write(path, rows, **changes):
    """A file of embeddings: rows of (image, xywh, vector)."""
    arrays = {
        "image_name": np.asarray([r[0] for r in rows]), "box_xywh": np.asarray([r[1] for r in rows], np.float32),
        "embedding": np.asarray([r[2] for r in rows], np.float16),
    }  # fmt: skip
    np.savez(path, **{k: v for k, v in (arrays | changes).items() if v is not None})
    return path


ROWS = [
    ("train0.jpg", [30.3, 5.2, 20, 38.6], [0, 1, 0]),  # rounded otherwise, and in another order than the boxes
    ("train0.jpg", [2, 3, 16, 37], [2, 0, 0]),
    ("train2.jpg", [10, 10, 31, 44], [0, 0, 3]),  # reaches below the image
    ("train2.jpg", [0, 0, 5, 5], [1, 1, 1]),
    ("elsewhere.jpg", [0, 0, 5, 5], [1, 1, 1]),
]


def test_rows_of_a_file_find_their_boxes(tmp_path):
    targets = file_targets(write(tmp_path / "t.npz", ROWS), Dataset())
    np.testing.assert_array_equal(targets.lookup("train", 0), [[1, 0, 0], [0, 1, 0]])  # of unit length
    assert targets.lookup("train", 1).shape == (0, 3)
    np.testing.assert_array_equal(targets.lookup("train", 2), [[0, 0, 1]])
    assert targets.lookup("train", 0).dtype == np.float32 and targets.dim == 3
    (note,) = targets.notes
    assert "3 of 5 rows" in note and "1 in images outside" in note and "1 that no box needs" in note


def test_names_as_bytes_are_names(tmp_path):
    """What NumPy and HDF5 make of names at times; in UTF-8."""
    dataset = Dataset()
    dataset.names["train"] = [f"{name[:-5]}\u00e9{name[-5:]}" for name in dataset.names["train"]]
    names = np.asarray([f"{row[0][:-5]}\u00e9{row[0][-5:]}".encode() for row in ROWS])
    targets = file_targets(write(tmp_path / "t.npz", ROWS, image_name=names), dataset)
    np.testing.assert_array_equal(targets.all("train"), [[1, 0, 0], [0, 1, 0], [0, 0, 1]])


def test_two_people_with_one_box_get_a_row_each(tmp_path):
    dataset = Dataset()
    dataset.boxes["train"][2].append([10, 10, 40.5, 48])
    dataset.ids["train"][2].append(5)
    twice = [*ROWS, ("train2.jpg", [10, 10, 30.5, 38], [1, 0, 0])]
    for rows, expected in ((twice, {(0, 0, 1), (1, 0, 0)}), (ROWS, {(0, 0, 1)})):
        targets = file_targets(write(tmp_path / "t.npz", rows), dataset)
        assert {tuple(row) for row in targets.lookup("train", 2).tolist()} == expected


def test_a_missing_box_is_named(tmp_path):
    with pytest.raises(InputError, match=r"t\.npz: no embedding for train0\.jpg box \[2\.0, 3\.0, 16\.0, 37\.0\]"):
        file_targets(write(tmp_path / "t.npz", [ROWS[0], *ROWS[2:]]), Dataset())
    far = [("train0.jpg", [2, 3, 16, 37.6], [1, 0, 0]), *ROWS]
    del far[2]
    with pytest.raises(InputError, match=r"0\.60 pixels off"):
        file_targets(write(tmp_path / "t.npz", far), Dataset())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"box_xywh": None}, "no array 'box_xywh'"),
        ({"embedding": np.zeros((2, 3))}, "do not fit together"),
        ({"embedding": np.zeros((5, 3))}, r"embedding of train0\.jpg box .* is zero"),
        ({"embedding": np.full((5, 3), "1")}, r"array 'embedding' is of type <U1; it must hold numbers"),
        ({"image_name": np.arange(5)}, r"array 'image_name' is of type int64; it must hold text"),
        ({"image_name": np.asarray("train0.jpg")}, r"do not fit together \(image_name \(\), box_xywh"),
        ({"image_name": np.asarray([[row[0]] for row in ROWS])}, r"do not fit together \(image_name \(5, 1\), box"),
        (
            {"box_xywh": np.asarray([ROWS[0][1], [np.nan] * 4, *(row[1] for row in ROWS[2:])])},
            r"row 1, a box of train0\.jpg, is \[nan, nan, nan, nan\]: not finite",
        ),
    ],
)
def test_bad_files_are_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        file_targets(write(tmp_path / "t.npz", ROWS, **changes), Dataset())


def test_network_targets_are_computed_once_and_renewed_when_stale(tmp_path, capsys):
    dataset, calls = Dataset(), []

    def counted(crops):
        calls.append(len(crops))
        return embed(crops)

    def run(teacher="abc", size=(16, 8), data=dataset):
        colours = CropTeacher(counted, 3, teacher, size, "colours")
        return network_targets(colours, data, ("train", "gallery"), folder=tmp_path)

    targets = run()
    assert isinstance(targets.all("train"), np.memmap) and len(calls) == 2
    np.testing.assert_allclose(targets.lookup("train", 0)[1], embed(np.asarray([[[colour(1)]]]))[0], atol=1e-3)
    assert (run().all("gallery") == targets.all("gallery")).all() and len(calls) == 2
    assert "stale" not in capsys.readouterr().err

    run(teacher="other")
    assert len(calls) == 4 and "targets-train.npy is stale (teacher changed)" in capsys.readouterr().err
    run(teacher="other", size=(32, 16))
    assert len(calls) == 6 and "(crop size changed)" in capsys.readouterr().err
    dataset.boxes["train"][0][0][0] += 1
    run(teacher="other", size=(32, 16))
    assert len(calls) == 7 and "targets-train.npy is stale (boxes changed)" in capsys.readouterr().err
    (tmp_path / "targets-gallery.npy").write_bytes(b"\x93NUMPY rubbish")
    run(teacher="other", size=(32, 16))
    assert len(calls) == 8 and "targets-gallery.npy is stale (its format changed)" in capsys.readouterr().err


def test_another_way_of_cutting_crops_and_a_cache_of_another_program_are_noticed(tmp_path, capsys, monkeypatch):
    teacher = CropTeacher(embed, 3, "abc", (16, 8), "colours")
    network_targets(teacher, Dataset(), folder=tmp_path)
    monkeypatch.setattr("psdiff_jax.teacher.crop_teacher.CROP_RULE", 99)
    network_targets(teacher, Dataset(), folder=tmp_path)
    assert "targets-train.npy is stale (crop rule changed)" in capsys.readouterr().err
    network_targets(replace(teacher, interpolation="bilinear"), Dataset(), folder=tmp_path)
    assert "targets-train.npy is stale (interpolation changed)" in capsys.readouterr().err
    (tmp_path / "targets-train.json").write_text('{"teacher": "abc"}')
    network_targets(teacher, Dataset(), folder=tmp_path)
    assert "targets-train.npy is stale (its format changed)" in capsys.readouterr().err


@pytest.mark.parametrize("place", [-1, 130, -30])
def test_a_flipped_byte_in_a_kept_file_is_noticed(tmp_path, capsys, place):
    teacher, path = CropTeacher(embed, 3, "abc", (16, 8), "colours"), tmp_path / "targets-train.npy"
    whole = np.array(network_targets(teacher, Dataset(), folder=tmp_path).all("train"))
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)
    np.testing.assert_array_equal(network_targets(teacher, Dataset(), folder=tmp_path).all("train"), whole)
    assert "targets-train.npy is stale (its bytes changed)" in capsys.readouterr().err
    path.write_bytes(content[:-4])
    np.testing.assert_array_equal(network_targets(teacher, Dataset(), folder=tmp_path).all("train"), whole)
    assert "targets-train.npy is stale" in capsys.readouterr().err


@pytest.mark.parametrize("value", [np.nan, 0.0, np.inf])
def test_an_embedding_of_no_length_is_named(tmp_path, value):
    def broken(crops):
        rows = embed(crops).astype(np.float32)
        rows[2] = value
        return rows

    with pytest.raises(InputError, match=r"colours: the embedding of train2\.jpg box \[10\.0, 10\.0, 40\.5, 48\.0\]"):
        network_targets(CropTeacher(broken, 3, "abc", (16, 8), "colours"), Dataset(), folder=tmp_path)
    with pytest.raises(InputError, match=r"colours: gives embeddings of shape \(3,\), not 7-d"):
        network_targets(CropTeacher(embed, 7, "abc", (16, 8), "colours"), Dataset(), folder=tmp_path)


def test_a_split_without_people(tmp_path):
    dataset = Dataset()
    dataset.boxes["train"], dataset.ids["train"] = ([], [], []), ([], [], [])
    for _ in range(2):
        targets = network_targets(CropTeacher(embed, 3, "abc", (16, 8), "colours"), dataset, folder=tmp_path)
        assert targets.all("train").shape == (0, 3) and targets.lookup("train", 1).shape == (0, 3)


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written to"):
        network_targets(CropTeacher(embed, 3, "a", (16, 8), "c"), Dataset(), folder=tmp_path / "file" / "folder")


def test_embed_crops_returns_rows_in_their_own_order():
    crops = np.random.default_rng(0).integers(0, 256, (11, 4, 2, 3), np.uint8)
    np.testing.assert_allclose(embed_crops(embed, crops, 4), embed(crops), rtol=1e-6)
    order = np.random.default_rng(1).permutation(11)
    np.testing.assert_allclose(embed_crops(embed, crops, 4, order=order), embed(crops), rtol=1e-6)
    assert embed_crops(embed, crops[:0]).shape == (0, 3)

    def centred(crops):  # as a network in training: by the statistics of the batch
        x = crops.reshape(len(crops), -1).astype(np.float32)
        return x - x.mean(0)

    many = np.random.default_rng(2).integers(0, 256, (33, 4, 2, 3), np.uint8)
    assert np.linalg.norm(embed_crops(centred, many, 16), axis=1).min() > 100  # of the last batch's only crop, too


def test_the_evaluator_takes_the_teacher(tmp_path):
    dataset = Dataset()
    colours = CropTeacher(embed, 3, "abc", (16, 8), "colours")
    targets = network_targets(colours, dataset, ("gallery", "query"), folder=tmp_path)
    gallery, query = (teacher_detections(targets, dataset, split) for split in ("gallery", "query"))
    assert gallery.image_index.tolist() == [0, 1, 1, 2, 2] and query.person_id.tolist() == [2, 3]
    annotations, queries = dataset.annotations("gallery"), dataset.queries()
    (result,) = score_search(gallery, query, annotations, queries, make_protocols(["whole"], annotations, queries))
    assert result.summary()["mAP"] == 1.0
