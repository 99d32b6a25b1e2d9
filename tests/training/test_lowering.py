"""What cannot be run here is at least a program: step and predictor at full size, for GPUs and TPUs."""

from dataclasses import replace

import jax
import pytest
from flax import nnx

from psdiff_jax.config import from_values
from psdiff_jax.configs.base import get_config
from psdiff_jax.inference.predictor import Predictor
from psdiff_jax.ops.roi_align import choose_backend
from psdiff_jax.training.train import abstract_model, training_mesh

from ..scripts.loading import load_script

pytestmark = pytest.mark.slow

SIZE = 800, 1333
PLATFORMS = ("cuda", "tpu")
step_stats = load_script("step_stats")


def config_for(platform: str):
    """The defaults (ResNet-50, bfloat16), with the RoIAlign that `auto` chooses there."""
    config = from_values(get_config())
    model = replace(config.model, roi_backend=choose_backend(platform))
    return replace(config, model=model, train=replace(config.train, batch_size=2 * jax.device_count(), ema_decay=0.99))


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("saving", [False, True])
def test_a_training_step_lowers(platform, saving):
    config = config_for(platform)
    if saving:
        train = replace(config.train, shards=0, accumulate=2, remat=("backbone", "cdl"))
        config = replace(config, train=train)
    step, _, state, batch = step_stats.abstract_step(config, SIZE, boxes=16)
    lowered = step.trace(state, batch).lower(lowering_platforms=(platform,))
    assert_program(lowered.as_text(), f"x{SIZE[0]}x{SIZE[1]}x3xui8")
    assert training_mesh(config).shape["model"] == (jax.device_count() if saving else 1)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_predictor_lowers(platform):
    config = config_for(platform)
    step_config = replace(config, train=replace(config.train, ema_decay=0.0))
    _, _, state, batch = step_stats.abstract_step(step_config, SIZE, boxes=1)
    graphdef = nnx.graphdef(abstract_model(config))
    images = {name: batch[name] for name in ("image", "image_size")}
    images["image_index"] = jax.ShapeDtypeStruct(images["image"].shape[:1], "int32", sharding=images["image"].sharding)
    traced = Predictor.__call__.trace(
        Predictor(graphdef, config.sampler), state.params, state.rest, images, state.key, (1, 4)
    )
    assert_program(traced.lower(lowering_platforms=(platform,)).as_text(), f"x{SIZE[0]}x{SIZE[1]}x3xui8")


def assert_program(text: str, images: str) -> None:
    """Of these images, in bfloat16, and without a call back to the host."""
    assert images in text and "bf16" in text
    assert "callback" not in text and "SendToHost" not in text
