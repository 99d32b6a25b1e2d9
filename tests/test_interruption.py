"""Signals outside of training: one line that says what is left. As a program: one of the stages."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from psdiff_jax import interruption
from psdiff_jax.datasets.synthetic_street.builder import SyntheticStreet
from psdiff_jax.interruption import Interrupted, interruptible, stage, tell
from psdiff_jax.teacher.target_cache import cached_rows

from . import folder
from .options import open_dataset
from .pod import LIMIT

pytestmark = pytest.mark.slow
STREET = {
    "train_images": 400, "gallery_images": 400, "cameras": 2, "train_identities": 20, "test_identities": 10,
    "queries": 5, "size": (96, 160)
}  # fmt: skip


def children(process: int) -> list[str]:
    return Path(f"/proc/{process}/task/{process}/children").read_text().split()


def targets(place: Path) -> None:
    def compute(start):
        for row in range(start, 100):
            print(f"row {row}", flush=True)
            time.sleep(0.05)
            yield np.full((1, 4), row, np.float32)

    cached_rows(place / "targets.npy", {"of": "a test"}, (100, 4), compute)


class Street(SyntheticStreet):
    def splits(self):
        print("begin", flush=True, file=sys.__stdout__)
        return super().splits()


def preparation(place: Path, workers: int = 1) -> None:
    builder = {**STREET, "workers": workers}
    open_dataset({"name": f"{__spec__.name}:Street", "prepared_dir": str(place), "builder": builder})


class Embedder(folder.ColourEmbedder):
    def send(self, images):
        print("begin", flush=True)
        return super().send(images)


def indexing(place: Path) -> None:
    for number in range(60):
        folder.write_image(place / f"photos/{number}.png", number)
    folder.update_index(Embedder(seconds=0.1), place / "photos", place / "index", folder.OPTIONS)


STAGES = {
    "targets": (targets, "interrupted computing {place}/targets.npy; {kept} of 100 rows are kept; run the same"),
    "preparation": (
        preparation,
        "interrupted preparing dataset tests.test_interruption:Street; nothing of it is kept; run the same",
    ),
    "workers": (
        lambda place: preparation(place, 2),
        "interrupted preparing dataset tests.test_interruption:Street; nothing of it is kept",
    ),
    "indexing": (indexing, "interrupted indexing {place}/photos; the shards in {place}/index are kept; run the"),
}


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("targets", signal.SIGINT),
        ("preparation", signal.SIGTERM),
        ("workers", signal.SIGINT),  # which the terminal sends to all of them
        ("indexing", signal.SIGHUP),
    ],
)
def test_a_signal_is_one_line(name, number, tmp_path):
    command = [sys.executable, "-m", "tests.test_interruption", name, str(tmp_path)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, start_new_session=True) as process:  # fmt: skip
        first = process.stdout.readline()
        while name == "workers" and len(children(process.pid)) < 2:
            time.sleep(0.01)
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        said, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 128 + number, errors
    line = errors.strip().splitlines()[-1]
    kept = (first + said).count("row") - 1  # the last one was not there yet
    wanted = STAGES[name][1].format(place=tmp_path, kept=kept)
    assert line.startswith(f"{number.name}: {wanted}"), errors
    assert "Traceback" not in errors and "leaked" not in errors, errors


def test_the_innermost_stage_counts_and_without_one_there_is_a_line():
    with pytest.raises(Interrupted) as caught, interruptible():
        with stage("all", "much"), stage("a part", lambda: "little"):
            signal.raise_signal(signal.SIGTERM)
    assert str(caught.value) == "SIGTERM: interrupted a part; little"
    assert str(Interrupted(2)) == "SIGINT: what was finished before is kept; run the same command again to go on"


def test_a_signal_in_a_finalizer_comes_again():
    """Where Python drops exceptions: in JAX's callback of the garbage collector SIGTERM was lost."""

    class Dropped:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0)

    hook = sys.unraisablehook
    with pytest.raises(Interrupted, match="SIGTERM: interrupted a part; little"), interruptible():
        with stage("a part", "little"):
            Dropped()
            time.sleep(10)
    assert sys.unraisablehook == hook


def test_handlers_come_back_and_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal_is_not_written_to(tmp_path):
    """The terminal goes, then SIGHUP comes, then the program goes on to write, as saving does."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "tests.test_interruption", "terminal", str(tmp_path)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stdin=slave, stdout=slave, stderr=slave,
                               start_new_session=True)  # fmt: skip
    os.close(slave)
    with open(master, "rb", closefd=False) as screen:
        assert screen.readline() == b"ready\r\n"
    os.close(master)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=LIMIT) == 0
    assert (tmp_path / "saved").is_file()


def terminal(place: Path) -> None:
    arrived = []
    interruption.handled(lambda number, _: arrived.append(number))
    print("ready", flush=True)
    while not arrived:
        time.sleep(0.01)
    tell("SIGHUP: stopping", arrived[0])
    print("a line more", flush=True)
    (place / "saved").touch()


def main(name: str, place: Path) -> None:
    from psdiff_jax import main as program

    if name == "terminal":
        terminal(place)
        return
    program.run = lambda: STAGES[name][0](place)
    program.main([])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
