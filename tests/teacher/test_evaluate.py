"""A teacher's evaluation: a perfect one scores 1, the numbers are those of the plain evaluators, PCA stands beside."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from psdiff_jax.data.schema import Annotations, Queries
from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.protocols import make_protocols
from psdiff_jax.options import read
from psdiff_jax.teacher import evaluate as teacher_evaluation
from psdiff_jax.teacher.evaluate import RESULT, evaluate_teacher
from psdiff_jax.teacher.options import TeacherOptions

PEOPLE, IMAGES = 6, 30


class Dataset:
    """Two people an image and nothing to see: their embeddings come from a file."""

    name = title = "memory"

    def __init__(self, cameras=3):
        self.galleries = {}
        rng = np.random.default_rng(0)
        self.ids = {
            split: [rng.choice(PEOPLE, 2, replace=False) + start for _ in range(IMAGES)]
            for split, start in (("train", 0), ("gallery", 100))
        }
        self.cameras = np.arange(IMAGES, dtype=np.int32) % cameras
        self.asked = [0, 4, 7, 11, 18]

    def annotations(self, split):
        boxes = np.asarray([[0, 0, 10, 20], [12, 0, 22, 20]], np.float32)
        if split == "query":
            return Annotations(
                tuple(f"gallery{i}" for i in self.asked), np.full((len(self.asked), 2), 40, np.int32),
                self.cameras[self.asked], np.asarray(self.asked), (boxes[:1],) * len(self.asked),
                tuple(self.ids["gallery"][i][:1] for i in self.asked),
            )  # fmt: skip
        return Annotations(
            tuple(f"{split}{i}" for i in range(IMAGES)), np.full((IMAGES, 2), 40, np.int32), self.cameras,
            np.arange(IMAGES), (boxes,) * IMAGES, tuple(self.ids[split]),
        )  # fmt: skip

    def queries(self):
        a = self.annotations("query")
        return Queries(a.image_names, np.concatenate(a.boxes), np.concatenate(a.person_ids), a.cameras, a.frames)


def evaluate(path, workdir, dataset, dim=16, protocols=("whole", "cross_camera"), kind="file", train_set=None):
    options = read(TeacherOptions, {"kind": kind, "file": str(path)}, "config.teacher")
    made = make_protocols(protocols, dataset.annotations("gallery"), dataset.queries(), galleries=dataset.galleries)
    return evaluate_teacher(
        options, workdir, dataset, made, folder=workdir / "teacher", embedding_dim=dim, train_set=train_set
    )


def write(path, dataset, noise, width=16):
    """Each person a random direction, under noise."""
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(200, width))
    names, boxes, rows = [], [], []
    for split in ("train", "gallery"):
        found = dataset.annotations(split)
        for name, xyxy, ids in zip(found.image_names, found.boxes, found.person_ids, strict=True):
            names += [name] * len(ids)
            boxes += [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in xyxy]
            rows += [directions[person] + noise * rng.normal(size=width) for person in ids]
    np.savez(path, image_name=names, box_xywh=np.float32(boxes), embedding=np.float32(rows))
    return path


def test_a_perfect_teacher_scores_one(tmp_path, capsys):
    dataset = Dataset()
    result = evaluate(write(tmp_path / "t.npz", dataset, 0.01), tmp_path, dataset)
    assert result == json.loads((tmp_path / RESULT).read_text()) and result["pca"] is None
    assert set(result["reid"]) == {"cross-camera", "any camera"} and result["embeddings"] == ["16-d"]
    for rule in result["reid"].values():
        assert (rule["16-d"]["mAP"], rule["16-d"]["top-1"], rule["16-d"]["queries"]) == (1, 1, 5)
        assert rule["16-d"]["gallery"] == 2 * IMAGES
    for protocol in ("whole", "cross_camera"):
        assert result["search"][protocol]["all"]["16-d"]["mAP"] == 1
    printed = capsys.readouterr().out
    assert re.search(r"re-ID, cross-camera +16-d +100\.0 +100\.0 +100\.0 +100\.0 +5\n", printed)
    assert "PSDiff with perfect boxes" in printed


def test_numbers_are_those_of_a_plain_ranking_and_the_pca_stands_beside(tmp_path, capsys):
    """Of a noisy teacher: AP by sorting, with the rule's crops left out; the loss is the difference of the two rows."""
    dataset = Dataset()
    path = write(tmp_path / "t.npz", dataset, 2.0)
    result = evaluate(path, tmp_path, dataset, 3)
    rows = np.load(path)["embedding"][2 * IMAGES :]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ids, image = np.concatenate(dataset.ids["gallery"]), np.repeat(np.arange(IMAGES), 2)
    for rule, place in (("any camera", image), ("cross-camera", dataset.cameras[image])):
        precisions = []
        for q in dataset.asked:
            junk = (ids == ids[2 * q]) & ((place == place[2 * q]) | (image == q))
            order = [i for i in np.argsort(-(rows @ rows[2 * q])) if not junk[i]]
            right = ids[order] == ids[2 * q]
            precisions.append((np.cumsum(right) / np.arange(1, len(right) + 1))[right].mean())
        assert result["reid"][rule]["16-d"]["mAP"] == pytest.approx(np.mean(precisions), abs=1e-6), rule
    narrow, own = (result["reid"]["any camera"][name]["mAP"] for name in ("3-d (PCA)", "16-d"))
    assert narrow != own and result["pca"]["mAP_loss"]["re-ID, any camera"] == pytest.approx(own - narrow)
    assert 0 < result["pca"]["variance"] < 1 and "PCA keeps" in capsys.readouterr().out


def test_where_nobody_was_seen_by_two_cameras_there_is_no_cross_camera_row(tmp_path):
    """One camera for all (a part of PRW), or one for each person (videos)."""
    one, many = Dataset(cameras=1), Dataset()
    people = np.arange(IMAGES) % 3  # identity and camera of an image
    many.ids["gallery"] = [np.asarray([100 + person, 103 + person]) for person in people]
    many.cameras = people.astype(np.int32)
    for dataset in (one, many):
        result = evaluate(write(tmp_path / "t.npz", dataset, 0.01), tmp_path, dataset, protocols=("whole",))
        assert set(result["reid"]) == {"any camera"}


def test_a_protocol_that_the_dataset_cannot_serve_is_told_before_anything_is_opened(tmp_path):
    with pytest.raises(InputError, match="the dataset has no galleries of its own"):
        evaluate(tmp_path / "nowhere.npz", tmp_path, Dataset(), protocols=("listed:50",))


def test_a_dataset_without_queries_is_named(tmp_path):
    dataset = Dataset()
    dataset.queries = lambda: ()
    with pytest.raises(InputError, match="dataset memory has no queries"):
        evaluate_teacher(TeacherOptions(), tmp_path, dataset, (), folder=tmp_path, embedding_dim=16)


def test_a_teacher_is_trained_on_the_train_set_with_the_runs_writer_and_mesh(tmp_path, monkeypatch):
    dataset, train_set, seen = Dataset(), object(), {}

    def open_teacher(options, given, folder, *, seed, fit, workers):
        seen.update(given=given, folder=folder, seed=seed, fit=fit)
        return SimpleNamespace(dim=16)

    def open_targets(options, given, folder, splits, *, embedding_dim, train_set, teacher, workers):
        assert given is dataset and train_set is seen["given"] and teacher.dim == 16
        rows = {
            "gallery": np.concatenate(dataset.ids["gallery"]),
            "query": np.asarray([dataset.ids["gallery"][i][0] for i in dataset.asked]),
        }
        vectors = np.eye(16, dtype=np.float32)
        return SimpleNamespace(dim=16, source="one-hot", all=lambda split: vectors[rows[split] - 100])

    monkeypatch.setattr(teacher_evaluation, "open_teacher", open_teacher)
    monkeypatch.setattr(teacher_evaluation, "open_targets", open_targets)
    result = evaluate("", tmp_path, dataset, kind="trained", train_set=train_set)
    assert seen["given"] is train_set and seen["folder"] == tmp_path / "teacher" and seen["seed"] == 0
    assert seen["fit"].keywords["prefix"] == "teacher" and seen["fit"].keywords["mesh"].size >= 1
    assert result["teacher"] == {"kind": "trained", "source": "one-hot", "dim": 16}
    assert result["reid"]["any camera"]["16-d"]["mAP"] == 1
