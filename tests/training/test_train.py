"""The model that weights are read into, and where they are read from."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from psdiff_jax.errors import InputError
from psdiff_jax.models.psdiff import PSDiffOptions
from psdiff_jax.models.weights import flatten_state, save_npz
from psdiff_jax.training.checkpoint import Checkpoints
from psdiff_jax.training.options import TrainingConfig, TrainOptions
from psdiff_jax.training.step import TrainState
from psdiff_jax.training.train import build_model, load_trained, new_model, newest_step, training_mesh


@pytest.mark.parametrize("backbone", ["tiny", "swin_t", "osnet_x0_25", "mobilenet_v2"])
def test_shapes_are_those_of_the_model(backbone):
    config = TrainingConfig(model=PSDiffOptions(backbone=backbone, dim=32, proposal_attention=True))
    graphs = [nnx.split(nnx.eval_shape(lambda s=s: new_model(config, shapes=s))) for s in (False, True)]
    (graph, state), (fast_graph, fast_state) = graphs
    assert graph == fast_graph
    assert jax.tree.map(lambda v: (v.shape, v.dtype), state) == jax.tree.map(lambda v: (v.shape, v.dtype), fast_state)


def test_a_finished_runs_model_file_is_read_where_it_holds_the_newest_weights(tmp_path, tiny):
    config = TrainingConfig(model=tiny.options)
    assert newest_step(tmp_path) == 0
    average = jax.tree.map(lambda v: v + 1, tiny.params)
    for step, ema in ((3, None), (12, average)):
        state = TrainState(jnp.int32(step), tiny.params, tiny.rest, None, ema, jax.random.key(0))
        with Checkpoints(tmp_path / "checkpoints") as checkpoints:
            checkpoints.save(step, state)
        save_npz(tmp_path / "model.npz", nnx.merge_state(tiny.params if ema is None else ema, tiny.rest))
        _, found = load_trained(config, tmp_path, tmp_path / "teacher.npz")
        assert int(found.step) == step and newest_step(tmp_path) == step
        for part, expected in ((found.params, ema or tiny.params), (found.rest, tiny.rest)):
            for a, b in zip(jax.tree.leaves(part), jax.tree.leaves(expected), strict=True):
                np.testing.assert_array_equal(a, b)
    # That of an earlier training in the folder: the checkpoint counts (this one lacks what a training needs).
    save_npz(tmp_path / "model.npz", nnx.merge_state(tiny.params, tiny.rest))
    with pytest.raises(InputError, match=r"checkpoints/12: leaf opt_state"):
        load_trained(config, tmp_path, tmp_path / "teacher.npz")


@pytest.mark.parametrize("of_its_own", [True, False])
def test_a_readout_brings_the_backbone_that_it_reads(tmp_path, tiny, of_its_own):
    """Another run's re-ID backbone, or the only one that it has."""
    options = replace(tiny.options, readout_rows=2, reid_backbone="tiny")
    run = replace(options, reid_backbone="tiny" if of_its_own else "")
    given = nnx.state(new_model(TrainingConfig(model=run, seed=1)))
    save_npz(tmp_path / "model.npz", given)
    config = TrainingConfig(model=options, train=TrainOptions(readout_from=str(tmp_path / "model.npz")))
    found, given = nnx.state(build_model(config, tmp_path)), dict(given)
    source = "reid_backbone" if of_its_own else "backbone"
    for part, expected in (("reid_backbone", source), ("readout", "readout")):
        jax.tree.map(np.testing.assert_array_equal, flatten_state(found[part]), flatten_state(given[expected]))
    pairs = zip(jax.tree.leaves(found["backbone"]), jax.tree.leaves(given["backbone"]), strict=True)
    assert not all(np.array_equal(a, b) for a, b in pairs)  # what finds people is this run's own
    for layer in found["cdl"].values():  # what was learned beside another read-out would be noise
        assert not any(leaf.any() for leaf in jax.tree.leaves(layer["embedding_head"]))


def test_devices_share_what_divides():
    devices = jax.device_count()
    for shards, shape in ((1, (devices, 1)), (0, (1, devices)), (devices, (1, devices))):
        mesh = training_mesh(TrainingConfig(train=TrainOptions(batch_size=2 * devices, shards=shards)))
        assert tuple(mesh.shape.values()) == shape
    for options, message in (
        ({"shards": devices + 1}, f"config.train.shards is {devices + 1}: choose a divisor of the {devices} devices"),
        ({"batch_size": devices + 1}, f"config.train.batch_size is {devices + 1}, which does not divide"),
        ({"batch_size": 2 * devices, "accumulate": 4}, "config.train.batch_size / config.train.accumulate is"),
    ):
        with pytest.raises(InputError, match=message):
            training_mesh(TrainingConfig(train=TrainOptions(**options)))


def test_a_model_of_which_a_part_has_no_weights_is_not_used(tmp_path, tiny):
    """It would find nobody, or rank at random, and nothing would say why."""
    options = replace(tiny.options, readout_rows=2, reid_backbone="tiny")
    run = str(tmp_path / "another/model.npz")
    save_npz(run, nnx.state(new_model(TrainingConfig(model=options))))

    def load(options=options, **given):
        config = TrainingConfig(model=options, train=TrainOptions(init_from=run, **given))
        return load_trained(config, tmp_path, tmp_path / "teacher.npz")

    with pytest.raises(
        InputError, match=r"nothing has trained backbone, reid_backbone, readout; set .*init_parts=\(\)"
    ):
        load(init_parts=("fpn", "cdl"))
    with pytest.raises(InputError, match=r"takes fpn, cdl alone from .*: nothing has trained backbone; "):
        load(init_parts=("fpn", "cdl"), readout_from=run)
    with pytest.raises(
        InputError, match="nothing has trained backbone; "
    ):  # the only one, which a read-out does not bring
        load(replace(options, reid_backbone=""), init_parts=("fpn", "cdl"), readout_from=run)
    assert int(load()[1].step) == int(load(init_parts=("backbone", "fpn", "cdl"), readout_from=run)[1].step) == 0
