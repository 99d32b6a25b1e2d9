"""MobileNetV2's files: torchvision's names, ONNX with folded BatchNorm, and the detectors of Open Model Zoo as IR."""

import jax
import numpy as np
import pytest
from flax import nnx

from psdiff_jax.convert.backbone import convert_backbone, load_backbone, main
from psdiff_jax.convert.files import read_state_dict
from psdiff_jax.convert.mobilenet import folded_names, plain_names, torchvision_names
from psdiff_jax.errors import InputError
from psdiff_jax.models.backbones import BACKBONES, abstract_backbone

from ..shared import SHARED

DETECTOR, FRAMES = SHARED / "weights" / "intel" / "person-detection-0203.xml", SHARED / "prw_c6s1" / "frames"
ZOO = BACKBONES["mobilenet_v2_omz"]


def maps_of(spec, state, images):
    graphdef = nnx.graphdef(abstract_backbone(spec))
    return jax.jit(lambda s, x: nnx.merge(graphdef, s)(x))(state, images)


def near(ours, theirs, tolerance):
    for mine, other in zip(ours, theirs, strict=True):
        other = np.asarray(other, np.float32)
        other = other if mine.shape == other.shape else other.transpose(0, 2, 3, 1)
        assert mine.shape == other.shape
        assert np.abs(np.asarray(mine) - other).max() < tolerance * np.abs(other).max()


def test_names():
    for ours, torchvision in (
        ("stem/conv/kernel", "features.0.0.weight"),
        ("stem/bn/mean", "features.0.1.running_mean"),
        ("blocks/0/depthwise/conv/kernel", "features.1.conv.0.0.weight"),
        ("blocks/0/depthwise/bn/scale", "features.1.conv.0.1.weight"),
        ("blocks/0/project/conv/kernel", "features.1.conv.1.weight"),
        ("blocks/0/project/bn/var", "features.1.conv.2.running_var"),
        ("blocks/1/expand/conv/kernel", "features.2.conv.0.0.weight"),
        ("blocks/16/depthwise/bn/bias", "features.17.conv.1.1.bias"),
        ("blocks/16/project/conv/kernel", "features.17.conv.2.weight"),
        ("blocks/16/project/bn/bias", "features.17.conv.3.bias"),
    ):
        assert torchvision_names(ours) == (torchvision,)
    assert folded_names("stem/bn/bias") == ("features.0.0.bias",)
    assert folded_names("blocks/3/project/bn/bias") == ("features.4.conv.2.bias",)
    assert plain_names("blocks/3/project/bn/bias") == ("blocks.3.project.bias",)
    assert plain_names("blocks/3/project/conv/kernel") == ("blocks.3.project.weight",)
    assert plain_names("stem/bn/scale") == ("stem.bn.weight",)


@pytest.fixture
def torchvision():
    """A torchvision network with random weights."""
    torch = pytest.importorskip("torch")
    from ..models.torch_mobilenet import MobileNetV2

    torch.manual_seed(0)
    return MobileNetV2()


def test_a_file_of_torchvision_is_found_out_and_converted(torchvision, tmp_path, capsys):
    import torch

    torch.save(torchvision.state_dict(), tmp_path / "in.pth")
    assert main([str(tmp_path / "in.pth"), str(tmp_path / "out.npz")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert "torchvision's MobileNetV2, 255 tensors -> mobilenet_v2, 1.84 M numbers" in out[0]
    for kind in ("features.*.conv.*.*.num_batches_tracked (33)", "features.*.*.running_var", "classifier.*.weight"):
        assert kind in out[1]  # running_var of the last convolution, features.18
    state = nnx.state(abstract_backbone(ZOO))
    with pytest.raises(InputError, match=r"lacks 'features\.1\.conv\.-1\.0\.weight'"):
        load_backbone(tmp_path / "in.pth", state)


def test_an_onnx_file_with_folded_batch_norm(torchvision, tmp_path):
    torch, onnx = pytest.importorskip("torch"), pytest.importorskip("onnx")
    torch.onnx.export(torchvision, (torch.zeros(1, 3, 64, 64),), tmp_path / "in.onnx", dynamo=False)
    assert sum(node.op_type == "BatchNormalization" for node in onnx.load(tmp_path / "in.onnx").graph.node) == 0
    spec = BACKBONES["mobilenet_v2"]
    loaded = load_backbone(tmp_path / "in.onnx", nnx.state(abstract_backbone(spec)))
    assert loaded.layout == "MobileNetV2 with folded BatchNorm" and loaded.count == 2 * 51
    images = np.random.default_rng(0).uniform(0, 255, (1, 75, 90, 3)).astype(np.float32)
    scaled = torch.from_numpy(np.float32((images - spec.mean) / spec.std).transpose(0, 3, 1, 2))
    with torch.no_grad():
        near(maps_of(spec, loaded.state, images), torchvision(scaled), 1e-4)


def write_detector(path, compress):
    """An IR as Open Model Zoo has them: a network on BGR of 0..255, with an FPN's convolutions beside the backbone."""
    torch, openvino = pytest.importorskip("torch"), pytest.importorskip("openvino")
    from ..models.torch_mobilenet import MobileNetV2

    class Detector(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = MobileNetV2(expands_first=True)
            self.lateral = torch.nn.ModuleList([torch.nn.Conv2d(c, 8, 1) for c in (32, 96, 320)])

        def forward(self, x):
            maps = self.backbone(x)
            return (*maps, *(lateral(x) for lateral, x in zip(self.lateral, maps[1:], strict=True)))

    torch.manual_seed(0)
    network = Detector()
    network.backbone.features[0][0].weight.data /= 255
    model = openvino.convert_model(network, example_input=torch.zeros(1, 3, 64, 64), input=[-1, 3, -1, -1])
    openvino.save_model(model, path, compress_to_fp16=compress)
    return network


@pytest.mark.parametrize("compress, tolerance", [(False, 1e-4), (True, 1e-2)])
def test_a_detector_as_ir_gives_its_backbone(tmp_path, capsys, compress, tolerance):
    network = write_detector(tmp_path / "in.xml", compress)
    import torch

    arrays = read_state_dict(tmp_path / "in.xml")
    assert len(arrays) == 2 * (53 + 2) and {a.dtype for a in arrays.values()} == {np.dtype("f2" if compress else "f4")}
    loaded = load_backbone(tmp_path / "in.xml", nnx.state(abstract_backbone(ZOO)))
    assert loaded.layout == "MobileNetV2 of Open Model Zoo" and loaded.count == 2 * 52 and len(loaded.left_out) == 6
    assert loaded.notes == [f"{tmp_path / 'in.xml'}: 1 kernel for BGR 0..255 made one for RGB 0..1"]
    images = np.random.default_rng(0).uniform(0, 255, (1, 75, 90, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = network(torch.from_numpy(images[..., ::-1].transpose(0, 3, 1, 2).copy()))[:4]
    near(maps_of(ZOO, loaded.state, images), theirs, tolerance)

    assert main([str(tmp_path / "in.xml"), str(tmp_path / "out.npz")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert "MobileNetV2 of Open Model Zoo, 104 tensors -> mobilenet_v2_omz, 1.84 M numbers" in out[0]
    assert out[1].startswith("left out: ") and "lateral.*.weight (3)" in out[1] and "lateral.*.bias (3)" in out[1]


def test_what_is_wrong_is_named(tmp_path):
    arrays = read_zoo(tmp_path)
    state = nnx.state(abstract_backbone(ZOO))
    plain = dict(arrays)
    last = next(name for name, array in arrays.items() if array.shape == (320, 960, 1, 1))
    stem = next(iter(arrays))
    for change, message in (
        (lambda a: a.pop(last), r"16 blocks of widths .* lacks 'blocks\.16\.depthwise\.bias' and 5 more"),
        (lambda a: a.pop(last.replace("weight", "bias")), r"lacks 'blocks\.16\.project\.bias'"),
        (lambda a: a.update({stem: a[stem][:, :2]}), r"a whole network, such as a detector \(it holds 'neck\.lateral"),
        (lambda a: a.update({stem: a[stem] * np.nan}), "not finite|NaN|nan"),
    ):
        arrays = dict(plain)
        change(arrays)
        with pytest.raises(InputError, match=message):
            convert_backbone(arrays, state, "file.xml")


def read_zoo(tmp_path):
    """Tensors as they are read from an IR, and a neck, by the names that give whole detectors away."""
    write_detector(tmp_path / "in.xml", True)
    neck = {"neck.lateral_convs.0.conv.weight": np.zeros((32, 32, 1, 1), np.float32)}
    return read_state_dict(tmp_path / "in.xml") | neck


@pytest.mark.skipif(not (DETECTOR.is_file() and FRAMES.is_dir()), reason="the detector is not beside the project")
@pytest.mark.parametrize("height, width", [(480, 864), (270, 491)])
def test_person_detection_0203_has_the_maps_of_openvino(height, width):
    """Those that its FPN reads and the one of stride 4, on a frame, in float32."""
    openvino = pytest.importorskip("openvino")
    import cv2
    from openvino.preprocess import PrePostProcessor

    loaded = load_backbone(DETECTOR, nnx.state(abstract_backbone(ZOO)))
    left_out = [name for name in loaded.left_out if ".Ins_Norm." not in name]  # the head's normalisations
    assert loaded.count == 104 and len(left_out) == 38 and len(loaded.left_out) == 38 + 80
    assert {name.split(".")[0] for name in left_out} == {"neck", "bbox_head", "594", "623", "652", "681", "710"}

    model = openvino.Core().read_model(DETECTOR)
    layers = {layer.get_friendly_name(): layer for layer in model.get_ops()}
    taps = [layers[name].output(0) for name in ("397", "423", "484", "518/variance/Fused_Add_")]
    processed = PrePostProcessor(openvino.Model(taps, model.get_parameters()))
    for i in range(4):
        processed.output(i).tensor().set_element_type(openvino.Type.f32)
    model = processed.build()
    model.reshape([1, 3, height, width])
    run = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    frame = cv2.resize(cv2.imread(str(min(FRAMES.iterdir()))), (width, height))
    theirs = run([frame.transpose(2, 0, 1)[None].astype(np.float16)]).values()
    near(maps_of(ZOO, loaded.state, frame[None, :, :, ::-1].astype(np.float32)), theirs, 1e-5)
