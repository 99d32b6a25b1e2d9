"""python -m psdiff_jax.main --config configs/X.py --workdir DIR [--mode MODE] [--config.a.b=value] [--print_config]"""

import gc
import sys
import threading
from logging import LogRecord
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from psdiff_jax.command_line import (
    UNREADABLE,
    builder_options,
    config_first,
    override_error,
    raised_in_config,
    set_builder_options,
    todays_names,
)
from psdiff_jax.config import from_values
from psdiff_jax.errors import InputError
from psdiff_jax.files import why_not_written
from psdiff_jax.interruption import Interrupted, interruptible, tell
from psdiff_jax.options import describe

MODES = ("train_and_evaluate", "train", "evaluate", "embed", "search", "export", "evaluate_teacher")
EXPECTED = (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError)  # from a wrong command line
CONFIG = config_flags.DEFINE_config_file("config", None, "experiment, e.g. configs/quickstart.py", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "folder for checkpoints, events, embeddings and the report")
MODE = flags.DEFINE_enum("mode", "train_and_evaluate", MODES, "what to do")
EMBEDDINGS = flags.DEFINE_string("embeddings", None, "with --mode evaluate: score this folder instead of a model")
QUERY = flags.DEFINE_string("query", None, "with --mode search: IMAGE:x1,y1,x2,y2, or a query of the dataset")
TOP = flags.DEFINE_integer("top", 10, "with --mode search: how many hits", lower_bound=1)
PRINT_CONFIG = flags.DEFINE_bool("print_config", False, "print every key with its value, type and meaning, and end")


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; a mistake ends the program with one line."""
    try:
        argv, replaced = todays_names(argv)
        for before, now in replaced:
            print(f"{before} is now called {now}", file=sys.stderr)
        argv, options = builder_options(config_first(argv))
        sys.argv = argv  # config_flags looks for overrides there
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise InputError(f"{rest[1]!r} is no option; options start with --, see --help")
        for flag in (CONFIG,) if PRINT_CONFIG.value else (CONFIG, WORKDIR):
            if flag.value is None:
                raise InputError(f"--{flag.name} is missing; see --help")
        CONFIG.value.lock()
        set_builder_options(CONFIG.value, options)
        return rest
    except Exception as error:  # a config file may raise anything
        if not (isinstance(error, EXPECTED) or raised_in_config(argv, error)):
            raise
        sys.exit(f"error: {override_error(argv, config_alone(argv), error)}")


def config_alone(argv: list[str]) -> Any:
    """What the config file gives without the overrides, or UNREADABLE when the file itself is wrong."""
    given = [arg for arg in argv if not arg.startswith("--config.")]
    before, sys.argv = sys.argv, given
    try:
        flags.FLAGS(given)
        getattr(CONFIG.value, "lock", None)  # a config file that could not be read says so when it is touched
        return CONFIG.value
    except Exception:
        return UNREADABLE  # what is wrong with the file itself is in the first error
    finally:
        sys.argv = before


def print_config() -> None:
    """One line for each key: name, value, type, meaning."""
    for option in describe(from_values(CONFIG.value)):
        print(f"{option.key} = {option.value!r}  ({option.type_name})  {option.doc}")


def main(_: list[str]) -> None:
    threading.excepthook = thread_failed
    gc.set_threshold(50_000)  # tracing makes millions of objects that stay: looking through them takes half a second
    logging.get_absl_logger().addFilter(is_news)
    try:
        with interruptible():
            run()
    except InputError as error:
        sys.exit(f"error: {error}")
    except Exception as error:
        reason = why_not_written(error)
        if reason is None:
            raise
        sys.exit(f"error: cannot write ({reason}); make room or choose another place, and run the same command again")
    except Interrupted as signalled:
        tell(str(signalled), signalled.number)
        sys.exit(128 + signalled.number)


def thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Of a thread that cannot write nothing is said: whoever waits for it fails with the same error, in one line."""
    if not isinstance(failure.exc_value, OSError) and why_not_written(failure.exc_value) is None:
        threading.__excepthook__(failure)


def is_news(record: LogRecord) -> bool:
    """Whether a library's log record should be seen: orbax logs a full disk with a traceback, and then raises it."""
    return not (record.exc_info and why_not_written(record.exc_info[1]))


def run() -> None:
    """Does what the command line says."""
    if PRINT_CONFIG.value:
        print_config()
        return
    from psdiff_jax import experiment

    logging.set_verbosity(logging.WARNING)  # libraries tell of every file they open
    experiment.run(
        CONFIG.value,
        Path(str(WORKDIR.value)),
        MODE.value,
        embeddings=EMBEDDINGS.value,
        query=QUERY.value,
        top=TOP.value,
    )


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
