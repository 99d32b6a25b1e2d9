"""The cache of targets: a stop, a kill, damage and company cost nothing but time, and no bit of the result."""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from psdiff_jax.errors import InputError

from ..pod import LIMIT, run_pod
from .crowd import crowd_targets


def start(folder, pause):
    command = [sys.executable, "-m", "tests.teacher.crowd", str(folder), str(pause)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True)


def killed(folder, rows=40):
    """Leaves `folder` as a process does that is killed when more than `rows` of 120 rows are computed."""
    folder.mkdir()
    process, journal = start(folder, 0.2), folder / "targets-train.journal"
    while not (journal.is_file() and journal.read_text().count("\n") > 1 + rows // 16):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.kill()
    process.wait()
    return len((folder / "calls").read_text().split())


def test_a_killed_run_goes_on_and_gives_the_same_bits_and_others_wait(tmp_path):
    (tmp_path / "whole").mkdir()
    whole = np.array(crowd_targets(tmp_path / "whole"))
    assert whole.shape == (120, 32) and len((tmp_path / "whole/calls").read_text().split()) == 8

    folder = tmp_path / "killed"
    calls = killed(folder)
    assert 3 <= calls < 8 and not (folder / "targets-train.npy").exists()
    together = [start(folder, 0.1) for _ in range(2)]
    said = [process.communicate(timeout=LIMIT)[1] for process in together]
    assert [process.returncode for process in together] == [0, 0], said
    assert sum("continuing after" in text for text in said) == 1
    np.testing.assert_array_equal(crowd_targets(folder), whole)
    assert len((folder / "calls").read_text().split()) <= 9  # the one that was cut short once more, all others once
    assert {path.name for path in folder.iterdir()} == {
        "calls", "targets-train.npy", "targets-train.json", "targets-train.lock",
    }  # fmt: skip


def stopped(folder):
    """An unfinished cache of the crowd: 3 of 8 batches are there."""
    folder.mkdir(exist_ok=True)
    with pytest.raises(KeyboardInterrupt):
        crowd_targets(folder, fail_at=4)


@pytest.mark.parametrize(
    "damage, going_on",
    [
        (lambda rows, journal: journal.write_text(journal.read_text() + "[64, 12"), 48),
        (lambda rows, journal: rows.write_bytes(rows.read_bytes() + b"half a block"), 48),
        (lambda rows, journal: rows.write_bytes(rows.read_bytes()[:-3]), 32),
        (lambda rows, journal: rows.write_bytes(rows.read_bytes()[:2500] + b"?" + rows.read_bytes()[2501:]), 16),
        (lambda rows, journal: rows.write_bytes(b""), None),
        (lambda rows, journal: journal.write_text(""), None),
        (lambda rows, journal: journal.unlink(), None),
        (lambda rows, journal: rows.unlink(), None),
    ],
)
def test_damage_in_an_unfinished_file_costs_only_what_is_behind_it(tmp_path, capsys, damage, going_on):
    whole = np.array(crowd_targets(tmp_path))
    stopped(tmp_path / "stopped")
    damage(tmp_path / "stopped/targets-train.unfinished", tmp_path / "stopped/targets-train.journal")
    np.testing.assert_array_equal(crowd_targets(tmp_path / "stopped"), whole)
    said = capsys.readouterr().err
    assert (f"continuing after {going_on} of 120 rows" in said) == (going_on is not None)
    assert ("continuing" in said) == (going_on is not None)


@pytest.mark.parametrize("room", [0, 130, 4000])
def test_a_full_disk_is_one_line_and_room_lets_it_go_on(tmp_path, capsys, room):
    """No file may grow beyond `room` bytes: the table's head, the journal, a block find no room."""
    whole = np.array(crowd_targets(tmp_path))
    folder = tmp_path / "full"
    folder.mkdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(InputError, match=r"full/targets-train\.\w+: cannot be written \(.*; make room"):
            crowd_targets(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    np.testing.assert_array_equal(crowd_targets(folder), whole)
    assert ("continuing after 16 of 120 rows" in capsys.readouterr().err) == (room == 4000)


def test_an_unfinished_file_of_another_teacher_is_not_gone_on_with(tmp_path, capsys):
    stopped(tmp_path)
    crowd_targets(tmp_path, teacher="other")
    assert "targets-train.unfinished is stale (teacher changed): starting over" in capsys.readouterr().err
    assert json.loads((tmp_path / "targets-train.json").read_text())["key"]["teacher"] == "other"


@pytest.mark.slow
def test_the_processes_of_a_pod_compute_a_share_each(tmp_path):
    for name in ("whole", "pod"):
        (tmp_path / name).mkdir()
    whole, folder = np.array(crowd_targets(tmp_path / "whole")), tmp_path / "pod"
    for run in range(2):  # the second time the file is there
        for code, said in run_pod("tests.teacher.crowd", str(folder), "0", count=3):
            assert code == 0, said
            assert ("teacher targets of train" in said) <= (run == 0)
    assert len((folder / "calls").read_text().split()) == 3 * 3  # 40 boxes each, 16 at once; none is computed twice
    np.testing.assert_array_equal(crowd_targets(folder), whole)
    shares = [f"targets-train-{i}-of-3.npy {i}" for i in range(3)]
    assert sorted((folder / "filled").read_text().splitlines()) == [*shares, "targets-train.npy 0"]
    assert {path.name for path in folder.iterdir()} == {
        "calls", "filled", "targets-train.npy", "targets-train.json", "targets-train.lock",
    }  # fmt: skip
