"""An annotated video is read back with PyAV: psdiff_jax.report.annotated_video."""

import numpy as np
import pytest

from psdiff_jax.data.media import read_frames
from psdiff_jax.errors import InputError
from psdiff_jax.inference.appearances import Appearance, Sight
from psdiff_jax.report.annotated_video import annotate_video, sight_at
from psdiff_jax.report.drawing import PREDICTED

pytest.importorskip("av")

FOUND = Appearance("v.mp4", (Sight(0.4, (10, 30, 40, 80), 0.9), Sight(0.8, (50, 30, 80, 80), 0.7)))


def test_between_two_sights_the_box_moves_evenly():
    assert sight_at(FOUND, 0.3) is None and sight_at(FOUND, 0.81) is None
    sight = sight_at(FOUND, 0.5)
    np.testing.assert_allclose([*sight.box, sight.similarity], [20, 30, 50, 80, 0.85])
    assert sight_at(FOUND, 0.8) == FOUND.sights[1]


def test_a_written_video_has_its_frames_times_and_boxes(tmp_path):
    """Uneven times, an odd width: the boxes are where and when the person is, the rest is as it was."""
    times = [0.0, 0.1, 0.2, 0.4, 0.5, 0.6, 0.8, 1.2]
    frames = [(time, np.full((96, 129, 3), 120, np.uint8)) for time in times]
    path = tmp_path / "new" / "copy.mp4"
    assert annotate_video(path, iter(frames), [FOUND]) == len(times)
    read = list(read_frames(path, rate=1000))
    np.testing.assert_allclose([frame.time for frame in read], times, atol=1e-3)
    for frame in read:
        assert frame.image.shape == (96, 128, 3)
        away = np.abs(frame.image.astype(int) - 120).max(-1) > 30
        sight = sight_at(FOUND, round(frame.time, 3))
        assert away.any() == (sight is not None)
        if sight:
            x1, y1, x2, y2 = (round(v) for v in sight.box)
            edge = frame.image[y1 + 25, [x1, x2]].astype(int)
            assert np.abs(edge - PREDICTED).max(-1).min() < 90  # colours are halved in resolution
            assert not away[y1 + 5 : y2 - 5, x1 + 5 : x2 - 5].any() and not away[:, : x1 - 5].any()
    assert np.abs(frames[3][1].astype(int) - 120).max() == 0  # the frames given are not drawn on


def test_no_frames_and_no_folder_are_one_line(tmp_path):
    with pytest.raises(InputError, match=r"copy\.mp4: there is no frame"):
        annotate_video(tmp_path / "copy.mp4", [], [])
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        annotate_video(tmp_path / "file" / "copy.mp4", [(0.0, np.zeros((8, 8, 3), np.uint8))], [])
