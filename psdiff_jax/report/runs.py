"""An evaluated run, read back from its folder: evaluation.json, config.json, report/curves.json."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from psdiff_jax.earlier import todays_keys
from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.curves import read_curves
from psdiff_jax.report.tables import DETECTION

EVALUATION = "evaluation.json"


@dataclasses.dataclass(frozen=True)
class Run:
    """name: its column in a comparison. numbers: evaluation.json. config, curves: None where there is no file."""

    name: str
    numbers: Mapping[str, Any]
    config: Mapping[str, Any] | None = None
    curves: Mapping[str, Any] | None = None

    @property
    def gallery(self) -> tuple[Any, ...]:
        """What two runs must share for their numbers to be comparable: the dataset and its counts."""
        return self.numbers["settings"].get("dataset", ""), *sorted(self.numbers["counts"].items())


def read_runs(paths: Sequence[str | Path], names: Sequence[str] = ()) -> list[Run]:
    """The runs of workdirs or evaluation.json files, called `names` or by the ends of their paths that differ.

    InputError for a run that is missing, not evaluated, damaged or given twice, or for names that do not fit.
    """
    folders = [_folder(Path(path).expanduser()) for path in paths]
    resolved = [folder.resolve() for folder in folders]
    for i, folder in enumerate(resolved):
        if folder in resolved[:i]:
            raise InputError(f"{paths[i]} is given twice")
    if names and (len(names) != len(folders) or len(set(names)) != len(names) or not all(names)):
        raise InputError(f"--names: {', '.join(names)} are not {len(folders)} different names, one a run")
    return [_read(folder, name) for folder, name in zip(folders, names or distinct_names(resolved), strict=True)]


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that are all different, without what all of them end with: "base" and "wide" of
    "runs/base/seed_0" and "runs/wide/seed_0"."""
    parts = [folder.parts for folder in folders]
    while len(parts) > 1 and min(map(len, parts)) > 1 and len({own[-1] for own in parts}) == 1:
        parts = [own[:-1] for own in parts]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(own[-count:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def read_evaluation(path: Path) -> dict[str, Any]:
    """evaluation.json; InputError where it is missing or is not what `evaluate` makes."""
    if not path.is_file():
        raise InputError(f"{path.parent} has no {EVALUATION}: evaluate it first with --mode evaluate")
    numbers = _json(path)
    try:
        for key in ("settings", "counts", "protocols", "detection", "search"):
            numbers[key].keys()
        if not numbers["steps"]:
            raise KeyError("steps")
        for k in numbers["steps"]:
            for kind, key in DETECTION.values():
                _check_number(numbers["detection"][k][kind], key)
            for by_steps in (by_steps for sizes in numbers["search"].values() for by_steps in sizes.values()):
                for key in ("mAP", "top-1", "gallery_images_mean"):
                    _check_number(by_steps[k], key)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{path} is not what an evaluation writes ({type(error).__name__}: {error}): evaluate the run again"
        ) from error
    return numbers


def _check_number(leaf: Mapping[str, Any], key: str) -> None:
    if isinstance(leaf[key], bool) or not isinstance(leaf[key], (int, float)):
        raise TypeError(f"{key} is {leaf[key]!r}")


def _folder(path: Path) -> Path:
    if path.is_file() and path.name == EVALUATION:
        return path.parent
    if not path.is_dir():
        raise InputError(f"{path}: no such run; name a workdir or its {EVALUATION}")
    return path


def _read(folder: Path, name: str) -> Run:
    config = folder / "config.json"
    numbers = read_evaluation(folder / EVALUATION)
    return Run(
        name,
        numbers,
        todays_keys(_json(config)) if config.is_file() else None,
        read_curves(folder / "report" / "curves.json"),
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not readable as JSON ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a JSON object")
    return content
