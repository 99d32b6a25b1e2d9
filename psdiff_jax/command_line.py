"""What a command line says of the config: overrides, options of builders, and mistakes as one line."""

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from psdiff_jax.earlier import RENAMED, RENAMED_VALUES
from psdiff_jax.errors import InputError
from psdiff_jax.ops.boxes import is_inside
from psdiff_jax.options import nearest

Renaming = tuple[str, str]  # what an argument said, and how it is said today


def todays_names(argv: list[str]) -> tuple[list[str], list[Renaming]]:
    """(argv with today's keys and values in place of those of earlier versions, what was replaced)."""
    now, replaced = [], []
    for arg in argv:
        key, equals, value = arg.removeprefix("--config.").partition("=")
        value = value.strip("'\"") if key in RENAMED_VALUES else value
        if arg.startswith("--config.") and (key in RENAMED or value in RENAMED_VALUES.get(key, ())):
            said = f"{RENAMED.get(key, key)}{equals}{RENAMED_VALUES.get(key, {}).get(value, value)}"
            replaced.append((f"config.{key}{equals}{value}", f"config.{said}"))
            arg = f"--config.{said}"
        now.append(arg)
    return now, replaced


def builder_options(argv: list[str]) -> tuple[list[str], list[tuple[str, str, str]]]:
    """(argv without them, (group, key, value) of each --config.data.builder.KEY=VALUE and of evaluate.data.builder's).

    A builder's options are its own: a config lists those that it sets, and ml_collections overrides no key that is not
    there yet. `data.records.check_options` refuses one that the builder does not take.
    """
    given = [re.fullmatch(r"--config\.((?:evaluate\.)?data\.builder)\.(\w+)=(.*)", arg, re.DOTALL) for arg in argv]
    rest = [arg for arg, option in zip(argv, given, strict=True) if option is None]
    return rest, [(option[1], option[2], option[3]) for option in given if option is not None]


def set_builder_options(config: ConfigDict, options: list[tuple[str, str, str]]) -> None:
    """Sets what `builder_options` found, each as a Python literal or else as text; InputError for another type than the
    config's own."""
    for group, key, text in options:
        builder = look_up(config, group)
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        default = builder.get(key)
        if isinstance(default, float) and isinstance(value, int):
            value = float(value)
        if default is not None and type(value) is not type(default):
            raise InputError(f"config.{group}.{key}={text}: expected a value like {default!r}")
        with builder.unlocked():
            builder[key] = value


def image_query(query: str) -> tuple[Path, np.ndarray] | None:
    """(file, box float32 [4]) of --query IMAGE:x1,y1,x2,y2; None for another kind of query.

    Raises:
      InputError: there is no such file.
    """
    given = split_query(query)
    if given is None:
        return None
    path = Path(given[0]).expanduser()
    if not path.is_file():
        raise InputError(f"--query: there is no image {path}")
    return path, given[1]


def split_query(query: str) -> tuple[str, np.ndarray] | None:
    """(NAME, box float32 [4]) of --query NAME:x1,y1,x2,y2; None for another kind of query."""
    given = re.fullmatch(r"(.+):([-\d.]+),([-\d.]+),([-\d.]+),([-\d.]+)", query)
    if given is None:
        return None
    try:
        return given[1], np.asarray([float(v) for v in given.groups()[1:]], np.float32)
    except ValueError as error:
        raise InputError(f"--query={query}: give the box as x1,y1,x2,y2 in pixels") from error


def check_box(path: Path, box: np.ndarray, image: np.ndarray) -> None:
    """Raises InputError unless the box of an `image_query` lies in its image uint8 [H,W,3]."""
    height, width = image.shape[:2]
    if not is_inside(box, height, width):
        raise InputError(
            f"--query: box {box.tolist()} does not lie in {path} of {width}x{height} pixels; give x1,y1,x2,y2"
        )


def look_up(config: Mapping[str, Any] | ConfigDict, key: str) -> Any:
    """The value of a dotted key."""
    node: Any = config
    for part in key.split("."):
        node = node[part]
    return node


def unknown_key(config: Mapping[str, Any] | ConfigDict, key: str) -> str | None:
    """One line about a dotted key that the config does not have, with the nearest that it has; None if it has it."""
    node: Any = config
    for depth, part in enumerate(key.split(".")):
        above = ".".join(["config", *key.split(".")[:depth]])
        if not isinstance(node, Mapping | ConfigDict):
            return f"config.{key}: {above} is a value, not a group of keys"
        if part not in node:
            return f"config.{key}: no such key in {above}; {nearest(part, dict(node))}"
        node = node[part]
    return None


def override_error(argv: list[str], config: ConfigDict | None, error: Exception) -> str:
    """One line about a command line that could not be parsed. `config`: what --config gave, or None."""
    keys = [re.match(r"--config\.([\w.]+)", arg) for arg in argv]
    if config is not None:
        for problem in (unknown_key(config, key[1]) for key in keys if key):
            if problem:
                return problem
    files = [
        arg.split("=", 1)[-1]
        for arg, before in zip(argv, ["", *argv], strict=False)
        if arg.startswith("--config=") or before == "--config"
    ]
    if config is None and files and isinstance(error, OSError | ImportError):
        return f"--config {files[0]}: cannot be read ({' '.join(str(error).split())[-80:]})"
    if "Traceback" in str(error):  # raised inside the config file
        return f"--config {files[0] if files else ''}: {str(error).strip().splitlines()[-1].split(': ', 1)[-1]}"
    return " ".join(str(error).split()) or type(error).__name__
