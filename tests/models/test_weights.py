"""Weights in .npz files: round trips, parts of a network, and every tensor accounted for."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from psdiff_jax.errors import InputError
from psdiff_jax.models.weights import flatten_state, load_npz, save_npz, state_hash


class Inner(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(2, 3, rngs=rngs), nnx.BatchNorm(3, rngs=rngs)])


class Outer(nnx.Module):
    def __init__(self, seed):
        rngs = nnx.Rngs(seed)
        self.trunk, self.head = Inner(rngs), nnx.Linear(3, 1, rngs=rngs)


NAMES = {
    "head/bias", "head/kernel", "trunk/layers/0/bias", "trunk/layers/0/kernel", "trunk/layers/1/bias",
    "trunk/layers/1/mean", "trunk/layers/1/scale", "trunk/layers/1/var",
}  # fmt: skip


@pytest.fixture
def saved(tmp_path):
    state = nnx.state(Outer(1))
    save_npz(tmp_path / "w.npz", state)
    return tmp_path / "w.npz", state


def test_round_trip_restores_the_network(saved):
    path, state = saved
    assert set(np.load(path).files) == set(flatten_state(state)) == NAMES
    other = Outer(2)
    assert state_hash(nnx.state(other)) != state_hash(state)
    nnx.update(other, load_npz(path, nnx.state(other)))
    assert state_hash(nnx.state(other)) == state_hash(state)
    assert state_hash(load_npz(path, nnx.state(nnx.eval_shape(lambda: Outer(3))))) == state_hash(state)


def test_a_dict_and_a_state_have_the_same_names(saved):
    _, state = saved
    assert set(flatten_state(nnx.to_pure_dict(state))) == NAMES


def test_half_stores_kernels_as_float16(saved, tmp_path):
    _, state = saved
    save_npz(tmp_path / "h.npz", state, half=True)
    stored = np.load(tmp_path / "h.npz")
    assert {stored[n].dtype for n in NAMES if n.endswith("kernel")} == {np.dtype(np.float16)}
    assert {stored[n].dtype for n in NAMES if not n.endswith("kernel")} == {np.dtype(np.float32)}
    loaded = flatten_state(load_npz(tmp_path / "h.npz", state))
    assert all(leaf.dtype == jnp.float32 for leaf in loaded.values())
    np.testing.assert_allclose(loaded["head/kernel"], flatten_state(state)["head/kernel"], rtol=1e-3)


def test_a_part_goes_into_a_part(saved):
    path, state = saved
    target = nnx.state(Outer(2))
    inner = nnx.state(Inner(nnx.Rngs(5)))
    filled = flatten_state(load_npz(path, target, "trunk", "trunk"))
    alone = flatten_state(load_npz(path, inner, "trunk"))
    for name, value in flatten_state(state).items():
        same = (np.asarray(filled[name]) == value).all()
        assert same == (name != "head/kernel"), name  # the head keeps its own; its bias is zero in both
        if name.startswith("trunk/"):
            np.testing.assert_array_equal(alone[name.removeprefix("trunk/")], value)


def test_what_does_not_fit_is_named(saved, tmp_path):
    path, state = saved
    arrays = dict(np.load(path))

    def refused(message, **keys):
        np.savez(tmp_path / "x.npz", **arrays)
        with pytest.raises(InputError, match=message):
            load_npz(tmp_path / "x.npz", state, **keys)

    refused("holds nothing under 'tail'", source="tail")
    refused("no part 'tail'", target="tail")
    kernel = arrays.pop("head/kernel")
    refused(r"x\.npz: lacks 'head/kernel'")
    arrays |= {"head/kernel": kernel.T}
    refused(r"'head/kernel' has shape \(1, 3\), the network needs \(3, 1\)")
    arrays |= {"head/kernel": kernel * np.nan}
    refused("'head/kernel' holds values that are not finite")
    arrays |= {"head/kernel": kernel, "stray": kernel}
    refused("holds, unknown to this network, 'stray'")

    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"cut\.npz: not a readable"):
        load_npz(tmp_path / "cut.npz", state)
    damaged = bytearray(path.read_bytes())
    damaged[100] ^= 255
    (tmp_path / "bit.npz").write_bytes(damaged)
    with pytest.raises(InputError, match=r"bit\.npz"):
        load_npz(tmp_path / "bit.npz", state)
    with pytest.raises(InputError, match=r"cut\.npz/w\.npz: cannot be written \("):
        save_npz(tmp_path / "cut.npz/w.npz", state)
