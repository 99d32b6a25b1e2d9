"""Sampling on 8 devices is sampling on 1, with every solver. As a program: compares the two, on 8 devices."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psdiff_jax import parallel
from psdiff_jax.diffusion.noise import Diffusion, State
from psdiff_jax.diffusion.samplers import SamplerOptions, sample

pytestmark = pytest.mark.slow

DIFFUSION = Diffusion(embedding_dim=5)
SPECS = [SamplerOptions(6, renewal_threshold=0.5, solver=solver, order=3) for solver in ("ddim", "dpm", "dpm++")]


def contracting(x, t):
    x0 = State(*(0.5 * v for v in x))
    return x0, jax.nn.sigmoid(x.box[..., 0]), (x, x0)


@jax.jit
def run(keys):
    return [sample(contracting, DIFFUSION, spec, keys, 5) for spec in SPECS]


def main():
    assert jax.device_count() == 8
    # Seven images and one row of padding that repeats the first.
    images = np.int32([7, 3, 11, 0, 5, 6, 2, 7])
    mesh = parallel.make_mesh()
    sharded = run(jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(parallel.put_batch(images, mesh)))
    for leaf in jax.tree.leaves(sharded):
        assert leaf.sharding.shard_shape(leaf.shape)[1] == 1, leaf.sharding
    part = images[[2, 0, 5]]
    alone = run(jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(jnp.asarray(part)))
    for many, few in zip(jax.tree.leaves(sharded), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(np.asarray(many)[:, [2, 0, 5]], few, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(np.asarray(many)[:, 7], np.asarray(many)[:, 0], rtol=1e-5, atol=1e-5)
        assert not np.allclose(few[:, 0], few[:, 1], atol=0.1)


def test_neither_devices_nor_neighbours_change_a_result():
    environment = {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, timeout=600,
                          env={**os.environ, **environment})  # fmt: skip
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    main()
