"""The benchmark of embedding in miniature: it kills what it says, and sees what differs."""

import pytest

from psdiff_jax.errors import InputError

from .loading import load_script

pytestmark = pytest.mark.slow


def test_killed_equals_one_go(tmp_path, capfd):
    script = load_script("benchmark_embedding")
    given = ["--folder", str(tmp_path / "out"), "--images", "1600", "--distinct", "3", "--size", "64", "64",
             "--num-proposals", "4", "--batch", "16", "--kills", "1"]  # fmt: skip
    script.main(given)
    said = capfd.readouterr().out
    assert said.count("image 0: ") == 2 and said.count("MiB resident") >= 2 * 4 + 1
    assert "killed with " in said and "equal: 1600 images in " in said
    with pytest.raises(InputError, match="is not empty"):
        script.main(given)
    array = next((tmp_path / "out" / "killed").rglob("scores.npy"))
    array.write_bytes(array.read_bytes()[:-1] + b"\x01")
    assert script.contents(tmp_path / "out" / "killed") != script.contents(tmp_path / "out" / "whole")
