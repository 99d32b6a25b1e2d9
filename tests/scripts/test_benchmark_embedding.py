"""The benchmark of embedding in miniature: it kills what it says, and sees what differs."""

import re

import numpy as np
import pytest

from psdiff_jax.errors import InputError

from .loading import load_script


def test_the_device_is_idle_between_a_batch_and_the_next(monkeypatch):
    script = load_script("benchmark_embedding")
    ready = iter([10.0, 12.0, 16.0])
    monkeypatch.setattr(script.time, "monotonic", lambda: next(ready))
    device = script.Device()
    for sent in (3.0, 9.0, 14.0):  # the second while the first is computed, the third two seconds after the second
        device._wait(sent, np.zeros(1))
    monkeypatch.undo()
    assert device.idle() == pytest.approx(2 / 6)


@pytest.mark.slow
def test_killed_equals_one_go(tmp_path, capfd):
    script = load_script("benchmark_embedding")
    given = ["--folder", str(tmp_path / "out"), "--images", "1600", "--distinct", "3", "--size", "64", "64",
             "--num-proposals", "4", "--batch", "16", "--kills", "1"]  # fmt: skip
    script.main(given)
    said = capfd.readouterr().out
    assert said.count("image 0: ") == 3 and said.count("MiB resident") >= 3 * 4 + 1
    idle = [float(share) / 100 for share in re.findall(r"nothing to do for ([\d.]+)% of the time", said)]
    assert len(idle) == 3 and all(0 <= share < 1 for share in idle)
    assert "killed with " in said and "equal: 1600 images in " in said
    with pytest.raises(InputError, match="is not empty"):
        script.main(given)
    array = next((tmp_path / "out" / "killed").rglob("scores.npy"))
    array.write_bytes(array.read_bytes()[:-1] + b"\x01")
    assert script.contents(tmp_path / "out" / "killed") != script.contents(tmp_path / "out" / "whole")
