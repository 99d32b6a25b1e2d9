"""Mesh, placing and fetching; then two processes of two devices each. As a program: one of those processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from psdiff_jax import parallel
from psdiff_jax.errors import InputError
from psdiff_jax.training.checkpoint import Checkpoints
from psdiff_jax.training.loop import fit
from psdiff_jax.training.writer import MetricWriter, read_metrics

from .pod import join_pod, run_pod

pytestmark = pytest.mark.slow

ROWS, RATE = 8, 0.05


class Toy(NamedTuple):
    step: Any
    params: Any
    key: Any


@jax.jit
def toy_step(state: Toy, batch: dict[str, jax.Array]) -> tuple[Toy, dict[str, jax.Array]]:
    loss, gradient = jax.value_and_grad(lambda p: jnp.mean((batch["x"] @ p - batch["y"]) ** 2))(state.params)
    return Toy(state.step + 1, state.params - RATE * gradient, state.key), {"loss": loss}


def toy_state() -> Toy:
    return Toy(jnp.int32(0), jnp.zeros(4), jax.random.key(3))


def toy_batches(step: int):
    """The rows of this process."""
    rows = ROWS // jax.process_count()
    while True:
        x = np.random.default_rng(step).normal(size=(ROWS, 4)).astype(np.float32)
        x = x[rows * jax.process_index() :][:rows]
        yield {"x": x, "y": x.sum(1)}
        step += 1


def test_mesh_and_sharding():
    mesh = parallel.make_mesh()
    assert mesh.axis_names == ("data", "model")
    assert mesh.size == jax.device_count() and mesh.shape["model"] == 1
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}
    with pytest.raises(InputError, match="does not divide"):
        parallel.make_mesh(jax.device_count() + 1)


def test_batches_are_made_large_enough_to_be_shared(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 6)
    assert [parallel.whole_batch(size) for size in (1, 6, 8, 12, 13)] == [6, 6, 12, 12, 18]


def test_placing_and_fetching_changes_nothing():
    mesh = parallel.make_mesh()
    batch = {"image": np.arange(48, dtype=np.uint8).reshape(4, 2, 2, 3), "valid": np.array([True, False, True, True])}
    placed = parallel.put_batch(batch, mesh)
    assert all(v.sharding.spec == PartitionSpec(("data", "model")) for v in placed.values())
    assert parallel.put_batch(placed, mesh)["image"] is placed["image"]
    tree = {"key": jax.random.key(5), "x": np.float32([1, 2]), "none": None}
    whole = parallel.put_replicated(tree, mesh)
    assert whole["x"].sharding.is_fully_replicated and whole["none"] is None
    assert jax.random.key_data(whole["key"]).tolist() == jax.random.key_data(tree["key"]).tolist()
    for got, wanted in ((parallel.fetch(placed), batch), (parallel.fetch({"x": whole["x"]}), {"x": tree["x"]})):
        for name in wanted:
            assert type(got[name]) is np.ndarray and got[name].dtype == wanted[name].dtype
            np.testing.assert_array_equal(got[name], wanted[name])


def test_a_batch_must_divide():
    class Four:
        size = 4

    parallel.check_divides(8, Four)
    with pytest.raises(InputError, match=r"config\.train\.batch_size is 6, .* 4 devices: choose a multiple of 4"):
        parallel.check_divides(6, Four)
    with pytest.raises(InputError, match=r"config\.evaluate\.batch_size is 0"):
        parallel.check_divides(0, Four, "config.evaluate.batch_size")


def python(code: str, **environment: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100,
                         env={**os.environ, "JAX_PLATFORMS": "cpu", **environment})  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_cpu_devices():
    """Asked for 3; all cores but no more than divide the batches; too late; the environment's word counts first."""
    code = """
import os
from psdiff_jax import parallel
os.sched_getaffinity = lambda _: range(6)
parallel.setup_cpu_devices(%s)
import jax
print(jax.device_count())
parallel.setup_cpu_devices(5)
print(jax.device_count())
"""
    assert python(code % 3).split() == ["3", "3"]
    assert python(code % "0, 8, 12", XLA_FLAGS="").split() == ["4", "4"]
    assert python(code % 3, JAX_NUM_CPU_DEVICES="2").split() == ["2", "2"]


def test_two_processes_train_stop_together_and_agree_with_one(tmp_path):
    """Process 1 alone gets SIGTERM: both save the same step and end; run again, with a SIGTERM before the first step,
    they do so again; run once more, they finish as one process would."""
    for code, output in run_pod(__name__, str(tmp_path), "10", devices=2):
        assert code == 128 + signal.SIGTERM, output
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        stopped = checkpoints.latest_step()
        assert 10 <= stopped < 30
        alone = fit(toy_step, toy_state(), toy_batches, steps=stopped)
        restored, _ = checkpoints.restore_latest(toy_state())  # 4 devices of 2 processes -> 1 device
        np.testing.assert_allclose(restored.params, alone.params, rtol=1e-5)

    for code, output in run_pod(__name__, str(tmp_path), "-1", devices=2):
        assert code == 128 + signal.SIGTERM, output
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        before, stopped = stopped, checkpoints.latest_step()
        assert before < stopped < 30

    first, second = run_pod(__name__, str(tmp_path), "0", devices=2)
    assert (first[0], second[0]) == (0, 0), first[1] + second[1]
    assert f"train: resumed from step {stopped}" in first[1]
    assert "resumed" not in second[1]  # the first process alone speaks
    alone = fit(toy_step, toy_state(), toy_batches, steps=30)
    for i in range(2):
        with np.load(tmp_path / f"process{i}.npz") as final:
            np.testing.assert_allclose(final["params"], alone.params, rtol=1e-5)
            # Rows of both processes, in order, on each of them; and an array in four parts.
            np.testing.assert_array_equal(final["rows"], np.arange(8.0))
            np.testing.assert_array_equal(final["parts"], np.arange(8.0))
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [5, 10, 15, 20, 25, 30]


def main(index: int, folder: Path, stop_at: int) -> None:
    mesh = parallel.make_mesh()

    def stop(step: int, _: Any) -> None:
        if index == 1 and step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    def step_fn(state: Toy, batch: dict[str, jax.Array]) -> Any:
        time.sleep(0.2 if stop_at else 0)  # JAX looks for the signal about once a second
        return toy_step(state, batch)

    if stop_at < 0:
        if index == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(3)

    with MetricWriter(folder) as writer, Checkpoints(folder / "checkpoints") as checkpoints:
        state = fit(step_fn, toy_state(), toy_batches, steps=30, writer=writer, checkpoints=checkpoints, mesh=mesh,
                    log_every=5, checkpoint_every=8, hooks=[(max(stop_at, 0), stop)])  # fmt: skip
        rows = parallel.put_batch(np.arange(4.0) + 4 * index, mesh)
        parts = parallel.put(np.arange(8.0), NamedSharding(mesh, PartitionSpec("data")))
        checkpoints.save(31, {"parts": parts})
        again, _ = checkpoints.restore_latest({"parts": jnp.zeros_like(parts)})
        assert again["parts"].sharding == parts.sharding
    np.savez(folder / f"process{index}.npz", params=parallel.fetch(state.params), rows=parallel.fetch(rows),
             parts=parallel.fetch(again["parts"]))  # fmt: skip


if __name__ == "__main__":
    main(join_pod(*sys.argv[1:4]), Path(sys.argv[4]), int(sys.argv[5]))
