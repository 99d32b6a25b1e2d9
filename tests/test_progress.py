"""Lines of progress."""

import re

from psdiff_jax import progress


def test_a_line_of_progress(monkeypatch, capsys):
    assert list(progress.progress(range(5), "search")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err == ""  # nothing in the first ten seconds
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    assert list(progress.progress(range(5), "search, steps 8", "queries")) == [0, 1, 2, 3, 4]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[3] for line in lines] == ["2/5", "3/5", "4/5", "5/5", "5/5"]
    assert re.fullmatch(r"search, steps 8 2/5 +[\d.]+ queries/s  ETA \d\d:\d\d", lines[0])


def test_batches_count_what_they_hold(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    batches = [[0, 1, 2], [3, 4, 5], [6]]
    assert list(progress.progress(iter(batches), "embedding", "images", 7, len)) == batches
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()[:2]] == ["6/7", "7/7"]
    assert list(progress.progress(batches, "embedding", shown=False)) == batches
    assert not capsys.readouterr().err


def test_the_first_item_compiles_and_does_not_count(monkeypatch, capsys):
    """40 seconds for the first of 11 and one for each other: ten seconds are left after it, not 400."""
    now = [100.0]
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    for clock in ("tqdm.std.time", "time.time"):
        monkeypatch.setattr(clock, lambda: now[0])

    def items():
        for i in range(11):
            now[0] += 40 if i == 0 else 1
            yield i

    assert list(progress.progress(items(), "embedding", "images", 11)) == list(range(11))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].split() == ["embedding", "2/11", "1.00", "images/s", "ETA", "00:09"]
    assert lines[-1].split()[1:3] == ["11/11", "1.00"]
    assert list(progress.progress([1], "one")) == [1]
