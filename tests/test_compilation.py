"""Compiled programs are kept in the folder that the config names, and found there by the next process."""

import os
import subprocess
import sys
from pathlib import Path

from psdiff_jax.config import Config

PROGRAM = """
import sys
import jax, jax.numpy as jnp
from psdiff_jax import compilation
compilation.MIN_SECONDS = 0
jnp.ones(3) + 1  # compiled before
compilation.keep_compiled(sys.argv[1])
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if "cache_hits" in event else None)
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((int(sys.argv[2]), 7)).T @ jnp.ones((int(sys.argv[2]), 7)))
print(len(hits) > 0)
"""


def found(folder: str, number: int, cache: Path, **environment: str) -> tuple[bool, str]:
    """(whether a program was found in the cache, stderr) of a process that compiles program `number`."""
    line = [sys.executable, "-c", PROGRAM, folder, str(number)]
    own = {"XDG_CACHE_HOME": str(cache), "JAX_PLATFORMS": "cpu", **environment}
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, env={**os.environ, **own})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip() == "True", done.stderr


def test_the_next_process_finds_what_was_compiled_even_beside_a_killed_one(tmp_path):
    folder = Config().compilation_cache
    assert not found(folder, 3, tmp_path)[0]
    kept = tmp_path / "psdiff_jax" / "xla"
    entries = list(kept.glob("*-cache"))
    assert entries and all(entry.with_name(entry.name[: -len("cache")] + "atime").is_file() for entry in entries)
    half = kept / "jit_killed-123-cache"
    half.write_bytes(b"half a program")
    hit, said = found(folder, 3, tmp_path)
    assert hit and not said and not half.exists()


def test_nothing_is_kept_where_the_config_or_the_environment_says_so(tmp_path):
    found("", 3, tmp_path)
    assert not list(tmp_path.rglob("*"))
    found("{cache}/xla", 3, tmp_path / "user", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own"))
    assert not (tmp_path / "user").exists()


def test_a_folder_that_cannot_be_written_is_named_and_the_program_goes_on(tmp_path):
    (tmp_path / "file").write_text("")
    _, said = found(str(tmp_path / "file" / "xla"), 3, tmp_path)
    assert said.strip().endswith("compiled programs are not kept") and len(said.strip().splitlines()) == 1
