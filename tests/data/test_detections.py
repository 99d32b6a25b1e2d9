"""The folder of embeddings: what goes in comes out, and what is wrong is named."""

import dataclasses
import json

import numpy as np
import pytest

from psdiff_jax.data.detections import Detections, load_embeddings, save_embeddings
from psdiff_jax.errors import InputError


def some(rows=5, width=256, person_id=True):
    rng = np.random.default_rng(0)
    e = rng.normal(size=(rows, width)).astype(np.float32)
    corner = rng.random((rows, 2)) * 100
    return Detections(
        images=("a b.jpg", "straße.jpg", "empty.jpg"),
        boxes=np.concatenate([corner, corner + 20], 1).astype(np.float32),
        scores=rng.random(rows).astype(np.float32),
        embeddings=e / np.linalg.norm(e, axis=1, keepdims=True),
        image_index=np.array([0, 0, 1, 1, 1] * 3, np.int32)[:rows],
        person_id=np.arange(rows, dtype=np.int64) if person_id else None,
    )


def same(a, b):
    assert a.images == b.images
    for field in ("boxes", "scores", "embeddings", "image_index", "person_id"):
        x, y = getattr(a, field), getattr(b, field)
        assert (x is None) == (y is None)
        if x is not None:
            assert x.dtype == y.dtype, field
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("rows", [5, 0])
def test_round_trip(tmp_path, mmap, rows):
    save_embeddings(tmp_path / "a folder" / "query", some(rows))
    loaded = load_embeddings(tmp_path / "a folder" / "query", mmap)
    same(loaded, some(rows))
    assert isinstance(loaded.embeddings, np.memmap) == mmap


def test_files_are_as_the_format_says(tmp_path):
    save_embeddings(tmp_path, some())
    assert json.loads((tmp_path / "images.json").read_text(encoding="utf-8")) == ["a b.jpg", "straße.jpg", "empty.jpg"]
    shapes = {"embeddings": ((5, 256), "float32"), "boxes": ((5, 4), "float32"), "scores": ((5,), "float32")}
    shapes |= {"image_index": ((5,), "int32"), "person_id": ((5,), "int64")}
    for name, (shape, dtype) in shapes.items():
        array = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
        assert (array.shape, str(array.dtype)) == (shape, dtype)


def test_a_gallery_over_an_old_query_folder_leaves_no_person_ids(tmp_path):
    save_embeddings(tmp_path, some())
    save_embeddings(tmp_path, some(person_id=False))
    assert load_embeddings(tmp_path).person_id is None


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"holds thesis\.tex, which is none of its files"):
        save_embeddings(tmp_path, some())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_another_programs_types_are_converted(tmp_path):
    save_embeddings(tmp_path, some())
    np.save(tmp_path / "boxes.npy", np.load(tmp_path / "boxes.npy").astype(np.float64))
    np.save(tmp_path / "embeddings.npy", np.load(tmp_path / "embeddings.npy").astype(np.float16))
    loaded = load_embeddings(tmp_path)
    assert loaded.boxes.dtype == loaded.embeddings.dtype == np.float32


def test_missing_folder(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        load_embeddings(tmp_path / "nowhere")


def change(folder, name, function):
    path = folder / f"{name}.npy"
    np.save(path, function(np.load(path)))


def set_row(row, value):
    def edit(array):
        array[row] = value
        return array

    return edit


WRONG = {
    "missing": (lambda d: (d / "scores.npy").unlink(), "scores.npy: file is missing"),
    "missing images": (lambda d: (d / "images.json").unlink(), "images.json: file is missing"),
    "bad json": (lambda d: (d / "images.json").write_text("[1,"), "images.json: not readable as JSON"),
    "json of another kind": (lambda d: (d / "images.json").write_text("{}"), "images.json: expected a list"),
    "image twice": (
        lambda d: (d / "images.json").write_text('["a", "b", "a"]'),
        "images.json: image 'a' is listed twice",
    ),
    "truncated": (
        lambda d: (d / "embeddings.npy").write_bytes((d / "embeddings.npy").read_bytes()[:900]),
        "embeddings.npy: not a readable",
    ),
    "not npy": (lambda d: (d / "boxes.npy").write_bytes(b"hello"), "boxes.npy: not a readable"),
    "empty file": (lambda d: (d / "boxes.npy").write_bytes(b""), "boxes.npy: not a readable"),
    "pickle": (lambda d: np.save(d / "boxes.npy", np.array([{}])), "boxes.npy: not a readable"),
    "fewer rows": (lambda d: change(d, "scores", lambda a: a[:-1]), r"scores.npy: shape \[4\], expected \[5\]"),
    "five columns": (lambda d: change(d, "boxes", lambda a: np.pad(a, ((0, 0), (0, 1)))), r"boxes.npy: shape \[5, 5\]"),
    "flat": (lambda d: change(d, "embeddings", np.ravel), r"embeddings.npy: shape \[1280\], expected \[1280, D\]"),
    "text": (lambda d: change(d, "scores", lambda a: a.astype(str)), "scores.npy: holds <U"),
    "float index": (lambda d: change(d, "image_index", lambda a: a + 0.5), "image_index.npy: holds float64"),
    "not unit": (lambda d: change(d, "embeddings", set_row(3, 1.0)), "embeddings.npy: row 3 is not of unit norm"),
    "not finite": (lambda d: change(d, "embeddings", set_row(2, np.nan)), "embeddings.npy: row 2 is not finite"),
    "infinite box": (lambda d: change(d, "boxes", set_row(1, np.inf)), "boxes.npy: row 1 is not finite"),
    "xywh": (lambda d: change(d, "boxes", set_row(1, [90, 90, 20, 20])), "boxes.npy: row 1 .* xyxy, not xywh"),
    "no such image": (
        lambda d: change(d, "image_index", set_row(4, 3)),
        "image_index.npy: row 4 is 3, but images.json",
    ),
    "negative image": (lambda d: change(d, "image_index", set_row(0, -1)), "image_index.npy: row 0 is -1"),
}


@pytest.mark.parametrize("how", WRONG)
def test_what_is_wrong_is_named_in_one_line(tmp_path, how):
    save_embeddings(tmp_path, some())
    spoil, message = WRONG[how]
    spoil(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        load_embeddings(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_saving_checks_too(tmp_path):
    with pytest.raises(InputError, match="unit norm"):
        save_embeddings(tmp_path, dataclasses.replace(some(), embeddings=np.ones((5, 256), np.float32)))
    assert not list(tmp_path.iterdir())
