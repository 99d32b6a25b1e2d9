"""What a step keeps, computes and says to other devices; the whole table is in tests/training/test_step_sharded.py."""

import json

import pytest

from .loading import SMALL, load_script

pytestmark = pytest.mark.slow

step_stats = load_script("step_stats")


def test_collectives_of_a_program():
    text = """
  %all-reduce.1 = (f32[8,3]{1,0}, bf16[4]{0}) all-reduce(f32[8,3]{1,0} %a, bf16[4]{0} %b), channel_id=1
  %all-reduce-start = f32[2]{0} all-reduce-start(f32[2]{0} %c)
  %all-reduce-done = f32[2]{0} all-reduce-done(f32[2]{0} %all-reduce-start)
  %all-gather.2 = pred[16]{0} all-gather(pred[2]{0} %d), dimensions={0}
  %add = f32[8]{0} add(f32[8]{0} %e, f32[8]{0} %f)
"""
    assert step_stats.collectives(text) == {
        "all-reduce": {"count": 2, "bytes": 8 * 3 * 4 + 4 * 2 + 2 * 4},
        "all-gather": {"count": 1, "bytes": 16},
    }


def test_what_is_computed_again_is_not_kept(tmp_path, capsys):
    (tmp_path / "small.py").write_text(SMALL)

    def rows(*options: str) -> list[dict]:
        given = ["--config", tmp_path / "small.py", "--size", 64, 96, "--no_compile", "--json", tmp_path / "out.json"]
        step_stats.main([*map(str, given), *options])
        return json.loads((tmp_path / "out.json").read_text())

    one, four = rows("--batches", "1", "4")
    assert 3.5 < four["kept"] / one["kept"] <= 4 and four["flops"] == pytest.approx(4 * one["flops"], rel=0.01)
    assert one["state"] > 2 * one["parameters"] > 0  # Adam's means
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(table) == 3 and len({line.count("|") for line in table}) == 1
    (backbone,), (both,) = (rows("--batches", "4", "--remat", *names) for names in (["backbone"], ["backbone", "cdl"]))
    assert both["kept"] < backbone["kept"] < four["kept"]
    assert four["flops"] < backbone["flops"] < both["flops"]
