"""OSNet's files: torchreid's names, ONNX with BatchNorm as it is and folded, every tensor accounted for."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from psdiff_jax.config import from_values
from psdiff_jax.convert.backbone import convert_backbone, load_backbone, main
from psdiff_jax.convert.files import read_state_dict
from psdiff_jax.convert.onnx import module_name
from psdiff_jax.convert.osnet import folded_names, torchreid_names
from psdiff_jax.errors import InputError
from psdiff_jax.models.backbones import BACKBONES, abstract_backbone
from psdiff_jax.models.osnet import OSNetSpec
from psdiff_jax.models.weights import flatten_state
from psdiff_jax.teacher.openvino import load_maps, load_openvino
from psdiff_jax.teacher.step import new_state
from psdiff_jax.training.train import build_model

from ..shared import SHARED

SPEC = OSNetSpec(8, (16, 24, 32))
WEIGHTS = SHARED / "weights"
OSNET = WEIGHTS / "osnet_x0_25_msmt17.onnx"
TEACHER = WEIGHTS / "intel" / "person-reidentification-retail-0277.xml"


def made(spec, names=torchreid_names):
    """A state_dict in PyTorch's axes, with random values."""
    rng, arrays = np.random.default_rng(0), {}
    for name, leaf in flatten_state(nnx.state(abstract_backbone(spec))).items():
        shape = leaf.shape if leaf.ndim == 1 else (leaf.shape[3], leaf.shape[2], *leaf.shape[:2])
        (theirs,) = names(name)
        assert theirs not in arrays
        kernel = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        arrays[theirs] = (kernel if len(shape) > 1 else rng.uniform(0.5, 1, shape)).astype(np.float32)
    return arrays


def test_names():
    for ours, torchreid in (
        ("conv1/conv/kernel", "conv1.conv.weight"),
        ("conv1/bn/mean", "conv1.bn.running_mean"),
        ("conv2/1/conv1/conv/kernel", "conv2.1.conv1.conv.weight"),
        ("conv2/0/streams/0/0/pointwise/kernel", "conv2.0.conv2a.conv1.weight"),
        ("conv2/0/streams/0/0/conv/kernel", "conv2.0.conv2a.conv2.weight"),
        ("conv4/1/streams/3/2/pointwise/kernel", "conv4.1.conv2d.2.conv1.weight"),
        ("conv4/1/streams/1/1/conv/kernel", "conv4.1.conv2b.1.conv2.weight"),
        ("conv3/0/streams/2/0/bn/var", "conv3.0.conv2c.0.bn.running_var"),
        ("conv3/0/gate/fc2/bias", "conv3.0.gate.fc2.bias"),
        ("conv3/0/downsample/bn/scale", "conv3.0.downsample.bn.weight"),
        ("conv3/0/conv3/conv/kernel", "conv3.0.conv3.conv.weight"),
        ("transitions/1/conv/kernel", "conv3.2.0.conv.weight"),
        ("conv5/bn/bias", "conv5.bn.bias"),
    ):
        assert torchreid_names(ours) == (torchreid,)
    assert folded_names("conv2/0/streams/0/0/bn/bias") == ("conv2.0.conv2a.conv2.bias",)
    assert folded_names("conv5/bn/bias") == ("conv5.conv.bias",)
    assert module_name("/conv2/conv2.0/conv2b/conv2b.1/conv1/Conv") == "conv2.0.conv2b.1.conv1"
    assert module_name("/fc/fc.0/Gemm") == "fc.0" and module_name("Conv_3") == ""


def test_a_file_of_torchreid_is_found_out_and_converted(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    arrays = {f"module.{name}": array for name, array in made(BACKBONES["osnet_x0_25"]).items()}
    heads = ("fc.0.weight", "fc.1.running_mean", "classifier.weight", "conv1.bn.num_batches_tracked")
    arrays |= {f"module.{name}": np.zeros(3, np.float32) for name in heads}
    torch.save({"state_dict": {name: torch.from_numpy(a) for name, a in arrays.items()}}, tmp_path / "in.pth")
    assert main([str(tmp_path / "in.pth"), str(tmp_path / "out.npz")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert f"torchreid's OSNet, {len(arrays) - 4} tensors -> osnet_x0_25, 0.14 M numbers" in out[0]
    assert out[1] == "left out: " + "module.fc.*.weight, module.fc.*.running_mean, " + ", ".join(
        f"module.{name}" for name in heads[2:]
    )
    np.testing.assert_array_equal(
        np.load(tmp_path / "out.npz")["conv2/0/streams/1/1/conv/kernel"],
        arrays["module.conv2.0.conv2b.1.conv2.weight"].transpose(2, 3, 1, 0),
    )
    np.savez(tmp_path / "in.npz", **made(SPEC))
    assert main([str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]) == 1
    assert "torchreid's OSNet (depths (2, 2, 2), widths (8, 16, 24, 32))" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: a.pop("conv2.0.conv2b.1.bn.running_var"), r"lacks 'conv2\.0\.conv2b\.1\.bn\.running_var'"),
        (lambda a: a.update({"conv2.0.IN.weight": np.zeros(16)}), r"unknown to this backbone, 'conv2\.0\.IN\.weight'"),
        (
            lambda a: a.update({"conv3.0.gate.fc1.weight": np.zeros((2, 6, 1, 1))}),
            r"'conv3\.0\.gate\.fc1\.weight' has shape \(2, 6, 1, 1\), the backbone needs \(1, 6, 1, 1\)",
        ),
    ],
)
def test_wrong_tensors_are_named(change, message):
    arrays = made(SPEC)
    change(arrays)
    with pytest.raises(InputError, match=message):
        convert_backbone(arrays, nnx.state(abstract_backbone(SPEC)), "file.pth")


def fold(arrays):
    """The same network with BatchNorm folded into the convolutions, by NumPy."""
    folded = {name: array for name, array in arrays.items() if ".bn." not in name}
    for name in [name for name in arrays if name.endswith("bn.weight")]:
        place = name.removesuffix("bn.weight")
        scale, bias, mean, var = (arrays[f"{place}bn.{x}"] for x in ("weight", "bias", "running_mean", "running_var"))
        conv = f"{place}conv" if f"{place}conv.weight" in arrays else f"{place}conv2"
        factor = scale / np.sqrt(var + 1e-5)
        folded[f"{conv}.weight"] = arrays[f"{conv}.weight"] * factor[:, None, None, None]
        folded[f"{conv}.bias"] = bias - mean * factor
    return folded


def write_onnx(path, arrays, anonymous):
    """An ONNX file whose convolutions read these tensors, under numbers instead of names where `anonymous` says so."""
    onnx = pytest.importorskip("onnx")
    names = {name: f"onnx::Conv_{i}" if anonymous(name) else name for i, name in enumerate(arrays)}
    nodes = []
    for name in arrays:
        if name.endswith(".weight") and arrays[name].ndim == 4:
            scope = [""]  # PyTorch writes an item of a list with its list's name: "/conv2/conv2.2/conv2.2.0/conv/Conv"
            for part in name.removesuffix(".weight").split("."):
                scope.append(f"{scope[-1]}.{part}" if part.isdigit() else part)
            inputs = [names[n] for n in (name, name.replace("weight", "bias")) if n in arrays]
            nodes.append(
                onnx.helper.make_node("Conv", ["x", *inputs], [f"y{len(nodes)}"], name="/".join([*scope, "Conv"]))
            )
    tensors = [onnx.numpy_helper.from_array(array, names[name]) for name, array in arrays.items()]
    tensors.append(onnx.numpy_helper.from_array(np.int64([-1]), "/Constant_output_0"))
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [], tensors)), path)


def test_onnx_with_and_without_folded_batch_norm(tmp_path):
    arrays, (graphdef, state) = made(SPEC), nnx.split(abstract_backbone(SPEC))
    fc = {"fc.0.bias": np.zeros(3, np.float32)}
    whole, folded = arrays | fc, fold(arrays) | fc
    write_onnx(tmp_path / "whole.onnx", whole, lambda name: False)
    write_onnx(tmp_path / "folded.onnx", folded, lambda name: name.endswith(("conv.weight", "conv.bias")))
    assert read_state_dict(tmp_path / "whole.onnx").keys() == whole.keys()
    assert read_state_dict(tmp_path / "folded.onnx").keys() == folded.keys()
    image = np.random.default_rng(0).uniform(0, 255, (1, 40, 56, 3)).astype(np.float32)
    apply = jax.jit(lambda s, x: nnx.merge(graphdef, s)(x))
    maps = []
    for name, title in (("whole", "torchreid's OSNet"), ("folded", "OSNet with folded BatchNorm")):
        loaded = load_backbone(tmp_path / f"{name}.onnx", state)
        assert loaded.layout == title and loaded.left_out == ["fc.0.bias"]
        maps.append(apply(loaded.state, image))
    for one, other in zip(*maps, strict=True):
        assert np.abs(one - other).max() < 1e-4 * np.abs(one).max()
    folded.pop("conv3.0.conv1.conv.bias")
    with pytest.raises(InputError, match=r"lacks 'conv3\.0\.conv1\.conv\.bias'"):
        convert_backbone(folded, state, "file")


def test_a_run_and_a_teacher_begin_with_an_onnx_file(tmp_path):
    """A detector has windows and a map of stride 32, a teacher neither; both have the file's weights."""
    arrays = fold(made(BACKBONES["osnet_x0_25"]))
    write_onnx(tmp_path / "in.onnx", arrays, lambda name: False)
    kernel = arrays["conv4.1.conv2d.3.conv2.weight"].transpose(2, 3, 1, 0)
    small = {"dim": 16, "side": 3, "heads": 2, "dynamic_width": 4, "embedding_dim": 8, "time_dim": 16}
    values = {"model": {"backbone": "osnet_x0_25", "backbone_weights": str(tmp_path / "in.onnx"), **small}}
    model = build_model(from_values(values), tmp_path)
    backbone = flatten_state(nnx.state(model.backbone))
    np.testing.assert_array_equal(backbone["conv4/1/streams/3/3/conv/kernel"], kernel)
    assert model.backbone.spec.gate_window and model.backbone.spec.last_stride == 2
    teacher = {"backbone": "osnet_x0_25", "init_from": str(tmp_path / "in.onnx"), "embedding_dim": 8}
    by_fields = {"teacher": teacher | {"backbone": {"stem_width": 16, "widths": [64, 96, 128]}}}
    assert from_values(by_fields).teacher.spec() == BACKBONES["osnet_x0_25"].for_reid()
    state = flatten_state(new_state(from_values({"teacher": teacher}).teacher))
    np.testing.assert_array_equal(state["backbone/conv4/1/streams/3/3/conv/kernel"], kernel)


def test_damaged_onnx_files_are_one_line(tmp_path, monkeypatch):
    write_onnx(tmp_path / "a.onnx", fold(made(SPEC)), lambda name: False)
    content = (tmp_path / "a.onnx").read_bytes()
    for damaged in (content[:-9], content[: len(content) // 2], b"<html>"):
        (tmp_path / "b.onnx").write_bytes(damaged)
        with pytest.raises(InputError, match=r"b\.onnx: not a readable ONNX file, or truncated$"):
            read_state_dict(tmp_path / "b.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(InputError, match="needs onnx: pip install onnx"):
        read_state_dict(tmp_path / "a.onnx")


@pytest.mark.skipif(not OSNET.is_file(), reason="OSNet's weights are not beside the project")
def test_msmt17_weights_give_the_embeddings_of_onnxruntime():
    """By our conv5 map and the file's own fully connected layer; and all that is left out is that layer."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    spec = BACKBONES["osnet_x0_25"].for_reid()
    graphdef, state = nnx.split(abstract_backbone(spec))
    loaded, arrays = load_backbone(OSNET, state), read_state_dict(OSNET)
    head = [f"fc.0.{x}" for x in ("weight", "bias")]
    head += [f"fc.1.{x}" for x in ("weight", "bias", "running_mean", "running_var")]
    assert sorted(loaded.left_out) == sorted(head) and loaded.count == len(arrays) - len(head)

    crops = np.random.default_rng(0).integers(0, 256, (3, 8, 4, 3)).repeat(32, 1).repeat(32, 2).astype(np.float32)
    maps = jax.jit(lambda s, x: nnx.merge(graphdef, s)(x))(loaded.state, crops)
    weight, bias, scale, shift, mean, var = (arrays[name] for name in head)
    x = np.asarray(maps[-1]).mean((1, 2)) @ weight.T + bias
    ours = np.maximum((x - mean) / np.sqrt(var + 1e-5) * scale + shift, 0)
    scaled = ((crops - spec.mean) / spec.std).transpose(0, 3, 1, 2).astype(np.float32)
    (theirs,) = onnxruntime.InferenceSession(OSNET, providers=["CPUExecutionProvider"]).run(None, {"images": scaled})
    assert theirs.shape == ours.shape == (3, 512) and theirs.std() > 0.1
    assert np.abs(ours - theirs).max() < 1e-3 * np.abs(theirs).max()


OMZ = OSNetSpec(
    32,
    (128, 192, 256),
    instance_norm=True,
    context_gates=True,
    gate_window=None,
    last_stride=1,
    embedding_dim=24,
    head=True,
)


def write_omz(path, spec=OMZ):
    """An IR as Open Model Zoo has them, of crops of 256x128 pixels, with its head behind the maps."""
    torch, openvino = pytest.importorskip("torch"), pytest.importorskip("openvino")
    from ..models.torch_osnet import OSNet

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            width, dim = spec.widths[-1], spec.embedding_dim
            self.osnet, self.pool = OSNet(spec), torch.nn.Conv2d(width, width, (16, 8), groups=width)
            self.fc, self.norm, self.slope = torch.nn.Linear(width, dim), torch.nn.BatchNorm1d(dim), torch.nn.PReLU()

        def forward(self, x):
            maps = self.osnet(x)
            return (*maps, self.slope(self.norm(self.fc(self.pool(maps[-1]).flatten(1)))))

    torch.manual_seed(0)
    network = Network().eval()
    torch.nn.init.uniform_(network.norm.running_var, 0.5, 2), torch.nn.init.normal_(network.norm.running_mean)
    torch.nn.init.uniform_(network.norm.weight, 0.5, 2), torch.nn.init.normal_(network.norm.bias)
    model = openvino.convert_model(network, example_input=torch.zeros(1, 3, 256, 128), input=[1, 3, 256, 128])
    openvino.save_model(model, path, compress_to_fp16=False)
    return network


def test_an_ir_of_open_model_zoo_by_its_order(tmp_path):
    """openvino's conversion of a PyTorch network with instance normalisation and context gates; its maps are ours."""
    network = write_omz(tmp_path / "in.xml")
    import torch

    graphdef, state = nnx.split(abstract_backbone(OMZ))
    loaded = load_backbone(tmp_path / "in.xml", state)
    assert loaded.layout == "OSNet of Open Model Zoo"
    assert len(loaded.left_out) == 3 * 3 * 2  # scale and shift of second gates, for all streams but the first
    image = np.random.default_rng(0).uniform(0, 255, (1, 256, 128, 3)).astype(np.float32)

    @jax.jit
    def maps_and_embedding(state, image):
        net = nnx.merge(graphdef, state)
        *maps, conv5 = net(image)
        return *maps, net.head(conv5)

    ours = maps_and_embedding(loaded.state, image)
    scaled = torch.from_numpy(((image - OMZ.mean) / OMZ.std).transpose(0, 3, 1, 2).astype(np.float32))
    with torch.no_grad():
        theirs = [x.numpy().transpose(0, 2, 3, 1) if x.ndim > 2 else x.numpy() for x in network(scaled)]
    theirs[-1] /= np.linalg.norm(theirs[-1])
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape and np.abs(np.asarray(mine) - other).max() < 1e-4 * np.abs(other).max()

    plain = abstract_backbone(dataclasses.replace(OMZ, head=False))
    left_out = load_backbone(tmp_path / "in.xml", nnx.split(plain)[1]).left_out
    assert len(left_out) == 3 * 3 * 2 + 5  # and the head: weights and biases of two layers, the slope
    arrays = read_state_dict(tmp_path / "in.xml")
    twice = next(name for name in loaded.left_out if name.endswith(".weight") and arrays[name].ndim == 1)
    with pytest.raises(InputError, match="no layout that is known here"):
        convert_backbone({**arrays, twice: arrays[twice] + 1}, state, "other.xml")  # gates that are not shared


@pytest.mark.skipif(not TEACHER.is_file(), reason="Intel's network is not beside the project")
def test_person_reidentification_0277_has_the_maps_of_openvino():
    pytest.importorskip("openvino")
    spec = BACKBONES["osnet_omz"].for_reid()
    graphdef, state = nnx.split(abstract_backbone(spec))
    loaded = load_backbone(TEACHER, state)
    assert loaded.count == 239 and len(loaded.left_out) == 18 + 2 + 2 + 1  # repeated gates, and the head
    crops = np.random.default_rng(0).integers(0, 256, (2, 8, 4, 3)).repeat(32, 1).repeat(32, 2).astype(np.uint8)
    ours = jax.jit(lambda s, x: nnx.merge(graphdef, s)(x))(loaded.state, crops.astype(np.float32))
    for mine, other in zip(ours, load_maps(TEACHER, ["749", "936", "1123", "1126"], (256, 128))(crops), strict=True):
        assert mine.shape == other.shape and np.abs(np.asarray(mine) - other).max() < 1e-4 * np.abs(other).max()


@pytest.mark.skipif(not TEACHER.is_file(), reason="Intel's network is not beside the project")
def test_person_reidentification_0277_on_a_box_that_is_a_crop():
    """The head on the whole of a crop as a box has the embeddings of openvino: no cell is interpolated."""
    pytest.importorskip("openvino")
    spec = dataclasses.replace(BACKBONES["osnet_omz"].for_reid(), head=True)
    graphdef, state = nnx.split(abstract_backbone(spec))
    loaded = load_backbone(TEACHER, state)
    assert loaded.count == 239 + 5 and len(loaded.left_out) == 18
    crops = np.random.default_rng(0).integers(0, 256, (3, 8, 4, 3)).repeat(32, 1).repeat(32, 2).astype(np.uint8)

    @jax.jit
    def embed(state, image):
        net, boxes = nnx.merge(graphdef, state), np.float32([[[0, 0, 128, 256]]] * len(crops))
        return net.head.embed(net(image)[-1], boxes, 16, np.int32([[256, 128]] * len(crops)))

    ours = np.asarray(embed(loaded.state, crops.astype(np.float32)))[:, 0]
    theirs = load_openvino(TEACHER).embed(crops)
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
