"""The collaborative denoising layer: its parts against torch and NumPy, its switches, and what depends on what."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from psdiff_jax.models import cdl
from psdiff_jax.models.cdl import CDL, CDLOptions, Prediction

pytestmark = pytest.mark.slow

SPEC = CDLOptions(dim=8, side=2, heads=2, dynamic_width=3, embedding_dim=6, time_dim=5, cascade="paper")
IMAGES, PROPOSALS, CELLS = 2, 4, 4
VARIANTS = {
    "paper": {},
    "no_self_attention": {"self_attention": False},
    "no_dynamic_conv": {"dynamic_conv": False},
    "no_cross_attention": {"cross_attention": False},
    "nothing": {"self_attention": False, "dynamic_conv": False, "cross_attention": False},
    "residual": {"cascade": "residual"},
    "parallel": {"cascade": "parallel"},
    "flatten": {"pool": "flatten"},
    "proposal_attention": {"proposal_attention": True, "towers": 2},
}
# Parameters that a variant has and the paper's preset does not, or the other way round (with a minus).
PARTS = {
    "paper": set(),
    "no_self_attention": {"-self_attention", "-self_norm"},
    "no_dynamic_conv": {"-dynamic_conv", "-dynamic_norm"},
    "no_cross_attention": {"-cross_attention", "-cross_norm"},
    "nothing": {"-self_attention", "-self_norm", "-dynamic_conv", "-dynamic_norm", "-cross_attention", "-cross_norm"},
    "residual": {"skip"},
    "parallel": {"skip"},
    "flatten": {"flatten"},
    "proposal_attention": {"proposal_attention", "proposal_norm"},
}


def random_state(module, seed=0):
    """Abstract module -> (graphdef, state): kernels normal / sqrt(inputs), scales around 1, all else around 0."""
    graphdef, state = nnx.split(module)
    rng = np.random.default_rng(seed)

    def fill(path, value):
        if value.ndim > 1:
            return (rng.normal(size=value.shape) / np.sqrt(value.shape[0])).astype(np.float32)
        return (("scale" in jax.tree_util.keystr(path)) + 0.2 * rng.normal(size=value.shape)).astype(np.float32)

    return graphdef, jax.tree_util.tree_map_with_path(fill, state)


def make(module_class, *args):
    return random_state(nnx.eval_shape(lambda: module_class(*args, rngs=nnx.Rngs(0))))


@cache
def variant(name):
    """(state, jitted layer (state, cells, embedding, t), its gradient for a random weighting of every output)."""
    graphdef, state = make(CDL, dataclasses.replace(SPEC, **VARIANTS[name]))

    def apply(state, *args):
        return nnx.merge(graphdef, state)(*args)

    def objective(state, weights, *args):
        out = apply(state, *args)
        return sum((w * o).sum() for w, o in zip(weights, out, strict=True)), out

    return state, jax.jit(jax.value_and_grad(objective, has_aux=True))


def inputs(seed=0):
    rng = np.random.default_rng(seed)
    cells = rng.normal(size=(IMAGES, PROPOSALS, CELLS, SPEC.dim)).astype(np.float32)
    embedding = rng.normal(size=(IMAGES, PROPOSALS, SPEC.embedding_dim)).astype(np.float32)
    return cells, embedding, np.int32([900, 20])


def weights(logits=1.0, deltas=1.0, embeddings=1.0):
    """A random weight of every output; what the embeddings are made from counts with them."""
    rng = np.random.default_rng(9)
    switches = Prediction(logits, deltas, embeddings, hidden=embeddings)
    widths = Prediction((), (4,), (SPEC.embedding_dim,), (2 * SPEC.dim,))
    return Prediction(
        *(np.float32(on * rng.normal(size=(IMAGES, PROPOSALS, *w))) for on, w in zip(switches, widths, strict=True))
    )


def outputs(name, *args, state=None):
    own, step = variant(name)
    return step(own if state is None else state, weights(), *args)[0][1]


def gradients(name, **on):
    """Gradient of every parameter, by path."""
    state, step = variant(name)
    leaves = jax.tree_util.tree_flatten_with_path(step(state, weights(**on), *inputs())[1])[0]
    return {jax.tree_util.keystr(path): np.asarray(value) for path, value in leaves}


@pytest.mark.parametrize("name", VARIANTS)
def test_switches_add_and_remove_parts_and_all_parts_learn(name):
    found = gradients(name)
    paper = {path.split("'")[1] for path in gradients("paper")}
    mine = {path.split("'")[1] for path in found}
    assert {f"-{part}" for part in paper - mine} | (mine - paper) == PARTS[name]
    for path, gradient in found.items():
        assert np.isfinite(gradient).all(), path
        if "['key']['bias']" in path:
            continue  # a constant added to every key changes no softmax
        assert np.abs(gradient).max() > 1e-6, path
    out = outputs(name, *inputs())
    assert out.logits.shape == (IMAGES, PROPOSALS) and out.deltas.shape == (IMAGES, PROPOSALS, 4)
    assert out.embeddings.shape == (IMAGES, PROPOSALS, SPEC.embedding_dim)
    assert all(v.dtype == jnp.float32 for v in out)


@pytest.mark.parametrize("name", ["paper", "proposal_attention", "flatten"])
def test_permuting_slots_permutes_the_output(name):
    cells, embedding, t = inputs()
    order = np.array([2, 0, 3, 1])
    for got, want in zip(
        outputs(name, cells[:, order], embedding[:, order], t), outputs(name, cells, embedding, t), strict=True
    ):
        np.testing.assert_allclose(got, want[:, order], atol=2e-5)


def test_slots_see_each_other_only_by_slot_attention():
    cells, embedding, t = inputs()
    other = cells.copy()
    other[:, 0] += 1
    for name, independent in (("paper", True), ("proposal_attention", False)):
        before, after = (outputs(name, c, embedding, t).embeddings[:, 1:] for c in (cells, other))
        assert np.allclose(before, after, atol=1e-6) == independent


@pytest.mark.parametrize("name", VARIANTS)
def test_every_input_matters_to_every_output(name):
    cells, embedding, t = inputs()
    base = outputs(name, cells, embedding, t)
    other_cells, other_embedding, _ = inputs(1)
    for changed in ((other_cells, embedding, t), (cells, other_embedding, t), (cells, embedding, np.int32([880, 40]))):
        for got, want in zip(outputs(name, *changed), base, strict=True):
            assert (np.abs(got - want).reshape(IMAGES, -1).max(1) > 1e-3).all()
    # ... and image by image.
    late = outputs(name, cells, embedding, np.int32([900, 500]))
    np.testing.assert_allclose(late.deltas[0], base.deltas[0], atol=1e-6)
    assert np.abs(late.deltas[1] - base.deltas[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("switch", "influenced"),
    [("no_dynamic_conv", False), ("no_cross_attention", True), ("nothing", False), ("paper", True)],
)
def test_the_embedding_enters_the_detection_half_by_the_dynamic_convolution(switch, influenced):
    """F_c = [pooled F_d', F_r']: the first half depends on the embedding exactly where F_r makes dynamic kernels."""
    graphdef, state = make(CDL, dataclasses.replace(SPEC, **VARIANTS[switch]))
    layer = nnx.merge(graphdef, state)
    cells, query = jnp.asarray(inputs()[0]), jnp.asarray(np.random.default_rng(2).normal(size=(2, PROPOSALS, SPEC.dim)))
    interact = jax.jit(layer.interact)
    first, second = (interact(cells, q)[..., : SPEC.dim] for q in (query, query[::-1]))
    assert np.allclose(first, second, atol=1e-6) != influenced


@pytest.mark.parametrize("name", ["paper", "flatten"])
def test_the_position_embedding_tells_cells_apart(name):
    cells, embedding, t = inputs()
    mirrored = cells[:, :, ::-1]
    state, _ = variant(name)
    blank = nnx.State(dict(state))
    blank["position"] = jax.tree.map(np.zeros_like, state["position"])
    with_position = [outputs(name, c, embedding, t).deltas for c in (cells, mirrored)]
    without = [outputs(name, c, embedding, t, state=blank).deltas for c in (cells, mirrored)]
    assert np.abs(with_position[0] - with_position[1]).max() > 1e-3
    # Mean pooling, attention and 1x1 kernels alone cannot; a flattening layer can.
    assert np.allclose(*without, atol=1e-5) == (name == "paper")


@pytest.mark.parametrize(("cascade", "flows"), [("paper", True), ("residual", True), ("parallel", False)])
def test_cascade_decides_whether_boxes_teach_the_embedding_head(cascade, flows):
    of_boxes = gradients(cascade, embeddings=0.0)
    head = [v for path, v in of_boxes.items() if "embedding_head" in path]
    assert len(head) == 2 and all((np.abs(v).max() > 1e-6) == flows for v in head)
    of_embeddings = gradients(cascade, logits=0.0, deltas=0.0)
    for path, gradient in of_embeddings.items():
        detection = any(part in path for part in ("skip", "object_time", "tower", "score", "delta"))
        assert not (detection and gradient.any()), path


def test_attention_is_torchs():
    torch = pytest.importorskip("torch")
    dim, heads = 12, 3
    graphdef, state = make(cdl.Attention, dim, heads)
    ours = nnx.merge(graphdef, state)
    theirs = torch.nn.MultiheadAttention(dim, heads, batch_first=True)
    with torch.no_grad():
        projections = [ours.query, ours.key, ours.value]
        theirs.in_proj_weight.copy_(torch.tensor(np.concatenate([p.kernel[...].T for p in projections])))
        theirs.in_proj_bias.copy_(torch.tensor(np.concatenate([p.bias[...] for p in projections])))
        theirs.out_proj.weight.copy_(torch.tensor(np.asarray(ours.out.kernel[...].T)))
        theirs.out_proj.bias.copy_(torch.tensor(np.asarray(ours.out.bias[...])))
    rng = np.random.default_rng(0)
    query, memory = (rng.normal(size=(5, n, dim)).astype(np.float32) for n in (2, 7))
    want = theirs(*(torch.tensor(v) for v in (query, memory, memory)), need_weights=False)[0]
    np.testing.assert_allclose(ours(query, memory), want.detach().numpy(), atol=2e-5)


def test_reading_with_one_query_is_attention_with_one_query():
    """... in values and in the gradients of everything, although keys and values are never projected."""
    dim, heads = 12, 3
    graphdef, state = make(cdl.Attention, dim, heads)
    rng = np.random.default_rng(0)
    query, memory, upstream = (
        rng.normal(size=shape).astype(np.float32) for shape in ((2, 5, dim), (2, 5, 7, dim), (2, 5, dim))
    )

    def plain(layer, query, memory):
        return layer(query[..., None, :], memory)[..., 0, :]

    def run(function):
        def objective(state, query, memory):
            out = function(nnx.merge(graphdef, state), query, memory)
            return (out * upstream).sum(), out

        return jax.jit(jax.value_and_grad(objective, argnums=(0, 1, 2), has_aux=True))(state, query, memory)

    ((_, want), want_gradients), ((_, got), gradients) = run(plain), run(cdl.Attention.read)
    np.testing.assert_allclose(got, want, atol=1e-5)
    for path, gradient in jax.tree_util.tree_flatten_with_path(gradients)[0]:
        reference = dict(jax.tree_util.tree_flatten_with_path(want_gradients)[0])[path]
        np.testing.assert_allclose(gradient, reference, atol=2e-5, err_msg=jax.tree_util.keystr(path))


def test_dynamic_convolution_in_float64_numpy():
    dim, width = 6, 3
    layer = nnx.merge(*make(cdl.DynamicConv, dim, width))
    rng = np.random.default_rng(0)
    cells, query = rng.normal(size=(4, 5, dim)), rng.normal(size=(4, dim))

    def norm(x, layer_norm):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return np.maximum(x * np.float64(layer_norm.scale[...]) + np.float64(layer_norm.bias[...]), 0)

    want = np.zeros_like(cells)
    for n in range(4):  # each box has kernels of its own
        kernels = query[n] @ np.float64(layer.kernels.kernel[...]) + np.float64(layer.kernels.bias[...])
        first, second = kernels[: dim * width].reshape(dim, width), kernels[dim * width :].reshape(width, dim)
        want[n] = norm(norm(cells[n] @ first, layer.norm1) @ second, layer.norm2)
    np.testing.assert_allclose(layer(jnp.float32(cells), jnp.float32(query)), want, atol=2e-4)


def test_time_code_and_conditioning():
    code = cdl.sinusoid(jnp.int32([0, 1, 1000]), 8)
    for i, t in enumerate((0, 1, 1000)):
        angles = t / 10000 ** (np.arange(4) / 4)
        np.testing.assert_allclose(code[i], np.concatenate([np.sin(angles), np.cos(angles)]), atol=2e-4)
    layer = nnx.merge(*make(cdl.ScaleShift, 3, 4))
    x, time = np.random.default_rng(0).normal(size=(2, 5, 4)), np.random.default_rng(1).normal(size=(2, 3))
    both = (time / (1 + np.exp(-time))) @ np.float64(layer.project.kernel[...]) + np.float64(layer.project.bias[...])
    want = x * (1 + both[:, None, :4]) + both[:, None, 4:]
    np.testing.assert_allclose(layer(jnp.float32(x), jnp.float32(time)), want, atol=1e-5)


def test_a_new_layer_starts_where_it_should():
    """Scores near the focal prior of 0.01, boxes that hardly move, embeddings no longer than their targets."""
    spec = dataclasses.replace(SPEC, dim=32, embedding_dim=32, heads=4)
    rng = np.random.default_rng(0)
    cells, embedding = rng.normal(size=(2, 6, 4, 32)), rng.normal(size=(2, 6, 32))
    out = jax.jit(lambda *args: CDL(spec, rngs=nnx.Rngs(0))(*args))(
        np.float32(cells), np.float32(embedding), np.int32([5, 700])
    )
    assert np.allclose(jax.nn.sigmoid(out.logits), 0.01, rtol=0.8)
    assert np.abs(out.deltas).max() < 0.05
    assert np.linalg.norm(out.embeddings, axis=-1).max() < 2


def test_head_init_xavier_is_wider_than_small_and_changes_the_heads_alone():
    """Xavier uniform has the variance 2 / (inputs + outputs); the score's bias keeps the prior of 0.01."""
    options = dataclasses.replace(SPEC, dim=32, embedding_dim=64)
    small, xavier = (
        CDL(dataclasses.replace(options, head_init=init), rngs=nnx.Rngs(0)) for init in ("small", "xavier")
    )
    heads = {"embedding_head": 0.01, "score": 0.01, "delta": 0.001}
    for name, deviation in heads.items():
        ours, theirs = (np.asarray(getattr(layer, name).kernel[...]) for layer in (small, xavier))
        np.testing.assert_allclose(ours.std(), deviation, rtol=0.25)
        np.testing.assert_allclose(theirs.std(), (2 / sum(theirs.shape)) ** 0.5, rtol=0.25)
    assert small.score.bias[...] == xavier.score.bias[...]
    for path, value in nnx.to_flat_state(nnx.state(small)):
        if path[0] not in heads:
            np.testing.assert_array_equal(value[...], dict(nnx.to_flat_state(nnx.state(xavier)))[path][...])
