"""The loop on least squares of three numbers. As a program: trains in the folder that is named, for kill -9."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psdiff_jax import parallel
from psdiff_jax.errors import InputError
from psdiff_jax.training.checkpoint import Checkpoints
from psdiff_jax.training.loop import fit
from psdiff_jax.training.progress import digits, duration
from psdiff_jax.training.step import leaving_out
from psdiff_jax.training.writer import MetricWriter, read_metrics

from ..pod import LIMIT

RATE = 0.05


class Toy(NamedTuple):
    step: Any
    params: Any
    ema: Any
    key: Any


@jax.jit
def toy_step(state: Toy, batch: dict[str, jax.Array]) -> tuple[Toy, dict[str, jax.Array]]:
    noise = jax.random.normal(jax.random.fold_in(state.key, state.step), (3,))
    loss, gradient = jax.value_and_grad(lambda p: jnp.mean((batch["x"] @ p - batch["y"]) ** 2))(state.params)
    params = state.params - RATE * (gradient + 0.01 * noise)
    metrics = {"learning_rate": RATE / (1 + state.step), "loss": loss}
    return Toy(state.step + 1, params, None, state.key), metrics


def toy_state() -> Toy:
    return Toy(jnp.int32(0), jnp.zeros(3), None, jax.random.key(1))


def toy_batch(step: int) -> dict[str, np.ndarray]:
    x = np.random.default_rng(step).normal(size=(8, 3)).astype(np.float32)
    return {"x": x, "y": x @ np.float32([1, -2, 3]), "unused": np.zeros((8, 1), np.uint8)}


def toy_batches(step: int) -> Iterator[dict[str, np.ndarray]]:
    while True:
        yield toy_batch(step)
        step += 1


def by_hand(steps: int) -> tuple[np.ndarray, list[float]]:
    """Parameters and losses after so many steps, in float64 NumPy."""
    p, losses = np.zeros(3), []
    for i in range(steps):
        x, y = (toy_batch(i)[k].astype(np.float64) for k in "xy")
        noise = np.asarray(jax.random.normal(jax.random.fold_in(jax.random.key(1), i), (3,)))
        losses.append(np.mean((x @ p - y) ** 2))
        p = p - RATE * (2 * x.T @ (x @ p - y) / 8 + 0.01 * noise)
    return p, losses


class Counted:
    """Positioned batches that keep count of themselves."""

    def __init__(self):
        self.step, self.closed = 0, False

    def __next__(self):
        self.step += 1
        return toy_batch(self.step - 1)

    def get_state(self):
        return {"step": self.step, "seed": 7}

    def set_state(self, state):
        assert state["seed"] == 7
        self.step = state["step"]

    def close(self):
        self.closed = True


def test_trains_as_by_hand_and_reports(tmp_path, capsys):
    seen = []
    with MetricWriter(tmp_path) as writer:
        state = fit(toy_step, toy_state(), toy_batches, steps=25, writer=writer, log_every=10,
                    hooks=[(10, lambda step, s: seen.append((step, int(s.step)))), (0, None)])  # fmt: skip
    params, losses = by_hand(25)
    np.testing.assert_allclose(state.params, params, rtol=1e-4)
    assert int(state.step) == 25
    assert seen == [(10, 10), (20, 20)]

    records = read_metrics(tmp_path / "metrics.jsonl", "train")
    assert [r["step"] for r in records] == [10, 20, 25]
    means = [np.mean(losses[0:10]), np.mean(losses[10:20]), np.mean(losses[20:25])]
    np.testing.assert_allclose([r["loss"] for r in records], means, rtol=1e-4)
    np.testing.assert_allclose([r["learning_rate"] for r in records], [RATE / 10, RATE / 20, RATE / 25], rtol=1e-5)
    assert all(r["images_per_second"] > 0 and 0 <= r["data_wait"] <= 1 for r in records)

    first, *lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"train: first step after [\d.]+ s, compilation included", first)
    pattern = r"train 10/25  loss \S+  learning_rate 0\.00500  \S+ images/s  data wait \d+%  ETA 0:\d\d"
    assert len(lines) == 3 and re.fullmatch(pattern, lines[0]), lines


def test_resumes_at_the_position_of_state_and_data(tmp_path, capsys):
    whole = fit(toy_step, toy_state(), toy_batches, steps=12)
    for steps in (7, 12):
        batches = Counted()
        with Checkpoints(tmp_path) as checkpoints:
            state = fit(toy_step, toy_state(), batches, steps=steps, checkpoints=checkpoints, checkpoint_every=5)
            assert checkpoints.latest_step() == steps
        assert batches.step == steps and batches.closed  # reads ahead, but not beyond the end
    np.testing.assert_array_equal(state.params, whole.params)
    assert "train: resumed from step 7\n" in capsys.readouterr().out
    with Checkpoints(tmp_path) as checkpoints:
        fit(toy_step, toy_state(), Counted(), steps=12, checkpoints=checkpoints)
    assert "train: already at step 12 of 12\n" in capsys.readouterr().out


@pytest.mark.parametrize("on_mesh", [False, True])
def test_compiles_once(tmp_path, on_mesh, caplog):
    """Also after a restart: arguments that differ from a step's results in placement alone would compile it twice."""
    mesh = parallel.make_mesh() if on_mesh else None
    for steps in (4, 54):

        def watched_step(state, batch):
            return toy_step(state, batch)

        caplog.clear()
        with Checkpoints(tmp_path) as checkpoints, jax.log_compiles():
            fit(jax.jit(watched_step), toy_state(), toy_batches, steps=steps, checkpoints=checkpoints, mesh=mesh)
        said = [record.getMessage() for record in caplog.records]
        assert sum("Finished XLA compilation of jit(watched_step)" in line for line in said) == 1


def test_goes_on_from_a_state_that_is_under_way():
    half = fit(toy_step, toy_state(), toy_batches, steps=6)
    np.testing.assert_array_equal(
        fit(toy_step, half, toy_batches, steps=12).params, fit(toy_step, toy_state(), toy_batches, steps=12).params
    )


def test_reads_numbers_one_step_late(monkeypatch):
    events = []

    def step_fn(state, batch):
        events.append(("sent", int(state.step) + 1))
        return toy_step(state, batch)

    class Noted:
        def __init__(self, *_):
            pass

        def read(self, step, _):
            events.append(("read", step))

        tick = skip = lambda *_: None

    monkeypatch.setattr("psdiff_jax.training.loop.Progress", Noted)
    fit(step_fn, toy_state(), toy_batches, steps=4)
    assert events == [("sent", 1), ("read", 1), ("sent", 2), ("sent", 3), ("read", 2), ("sent", 4), ("read", 3),
                      ("read", 4)]  # fmt: skip


def test_a_loss_that_is_not_finite_stops_and_saves_nothing(tmp_path):
    def batches(step):
        for batch in toy_batches(step):
            batch["y"] = batch["y"] + (np.nan if step == 9 else 0)
            step += 1
            yield batch

    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(InputError, match=r"train: loss is nan at step 10: lower config\.train\.learning_rate"):
            fit(toy_step, toy_state(), batches, steps=20, checkpoints=checkpoints, checkpoint_every=5)
        assert checkpoints.latest_step() == 5
        assert np.isfinite(checkpoints.restore_latest(toy_state())[0].params).all()


def test_steps_that_are_not_finite_are_left_out_and_counted(tmp_path, capsys):
    """NaN in the data of steps 10 and 14: the state passes over them; a third one is too many."""

    def batches(wrong):
        def open_(step):
            for batch in toy_batches(step):
                batch["y"] = batch["y"] + (np.nan if step in wrong else 0)
                step += 1
                yield batch

        return open_

    def step_fn(state, batch):
        new, metrics = toy_step(state, batch)
        return new, metrics | {"gradient_norm": metrics["loss"]}

    with MetricWriter(tmp_path) as writer:
        state = fit(leaving_out(step_fn), toy_state(), batches((9, 13)), steps=20, skip=2, writer=writer, log_every=1)
    lines = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert lines == ["train: loss is nan at step 10, which is left out; 1 of at most 2 so far",
                     "train: loss is nan at step 14, which is left out; 2 of at most 2 so far"]  # fmt: skip
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [
        i for i in range(1, 21) if i not in (10, 14)
    ]
    by_hand_ = toy_state()
    for i in range(20):
        new, _ = toy_step(by_hand_, toy_batch(i))
        by_hand_ = by_hand_._replace(step=new.step) if i in (9, 13) else new
    np.testing.assert_array_equal(state.params, by_hand_.params)
    with pytest.raises(InputError, match=r"loss is nan at step 17: .* whole; 2 steps were left out before"):
        fit(leaving_out(step_fn), toy_state(), batches((9, 13, 16)), steps=20, skip=2)
    for steps, after in (
        (11, contextlib.nullcontext()),
        (20, pytest.raises(InputError, match="1 steps were left out before")),
    ):
        with after, Checkpoints(tmp_path / "checkpoints") as checkpoints:  # a run that goes on has no more to leave out
            fit(leaving_out(step_fn), toy_state(), batches((9, 13)), steps=steps, skip=1, checkpoints=checkpoints)


def test_data_that_end_or_fail_are_an_error():
    with pytest.raises(InputError, match="the training data end 3 steps too early"):
        fit(toy_step, toy_state(), lambda step: map(toy_batch, range(step, 7)), steps=10)

    def broken(step):
        yield toy_batch(step)
        raise InputError("photo.jpg is no image")

    with pytest.raises(InputError, match=r"photo\.jpg"):
        fit(toy_step, toy_state(), broken, steps=10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_save_and_stop(tmp_path, capfd, number):
    before = signal.getsignal(number)
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(SystemExit) as exit_:
            fit(toy_step, toy_state(), toy_batches, steps=50, checkpoints=checkpoints,
                hooks=[(13, lambda *_: os.kill(os.getpid(), number))])  # fmt: skip
        assert exit_.value.code == 128 + number
        assert signal.getsignal(number) == before
        assert "stopped at step 14; run the same command again to go on\n" in capfd.readouterr().out
        assert checkpoints.latest_step() == 14
        state = fit(toy_step, toy_state(), toy_batches, steps=50, checkpoints=checkpoints)
    np.testing.assert_array_equal(state.params, fit(toy_step, toy_state(), toy_batches, steps=50).params)


def test_a_signal_in_the_last_step_is_not_forgotten(tmp_path, capfd):
    """What comes next in the program, an evaluation for instance, would not know of it."""
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(SystemExit) as exit_:
            fit(toy_step, toy_state(), toy_batches, steps=6, checkpoints=checkpoints,
                hooks=[(6, lambda *_: os.kill(os.getpid(), signal.SIGTERM))])  # fmt: skip
        assert exit_.value.code == 128 + signal.SIGTERM and checkpoints.latest_step() == 6
    assert "stopped at step 6; run the same command again to go on\n" in capfd.readouterr().out


def test_slow_data_show_as_waiting(tmp_path):
    def slow(step):
        for batch in toy_batches(step):
            time.sleep(0.1)
            yield batch

    with MetricWriter(tmp_path) as writer:
        fit(toy_step, toy_state(), slow, steps=10, writer=writer, log_every=10)
    (record,) = read_metrics(tmp_path / "metrics.jsonl")
    assert (
        record["data_wait"] > 0.5 and record["images_per_second"] < 100
    )  # 80, and a batch that the first step waits for


def test_digits_and_durations():
    assert [digits(v) for v in (0.012345, 1.2, 345.4, 12345.6, 2.5e-5, 0.0)] == [
        "0.0123", "1.20", "345", "12346", "2.50e-05", "0.00"]  # fmt: skip
    assert [duration(v) for v in (0.2, 65, 7200)] == ["0:00", "1:05", "2:00:00"]


def test_killed_and_run_again_ends_the_same(tmp_path):
    """kill -9 at two moments; the third run gets through, and no record is there twice."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command, root = [sys.executable, "-m", "tests.training.test_loop"], Path(__file__).parents[2]
    for reached in (12, 31):
        process = subprocess.Popen([*command, str(killed)], stdout=subprocess.PIPE, text=True, cwd=root)
        for line in process.stdout:
            if int((re.match(r"train (\d+)/", line) or [0, 0])[1]) >= reached:
                break
        process.kill()
        assert process.wait() == -signal.SIGKILL
    done = subprocess.run([*command, str(killed)], capture_output=True, text=True, timeout=LIMIT, cwd=root)
    assert done.returncode == 0, done.stderr
    assert re.search(r"train: resumed from step \d+", done.stdout)
    # In a process like it, for this one has another number of devices, hence sums in another order.
    subprocess.run([*command, str(whole)], check=True, capture_output=True, timeout=LIMIT, cwd=root)
    with np.load(killed / "final.npz") as final, np.load(whole / "final.npz") as expected:
        np.testing.assert_array_equal(final["params"], expected["params"])
        assert final["step"] == expected["step"] == 50
    records = read_metrics(killed / "metrics.jsonl")
    assert [r["step"] for r in records] == list(range(1, 51))


def main(folder: Path) -> None:
    folder.mkdir(exist_ok=True)

    def slowly(state, batch):
        time.sleep(0.02)
        return toy_step(state, batch)

    with MetricWriter(folder) as writer, Checkpoints(folder / "checkpoints") as checkpoints:
        state = fit(slowly, toy_state(), toy_batches, steps=50, writer=writer, checkpoints=checkpoints, log_every=1,
                    checkpoint_every=3, mesh=parallel.make_mesh())  # fmt: skip
    np.savez(folder / "final.npz", params=state.params, step=state.step)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
