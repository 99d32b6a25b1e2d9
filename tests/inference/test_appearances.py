"""Hits and tracks as appearances, and their files: psdiff_jax.inference.appearances."""

import csv
import json

import numpy as np

from psdiff_jax.inference.appearances import group, of_tracks, write_csv, write_json
from psdiff_jax.inference.embed import People
from psdiff_jax.inference.ranking import Hit
from psdiff_jax.inference.tracking import TrackedFrame


def hit(video, time, similarity, x=0.0):
    return Hit(1, video, (x, 0.0, x + 10, 30.0), 0.9, similarity, 0, time)


HITS = [
    hit("b/two.mp4", 9.0, 0.95),
    hit("one.mp4", 1.0, 0.9, x=1.0),
    hit("one.mp4", 0.0, 0.8),
    hit("one.mp4", 1.0, 0.7, x=50.0),  # a second hit in one frame
    hit("one.mp4", 4.5, 0.6),  # after a gap
    hit("photo.jpg", None, 0.99),
]


def test_hits_are_grouped_by_video_and_gap_the_most_similar_first():
    found = group(HITS, gap=3.0)
    assert [(a.source, a.start, a.end, a.best.similarity) for a in found] == [
        ("b/two.mp4", 9.0, 9.0, 0.95),
        ("one.mp4", 0.0, 1.0, 0.9),
        ("one.mp4", 4.5, 4.5, 0.6),
    ]
    assert [sight.box[0] for sight in found[1].sights] == [0.0, 1.0]
    assert [(a.start, a.end) for a in group(HITS, gap=4.0) if a.source == "one.mp4"] == [(0.0, 4.5)]
    assert group([]) == []


def test_files(tmp_path):
    found = group(HITS)
    write_json(tmp_path / "new" / "a.json", found)
    first = json.loads((tmp_path / "new" / "a.json").read_text())[1]
    track = first.pop("track")
    assert first == {
        "source": "one.mp4",
        "from": 0.0,
        "to": 1.0,
        "best_time": 1.0,
        "best_similarity": 0.9,
        "best_box": [1.0, 0.0, 11.0, 30.0],
    }
    assert track == [{"time": 0.0, "box": [0.0, 0.0, 10.0, 30.0]}, {"time": 1.0, "box": [1.0, 0.0, 11.0, 30.0]}]
    write_csv(tmp_path / "a.csv", found)
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert [row["source"] for row in rows] == [a.source for a in found]
    assert rows[1]["from"] == "0.0" and rows[1]["x2"] == "11.0" and rows[1]["frames"] == "2"


def test_tracks_count_by_their_mean():
    """One frame of the right person looks unlike them, one of another person alike: the means are clear."""
    directions = {0: [(1, 0), (0.2, 1), (1, 0)], 1: [(0, 1), (1, 0.2), (0, 1)]}
    frames = []
    for i in range(3):
        embeddings = np.float32([directions[k][i] for k in (0, 1)])
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        boxes = np.float32([[i, 0, i + 10, 30], [50, 0, 60, 30]])
        frames.append(
            TrackedFrame(2.0 * i, People(boxes, np.float32([0.9, 0.8]), embeddings), np.array([0, 1]), i == 0)
        )
    (found,) = of_tracks("v.mp4", frames, np.float32([1, 0]), similarity=0.6)
    assert [sight.time for sight in found.sights] == [0.0, 2.0, 4.0] and found.sights[1].box[0] == 1.0
    assert found.best.time == 0.0 and found.sights[1].similarity < 0.3
    assert len(of_tracks("v.mp4", frames, np.float32([1, 0]), similarity=0.6, gap=1.0)) == 3
    assert of_tracks("v.mp4", [], np.float32([1, 0])) == []
