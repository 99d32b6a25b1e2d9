"""The estimate against sums by hand, and the file that it reads."""

import json

import pytest

from psdiff_jax.errors import InputError

from .loading import load_script

scaling = load_script("scaling_estimate")

H100 = scaling.ACCELERATORS["h100"]
STATS = {
    "backbone": "tiny", "size": [64, 96], "batch": 2, "devices": 8, "shards": 1, "flops": 2 * 989e9, "state": 4e8,
    "collectives": {"all-reduce": {"count": 4, "bytes": 800_000_000}},
}  # fmt: skip


def test_a_ring_by_hand():
    """Eight in a host; then an eighth from each of eight hosts, by a link of its own."""
    seconds, moved = scaling.ring(8e8, 8, H100)
    assert moved == pytest.approx(7e8) and seconds == pytest.approx(7e8 / 450e9 + scaling.LATENCY)
    seconds, moved = scaling.ring(8e8, 64, H100)
    assert moved == pytest.approx(7e8 + 7e8 / 8)
    assert seconds == pytest.approx(7e8 / 450e9 + 7e8 / 8 / 50e9 + 2 * scaling.LATENCY)
    assert scaling.ring(8e8, 1, H100) == (0, 0)


def test_a_step_by_hand():
    """1 TFLOP an image at half of the peak is 2 ms; a sum goes round twice."""
    row = scaling.estimate(STATS, 8, 4, H100, 0.5)
    assert row.compute == pytest.approx(4 * 2e-3)
    assert row.moved == pytest.approx(2 * 7e8)
    assert row.communication == pytest.approx(2 * 7e8 / 450e9 + 2 * 4 * scaling.LATENCY)
    assert row.images == pytest.approx(32 / (row.compute + row.communication))
    assert row.efficiency == pytest.approx(row.compute / row.step)
    joined = scaling.estimate(STATS, 8, 4, H100, 0.5, join=400_000_000)  # four become two
    assert row.communication - joined.communication == pytest.approx(2 * 2 * scaling.LATENCY)
    assert scaling.estimate(STATS, 8, 4, H100, 0.5, join=1) == row


def test_a_state_is_gathered_among_those_who_share_it():
    """In its host alone, however many hosts there are."""
    shared = {**STATS, "shards": 8, "collectives": {"all-gather": {"count": 4, "bytes": 800_000_000}}}
    few, many = (scaling.communication(shared, devices, H100) for devices in (8, 512))
    assert few == many == (pytest.approx(7e8 / 450e9 + 4 * scaling.LATENCY), pytest.approx(7e8))


def test_the_script_prints_rows_and_writes_them(tmp_path, capsys):
    (tmp_path / "step.json").write_text(json.dumps([STATS]))
    scaling.main([str(tmp_path / "step.json"), "--json", str(tmp_path / "out.json"), "--images", "3200"])
    header, _, *rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line[:1] == "|"]
    said = json.loads((tmp_path / "out.json").read_text())
    assert [int(row[0]) for row in rows] == [each["devices"] for each in said] == [8, 64, 512]
    assert all(len(row) == len(header) for row in rows)
    assert float(rows[0][header.index(" steps an epoch ")]) == 3200 / 32
    shares = [each["efficiency"] for each in said]
    assert shares == sorted(shares, reverse=True) and shares[-1] > 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a file of step_stats.py --json"),
        ("[]", "not a file of step_stats.py --json"),
        ("[{}]", "backbone, batch, collectives, devices, flops, shards, size, state missing"),
        (json.dumps([{**STATS, "collectives": {}}]), "a step on one device; give step_stats.py XLA_FLAGS of several"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, content, message):
    (tmp_path / "step.json").write_text(content)
    with pytest.raises(InputError, match=message):
        scaling.main([str(tmp_path / "step.json")])


def test_hosts_are_whole(tmp_path):
    (tmp_path / "step.json").write_text(json.dumps([STATS]))
    with pytest.raises(InputError, match="--devices 12: choose a multiple of 8"):
        scaling.main([str(tmp_path / "step.json"), "--devices", "12"])
