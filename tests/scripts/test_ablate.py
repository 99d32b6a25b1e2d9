"""Sweeps: equal settings are one run, a stop costs nothing, and the table says what evaluation.json says."""

import argparse
import json
import statistics
from pathlib import Path

import pytest

from psdiff_jax.errors import InputError

from .loading import load_script

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PRW = ROOT / "configs" / "prw.py"


@pytest.fixture(scope="module")
def ablate():
    return load_script("ablate")


@pytest.fixture
def config(tmp_path):
    """A config file whose runs take seconds."""
    file = tmp_path / "config.py"
    file.write_text(
        "import runpy\nfrom pathlib import Path\n"
        f"tiny_config = runpy.run_path({str(ROOT / 'tests' / 'tiny.py')!r})['tiny_config']\n"
        "def get_config():\n"
        f"    config = tiny_config(Path({str(tmp_path / 'prepared')!r}))\n"
        "    config.evaluate.example_queries = 0\n"
        "    return config\n"
    )
    return str(file)


def options(file, workdir, **changes):
    return argparse.Namespace(
        **{"config": file, "workdir": str(workdir), "sweeps": ["cascade"], "seeds": [0], "measure": "", **changes}
    )


def test_every_key_of_every_sweep_exists_and_the_base_setting_is_a_row_of_the_paper_tables(ablate, config):
    base, _ = ablate.load_base(str(ROOT / "configs" / "ablation_street.py"), [])
    for name, sweep in ablate.SWEEPS.items():
        runs = [ablate.plan_run(base, sweep, label, 0) for label in sweep.rows]
        assert len(set(runs)) == len(runs), name
        assert set(sweep.paper) <= set(ablate.SWEEPS["snr"].rows if "snr" in name else sweep.rows), name
    for name in ("paper", "cascade", "matcher", "interaction", "snr", "snr_corners", "snr_lines"):
        rows = ablate.SWEEPS[name].rows
        assert "base" in {ablate.plan_run(base, ablate.SWEEPS[name], label, 0).name for label in rows}


def test_runs_are_shared_resumed_and_tabled(ablate, config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        ablate,
        "SWEEPS",
        {
            "cascade": ablate.Sweep("Cascade", {"residual": {"model.cascade": "residual"}}, {"residual": "1 / 2"}),
            "query": ablate.Sweep("Query", {"detected": {"evaluate.query": "detected"}}, {}, trained=False),
        },
    )
    workdir = tmp_path / "sweep"
    arguments = options(config, workdir, sweeps=["cascade", "query"], measure="sized/4")
    given = ["--config.train.steps=2"]
    assert ablate.sweep_all(arguments, given) == 0
    assert "2 runs, 0 of them finished before" in capsys.readouterr().err
    trained, looked = workdir / "runs/base/seed_0", workdir / "runs/evaluate/query=detected/seed_0"
    assert json.loads((trained / "config.json").read_text())["train"]["steps"] == 2
    assert json.loads((looked / "evaluation.json").read_text())["settings"]["query_embedding"] == "match"
    assert not any((looked / "checkpoints").glob("*")), "an evaluation trains nothing"

    stamp = (trained / "evaluation.json").stat().st_mtime_ns
    assert ablate.sweep_all(arguments, given) == 0
    said = capsys.readouterr()
    assert "2 runs, 2 of them finished before" in said.err
    assert (trained / "evaluation.json").stat().st_mtime_ns == stamp
    result = json.loads((trained / "evaluation.json").read_text())
    row = next(line for line in said.out.splitlines() if line.startswith("| residual"))
    expected = [f"{100 * result['detection'][k]['all']['AP']:.1f}" for k in ("1", "2")]
    expected += [f"{100 * result['search']['sized']['4'][k][m]:.1f}" for m in ("mAP", "top-1") for k in ("1", "2")]
    assert [cell.strip() for cell in row.strip("|").split("|")] == ["residual", "1", *expected, "1 / 2"]
    assert (workdir / "tables.md").read_text() in said.out

    with pytest.raises(InputError, match=r"holds runs with another config\.train\.steps"):
        ablate.sweep_all(arguments, ["--config.train.steps=3"])


def test_a_run_that_fails_is_said_and_the_others_go_on(ablate, config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ablate, "execute", lambda line, log, what: "--config.model.cascade=paper" not in line)
    assert ablate.sweep_all(options(config, tmp_path / "sweep"), []) == 1
    assert "cascade=paper seed 0: failed, see" in capsys.readouterr().err


def test_spread_is_mean_and_sample_deviation(ablate):
    values = [61.0, 64.0, 62.5]
    assert ablate.spread(values) == f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}" == "62.5 ± 1.5"
    assert ablate.spread([3.14]) == "3.1" and ablate.spread([]) == ""


@pytest.mark.parametrize(
    ("arguments", "given", "message"),
    [
        ({"config": "nowhere.py"}, [], "--config nowhere.py: no such file"),
        ({"config": f"{PRW}:papr"}, [], r"--config .*prw\.py, line \d+: .*has no variant 'papr'; choose default"),
        ({"config": f"{ROOT}/configs/__init__.py"}, [], r"--config .*__init__\.py: KeyError: 'get_config'"),
        ({}, ["--config.train.steps=abc"], r"config\.train\.steps=abc: expected a value like \d+$"),
        ({}, ["--config.train=3"], r"config\.train=3: it is a group of keys; name one of them"),
        ({}, ["--config.train.stepz=1"], "config.train.stepz: no such key"),
        ({}, ["--seed", "3"], "--seed: unknown option"),
    ],
)
def test_wrong_options_are_named(ablate, config, tmp_path, arguments, given, message):
    with pytest.raises(InputError, match=message):
        ablate.sweep_all(options(config, tmp_path / "sweep", **arguments), given)


def test_an_unknown_measure_is_answered_with_those_there_are(ablate, tmp_path):
    file = tmp_path / "evaluation.json"
    file.write_text(json.dumps({"search": {"sized": {"50": {}}}, "detection": {}}))
    with pytest.raises(InputError, match="has sized/50"):
        ablate.read_measures(file, "sized/100")


def test_a_measure_without_a_size_is_of_all_images(ablate, tmp_path):
    file = tmp_path / "evaluation.json"
    search = {"whole": {"all": {"8": {"mAP": 0.5, "top-1": 0.75}}}}
    file.write_text(json.dumps({"search": search, "detection": {"8": {"all": {"AP": 0.25}}}}))
    assert ablate.read_measures(file, "whole") == {8: {"AP": 25, "mAP": 50, "top-1": 75}}
