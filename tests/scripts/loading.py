"""Scripts are programs, not modules of the package: tests load them by path."""

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from absl import flags

SCRIPTS = Path(__file__).parents[2] / "scripts"

# a config file of a model that compiles soon
SMALL = """
from psdiff_jax.configs.street_pretrain import get_config as street


def get_config():
    config = street()
    config.model.update({"backbone": "tiny", "dim": 16, "heads": 2, "embedding_dim": 8, "time_dim": 8, "side": 3})
    config.noise.num_proposals = config.sampler.num_proposals = 12
    return config
"""


def load_script(name: str) -> ModuleType:
    """The module scripts/NAME.py, which finds its neighbours as it does when it is started."""
    if str(SCRIPTS) not in sys.path:
        sys.path.append(str(SCRIPTS))
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    with _flags_of_its_own():
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _flags_of_its_own() -> Iterator[None]:
    """Flags that a program defines inside are gone afterwards: no two programs of one process have to agree on them."""
    programs = ("psdiff_jax.main", None)  # None: put back by an earlier call
    before = {
        name: flags.FLAGS[name] for name in flags.FLAGS if flags.FLAGS.find_module_defining_flag(name) in programs
    }
    for name in before:
        delattr(flags.FLAGS, name)
    others = set(flags.FLAGS)
    try:
        yield
    finally:
        for name in set(flags.FLAGS) - others:
            delattr(flags.FLAGS, name)
        for name, flag in before.items():
            flags.FLAGS[name] = flag
