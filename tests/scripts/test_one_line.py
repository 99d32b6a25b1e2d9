"""What a user gets wrong ends a script with one line."""

import subprocess
import sys

import pytest

from .loading import SCRIPTS

pytestmark = pytest.mark.slow

CONFIG = SCRIPTS.parent / "configs" / "base.py"
WRONG = ("--config", CONFIG, "--config.train.batch_size=0", "--workdir", "run")
PEOPLE = ("--config", CONFIG.with_name("people_pretrain.py"), "--imitated", "x.xml", "--workdir", "run")
VIDEO = ("--video", "x.mp4", "--query", "@1:1,1,5,5", "--out", "found")


@pytest.mark.parametrize(
    ("script", "options", "message"),
    [
        ("show_street", ("--out", "street", "--source", "nowhere"), "nowhere: no such folder or tar file"),
        ("show_street", ("--out", "street", "--scenes", 0), "--scenes and --zoom must be 1 or more"),
        ("draw_street_video", ("--out", "video", "--frames", 2), "synthetic_street: somebody takes 4 s to cross"),
        ("draw_street_video", ("--out", "video", "--rate", 0), "--rate 0: give a number above 0"),
        ("search_video", (*VIDEO, "--rate", 0), "--rate 0: give a number above 0"),
        ("diagnose_sampler", WRONG, "config.train.batch_size=0: must be 1 or more"),
        ("benchmark_video", WRONG, "config.train.batch_size=0: must be 1 or more"),
        ("benchmark_video", ("--config", CONFIG, "--workdir", "run", "--rate", -1), "--rate -1: give a number above 0"),
        ("cut_crops", ("--config", "none.py", "--out", "crops"), "--config none.py: cannot be read (no such file)"),
        ("cut_crops", ("--config", CONFIG, "--out", ".."), "--out .. is not empty; empty it, or name another folder"),
        (
            "probe_readout",
            ("--config", CONFIG, "--config.model.rows=4"),
            "config.model.rows: no such key in config.model",
        ),
        ("imitate_backbone", PEOPLE, "config.train.steps=0: an untrained backbone would be written; give"),
    ],
)
def test_a_wrong_option_is_one_line(script, options, message, tmp_path):
    command = [sys.executable, SCRIPTS / f"{script}.py", *map(str, options)]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1 and ended.stderr.startswith(f"error: {message}"), ended.stderr[-2000:]
    assert ended.stderr.count("\n") == 1
