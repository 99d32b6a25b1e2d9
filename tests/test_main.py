"""The command line: every mistake is one line that names the culprit, before anything is compiled."""

import functools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from psdiff_jax import experiment
from psdiff_jax.command_line import builder_options, set_builder_options, todays_names, unknown_key
from psdiff_jax.config import Config, check_files, from_values, to_config_dict
from psdiff_jax.configs import base, quickstart, street_pretrain
from psdiff_jax.earlier import RENAMED
from psdiff_jax.errors import InputError
from psdiff_jax.options import describe, tree

from .command_lines import CONFIGS, parsed

pytestmark = pytest.mark.slow


def command(*options: str, config: str | Path = CONFIGS / "street_pretrain.py") -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "psdiff_jax.main", "--config", str(config), *options]
    return subprocess.run(line, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--config.model.dimm=2"], "config.model.dimm: no such key in config.model; did you mean dim?"),
        (["--config.train.steps=many"], "config.train.steps"),
        (["--config.model.dim=65"], "config.model.heads=8: must divide config.model.dim"),
        (["--config.data.name=nothing"], "nothing"),
        (["--config.data.builder.train_images=many"], "config.data.builder.train_images=many: expected a value like"),
        (["--config.data.builder.nothing=1"], "synthetic_street has no option 'nothing'; it has camera_seed"),
        (["--config.train.batch_size=3", "--config.cpu_devices=2"], "config.train.batch_size"),
        (["--mode=fly"], "train_and_evaluate"),
        (["--mode=search"], "--query"),
        (["--embeddings=x"], "--embeddings goes with --mode evaluate"),
        (["stray"], "stray"),
    ],
)
def test_a_mistake_is_one_line(options, message, tmp_path):
    prepared = f"--config.data.prepared_dir={tmp_path / 'prepared'}"
    counts = {
        "train_images": 2,
        "gallery_images": 2,
        "cameras": 2,
        "train_identities": 2,
        "test_identities": 1,
        "queries": 1,
    }
    small = [f"--config.data.builder.{key}={value}" for key, value in counts.items()]
    done = command("--workdir", str(tmp_path / "run"), prepared, *small, *options)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    assert len(lines) == 1 and message in lines[0], done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_config_file_is_named(tmp_path):
    done = command("--workdir", str(tmp_path), config=tmp_path / "nope.py")
    assert "nope.py" in done.stderr and "Traceback" not in done.stderr and done.returncode != 0


def test_an_unknown_variant_is_one_line(tmp_path):
    done = command("--workdir", str(tmp_path), config=f"{CONFIGS / 'quickstart.py'}:tiny")
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].endswith("quickstart.py has no variant 'tiny'; choose smoke")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def get_config(\n    return 1\n", "line 1: '(' was never closed"),
        ("import nowhere\n", "line 1: ModuleNotFoundError: No module named 'nowhere'"),
        (
            "def get_config():\n    return half()\ndef half():\n    return 1 / 0\n",
            "line 4: ZeroDivisionError: division",
        ),
        ("def get_config():\n    raise ValueError('two\\nlines')\n", "line 2: ValueError: two lines"),
        ("def get_config():\n    return {}['a']\n", "line 2: KeyError: 'a'"),
        ("def get_config():\n    return get_config()\n", "line 2: RecursionError"),
        ("def get_config():\n    open('/nowhere')\n", "line 2: FileNotFoundError"),
        ("def get_config():\n    return 5\n", "get_config() returns 5, not a ConfigDict"),
        ("def get_config():\n    return None\n", "get_config() returns None"),
        ("x = 3\n", "it defines no get_config()"),
    ],
)
@pytest.mark.parametrize("override", [[], ["--config.seed=3"]])
def test_an_error_inside_a_config_file_names_its_line(content, message, override, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(content)
    line = parsed("--config", str(file), "--workdir=x", *override)
    assert isinstance(line, str) and line.startswith(f"error: --config {file}") and message in line, line
    assert "\n" not in line


def test_a_folder_is_no_config_file(tmp_path):
    assert parsed(f"--config={tmp_path}", "--workdir=x").endswith(f"{tmp_path}: cannot be read (Is a directory)")


def test_the_config_may_stand_behind_its_overrides():
    config = parsed("--config.seed=7", "--workdir=x", "--config", f"{CONFIGS / 'quickstart.py'}:smoke")
    assert config.seed == 7 and config.train.steps == quickstart.get_config("smoke").train.steps
    assert "--config is missing, though there are overrides" in parsed("--config.seed=7", "--workdir=x")
    assert "config" in parsed("--workdir=x", "--config")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=-1", "config.seed=-1: must lie within 0 and 4294967295"),
        ("seed=9223372036854775808", "config.seed=9223372036854775808: must lie within"),
        ("evaluate.seeds=(4294967296,)", "config.evaluate.seeds=(4294967296,): must lie within"),
        ("data.threads=-1", "config.data.threads=-1: must be 0 or more"),
    ],
)
def test_numbers_out_of_range_name_the_key(override, message, tmp_path):
    config = parsed("--config", str(CONFIGS / "street_pretrain.py"), f"--workdir={tmp_path}", f"--config.{override}")
    with pytest.raises(InputError) as caught:
        experiment.run(config, tmp_path / "run", "train")
    assert message in str(caught.value) and not (tmp_path / "run").exists()


def test_without_a_coordinator_nothing_is_waited_for(tmp_path):
    done = command("--workdir", str(tmp_path / "run"), "--config.distributed=True")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: config.distributed: who the other processes are is not known" in done.stderr.splitlines()[-1]


def test_a_missing_dataset_folder_is_named(tmp_path):
    done = command(
        "--workdir",
        str(tmp_path),
        f"--config.data.root={tmp_path / 'nowhere'}",
        "--config.teacher.kind=trained",
        "--config.model.backbone_weights=",
        config=CONFIGS / "prw_c6s1.py",
    )
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "nowhere" in done.stderr.splitlines()[-1]


def test_options_of_a_builder_need_not_stand_in_the_config():
    config = street_pretrain.get_config()
    argv = [
        "main",
        "--config.data.builder.train_images=3",
        "--config.evaluate.data.builder.names=a,b",
        "--workdir=x",
        "--config.data.builder.gap=25",
        "--config.evaluate.data.builder.share=0.5",
        "--config.evaluate.data.builder.outside=false",
    ]
    rest, options = builder_options(argv)
    config.lock()
    set_builder_options(config, options)
    assert rest == ["main", "--workdir=x"]
    assert config.data.builder.train_images == 3 and config.data.builder.gap == 25
    assert config.evaluate.data.builder.to_dict() == {"names": "a,b", "share": 0.5, "outside": False}


def test_unknown_key_suggests_the_nearest():
    assert unknown_key(base.get_config(), "train.step") == (
        "config.train.step: no such key in config.train; did you mean steps?"
    )
    assert unknown_key(base.get_config(), "train.steps") is None
    assert "is a value" in unknown_key(base.get_config(), "seed.x")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("noise.gt_box_proposals", 300, "config.noise.gt_box_proposals"),
        ("noise.num_proposals", 5, "config.noise.num_proposals"),
        ("evaluate.steps", (0,), "config.evaluate.steps"),
        ("evaluate.steps", (8, 1, 8), "config.evaluate.steps=.*: give each number of denoising steps once"),
        ("evaluate.protocols", ("whoole",), "whoole"),
        ("evaluate.reranking", ("cbgm:3",), "config.evaluate.reranking"),
        ("evaluate.reranking", ("cws", "cws"), "'cws' is given twice"),
        ("evaluate.seeds", (1, 1), "config.evaluate.seeds"),
        ("data.held_out", 1.5, "config.data.held_out"),
        ("noise.one_step", True, "config.evaluate.steps"),
        ("train.warmup", 90_000, "config.train.warmup"),
        ("train.accumulate", 5, "config.train.accumulate"),
        ("train.remat", ("fpn",), "config.train.remat"),
        ("train.frozen", ("backbone", "fpn", "cdl"), "leave one of .'backbone', 'cdl', 'fpn'. to train"),
        ("model.reid_weights", "osnet.onnx", "config.model.reid_weights='osnet.onnx': must be empty without"),
        ("sampler.renewal_threshold", 1.5, "config.sampler.renewal_threshold"),
        ("sampler.solver", "euler", "config.sampler.solver='euler': choose from ddim, dpm, dpm"),
        ("sampler.order", 4, "config.sampler.order=4: choose from 1, 2, 3"),
        ("teacher.identities", 1, "config.teacher.identities"),
        ("model.cascade", "waterfall", "config.model.cascade"),
    ],
)
def test_impossible_combinations_name_the_key(key, value, message):
    config = base.get_config()
    group, name = key.split(".")
    config[group][name] = value
    with pytest.raises(InputError, match=message) as caught:
        from_values(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["model.backbone_weights", "train.init_from", "teacher.init_from", "teacher.file"])
def test_a_missing_file_names_the_key(key):
    config = base.get_config()
    group, name = key.split(".")
    config[group][name] = "nowhere.npz"
    config.teacher.kind = "file" if key == "teacher.file" else "trained"
    with pytest.raises(InputError, match=f"config.{key}='nowhere.npz': no such file"):
        check_files(from_values(config))


def test_weights_of_a_teacher_brought_along_start_no_backbone_but_do_not_keep_it_from_being_scored():
    config = street_pretrain.get_config()
    config.teacher.update({"kind": "file", "file": __file__})
    options = from_values(config)
    check_files(options, parts=("teacher",))
    with pytest.raises(InputError, match=r"config\.model\.backbone_weights='teacher': the teacher must be"):
        check_files(options)


def test_every_config_file_is_valid():
    from psdiff_jax.configs import (
        cuhk_sysu,
        custom,
        folder,
        mot,
        people_pretrain,
        prw,
        prw_c6s1,
        quickstart,
        readout_pretrain,
    )

    for config in (base.get_config(), street_pretrain.get_config(), cuhk_sysu.get_config(), prw.get_config()):
        from_values(config)
    for config in (quickstart.get_config(), quickstart.get_config("smoke")):
        check_files(from_values(config))  # the shipped weights are there
    for variant in people_pretrain.VARIANTS:
        check_files(from_values(people_pretrain.get_config(variant)))
    for variant in readout_pretrain.VARIANTS:
        with pytest.raises(InputError, match=r"config\.teacher\.file=''"):
            from_values(readout_pretrain.get_config(variant))
    check_files(from_values(folder.get_config()))
    with pytest.raises(InputError, match=r"config\.model\.reid_weights is empty: name the file"):
        from_values(folder.get_config("crops"))
    for file in (prw_c6s1, mot, custom):
        for variant in getattr(file, "VARIANTS", ("", "cpu")):
            config = file.get_config(variant)
            config.data.root = "somewhere"
            options = from_values(config)
            file_of_teacher = {prw_c6s1: "somewhere/teacher_omz0277.npz"}.get(file, "")
            if file is mot and variant in ("cpu", "crops"):
                file_of_teacher = "somewhere/../weights/intel/person-reidentification-retail-0277.xml"
            assert options.teacher.file == file_of_teacher
            assert not variant.startswith(("cpu", "small")) or Path(options.train.init_from).is_file()
            if file is not custom and variant.startswith("cpu"):
                with pytest.raises(InputError, match=r"config\.model\.backbone_weights='somewhere/\.\./weights"):
                    check_files(options)


def test_the_defaults_are_those_of_the_dataclasses():
    assert from_values(base.get_config()) == Config()
    assert base.get_config().to_dict() == to_config_dict(Config()).to_dict()


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_renamed_key_is_understood_on_the_command_line_and_in_a_config(old, new):
    argv, replaced = todays_names(["main", f"--config.{old}=7", "--workdir=x"])
    assert argv == ["main", f"--config.{new}=7", "--workdir=x"]
    assert replaced == [(f"config.{old}=7", f"config.{new}=7")]
    (group, before), (*outer, after) = old.split("."), new.split(".")

    def place(values):
        return functools.reduce(lambda values, name: values[name], outer, values)

    values = base.get_config().to_dict()
    assert before not in values[group]
    value = place(values)[after]
    expected = type(value)(value + 1) if not isinstance(value, bool) else not value
    values[group][before] = expected  # a config file on top of the defaults has both
    assert place(tree(from_values(values)))[after] == expected
    assert place(values)[after] == value  # the values given are left as they are
    del place(values)[after]
    assert place(tree(from_values(values)))[after] == expected


def test_a_renamed_value_is_understood():
    argv, replaced = todays_names(["--config.evaluate.query=pin"])
    assert argv == ["--config.evaluate.query=gt_box"] and len(replaced) == 1
    values = base.get_config().to_dict()
    values["evaluate"]["query"] = "match"
    assert from_values(values).evaluate.query == "detected"


def test_a_resolved_config_reads_back_as_it_was():
    """config.json holds lists for tuples."""
    options = from_values(street_pretrain.get_config())
    assert from_values(json.loads(json.dumps(tree(options)))) == options


def test_print_config_names_every_key_with_its_meaning():
    done = command("--print_config", "--config.model.dim=32", "--config.sampler.slots=9")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "config.model.dim = 32  (int)  C, channels of the features (the FPN's)" in lines
    assert "config.sampler.slots=9 is now called config.sampler.num_proposals=9" in done.stderr
    keys = {line.split(" = ")[0] for line in lines}
    assert keys == {option.key for option in describe(Config())}
    assert all(line.split(")  ", 1)[1].strip() for line in lines)


def test_the_papers_setting_is_one_config_whatever_the_dataset():
    from psdiff_jax.configs import cuhk_sysu, prw

    paper = from_values(base.get_config("paper"))
    changed = {option.key: option.value for option in describe(paper)}
    default = {option.key: option.value for option in describe(Config())}
    assert {key for key, value in changed.items() if value != default[key]} == {
        f"config.{k}" for k in base.PRESETS["paper"]
    }
    for file in (cuhk_sysu, prw):
        options = from_values(file.get_config("paper"))
        own = replace(options.evaluate, protocols=paper.evaluate.protocols, reranking=paper.evaluate.reranking)
        assert replace(options, data=replace(options.data, name=""), evaluate=own) == paper
        with pytest.raises(ValueError, match="has no variant 'papr'; choose default, paper, wide, rows"):
            file.get_config("papr")
