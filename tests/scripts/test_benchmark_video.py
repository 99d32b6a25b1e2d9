"""The benchmark of warm starts: order of the frames, identity switches, the table."""

from types import SimpleNamespace

import numpy as np
import pytest

from psdiff_jax.data.schema import Annotations
from psdiff_jax.inference.embed import People
from psdiff_jax.inference.tracking import TrackedFrame

from ..stored import stored
from .loading import load_script


@pytest.fixture(scope="module")
def script():
    return load_script("benchmark_video")


@pytest.fixture
def videos(script):
    """Two cameras, images of both in no order; in each image person 0 and person 1 beside them."""
    cameras, frames = np.int32([2, 1, 2, 1, 1]), np.int64([5, 30, 4, 10, 20])
    boxes = tuple(np.float32([[i, 0, i + 10, 30], [40, 0, 50, 30]]) for i in range(5))
    names = tuple(f"{i}.png" for i in range(5))
    sizes, ids = np.int32([[40, 60]] * 5), tuple(np.int64([0, 1]) for _ in range(5))
    annotations = Annotations(names, sizes, cameras, frames, boxes, ids)
    images = [stored(np.full((40, 60, 3), 10 * i, np.uint8)) for i in range(5)]
    dataset = SimpleNamespace(annotations=lambda split: annotations, gallery_source=images)
    return script.Videos(dataset)


def test_videos_are_cameras_in_the_order_of_their_frames(videos):
    assert [positions.tolist() for positions in videos.positions] == [[3, 4, 1], [2, 0]]
    seen = [(time, int(image[0, 0, 0])) for time, image in videos.frames(0, rate=10.0)]
    assert seen == [(1.0, 30), (2.0, 40), (3.0, 10)]


def test_switches(script, videos):
    positions = videos.positions[0]

    def found(position, tracks):
        boxes = videos.annotations.boxes[position][: len(tracks)]
        return TrackedFrame(
            0.0, People(boxes, np.ones(len(tracks)), np.zeros((len(tracks), 2))), np.array(tracks), False
        )

    def switches(*tracks):
        return script.count_switches([found(p, t) for p, t in zip(positions, tracks, strict=True)], positions, videos)

    assert switches([7, 8], [7, 8], [7, 8]) == 0
    assert switches([7, 8], [8, 7], [8, 7]) == 2
    assert switches([7, 8], [7, -1], [7, 9]) == 1  # a gap is no switch
    assert switches([7, 8], [], [9]) == 1


def test_the_table_has_means_and_deviations(script):
    rows = {"cold, 1": [{"AP": 0.5, "switches": 1.0}, {"AP": 0.6, "switches": 3.0}]}
    assert script.table(rows).splitlines()[-1] == "| cold, 1 | 55.0 ± 7.1 | 2.0 ± 1.4 |"
    assert script.table({"a": [{"AP": 0.5}]}).endswith("| a | 50.0 |")
