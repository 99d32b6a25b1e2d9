"""Lines of progress."""

import re

from psdiff_jax import progress


def test_a_line_of_progress(monkeypatch, capsys):
    assert list(progress.progress(range(5), "search")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err == ""  # nothing in the first ten seconds
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    assert list(progress.progress(range(5), "search, steps 8", "queries")) == [0, 1, 2, 3, 4]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert re.fullmatch(r"search, steps 8 1/5  [\d.]+ queries/s  ETA \d+ s", lines[0])
