"""Lines of progress."""

import re

from psdiff_jax import progress


def test_a_line_of_progress(monkeypatch, capsys):
    assert list(progress.progress(range(5), "search")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err == ""  # nothing in the first ten seconds
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    assert list(progress.progress(range(5), "search, steps 8", "queries")) == [0, 1, 2, 3, 4]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[3] for line in lines] == ["1/5", "2/5", "3/5", "4/5", "5/5", "5/5"]
    assert re.fullmatch(r"search, steps 8 1/5 +[\d.]+ queries/s  ETA \d\d:\d\d", lines[0])


def test_batches_count_what_they_hold(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    batches = [[0, 1, 2], [3, 4, 5], [6]]
    assert list(progress.progress(iter(batches), "embedding", "images", 7, len)) == batches
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()[:3]] == ["3/7", "6/7", "7/7"]
    assert list(progress.progress(batches, "embedding", shown=False)) == batches
    assert not capsys.readouterr().err
