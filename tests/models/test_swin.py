"""Swin against transformers' SwinBackbone (PyTorch), random weights through the converter; windows by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from psdiff_jax.convert.backbone import convert_backbone
from psdiff_jax.models.backbones import BACKBONES, abstract_backbone
from psdiff_jax.models.swin import SwinSpec, relative_index, shift_mask, split_windows

pytestmark = pytest.mark.slow


def torch_reference(spec: SwinSpec, seed: int):
    """transformers' SwinBackbone with random weights: vectors and tables too, which it starts as zeros and ones."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(
        embed_dim=spec.embed_dim, depths=list(spec.depths), num_heads=list(spec.heads), window_size=spec.window,
        layer_norm_eps=spec.epsilon, out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    torch.manual_seed(seed)
    model = transformers.SwinBackbone(config).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.named_parameters():
        if tensor.ndim == 1 or "bias_table" in name:
            tensor.data.normal_(generator=generator).mul_(1.0 if "table" in name else 0.2)
            if "norm" in name and name.endswith("weight"):
                tensor.data.add_(1.0)
        else:
            tensor.data.mul_(2.0)
    return model


# Swin-B at full depth on a small image: windows are padded and shifted in every stage all the same.
@pytest.mark.parametrize("name, size", [("swin_t", (75, 109)), ("swin_b", (45, 61))])
def test_equals_transformers(name, size):
    torch = pytest.importorskip("torch")
    spec = BACKBONES[name]
    reference = torch_reference(spec, seed=1)
    graphdef, state = nnx.split(abstract_backbone(spec))
    weights = {key: tensor.numpy() for key, tensor in reference.state_dict().items()}
    loaded = convert_backbone(weights, state, "reference")
    assert not [left for left in loaded.left_out if "layernorm." not in left]
    images = np.random.default_rng(0).uniform(0, 255, (1, *size, 3)).astype(np.float32)
    ours = jax.jit(lambda s, x: nnx.merge(graphdef, s)(x))(loaded.state, images)

    scaled = torch.from_numpy(((images - spec.mean) / spec.std).transpose(0, 3, 1, 2).astype(np.float32))
    with torch.no_grad():
        theirs = reference(scaled).feature_maps
    assert len(ours) == len(theirs) == 4
    for mine, other, channels in zip(ours, theirs, spec.channels, strict=True):
        other = other.numpy().transpose(0, 2, 3, 1)
        assert mine.shape == other.shape and mine.shape[-1] == channels
        assert np.abs(np.asarray(mine) - other).max() < 1e-4 * np.abs(other).max()


def test_relative_index():
    """Offsets count from the top left: a query one row below its key is one table row of 2w-1 further."""
    index = relative_index(3)
    assert index[0, 0] == index[8, 8] == 12 and index[0, 8] == 0 and index[8, 0] == 24
    assert index[3, 0] - index[0, 0] == 5 and index[1, 0] - index[0, 0] == 1


@pytest.mark.parametrize("valid", [None, [[7, 4]], [[4, 12], [12, 5]]])
def test_shift_mask_by_hand(valid):
    """Two tokens of a window see one another when neither the border of the image nor the wrap-around is between."""
    window, shift, height, width = 4, 2, 12, 16
    mask = np.asarray(shift_mask(height, width, window, shift, None if valid is None else jnp.asarray(valid)))
    sizes = valid or [[height, width]]
    assert mask.shape == (len(sizes), 12, 16, 16)
    rows, columns = np.indices((height, width))
    rolled = np.roll(np.stack([rows, columns], -1), (-shift, -shift), (0, 1))
    for image, size in enumerate(sizes):
        whole = [-(-length // window) * window for length in size]
        places = split_windows(rolled[None], window)[0]
        for window_mask, tokens in zip(mask[image], places, strict=True):
            for q, one in enumerate(tokens):
                for k, other in enumerate(tokens):
                    near = np.abs(one - other).max() < window  # else one of them came around
                    same = all((a < end) == (b < end) for a, b, end in zip(one, other, whole, strict=True))
                    assert window_mask[q, k] == (near and same)


def test_bfloat16_stays_bfloat16():
    """All matrix products have bfloat16 operands once the parameters are cast, and so have the maps."""
    graphdef, state = nnx.split(abstract_backbone(BACKBONES["swin_toy"]))
    state = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, jnp.bfloat16), state)
    image = jax.ShapeDtypeStruct((1, 40, 50, 3), jnp.float32)
    jaxpr, outputs = jax.make_jaxpr(lambda s, x: nnx.merge(graphdef, s)(x, dtype=jnp.bfloat16), return_shape=True)(
        state, image
    )
    assert all(output.dtype == jnp.bfloat16 for output in outputs)
    text = str(jaxpr)
    assert "dot_general" in text and "preferred_element_type=float32" in text
    operands = [v.aval.dtype for e in jaxpr.eqns if e.primitive.name == "dot_general" for v in e.invars]
    assert all(dtype == jnp.bfloat16 for dtype in operands)
