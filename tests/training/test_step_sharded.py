"""PSDiff on 8 devices, in 2 and in 4 processes is PSDiff on 1, with a state on each of them or one that they share.

As a program: trains on all devices of a pod in its ways; results to the folder named.
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from psdiff_jax import parallel
from psdiff_jax.data.options import DataOptions
from psdiff_jax.diffusion.noise import DiffusionOptions
from psdiff_jax.diffusion.samplers import SamplerOptions
from psdiff_jax.evaluation.options import EvaluateOptions
from psdiff_jax.inference.embed import Embedder
from psdiff_jax.inference.embed_split import embed_gallery
from psdiff_jax.inference.predictor import Predictor
from psdiff_jax.models.backbones import OneKey
from psdiff_jax.models.psdiff import PSDiff, PSDiffOptions
from psdiff_jax.training.checkpoint import Checkpoints, named_leaves
from psdiff_jax.training.loop import fit
from psdiff_jax.training.matcher import MatchOptions
from psdiff_jax.training.states import NoiseOptions
from psdiff_jax.training.step import create_state, make_train_step

from ..inference.test_embed_split import Made
from ..pod import join_pod, run_pod
from ..scripts.loading import load_script

pytestmark = pytest.mark.slow
collectives = load_script("step_stats").collectives

IMAGES, HEIGHT, WIDTH, TRUTHS, DIM = 8, 64, 96, 3, 8
STEPS = 20
PODS = {"one": (1, 1), "8 devices": (8, 1), "2 processes": (1, 2), "4 processes": (1, 4)}  # devices of each, processes


def ways(pod: str) -> dict[str, int]:
    """{way: devices that share a state} of a pod: each has its own, or all share one. Every step is compiled anew, so
    processes do one or the other."""
    found = {pod: 1, f"{pod}, shared": np.prod(PODS[pod]).item()}
    left_out = ("one, shared", "2 processes, shared", "4 processes")
    return {way: shards for way, shards in found.items() if way not in left_out}


WAYS = [way for pod in PODS if pod != "one" for way in ways(pod)]


def make_training(mesh):
    """(graphdef, step function, state at step 0)."""
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
    skeleton, shapes = nnx.split(nnx.eval_shape(lambda: PSDiff(options, rngs=OneKey())))
    model = nnx.merge(skeleton, jax.tree_util.tree_map_with_path(draw, shapes))
    # Not Adam: it makes full steps of rounding errors where the gradient is zero (the bias of an attention's keys).
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.01, momentum=0.9))
    graphdef, state = create_state(model, optimizer, jax.random.key(0), ema=True)
    noise = NoiseOptions(num_proposals=12, random_fraction=0.25, rollout_probability=0.5, gt_box_proposals=0)
    sampler = SamplerOptions(num_proposals=12)
    step = make_train_step(graphdef, optimizer, noise, MatchOptions(), sampler, ema_decay=0.9, mesh=mesh)
    return graphdef, step, state


def make_batches(step: int):
    """The rows of this process of `whole_batches`."""
    index, count, _ = parallel.place()
    for batch in whole_batches(step):
        yield {name: rows[IMAGES // count * index :][: IMAGES // count] for name, rows in batch.items()}


def whole_batches(step: int):
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


def run(folder: Path, checkpoints: Checkpoints, shards: int) -> dict[str, np.ndarray]:
    """Trains on all devices with one compiled program; the numbers of every step and the leaves of the state."""
    mesh = parallel.make_mesh(shards)
    graphdef, step, state = make_training(mesh)
    results: dict[str, np.ndarray] = {}
    programs = []

    def noted(state, batch):
        rows = batch["image"].sharding.shard_shape(batch["image"].shape)[0]
        assert rows * jax.device_count() == IMAGES
        if not programs:
            programs.append(step.lower(state, batch).compile())
        # What is compiled takes no arguments that are placed in another way, and under the guard nothing from the host.
        with jax.transfer_guard("disallow"):
            new, metrics = programs[0](state, batch)
        results.update({f"metrics.{int(new.step)}.{name}": np.asarray(v) for name, v in metrics.items()})
        return new, metrics

    placed = parallel.put_sharded(state, mesh)
    held = [(leaf.addressable_shards[0].data.nbytes, leaf.nbytes) for leaf in jax.tree.leaves(placed.opt_state)]
    results["held"] = np.asarray(held).sum(0)
    state = fit(noted, placed, make_batches, steps=STEPS, mesh=mesh, checkpoints=checkpoints)
    for before, after in zip(jax.tree.leaves(placed), jax.tree.leaves(state), strict=True):
        assert before.sharding == after.sharding
    results["parameters"] = np.int64(sum(leaf.nbytes for leaf in jax.tree.leaves(state.params)))
    results["collectives"] = np.asarray(json.dumps(collectives(programs[0].as_text())))
    results |= numbers("state", state)
    with Checkpoints(folder.parent / "one" / "checkpoints") as of_one:  # of one device, opened by all
        restored, _ = of_one.restore_latest(state)
    for leaf, like in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert leaf.sharding == like.sharding
    return results | numbers("opened", restored) | evaluate(folder, graphdef, state)


def numbers(name: str, state) -> dict[str, np.ndarray]:
    leaves = named_leaves(state._replace(key=jax.random.key_data(state.key)))
    return {f"{name}.{leaf_name}": parallel.fetch(leaf) for leaf_name, leaf in leaves}


def evaluate(folder: Path, graphdef, state) -> dict[str, np.ndarray]:
    """A pass over 11 images in batches of 8, which each process of a pod has its share of."""
    options = EvaluateOptions(steps=(2,), batch_size=IMAGES, detection_threshold=0.0)
    params, rest = parallel.fetch((state.params, state.rest))
    predictor, data = Predictor(graphdef, SamplerOptions(num_proposals=12)), DataOptions(image_size=(HEIGHT, WIDTH))
    model = PSDiffOptions(embedding_dim=DIM)
    embedder = Embedder.create(model, DiffusionOptions(), predictor, params, rest, 0, data, options)
    found = embed_gallery(embedder, Made(folder, 11), folder / "shards")[2]
    fields = ("boxes", "scores", "embeddings", "image_index")
    return {f"evaluation.{name}": np.asarray(getattr(found, name)) for name in fields}


def run_on(folder: Path, pod: str) -> dict[str, tuple[Path, dict[str, np.ndarray]]]:
    """Trains on a pod, with a state on each device and with one that they share: {way: (folder, results)} of the first
    process, and that the others say the same."""
    devices, processes = PODS[pod]
    ended = run_pod("tests.training.test_step_sharded", str(folder), pod, count=processes, devices=devices)
    for code, output in ended:
        assert code == 0, output
    found = {}
    for way in ways(pod):
        first, *others = (dict(np.load(folder / way / f"results{index}.npz")) for index in range(processes))
        for other in others:
            assert set(other) == set(first)
            for name in first:
                np.testing.assert_array_equal(other[name], first[name], err_msg=name)
        found[way] = folder / way, first
    return found


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, tuple[Path, dict[str, np.ndarray]]]:
    """(folder, results) of one device, of eight with a state each, of eight that share one, and of processes."""
    folder = tmp_path_factory.mktemp("sharded")
    return {way: found for pod in PODS for way, found in run_on(folder, pod).items()}


@pytest.mark.parametrize("way", WAYS)
def test_many_train_and_evaluate_as_one(results, way):
    one, many = results["one"][1], results[way][1]
    assert set(many) == set(one) and many["state.step"] == STEPS
    for name in sorted(set(one) - {"held", "collectives"}):
        wrong = np.abs(many[name].astype(np.float64) - one[name]).max(initial=0)
        assert wrong <= 1e-5 * max(1.0, np.abs(one[name]).max(initial=0)), (name, wrong)
        if name.startswith("opened."):  # what one device wrote
            np.testing.assert_array_equal(many[name], one[name.replace("opened", "state")], err_msg=name)
    assert len(np.unique(one["evaluation.image_index"])) == 11


def test_what_the_devices_tell_each_other(results):
    """The gradients once, and where the state is shared the parameters once; with one device nothing. No image is
    looked at anywhere but on its device."""
    said = {way: json.loads(str(found["collectives"])) for way, (_, found) in results.items()}
    size = int(results["one"][1]["parameters"])
    assert said["one"] == {}
    for way in ("8 devices", "2 processes"):
        assert set(said[way]) == {"all-reduce"}
    assert 0.99 * size < said["8 devices"]["all-reduce"]["bytes"] < 1.01 * size
    shared = said["8 devices, shared"]
    assert 0.7 * size < shared["all-gather"]["bytes"] <= size  # without the small ones
    summed = sum(shared.get(name, {"bytes": 0})["bytes"] for name in ("all-reduce", "reduce-scatter"))
    assert summed < 1.2 * size and set(shared) <= {"all-reduce", "all-gather", "reduce-scatter"}


def test_a_shared_state_takes_an_eighth_of_the_memory(results):
    held, whole = results["8 devices, shared"][1]["held"]
    assert held < whole / 8 + 0.2 * whole
    held, whole = results["8 devices"][1]["held"]
    assert held == whole


@pytest.mark.parametrize("way", ["8 devices", "8 devices, shared", "4 processes, shared"])
def test_a_checkpoint_of_many_devices_opens_on_others_and_back(results, way, tmp_path):
    _, _, template = make_training(None)
    folder, wanted = results[way]
    with Checkpoints(folder / "checkpoints") as checkpoints:
        restored, data_state = checkpoints.restore_latest(template)
    assert data_state == {"step": STEPS}
    assert jax.tree.structure(restored) == jax.tree.structure(template)
    for name, leaf in named_leaves(restored._replace(key=jax.random.key_data(restored.key))):
        assert leaf.sharding.device_set == {jax.devices()[0]}
        np.testing.assert_array_equal(leaf, wanted[f"state.{name}"], err_msg=name)
    # Saved by one device, it opens on all of them, divided.
    mesh = parallel.make_mesh(jax.device_count())
    with Checkpoints(tmp_path / "back") as checkpoints:
        checkpoints.save(STEPS, restored)
        placed = parallel.put_sharded(template, mesh)
        back, _ = checkpoints.restore_latest(placed)
    for wanted_leaf, leaf, like in zip(*map(jax.tree.leaves, (restored, back, placed)), strict=True):
        assert leaf.sharding == like.sharding
        if not parallel.is_key(leaf):
            np.testing.assert_array_equal(leaf, wanted_leaf)


def main(index: int, folder: Path, pod: str) -> None:
    for way, shards in ways(pod).items():
        with Checkpoints(folder / way / "checkpoints") as checkpoints:
            np.savez(folder / way / f"results{index}.npz", **run(folder / way, checkpoints, shards))


if __name__ == "__main__":
    main(join_pod(*sys.argv[1:4]), Path(sys.argv[4]), sys.argv[5])
