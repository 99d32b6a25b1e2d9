"""The predictor as StableHLO and ONNX: what runs without the package equals the program."""

import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from psdiff_jax.diffusion.noise import Diffusion
from psdiff_jax.diffusion.samplers import SamplerOptions, image_noise, num_draws
from psdiff_jax.errors import InputError
from psdiff_jax.inference.export import INPUTS, ExportedPredictor, drop_unused, write_onnx, write_stablehlo
from psdiff_jax.inference.predictor import Predictions, Predictor
from psdiff_jax.inference.simplify import simplified
from psdiff_jax.models.resnet import max_pool

STEPS = 2
SIZES = np.int32([[64, 96], [50, 90], [64, 60]])
QUERY = np.float32([[4, 4, 30, 40], [10, 10, 20, 30], [20, 5, 50, 45]])
HAS_QUERY = np.array([False, True, False])

# What a user runs who has the file alone.
ALONE = """
import sys
import jax, numpy as np

exported = jax.export.deserialize(open(sys.argv[1], "rb").read())
assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
inputs = np.load(sys.argv[2])
np.savez(sys.argv[3], **exported.call(*(inputs[name] for name in sys.argv[4:])))
assert not [name for name in sys.modules if name.startswith(("psdiff_jax", "flax"))]
"""


@pytest.fixture(scope="module")
def predictors(tiny, tiny_head):
    """The tiny model with crops embedded, and one with depthwise convolutions, a second backbone and a row read-out."""
    crops = tiny.make(replace(tiny.options, reid_backbone=tiny_head, reid_crops=3))
    both = replace(tiny.options, backbone="mobilenet_v2", reid_backbone="osnet_x0_25", readout_rows=2, downsample=2)
    plain = SamplerOptions(num_proposals=10, renewal_threshold=0.5)
    pooled = replace(plain, ensemble=True, solver="dpm++")
    return {
        name: ExportedPredictor(
            model.graphdef, nnx.merge_state(model.params, model.rest), sampler, STEPS, image_size=(64, 96)
        )
        for name, model, sampler in (("crops", crops, plain), ("two backbones", tiny.make(both), pooled))
    }


@pytest.fixture(scope="module")
def case(predictors):
    """(which) -> inputs for three images, one of them with a query, and what the program says with the same noise."""
    rng, made = np.random.default_rng(0), {}

    def make(which: str):
        predictor, width = predictors[which], predictors[which].shapes[2].shape[-1] - 4
        images, index = rng.integers(0, 256, (3, 64, 96, 3)).astype(np.uint8), np.int32([7, 3, 11])
        key, diffusion = jax.random.key(1), Diffusion(embedding_dim=width)
        keys = jax.vmap(partial(jax.random.fold_in, key))(index)
        draws = [image_noise(diffusion, keys, predictor.sampler.num_proposals, i) for i in range(num_draws(STEPS))]
        noise = np.stack([np.concatenate(draw, axis=-1) for draw in draws], axis=1)
        program = Predictor(predictor.graphdef, predictor.sampler)
        batch = {"image": images, "image_size": SIZES, "image_index": index}
        free, held = (program(predictor.variables, {}, batch, key, (STEPS,), boxes)[STEPS] for boxes in (None, QUERY))
        pick = lambda a, b: np.where(HAS_QUERY.reshape(-1, *[1] * (a.ndim - 1)), b, a)  # noqa: E731
        inputs = dict(zip(INPUTS, (images, SIZES, noise, QUERY, HAS_QUERY), strict=True))
        return inputs, jax.tree.map(pick, free, held)

    def first(which: str, count: int):
        if which not in made:
            made[which] = make(which)
        return jax.tree.map(lambda rows: rows[:count], made[which])

    return first


def same(got: Predictions, want: Predictions) -> None:
    np.testing.assert_allclose(got.boxes, want.boxes, atol=2e-3)  # pixels
    np.testing.assert_allclose(got.scores, want.scores, atol=1e-4)
    np.testing.assert_allclose(got.embeddings, want.embeddings, atol=1e-4)
    np.testing.assert_array_equal(got.keep, want.keep)


@pytest.fixture(scope="module")
def onnx_file(predictors, tmp_path_factory):
    """(which) -> its ONNX file, converted once."""
    pytest.importorskip("jax2onnx")
    written = {}

    def write(which: str) -> Path:
        if which not in written:
            written[which] = tmp_path_factory.mktemp("onnx") / "predictor.onnx"
            write_onnx(written[which], predictors[which])
        return written[which]

    return write


@pytest.mark.slow
@pytest.mark.parametrize("which", ["crops", "two backbones"])
def test_stablehlo_runs_without_the_package(predictors, case, which, tmp_path):
    pytest.importorskip("flatbuffers")
    path = tmp_path / "predictor.stablehlo"
    write_stablehlo(path, predictors[which])
    for images in (1, 3):
        inputs, want = case(which, images)
        np.savez(tmp_path / "inputs.npz", **inputs)
        files = [path, tmp_path / "inputs.npz", tmp_path / "outputs.npz"]
        subprocess.run([sys.executable, "-I", "-c", ALONE, *files, *INPUTS], check=True)
        with np.load(tmp_path / "outputs.npz") as outputs:
            same(Predictions(**outputs), want)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["crops", "two backbones"])
def test_onnx_in_onnxruntime(case, onnx_file, which, capfd):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = onnx_file(which)
    capfd.readouterr()
    session = onnxruntime.InferenceSession(path)
    assert not capfd.readouterr().err  # nothing to warn of
    assert [node.name for node in session.get_inputs()] == list(INPUTS)
    assert [node.name for node in session.get_outputs()] == list(Predictions._fields)
    for images in (1, 3):
        inputs, want = case(which, images)
        same(Predictions(*session.run(None, inputs)), want)


@pytest.mark.slow
def test_the_examples_of_the_documentation_run(predictors, onnx_file, tmp_path, monkeypatch):
    """Both, on one image: the embedding of the box, and people with unit embeddings."""
    pytest.importorskip("onnxruntime")
    text = (Path(__file__).parents[2] / "docs/deployment.md").read_text(encoding="utf-8")
    examples = dict(re.findall(r"<!-- example: (\w+) -->\n```python\n(.*?)```", text, re.DOTALL))
    monkeypatch.chdir(tmp_path)
    Path("predictor.onnx").write_bytes(onnx_file("crops").read_bytes())
    write_stablehlo(Path("predictor.stablehlo"), predictors["crops"])
    cv2.imwrite("photo.jpg", np.random.default_rng(0).integers(0, 256, (120, 130, 3), np.uint8))
    names: dict[str, dict] = {"stablehlo": {}, "onnx": {}}
    for name, scope in names.items():
        exec(examples[name], scope)
    assert names["onnx"]["person"].shape == (8,)
    boxes, embeddings = names["stablehlo"]["boxes"], names["stablehlo"]["embeddings"]
    assert len(boxes) == len(embeddings) > 0
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "write", "message"),
    [("flatbuffers", write_stablehlo, "StableHLO needs flatbuffers"), ("jax2onnx", write_onnx, "ONNX needs jax2onnx")],
)
def test_a_missing_package_is_named(predictors, module, write, message, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"{message}.*psdiff-jax\[export\]"):
        write(tmp_path / "file", predictors["crops"])
    assert not list(tmp_path.iterdir())


def test_simplified_computes_the_same_with_less():
    """Calls, constants, repetitions, a scan, and operations that are written out, with an open batch."""

    @jax.jit
    def inner(x):
        return jax.nn.relu(x) + jnp.sum(jnp.arange(4.0) * 2)

    def function(x):
        def step(carry, row):
            return carry + inner(carry) * jnp.cos(jnp.float32(2)), jnp.stack([carry, row + inner(x)], axis=1)

        last, rows = jax.lax.scan(step, x + inner(x), jnp.stack([x, x * inner(x)]))
        return {
            "b": rows,
            "a": jnp.tile(last, (1, 3)),
            "chosen": jax.lax.cond(x[0, 0] > 0, lambda v: v + inner(v), lambda v: jnp.stack([v, v])[1] * 2, x),
            "c": max_pool(jnp.pad(x, ((0, 0), (1, 2)))[..., None, None]),
            "size": jnp.full(x.shape[0], x.shape[0]),
        }

    (batch,) = jax.export.symbolic_shape("B")
    shape = jax.ShapeDtypeStruct((batch, 5), jnp.float32)
    plain = simplified(function, jax.ShapeDtypeStruct((3, 5), jnp.float32))
    x = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    for given in (x, -x):
        for got, want in zip(plain(given), jax.tree.leaves(function(given)), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-6)
    names = [equation.primitive.name for equation in jax.make_jaxpr(simplified(function, shape))(shape).eqns]
    assert names.count("max") == 1 + 4  # of three calls of `inner`, and of the pooling
    assert not {"jit", "custom_jvp_call", "tile", "stack", "pad", "reduce_window_max", "cos", "iota"} & set(names)
    (scan,) = (e for e in jax.make_jaxpr(simplified(function, shape))(shape).eqns if e.primitive.name == "scan")
    body = [equation.primitive.name for equation in scan.params["jaxpr"].eqns]
    assert body.count("max") == 2 and "stack" not in body  # of `carry` and of `x`


def test_unused_constants_are_dropped():
    onnx = pytest.importorskip("onnx")
    make, float_ = onnx.helper, onnx.TensorProto.FLOAT
    constant = lambda name: make.make_tensor(name, float_, [], [1.0])  # noqa: E731
    value = lambda name: make.make_tensor_value_info(name, float_, [])  # noqa: E731
    nodes = [make.make_node("Add", ["outer", "own"], ["y"])]
    body = make.make_graph(nodes, "body", [], [value("y")], [constant("own"), constant("idle")])
    branch = make.make_node("If", ["condition"], ["z"], then_branch=body, else_branch=body)
    condition = make.make_tensor_value_info("condition", onnx.TensorProto.BOOL, [])
    graph = make.make_graph([branch], "main", [condition], [value("z")], [constant("outer"), constant("idle")])
    drop_unused(graph)
    assert [kept.name for kept in graph.initializer] == ["outer"]
    for attribute in graph.node[0].attribute:
        assert [kept.name for kept in attribute.g.initializer] == ["own"]
