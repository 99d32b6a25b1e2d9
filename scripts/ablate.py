"""The paper's ablations (Tables IV and V) as sweeps: several seeds a row, mean and spread, one markdown table each.

    python scripts/ablate.py --config configs/ablation_street.py --workdir runs/ablation \\
        [--sweeps cascade interaction sampler] [--seeds 0 1 2] [--measure sized/50] [--config.train.steps=800]

Every run is a `python -m psdiff_jax.main` of its own in WORKDIR/runs/NAME/seed_N, with its log beside it; rows of
different sweeps that are the same setting are one run. Start it again after a stop: what is finished is not repeated,
and a run that was interrupted goes on from its checkpoint. WORKDIR/tables.md is written anew after every run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from psdiff_jax.command_line import literal, look_up, raised_in_config, unknown_key
from psdiff_jax.config import load_config
from psdiff_jax.configs.sweeps import SWEEPS, Overrides, Sweep
from psdiff_jax.errors import InputError, one_line


@dataclass(frozen=True)
class Run:
    """One training (or, with `weights_of`, one evaluation of another run's weights) with one seed."""

    name: str
    seed: int
    overrides: tuple[tuple[str, Any], ...]
    weights_of: str = ""

    def folder(self, workdir: Path) -> Path:
        return workdir / "runs" / self.name / f"seed_{self.seed}"


def load_base(config: str, given: Sequence[str]) -> tuple[Any, Overrides]:
    """(the config of a file "X.py" or "X.py:variant" with --config.a.b=value applied, those overrides)."""
    base = read_base(config)
    overrides = {}
    for option in given:
        key, equals, text = option.removeprefix("--config.").partition("=")
        if not option.startswith("--config.") or not equals:
            raise InputError(f"{option}: unknown option; keys of the config are set by --config.key=value")
        problem = unknown_key(base, key)
        if problem:
            raise InputError(problem)
        overrides[key], default = literal(text), look_up(base, key)
        try:
            base.update_from_flattened_dict({key: overrides[key]})
        except TypeError as error:
            is_group = isinstance(default, ConfigDict)
            wanted = "it is a group of keys; name one of them" if is_group else f"expected a value like {default!r}"
            raise InputError(f"config.{key}={text}: {wanted}") from error
    return base, overrides


def read_base(config: str) -> Any:
    """What `load_config` gives; InputError with the place where the file fails."""
    try:
        return load_config(config)
    except InputError:
        raise
    except Exception as error:  # the file is the user's program
        place = raised_in_config(["", "--config", config], error)
        raise InputError(place or f"--config {config}: {type(error).__name__}: {one_line(error)}") from error


def plan_run(base: Any, sweep: Sweep, label: str, seed: int) -> Run:
    """The run of a row. Keys that have the base's value anyway are left out, so that equal settings are one run."""
    differs = {key: value for key, value in sweep.rows[label].items() if look_up(base, key) != value}
    name = ",".join(f"{key.split('.', 1)[1]}={value}" for key, value in differs.items())
    name = re.sub(r"[^\w.=+-]+", "_", name).strip("_") or "base"
    if sweep.trained or not differs:
        return Run(name, seed, tuple(differs.items()))
    return Run(f"evaluate/{name}", seed, tuple(differs.items()), weights_of="base")


def command(run: Run, workdir: Path, config: str, base: Any, given: Overrides) -> list[str]:
    """The command line of a run."""
    overrides = {**given, **dict(run.overrides), "seed": run.seed}
    if base.teacher.kind == "trained" and not base.teacher.folder:
        # A teacher that is taken as it is does not depend on the seed.
        overrides["teacher.folder"] = str(workdir / (f"teacher_{run.seed}" if base.teacher.steps else "teacher"))
    if run.weights_of:
        weights = Run(run.weights_of, run.seed, ()).folder(workdir) / "model.npz"
        overrides.update({"train.init_from": str(weights), "train.init_parts": ()})
    mode = "evaluate" if run.weights_of else "train_and_evaluate"
    return [
        sys.executable,
        "-m",
        "psdiff_jax.main",
        "--config",
        config,
        "--workdir",
        str(run.folder(workdir)),
        "--mode",
        mode,
        *(f"--config.{key}={value}" for key, value in overrides.items()),
    ]


def execute(line: Sequence[str], log: Path, what: str) -> bool:
    """Runs a command; its output goes to `log`, its progress to the terminal. Whether it succeeded."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        print(" ".join(line), file=file, flush=True)
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            for text in process.stdout or ():
                file.write(text)
                if " ETA " in text or text.startswith("error"):
                    print(f"{what}  {text.rstrip()}", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            process.wait()  # it has had the interrupt too, and saves
            raise
    return process.wait() == 0


def read_measures(path: Path, measure: str) -> dict[int, dict[str, float]]:
    """{steps: {"AP", "mAP", "top-1"}} in percent of an evaluation.json; measure: "protocol/gallery size"."""
    result = json.loads(path.read_text())
    protocol, _, size = measure.partition("/")
    try:
        search = result["search"][protocol][size or "all"]
    except KeyError as error:
        there = ", ".join(f"{p}/{s}" for p, sizes in result["search"].items() for s in sizes)
        raise InputError(f"--measure {measure}: {path} has {there}") from error
    return {
        int(k): {"AP": 100 * result["detection"][k]["all"]["AP"], "mAP": 100 * row["mAP"], "top-1": 100 * row["top-1"]}
        for k, row in search.items()
    }


def table(sweep: Sweep, measured: Mapping[str, Sequence[Mapping[int, Mapping[str, float]]]], measure: str) -> str:
    """A markdown table: a row a setting, for every metric and number of steps mean +- standard deviation over seeds."""
    steps = sorted({k for runs in measured.values() for run in runs for k in run})
    columns = [(metric, k) for metric in ("AP", "mAP", "top-1") for k in steps]
    heads = ["", "seeds", *(f"{metric}, {k} step{'s' * (k > 1)}" for metric, k in columns)]
    with_paper = any(label in sweep.paper for label in sweep.rows)
    lines = [heads + ["paper"] * with_paper]
    for label in sweep.rows:
        runs = measured.get(label, ())
        cells = [spread([run[k][metric] for run in runs if k in run]) for metric, k in columns]
        lines.append([label, str(len(runs)), *cells, *[sweep.paper.get(label, "")] * with_paper])
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    rows.insert(1, "|---" * len(lines[0]) + "|")
    note = f"AP: detection; mAP, top-1: {measure}; percent, mean ± standard deviation over seeds."
    return "\n".join([f"## {sweep.title}", "", *rows, "", note, ""])


def spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def write_tables(workdir: Path, base: Any, sweeps: Sequence[str], seeds: Sequence[int], measure: str) -> str:
    """Tables of what is finished, to WORKDIR/tables.md."""
    parts = []
    for name in sweeps:
        measured: dict[str, list] = {}
        for label, seed in itertools.product(SWEEPS[name].rows, seeds):
            path = plan_run(base, SWEEPS[name], label, seed).folder(workdir) / "evaluation.json"
            if path.is_file():
                measured.setdefault(label, []).append(read_measures(path, measure))
        if measured:
            parts.append(table(SWEEPS[name], measured, measure))
    text = "\n".join(parts)
    (workdir / "tables.md").write_text(text, encoding="utf-8")
    return text


def check_same_base(workdir: Path, base: Any) -> None:
    """Raises InputError when the folder holds runs of another base setting."""
    kept, now = workdir / "base.json", json.loads(json.dumps(base.to_dict()))
    if kept.is_file():
        before = json.loads(kept.read_text())
        changed = [
            f"{group}.{key}"
            for group in now
            if isinstance(now[group], dict)
            for key in now[group]
            if before.get(group, {}).get(key) != now[group][key]
        ]
        if changed or before.keys() != now.keys():
            raise InputError(
                f"{workdir} holds runs with another config.{(changed or ['?'])[0]}: "
                "use the options it was begun with, or another --workdir"
            )
    workdir.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(now, indent=2) + "\n")


def sweep_all(args: argparse.Namespace, given: Sequence[str]) -> int:
    """Runs what is missing, in the order of --sweeps, and returns how many runs failed."""
    base, overrides = load_base(args.config, given)
    workdir = Path(args.workdir).expanduser().resolve()
    check_same_base(workdir, base)
    measure = args.measure or base.evaluate.protocols[0].partition(",")[0].replace(":", "/")
    runs: dict[Run, None] = {}
    for name, seed in itertools.product(args.sweeps, args.seeds):
        if not SWEEPS[name].trained:
            runs[Run("base", seed, ())] = None
        for label in SWEEPS[name].rows:
            runs[plan_run(base, SWEEPS[name], label, seed)] = None
    missing = [run for run in runs if not (run.folder(workdir) / "evaluation.json").is_file()]
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of them finished before", file=sys.stderr, flush=True)
    begin, failed = time.perf_counter(), []
    for i, run in enumerate(missing):
        eta = f", ETA {(time.perf_counter() - begin) / i * (len(missing) - i) / 60:.0f} min" if i else ""
        what = f"[{i + 1}/{len(missing)}{eta}] {run.name} seed {run.seed}"
        log = run.folder(workdir) / "log.txt"
        if not execute(command(run, workdir, args.config, base, overrides), log, what):
            failed.append(run)
            print(f"{what}: failed, see {log}", file=sys.stderr, flush=True)
        write_tables(workdir, base, args.sweeps, args.seeds, measure)
    print(write_tables(workdir, base, args.sweeps, args.seeds, measure))
    print(f"{workdir / 'tables.md'}", file=sys.stderr)
    return len(failed)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], epilog="--config.key=value sets a key of all"
    )
    parser.add_argument("--config", required=True, help="the base setting, e.g. configs/ablation_street.py")
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--sweeps", nargs="+", choices=SWEEPS, default=["cascade", "interaction", "sampler"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--measure", default="", help="protocol/gallery size of mAP and top-1; default: the first")
    try:
        sys.exit(min(sweep_all(*parser.parse_known_args()), 1))
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
