"""python -m psdiff_jax.main --config configs/X.py --workdir DIR [--mode MODE] [--config.a.b=value] [--print_config]"""

import gc
import sys
import threading
from logging import LogRecord
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from psdiff_jax import command_line
from psdiff_jax.config import from_values
from psdiff_jax.errors import InputError
from psdiff_jax.files import why_not_written
from psdiff_jax.interruption import Interrupted, interruptible, tell
from psdiff_jax.options import describe

MODES = ("train_and_evaluate", "train", "evaluate", "embed", "search", "export", "evaluate_teacher")
CONFIG = config_flags.DEFINE_config_file("config", None, "experiment, e.g. configs/quickstart.py")
WORKDIR = flags.DEFINE_string("workdir", None, "folder for checkpoints, events, embeddings and the report")
MODE = flags.DEFINE_enum("mode", "train_and_evaluate", MODES, "what to do")
EMBEDDINGS = flags.DEFINE_string("embeddings", None, "with --mode evaluate: score this folder instead of a model")
QUERY = flags.DEFINE_string("query", None, "with --mode search: IMAGE:x1,y1,x2,y2, or a query of the dataset")
TOP = flags.DEFINE_integer("top", 10, "with --mode search: how many hits", lower_bound=1)
PRINT_CONFIG = flags.DEFINE_bool("print_config", False, "print every key with its value, type and meaning, and end")


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; a mistake ends the program with one line."""
    rest = command_line.parse_flags(argv, CONFIG)
    if WORKDIR.value is None and not PRINT_CONFIG.value:
        sys.exit("error: --workdir is missing; see --help")
    return rest


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
