"""A PSDiff step on 8 devices is the step on 1. As a program: trains on all devices, results to the folder named."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from psdiff_jax import parallel
from psdiff_jax.diffusion.samplers import SamplerOptions
from psdiff_jax.models.psdiff import PSDiff, PSDiffOptions
from psdiff_jax.training.checkpoint import Checkpoints, named_leaves
from psdiff_jax.training.loop import fit
from psdiff_jax.training.matcher import MatchOptions
from psdiff_jax.training.states import NoiseOptions
from psdiff_jax.training.step import create_state, make_train_step

pytestmark = pytest.mark.slow

IMAGES, HEIGHT, WIDTH, TRUTHS, DIM = 8, 64, 96, 3, 8
STEPS = 3


def make_training():
    """(step function, state at step 0)."""
    options = PSDiffOptions(
        backbone="tiny",
        dim=16,
        side=3,
        heads=2,
        dynamic_width=4,
        embedding_dim=DIM,
        time_dim=16,
        cascade="paper",
        canonical_size=32.0,
        dtype="float32",
    )
    rng = np.random.default_rng(0)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = jax.tree_util.keystr(path)
        if "scale" in name or "var" in name:
            return jnp.ones(leaf.shape)
        return jnp.asarray(rng.normal(size=leaf.shape) / np.sqrt(max(1, np.prod(leaf.shape[:-1]))), leaf.dtype)

    # NumPy's weights: compiling the model's own initialisers would take as long as the step.
    skeleton, shapes = nnx.split(nnx.eval_shape(lambda: PSDiff(options, rngs=nnx.Rngs(0))))
    model = nnx.merge(skeleton, jax.tree_util.tree_map_with_path(draw, shapes))
    # Not Adam: it makes full steps of rounding errors where the gradient is zero (the bias of an attention's keys).
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.01, momentum=0.9))
    graphdef, state = create_state(model, optimizer, jax.random.key(0), ema=True)
    noise = NoiseOptions(num_proposals=12, random_fraction=0.25, rollout_probability=0.5, gt_box_proposals=0)
    sampler = SamplerOptions(num_proposals=12)
    step = make_train_step(graphdef, optimizer, noise, MatchOptions(), sampler, ema_decay=0.9)
    return step, state


def make_batches(step: int):
    """Images with different numbers of people, so that a loss divided per device would show."""
    while True:
        rng = np.random.default_rng(step)
        corner = rng.uniform(0, 40, (IMAGES, TRUTHS, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(10, 24, corner.shape)], -1).astype(np.float32)
        embeddings = rng.normal(size=(IMAGES, TRUTHS, DIM)).astype(np.float32)
        yield {
            "image": rng.integers(0, 255, (IMAGES, HEIGHT, WIDTH, 3), np.uint8),
            "image_size": np.tile(np.int32([HEIGHT, WIDTH]), (IMAGES, 1)),
            "boxes": boxes,
            "boxes_mask": np.arange(TRUTHS) <= np.arange(IMAGES)[:, None] % TRUTHS,
            "embeddings": embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True),
            "person_ids": np.full((IMAGES, TRUTHS), -1, np.int32),
        }
        step += 1


def run(checkpoints: Checkpoints) -> dict[str, np.ndarray]:
    """Trains on all devices; the numbers of every step and the leaves of the state."""
    mesh = parallel.make_mesh()
    step, state = make_training()
    results: dict[str, np.ndarray] = {}

    def noted(state, batch):
        rows = batch["image"].sharding.shard_shape(batch["image"].shape)[0]
        assert rows * jax.device_count() == IMAGES
        new, metrics = step(state, batch)
        results.update({f"metrics.{int(new.step)}.{name}": np.asarray(v) for name, v in metrics.items()})
        return new, metrics

    state = fit(noted, state, make_batches, steps=STEPS, mesh=mesh, checkpoints=checkpoints)
    kept = named_leaves(state._replace(key=jax.random.key_data(state.key)))
    return results | {f"state.{name}": np.asarray(leaf) for name, leaf in kept}


def run_on(folder: Path, devices: int) -> None:
    # Compiling takes all the time, and optimising most of that.
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    environment = {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    done = subprocess.run([sys.executable, __file__, str(folder)], capture_output=True, text=True, timeout=1200,
                          env={**os.environ, **environment})  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_eight_devices_train_as_one(tmp_path):
    run_on(tmp_path / "8", 8)
    run_on(tmp_path / "1", 1)
    with np.load(tmp_path / "8" / "results.npz") as eight, np.load(tmp_path / "1" / "results.npz") as one:
        assert set(eight.files) == set(one.files)
        assert eight["state.step"] == STEPS
        for name in one:
            wrong = np.abs(eight[name].astype(np.float64) - one[name]).max(initial=0)
            assert wrong <= 1e-5 * max(1.0, np.abs(one[name]).max(initial=0)), (name, wrong)

    # The checkpoint of 8 devices goes on with one.
    _, template = make_training()
    with Checkpoints(tmp_path / "8" / "checkpoints") as checkpoints:
        restored, data_state = checkpoints.restore_latest(template)
    assert data_state == {"step": STEPS}
    assert jax.tree.structure(restored) == jax.tree.structure(template)
    with np.load(tmp_path / "8" / "results.npz") as eight:
        for name, leaf in named_leaves(restored._replace(key=jax.random.key_data(restored.key))):
            assert leaf.sharding.device_set == {jax.devices()[0]}
            np.testing.assert_array_equal(leaf, eight[f"state.{name}"], err_msg=name)


def main(folder: Path) -> None:
    with Checkpoints(folder / "checkpoints") as checkpoints:
        np.savez(folder / "results.npz", **run(checkpoints))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
