"""Command lines in this process: what `main` makes of them before anything is computed."""

import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from psdiff_jax import main
from psdiff_jax.configs import base

CONFIGS = Path(base.__file__).parent


def parsed(*options: str) -> ConfigDict | str:
    """The config that a command line gives, or the line that the program ends with."""
    before = sys.argv
    try:
        main.parse_flags(["main", *options])
        return main.CONFIG.value
    except SystemExit as end:
        return str(end.code)
    finally:
        sys.argv = before
        sys.modules.pop("config_config", None)  # the config file's
        for name in [name for name in flags.FLAGS if name.startswith("config.")]:
            delattr(flags.FLAGS, name)
        for flag in (main.CONFIG, main.WORKDIR):
            flags.FLAGS[flag.name].unparse()
        flags.FLAGS.mark_as_parsed()
