"""Parameters and FLOPs against numbers worked out by hand, and the script as a person runs it."""

import json
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from psdiff_jax.config import from_values
from psdiff_jax.configs import base

from .loading import SMALL, load_script

pytestmark = pytest.mark.slow

model_stats = load_script("model_stats")


def products(function, *shapes):
    return model_stats.count_products(jax.make_jaxpr(function)(*(jnp.zeros(shape) for shape in shapes)).jaxpr)


def test_products_by_hand():
    linear = 2 * 3 * 5 * 7 * 11  # 3 x 5 rows of 7 inputs and 11 outputs
    assert products(lambda x, w: jax.nn.relu(x @ w) + 1, (3, 5, 7), (7, 11)) == linear
    attention = products(lambda a, b: jnp.einsum("bqhc,bkhc->bhqk", a, b), (2, 3, 4, 5), (2, 6, 4, 5))
    assert attention == 2 * (2 * 4 * 3 * 6 * 5)

    def conv(x, kernel, stride, groups=1):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            ((1, 1), (1, 1)),
            feature_group_count=groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    # 9 x 13 -> 5 x 7 cells, each 3 x 3 x 4 inputs and 8 outputs.
    assert products(lambda x, k: conv(x, k, 2), (2, 9, 13, 4), (3, 3, 4, 8)) == 2 * 2 * 5 * 7 * 9 * 4 * 8
    assert products(lambda x, k: conv(x, k, 1, 4), (1, 6, 6, 4), (3, 3, 1, 8)) == 2 * 36 * 9 * 8

    # The gradients of both arguments cost what the convolution does, though the input's is taken of a map with zeros.
    forward = 2 * 4 * 6 * 9 * 4 * 8
    assert products(lambda x, k: conv(x, k, 2), (1, 8, 12, 4), (3, 3, 4, 8)) == forward
    gradients = jax.grad(lambda x, k: (conv(x, k, 2) ** 2).sum(), (0, 1))
    assert products(gradients, (1, 8, 12, 4), (3, 3, 4, 8)) == 3 * forward

    def scanned(x, w):
        return jax.lax.scan(lambda carry, _: (jax.jit(jnp.dot)(carry, w), None), x, length=6)[0]

    assert products(scanned, (3, 7), (7, 7)) == 6 * 2 * 3 * 7 * 7
    assert products(jax.checkpoint(lambda x, w: x @ w), (3, 7), (7, 11)) == 2 * 3 * 7 * 11


@pytest.fixture(scope="module")
def paper():
    return model_stats.statistics_of(
        from_values(base.get_config("paper")), (800, 1333), 300, [1, 2, 4, 8], compiled=False
    )


def test_the_paper_preset_has_the_papers_size(paper):
    assert 30.5e6 <= paper["parameters"] <= 31.8e6
    parts = paper["parameters_by_module"]
    assert paper["parameters"] == sum(parts.values())
    assert parts["backbone"] == 25_557_032 - 2_049_000  # torchvision's ResNet-50 without its classifier
    assert parts["fpn"] == sum(c * 256 + 256 for c in (256, 512, 1024, 2048)) + 4 * (9 * 256 * 256 + 256)


def test_a_step_costs_what_its_parts_do(paper):
    cells, c, boxes = 49, 256, 300
    self_attention = 4 * cells * c * c + 2 * cells * cells * c
    cross_attention = 4 * c * c + 2 * 8 * cells * c  # keys and values are never projected: see Attention.read
    dynamic = 2 * 8 * c * c + 2 * 8 * cells * c
    heads = c * c + (2 * c) ** 2 + 2 * c * c + c * c + 5 * c
    roi = 16 * cells * c
    time = 256 * 768 + 768 * 768 + 768 * 4 * c + 768 * 2 * c  # once an image
    want = 2 * (boxes * (self_attention + cross_attention + dynamic + heads + roi) + time)
    assert paper["step_flops"] == want <= 14.1e9
    assert paper["roi_align_flops"] == 2 * boxes * roi
    assert paper["flops"] == {str(k): paper["features_flops"] + k * want for k in (1, 2, 4, 8)}
    assert all(type(v) is int for v in paper["flops"].values()) and type(paper["parameters"]) is int
    assert 290e9 < paper["features_flops"] < 300e9  # the paper: 301 G less one step


def test_the_compiler_agrees():
    stats = model_stats.statistics_of(from_values(base.get_config()), (96, 160), 40, [1, 3])
    for part, tolerance in (("features", 0.05), ("step", 0.10)):  # a step has many norms and softmaxes
        products, compiler = stats[f"{part}_flops"], stats[f"compiler_{part}_flops"]
        assert products == pytest.approx(compiler, rel=tolerance), part
    assert stats["compiler_flops"]["3"] == stats["compiler_features_flops"] + 3 * stats["compiler_step_flops"]


def test_presets():
    default, paper, wide = (from_values(base.get_config(preset)) for preset in ("default", "paper", "wide"))
    assert from_values(base.get_config()) == default
    assert paper.model == replace(default.model, cascade="paper", head_init="xavier")
    wider = {"dynamic_width": 64, "pool": "flatten", "proposal_attention": True}
    assert wide == replace(default, model=replace(default.model, **wider))
    with pytest.raises(ValueError, match=r"configs/base.py has no variant 'wild'; choose default, paper, wide, rows"):
        base.get_config("wild")


def run(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["model_stats.py", *map(str, options)])
    model_stats.main()


def test_the_script_prints_a_table_and_writes_json(monkeypatch, capsys, tmp_path):
    config, out = tmp_path / "small.py", tmp_path / "stats.json"
    config.write_text(SMALL)
    run(
        monkeypatch,
        "--config",
        config,
        "--size",
        64,
        96,
        "--num-proposals",
        6,
        "--steps",
        1,
        2,
        "--json",
        out,
        "--time",
        "--repeats",
        1,
    )
    printed, stats = capsys.readouterr().out, json.loads(out.read_text())
    assert {"parameters", "flops", "parameters_by_module", "step_flops", "compiler_flops", "seconds"} <= stats.keys()
    assert stats["flops"].keys() == stats["seconds"].keys() == {"1", "2"}
    assert all(v > 0 for v in stats["seconds"].values())
    rows = [line.split("|")[1:-1] for line in printed.splitlines() if line.startswith("|")]
    assert {len(row) for row in rows} == {6} and len(rows) == 2 + 9 + 2
    assert "SeqNet (paper, V100)" in printed and f"{stats['parameters']:,}" in printed


def test_what_is_wrong_is_one_line(monkeypatch, capsys, tmp_path):
    with pytest.raises(SystemExit):
        run(monkeypatch, "--preset", "wild")
    assert "invalid choice: 'wild'" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"nowhere\.py: no such file"):
        run(monkeypatch, "--config", tmp_path / "nowhere.py")
    with pytest.raises(ValueError, match="--num-proposals"):
        run(monkeypatch, "--num-proposals", 0)
