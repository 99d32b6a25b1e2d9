"""What a command line says of the config: overrides, options of builders, and mistakes as one line."""

import ast
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags, logging
from ml_collections import ConfigDict

from psdiff_jax.config import Config, from_values
from psdiff_jax.earlier import RENAMED, RENAMED_VALUES
from psdiff_jax.errors import InputError, one_line
from psdiff_jax.ops.boxes import is_inside
from psdiff_jax.options import nearest

UNREADABLE = object()  # in place of what a config file gives
EXPECTED = (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError)  # from a wrong command line
Flag = flags.FlagHolder[Any]
Renaming = tuple[str, str]  # what an argument said, and how it is said today


def run_script(main: Callable[[Config], None], config: Flag, *required: Flag) -> None:
    """Runs a program that takes --config; wrong input ends it with one line.

    config: the flag of the config file. required: what else may not be missing.
    """

    def run(_: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # libraries tell of every file they open
        try:
            main(from_values(config.value))
        except InputError as error:
            sys.exit(f"error: {error}")

    app.run(run, flags_parser=partial(parse_flags, config=config, required=required))


def parse_flags(argv: list[str], config: Flag, required: tuple[Flag, ...] = ()) -> list[str]:
    """Parses a command line with --config, and sets the overrides in it; a mistake ends the program with one line."""
    try:
        argv, replaced = todays_names(argv)
        for before, now in replaced:
            print(f"{before} is now called {now}", file=sys.stderr)
        argv, options = builder_options(config_first(argv))
        sys.argv = argv  # config_flags looks for overrides there
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise InputError(f"{rest[1]!r} is no option; options start with --, see --help")
        for flag in (config, *required):
            if flag.value is None:
                raise InputError(f"--{flag.name} is missing; see --help")
        config.value.lock()
        set_builder_options(config.value, options)
        return rest
    except Exception as error:  # a config file may raise anything
        if not (isinstance(error, EXPECTED) or raised_in_config(argv, error)):
            raise
        sys.exit(f"error: {override_error(argv, config_alone(argv, config), error)}")


def config_alone(argv: list[str], config: Flag) -> Any:
    """What the config file gives without the overrides, or UNREADABLE when the file itself is wrong."""
    given = [arg for arg in argv if not arg.startswith("--config.")]
    before, sys.argv = sys.argv, given
    try:
        flags.FLAGS(given)
        getattr(config.value, "lock", None)  # a config file that could not be read says so when it is touched
        return config.value
    except Exception:
        return UNREADABLE  # what is wrong with the file itself is in the first error
    finally:
        sys.argv = before


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


def literal(text: str) -> Any:
    """What an option's text says: true or false in any case, another Python literal, or the text itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def set_builder_options(config: ConfigDict, options: list[tuple[str, str, str]]) -> None:
    """Sets what `builder_options` found; InputError for another type than the config's own."""
    for group, key, text in options:
        builder, value = look_up(config, group), literal(text)
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


def config_first(argv: list[str]) -> list[str]:
    """argv with --config right behind the program's name: ml_collections wants it before its overrides."""
    at = next((i for i, arg in enumerate(argv) if arg == "--config" or arg.startswith("--config=")), None)
    if at in (None, len(argv) - 1):
        return argv
    end = at + (1 if "=" in argv[at] else 2)
    return [*argv[:1], *argv[at:end], *argv[1:at], *argv[end:]]


def config_file(argv: list[str]) -> str:
    """What --config names, without the variant; "" where it is missing."""
    for arg, before in zip(argv, ["", *argv], strict=False):
        if arg.startswith("--config=") or before == "--config":
            return arg.removeprefix("--config=").partition(":")[0]
    return ""


def raised_in_config(argv: list[str], error: BaseException | None) -> str:
    """One line with the place in the config file where an error comes from; "" for an error from elsewhere.

    ml_collections and absl raise others in place of the error; those hold it as cause or context.
    """
    file, found = config_file(argv), ""
    while error is not None and file:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        what = one_line(error) if isinstance(error, InputError) else _in_words(error)
        if isinstance(error, SyntaxError) and error.filename == file:
            found = f"--config {file}, line {error.lineno}: {error.msg}"
        elif lines:
            found = f"--config {file}, line {lines[-1]}: {what}"
        error = error.__cause__ or error.__context__
    return found


def _in_words(error: BaseException) -> str:
    """The type and the message of an error, on one line."""
    return ": ".join(filter(None, (type(error).__name__, " ".join(str(error).split()))))


def override_error(argv: list[str], config: Any, error: Exception) -> str:
    """One line about a command line that could not be parsed. `config`: what the config file gives, or UNREADABLE."""
    file, keys = config_file(argv), [re.match(r"--config\.([\w.]+)", arg) for arg in argv]
    if isinstance(config, ConfigDict):
        for problem in (unknown_key(config, key[1]) for key in keys if key):
            if problem:
                return problem
    elif config is not UNREADABLE and file:
        return f"--config {file}: get_config() returns {config!r}, not a ConfigDict"
    elif place := raised_in_config(argv, error):
        return place
    elif isinstance(error, AttributeError) and error.name == "get_config":
        return f"--config {file}: it defines no get_config()"
    elif isinstance(error, OSError) and file:
        cause = error.__cause__
        reason = "no such file" if not Path(file).exists() else getattr(cause, "strerror", None) or cause or error
        return f"--config {file}: cannot be read ({reason})"
    elif not file and any(keys):
        return "--config is missing, though there are overrides of it; see --help"
    return one_line(error)
