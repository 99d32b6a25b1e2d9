"""Searching an index, against the same in plain NumPy; its export; and indexes that are damaged."""

import json
import os
import resource
import shutil

import numpy as np
import pytest

from psdiff_jax.data.detections import Detections
from psdiff_jax.errors import InputError
from psdiff_jax.inference.index import Index
from psdiff_jax.inference.ranking import Hit, rank
from psdiff_jax.inference.shards import MediaFile, Rows, Settings, read_shards, write_settings, write_shard

DIM = 16


def file(path, kind="image", **given):
    return MediaFile(path, kind, 1, 2, 3, path or "gone", 640, 480, 2, **given)


def make_shard(seed, counts, videos=()):
    """Rows of files with so many people each; few directions, so that there are equal similarities."""
    rng = np.random.default_rng(seed)
    total = sum(counts)
    vectors = np.eye(DIM)[rng.integers(0, DIM, total)] + rng.choice([0, 0.25], (total, DIM))
    source = np.repeat(np.arange(len(counts)), counts)
    corners = rng.uniform(0, 200, (total, 2))
    return Rows(
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        np.concatenate([corners, corners + 50], 1),
        rng.uniform(0, 1, total),
        source,
        np.where(np.isin(source, list(videos)), rng.uniform(0, 90, total), np.nan),
    )


@pytest.fixture
def folder(tmp_path):
    """Four shards of two processes: a video in two parts, a deleted image, an image without people."""
    folder = tmp_path / "index"
    write_settings(folder, Settings("m", DIM, 4, 1.0, 0.1, str(tmp_path / "photos")))
    write_shard(folder, 0, [file("b/1.jpg"), file("v.mp4", "video", until=30.0)], make_shard(0, (7, 40), (1,)))
    write_shard(folder, 0, [file("v.mp4", "video"), file(None), file("empty.jpg")], make_shard(1, (30, 9, 0), (0,)))
    write_shard(folder, 0, [file("nobody.jpg")], make_shard(2, (0,)))
    write_shard(folder, 1, [file("a/ü.jpg"), file("c.jpg")], make_shard(3, (25, 14)))
    return folder


def test_what_an_index_holds(folder):
    index = Index.open(folder)
    assert [each.path for each in index.files] == ["a/ü.jpg", "b/1.jpg", "c.jpg", "empty.jpg", "nobody.jpg", "v.mp4"]
    video = index.files[5]
    assert (video.people, video.images, video.until) == (4, 2, None)
    assert len(index) == 116 and len(index.scores) == 125
    assert index.source.tolist() == [1] * 7 + [5] * 70 + [-1] * 9 + [0] * 25 + [2] * 14
    assert [block.dtype for block in index.embeddings] == [np.float16] * 3
    assert all(isinstance(block, np.memmap) for block in index.embeddings)
    flat = np.concatenate(index.embeddings).astype(np.float32)
    rows = [3, 50, 124, 0]
    np.testing.assert_allclose(index.vectors(rows), flat[rows], atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(index.vectors(rows), axis=1), 1, atol=1e-6)
    assert index.vectors([]).shape == (0, DIM)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("top", [1, 10, 500])
def test_the_nearest_are_those_of_plain_ranking(folder, seed, top):
    index = Index.open(folder)
    query = np.random.default_rng(seed).normal(size=DIM).astype(np.float32)
    query = np.eye(DIM, dtype=np.float32)[seed] if seed < 2 else query / np.linalg.norm(query)
    flat = Detections(
        tuple(each.path for each in index.files),
        index.boxes[index.live],
        index.scores[index.live],
        np.concatenate(index.embeddings)[index.live].astype(np.float32),
        index.source[index.live],
    )
    expected = rank(query, flat, top, threshold=0.4, leave_out=("c.jpg",))
    hits = index.nearest(query, top, threshold=0.4, within=lambda each: each.path != "c.jpg")
    rows = np.flatnonzero(index.live)
    assert [hit.detection for hit in hits] == [rows[hit.detection] for hit in expected]
    assert [(hit.rank, hit.image, hit.box, hit.score) for hit in hits] == [
        (hit.rank, hit.image, hit.box, hit.score) for hit in expected
    ]
    np.testing.assert_allclose([h.similarity for h in hits], [h.similarity for h in expected], atol=1e-6)
    for hit in hits:
        video = hit.image == "v.mp4"
        assert hit.time == (index.time[hit.detection] if video else None)
        assert video == (" at " in hit.label)


def test_of_several_queries_the_largest_similarity_counts(folder):
    index = Index.open(folder)
    queries = np.random.default_rng(5).normal(size=(3, DIM)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    best = (np.concatenate(index.embeddings).astype(np.float32) @ queries.T).max(axis=1)
    best[~index.live] = -2
    expected = np.argsort(-best, kind="stable")[:12]
    hits = index.nearest(queries, 12)
    assert [hit.detection for hit in hits] == expected.tolist()
    np.testing.assert_allclose([hit.similarity for hit in hits], best[expected], atol=1e-6)
    mask = np.array([each.kind == "video" for each in index.files])
    assert {hit.image for hit in index.nearest(queries, 12, within=mask)} == {"v.mp4"}
    assert index.nearest(queries, 12, threshold=1.1) == index.nearest(queries, 0) == []


def test_an_index_may_have_more_shards_than_files_may_be_open(tmp_path):
    write_settings(tmp_path, Settings("m", DIM, 4, 1.0, 0.1, "photos"))
    for number in range(60):
        write_shard(tmp_path, 0, [file(f"{number:02}.jpg")], make_shard(number, (3,)))
    query = np.eye(DIM)[0]
    expected = Index.open(tmp_path).nearest(query)  # compiles
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/dev/fd"))) + 30, hard))
    try:
        index = Index.open(tmp_path)
        assert index.nearest(query) == expected
        assert np.asarray(index.vectors(range(180))).shape == (180, DIM)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_empty_index_finds_nothing(tmp_path):
    write_settings(tmp_path, Settings("m", DIM, 4, 1.0, 0.1, "photos"))
    index = Index.open(tmp_path)
    assert len(index) == 0 and index.files == () and index.nearest(np.eye(DIM)[0]) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda index: index.nearest(np.ones(4) / 2), r"query embedding is \[1, 4\], the index's are 16 wide"),
        (lambda index: index.nearest(np.ones(DIM)), "not of unit norm"),
        (lambda index: index.nearest(np.full(DIM, np.nan)), "not of unit norm"),
        (lambda index: index.nearest(np.eye(DIM)[0], within=np.ones(3, bool)), "give one flag for each of 6 files"),
    ],
)
def test_a_wrong_search_is_one_line(folder, call, message):
    with pytest.raises(InputError, match=message):
        call(Index.open(folder))


def test_a_parquet_file_holds_the_live_rows(folder, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    index = Index.open(folder)
    index.to_parquet(tmp_path / "people.parquet")
    table = parquet.read_table(tmp_path / "people.parquet")
    assert str(table.schema.field("embedding").type) == f"fixed_size_list<element: float>[{DIM}]"
    rows = np.flatnonzero(index.live)
    assert table["path"].to_pylist() == [index.files[i].path for i in index.source[rows]]
    assert table["kind"].to_pylist() == [index.files[i].kind for i in index.source[rows]]
    np.testing.assert_array_equal(np.array(table["box"].to_pylist(), np.float32), index.boxes[rows])
    np.testing.assert_array_equal(table["score"].to_numpy(), index.scores[rows])
    np.testing.assert_allclose(np.array(table["embedding"].to_pylist()), index.vectors(rows), atol=1e-6)
    times = [None if np.isnan(time) else time for time in index.time[rows].tolist()]
    assert table["time"].to_pylist() == times


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "index.json").unlink(), "holds no index"),
        (lambda folder: (folder / "index.json").write_text("{"), "index.json cannot be read"),
        (lambda folder: (folder / "index.json").write_text('{"format": 9}'), "has format 9, this program reads 1"),
        (lambda folder: (folder / "shards/000-000001/scores.npy").unlink(), "000-000001: damaged shard"),
        (lambda folder: (folder / "shards/000-000001/files.json").write_text("[{}]"), "000-000001: damaged shard"),
        (lambda folder: (folder / "shards/000-000001/files.json").write_text("[]"), "do not belong together"),
        (lambda folder: (folder / "shards/000-000001/embeddings.npy").write_bytes(b""), "damaged shard"),
        (
            lambda folder: shutil.copy(folder / "shards/000-000000/time.npy", folder / "shards/000-000001/time.npy"),
            "do not belong together",
        ),
    ],
)
def test_a_damaged_index_is_one_line(folder, damage, message):
    damage(folder)
    with pytest.raises(InputError, match=message) as caught:
        Index.open(folder)
    assert "\n" not in str(caught.value)


def test_files_json_is_for_people_too(folder):
    """One line a file, names as they are."""
    lines = (folder / "shards/001-000000/files.json").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 4 and '"a/ü.jpg"' in lines[1] and json.loads(lines[2])["path"] == "c.jpg"
    assert [shard.folder.name for shard in read_shards(folder)] == [
        f"{p:03}-{n:06}" for p, n in ((0, 0), (0, 1), (0, 2), (1, 0))
    ]


@pytest.mark.parametrize(
    ("time", "said"),
    [
        (62.5, "1:02.5"),
        (0.0, "0:00.0"),
        (10.0, "0:10.0"),
        (1 / 30, "0:00.033"),
        (2 / 30, "0:00.067"),
        (59.9999, "1:00.0"),
    ],
)
def test_a_time_is_said_to_the_frame(time, said):
    assert Hit(1, "a.mp4", (0.0, 0.0, 1.0, 1.0), 0.9, 0.8, 0, time).label == f"a.mp4 at {said}"
