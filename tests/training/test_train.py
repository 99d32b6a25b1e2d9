"""The model that weights are read into."""

import jax
import pytest
from flax import nnx

from psdiff_jax.models.psdiff import PSDiffOptions
from psdiff_jax.training.options import TrainingConfig
from psdiff_jax.training.train import new_model


@pytest.mark.parametrize("backbone", ["tiny", "swin_t", "osnet_x0_25", "mobilenet_v2"])
def test_shapes_are_those_of_the_model(backbone):
    config = TrainingConfig(model=PSDiffOptions(backbone=backbone, dim=32, proposal_attention=True))
    graphs = [nnx.split(nnx.eval_shape(lambda s=s: new_model(config, shapes=s))) for s in (False, True)]
    (graph, state), (fast_graph, fast_state) = graphs
    assert graph == fast_graph
    assert jax.tree.map(lambda v: (v.shape, v.dtype), state) == jax.tree.map(lambda v: (v.shape, v.dtype), fast_state)
