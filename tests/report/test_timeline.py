"""The timeline picture: psdiff_jax.report.timeline."""

import numpy as np

from psdiff_jax.inference.appearances import Appearance, Sight
from psdiff_jax.report.drawing import PREDICTED
from psdiff_jax.report.naming import clock
from psdiff_jax.report.timeline import BAR, MARGIN, timeline_picture


def appearance(source, *times, similarity=0.8):
    return Appearance(source, tuple(Sight(time, (10.0, 5.0, 30.0, 60.0), similarity) for time in times))


def test_clock():
    assert [clock(t) for t in (0, 62.54, 59.96, 3602.5)] == ["0:00.0", "1:02.5", "1:00.0", "1:00:02.5"]
    assert [clock(t, tenths=False) for t in (5, 59.6, 7200)] == ["0:05", "1:00", "2:00:00"]


def test_bars_are_where_the_person_is_and_each_best_frame_is_asked_for_once():
    asked = []

    def load(source, time):
        asked.append((source, time))
        return np.full((72, 96, 3), 128, np.uint8)

    appearances = [appearance("a.mp4", 0.0, 50.0), appearance("b/ä.mp4", 4.0), appearance("a.mp4", 90.0, 100.0)]
    picture = timeline_picture(appearances, load, {"a.mp4": 200.0}, "person", columns=4)
    assert picture.dtype == np.uint8 and picture.ndim == 3
    assert sorted(asked) == [("a.mp4", 0.0), ("a.mp4", 90.0), ("b/ä.mp4", 4.0)]
    row = MARGIN + 34 + 24 + BAR - 3  # the lower edge of the first video's line, below the ranks
    blue = np.flatnonzero((picture[row] == PREDICTED).all(-1)) - MARGIN
    length = 4 * 142 - 12 - 34  # of the line: 200 seconds
    seconds = blue / length * 200
    assert seconds.min() < 1 and 49 < seconds[seconds < 60].max() < 51
    assert 89 < seconds[seconds > 60].min() < 91.5 and 98.5 < seconds.max() < 101


def test_more_appearances_than_columns_and_none():
    def load(source, time):
        return np.zeros((72, 96, 3), np.uint8)

    many = [appearance("a.mp4", 10.0 * i, similarity=0.9 - 0.1 * i) for i in range(5)]
    few = timeline_picture(many[:2], load, columns=2)
    assert timeline_picture(many, load, columns=2).shape == few.shape
    assert timeline_picture([], load).size
