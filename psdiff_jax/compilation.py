"""Compiled programs are kept between processes, so that only the first run of a program waits for XLA.

JAX's persistent cache does the work; its keys cover the program, the versions, the flags and the processor's features.
Whoever can write to the folder can run code here: keep it the user's own.
"""

import sys
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from psdiff_jax.files import cache_folder

MAX_BYTES = 2 * 2**30
MIN_SECONDS = 0.1  # a program that compiles faster is not kept


def keep_compiled(folder: str) -> None:
    """Keeps compiled programs in `folder` ({cache}: this program's folder among the user's caches), the latest 2 GiB.

    Nothing happens for "", and where the process or JAX_COMPILATION_CACHE_DIR has chosen a folder already.
    """
    if not folder or jax.config.values["jax_compilation_cache_dir"]:
        return
    path = Path(folder.replace("{cache}", str(cache_folder()))).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        _remove_halves(path)
    except OSError as error:
        print(f"{path}: cannot be written ({error.strerror}); compiled programs are not kept", file=sys.stderr)
        return
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)
    compilation_cache.reset_cache()  # a process that has compiled already has decided that there is none


def _remove_halves(path: Path) -> None:
    """Removes what a killed process left: JAX 0.10 writes nothing any more beside an entry without a time of access."""
    for entry in path.glob("*-cache"):
        if not entry.with_name(entry.name.removesuffix("-cache") + "-atime").is_file():
            entry.unlink(missing_ok=True)
