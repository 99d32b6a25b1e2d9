from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psdiff_jax import parallel
from psdiff_jax.errors import InputError
from psdiff_jax.training.checkpoint import Checkpoints, named_leaves


class Holder(NamedTuple):
    step: Any
    params: Any
    ema: Any
    key: Any


def holder(step: int, ema: bool = False, width: int = 64) -> Holder:
    rng = np.random.default_rng(step)
    params = {"kernel": jnp.asarray(rng.normal(size=(64, width)), jnp.float32),
              "half": jnp.asarray(rng.normal(size=(32, 5)), jnp.bfloat16), "nothing": jnp.zeros((0, 3))}  # fmt: skip
    average = jax.tree.map(lambda v: v + 1, params) if ema else None
    return Holder(jnp.int32(step), params, average, jax.random.key(step))


def plain(state: Holder) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))]


def assert_same(got: Holder, wanted: Holder) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(plain(got), plain(wanted), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def saved(tmp_path) -> Path:
    """A folder with steps 10 and 20 (step 5 was there once)."""
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        for step in (5, 10, 20):
            checkpoints.save(step, holder(step), {"step": step})
    return tmp_path / "checkpoints"


def biggest_file(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_shapes_are_enough_to_restore_into(saved):
    mesh = parallel.make_mesh()
    shapes = parallel.shapes_replicated(jax.eval_shape(lambda: holder(0)), mesh)
    with Checkpoints(saved) as checkpoints:
        state, _ = checkpoints.restore_latest(shapes._replace(key=jax.random.key(0)))
    assert_same(state, holder(20))
    assert state.params["kernel"].sharding == parallel.replicated(mesh)
    assert isinstance(state.params["nothing"], jax.Array)


@pytest.mark.parametrize("ema", [False, True])
def test_everything_comes_back(tmp_path, ema):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_latest(holder(0, ema)) is None
        assert checkpoints.latest_step() is None
        checkpoints.save(3, holder(3, ema), {"step": 3, "seed": 1})
        checkpoints.wait()
        assert checkpoints.latest_step() == 3
        state, data_state = checkpoints.restore_latest(holder(0, ema))
    assert data_state == {"step": 3, "seed": 1}
    assert_same(state, holder(3, ema))
    assert jnp.array_equal(jax.random.normal(state.key, (3,)), jax.random.normal(jax.random.key(3), (3,)))


def test_the_newest_are_kept(saved):
    assert sorted(p.name for p in saved.iterdir()) == ["10", "20"]


def test_saving_does_not_see_what_the_next_step_does_to_the_memory(tmp_path):
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = jnp.zeros(300_000)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": x})
        for _ in range(20):
            x = step(x)
        checkpoints.wait()
        state, _ = checkpoints.restore_latest({"x": jnp.ones(300_000)})
    assert not np.asarray(state["x"]).any()


@pytest.mark.parametrize("harm", [flip_bit, truncate, Path.unlink])
def test_a_damaged_checkpoint_is_passed_over_loudly(saved, harm: Callable[[Path], Any], capfd):
    harm(biggest_file(saved / "20" / "arrays"))
    with Checkpoints(saved) as checkpoints:
        state, data_state = checkpoints.restore_latest(holder(0))
        assert_same(state, holder(10))
        assert data_state == {"step": 10}
        (said,) = [line for line in capfd.readouterr().err.splitlines() if "damaged" in line]
        assert f"{saved / '20'} is damaged: leaf " in said
        assert any(f"leaf {name} " in said for name, _ in named_leaves(holder(0)))
        # Training again to step 20 must be able to save it.
        assert checkpoints.latest_step() == 10
        checkpoints.save(20, holder(20), {"step": 20})
        assert_same(checkpoints.restore_latest(holder(0))[0], holder(20))
    assert (saved / "20.damaged").is_dir()


def test_no_flipped_bit_restores_wrong(saved, capfd):
    """Whatever single bit flips in whatever file: the right values, or the step before, never others."""
    rng, files = np.random.default_rng(0), sorted(p for p in (saved / "20").rglob("*") if p.is_file())
    outcomes = set()
    for trial in range(24):
        file = files[trial % len(files)]
        whole = file.read_bytes()
        if not whole:
            continue
        broken = bytearray(whole)
        broken[rng.integers(len(broken))] ^= 1 << rng.integers(8)
        file.write_bytes(broken)
        with Checkpoints(saved) as checkpoints:
            try:
                state, data_state = checkpoints.restore_latest(holder(0))
            except InputError as error:
                pytest.fail(f"{file}: {error}")
        assert_same(state, holder(data_state["step"]))
        outcomes.add(data_state["step"])
        if (saved / "20.damaged").is_dir():
            (saved / "20.damaged").rename(saved / "20")
        file.write_bytes(whole)
    assert outcomes == {10, 20}  # some bits matter to nobody


def test_all_damaged_is_an_error(saved):
    for step in ("10", "20"):
        flip_bit(biggest_file(saved / step / "manifest"))
    with Checkpoints(saved) as checkpoints, pytest.raises(InputError, match=r"none of the checkpoints \(20, 10\)"):
        checkpoints.restore_latest(holder(0))


def test_another_model_is_an_error_that_names_the_leaf(saved):
    with Checkpoints(saved) as checkpoints:
        with pytest.raises(InputError, match=r"leaf params.kernel is float32 \[64, 64\] in the checkpoint but float32 "
                                             r"\[64, 65\] in this run: .*--workdir"):  # fmt: skip
            checkpoints.restore_latest(holder(0, width=65))
        with pytest.raises(InputError, match=r"leaf ema.half is missing in the checkpoint"):
            checkpoints.restore_latest(holder(0, ema=True))
        with pytest.raises(InputError, match=r"leaf step is int32 \[\] in the checkpoint but float32 \[\]"):
            checkpoints.restore_latest(holder(0)._replace(step=jnp.float32(0)))
        with pytest.raises(InputError, match=r"leaf key is key<fry> \[2\] in the checkpoint but key<rbg>"):
            checkpoints.restore_latest(holder(0)._replace(key=jax.random.key(0, impl="rbg")))
