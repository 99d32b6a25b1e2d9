"""kill -9 at random moments: the run after it ends as if nothing had been."""

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from .stages import STAGES, leftovers

pytestmark = pytest.mark.slow


def start(name: str, place: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.faults.stages", name, str(place), "0", "0.15"]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                            text=True)  # fmt: skip


def has_written(place: Path, since: float) -> bool:
    """Whether anything in a folder is as new as `since`, seconds; the clock of files is a few milliseconds behind."""
    for path in place.rglob("*"):
        with contextlib.suppress(OSError):  # it was a temporary one
            if path.stat().st_mtime > since - 0.02:
                return True
    return False


@pytest.mark.parametrize("name", ["training", "targets", "preparation", "indexing", "views", "shards"])
def test_killed_at_random_moments(name, tmp_path, tried):
    """Up to half a second after a run has begun to write: some are done by then, as are those after them."""
    place, whole = tmp_path / "killed", tmp_path / "whole"
    rng, expected = np.random.default_rng(0), STAGES[name](whole)
    outcomes = []
    for longest in (0, 0.5, 0.5):
        begin, process = time.time(), start(name, place)
        while process.poll() is None and not has_written(place, begin):
            time.sleep(0.005)
        time.sleep(rng.uniform(0, longest))
        process.kill()
        outcomes.append(process.wait())
    assert set(outcomes) <= {0, -signal.SIGKILL} and outcomes[0] == -signal.SIGKILL
    assert STAGES[name](place) == expected
    assert not [path for path in leftovers(place) if "photos" not in path] or name == "training"
    for outcome in outcomes:
        tried(f"kill -9: {name}", "ended as without" if outcome else "was done before")


def test_killed_while_embeddings_are_written(tmp_path, monkeypatch, tried):
    """At each step of putting a folder in the place of another: the old one, the new one, or none; never a mixture."""
    from psdiff_jax.data.detections import load_embeddings, save_embeddings
    from psdiff_jax.errors import InputError

    from .stages import some_detections

    class Killed(BaseException):
        pass

    old, new = some_detections(), some_detections()
    new.scores[:] = 0.5
    for step in range(12):
        folder, calls = tmp_path / str(step) / "gallery", [0]
        save_embeddings(folder, old)

        def stop(real, calls=calls, step=step):
            def call(*args, **given):
                calls[0] += 1
                if calls[0] > step:
                    raise Killed
                return real(*args, **given)

            return call

        with monkeypatch.context() as patch:
            for owner, method in ((np, "save"), (Path, "rename"), (Path, "mkdir"), (Path, "write_text")):
                patch.setattr(owner, method, stop(getattr(owner, method)))
            try:
                save_embeddings(folder, new)
            except Killed:
                pass
        try:
            scores = load_embeddings(folder, mmap=False).scores.tolist()
            assert scores in (old.scores.tolist(), new.scores.tolist())
            outcome = "the old ones" if scores == old.scores.tolist() else "the new ones"
        except InputError as error:
            outcome = "none, in one line"
            assert "no such folder of embeddings" in str(error)
        save_embeddings(folder, new)
        assert load_embeddings(folder, mmap=False).scores.tolist() == new.scores.tolist()
        tried("stopped while embeddings are replaced", outcome)
