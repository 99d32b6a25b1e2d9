"""ONNX teachers: agree with torch on the same weights, in every layout; what is no teacher is refused in one line."""

import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from psdiff_jax.errors import InputError
from psdiff_jax.teacher.exported import PREPROCESSING
from psdiff_jax.teacher.onnx import load_onnx

from ..shared import SHARED

OSNET, PEOPLE = SHARED / "weights" / "osnet_x0_25_msmt17.onnx", SHARED / "reid" / "cuhk03_128x64.tar"
KERNEL = np.random.default_rng(0).normal(size=(5, 3, 3, 3)).astype(np.float32)
CROPS = np.random.default_rng(1).integers(0, 256, (7, 20, 12, 3), np.uint8)


def write(path, shape=("b", 3, 20, 12), *, kernel=KERNEL, tail="flat", kind=TensorProto.FLOAT, inputs=1, outputs=1):
    """A file with a convolution and global pooling; `tail` is what comes after the pooling."""
    nodes, x = [], "crops"
    if kind != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [x], ["cast"], to=TensorProto.FLOAT))
        x = "cast"
    if shape[-1] == 3:
        nodes.append(helper.make_node("Transpose", [x], ["first"], perm=[0, 3, 1, 2]))
        x = "first"
    nodes.append(helper.make_node("Conv", [x, "kernel"], ["conv"], strides=[2, 2], pads=[1, 1, 1, 1]))
    nodes.append(helper.make_node("Relu", ["conv"], ["map"]))
    nodes.append(helper.make_node("GlobalAveragePool", ["map"], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    if tail == "centred":  # by the mean of the batch: what BatchNorm in training mode does
        nodes.append(helper.make_node("ReduceMean", ["flat"], ["mean"], axes=[0]))
        nodes.append(helper.make_node("Sub", ["flat", "mean"], ["centred"]))
    named = [helper.make_tensor_value_info("crops", kind, shape)]
    named += [helper.make_tensor_value_info(f"other{i}", TensorProto.FLOAT, [1]) for i in range(inputs - 1)]
    results = [helper.make_tensor_value_info(tail, TensorProto.FLOAT, None)]
    results += [helper.make_tensor_value_info("conv", TensorProto.FLOAT, None)] * (outputs - 1)
    graph = helper.make_graph(nodes, "net", named, results, [numpy_helper.from_array(kernel, "kernel")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def by_torch(crops, preprocessing="imagenet", kernel=KERNEL):
    """The same network by torch; preprocessing as torchvision and OpenCV define it."""
    x = torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2).double()
    if preprocessing in ("unit", "imagenet"):
        x = x / 255
    if preprocessing == "imagenet":
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        x = (x - mean) / std
    if preprocessing == "raw_bgr":
        x = x.flip(1)
    x = torch.nn.functional.conv2d(x, torch.from_numpy(kernel).double(), stride=2, padding=1)
    return torch.nn.functional.normalize(torch.relu(x).mean((2, 3)), dim=1).numpy()


@pytest.mark.parametrize(
    "shape",
    [("b", 3, 20, 12), (3, 3, 20, 12), (1, 3, 20, 12), ("b", 20, 12, 3), (4, 20, 12, 3), ("b", 3, "h", "w"),
     ("b", "h", "w", 3), ("b", "c", "h", "w"), ("b", 3, 20, "w")],
)  # fmt: skip
def test_every_layout_and_batch_gives_what_torch_gives(tmp_path, shape):
    teacher = load_onnx(write(tmp_path / "net.onnx", shape), (20, 12))
    assert teacher.crop_size == (20, 12) and teacher.dim == 5
    embeddings = teacher.embed(CROPS)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, by_torch(CROPS), atol=1e-5)
    np.testing.assert_allclose(teacher.embed(CROPS[:1]), embeddings[:1], atol=1e-6)


@pytest.mark.parametrize("preprocessing", PREPROCESSING)
def test_preprocessing(tmp_path, preprocessing):
    teacher = load_onnx(write(tmp_path / "net.onnx"), preprocessing=preprocessing)
    np.testing.assert_allclose(teacher.embed(CROPS), by_torch(CROPS, preprocessing), atol=1e-5)


def test_bytes_go_in_as_they_are_where_the_file_takes_bytes(tmp_path):
    path = write(tmp_path / "net.onnx", kind=TensorProto.UINT8)
    np.testing.assert_allclose(load_onnx(path, preprocessing="raw").embed(CROPS), by_torch(CROPS, "raw"), atol=1e-5)
    with pytest.raises(InputError, match=r"net\.onnx: input 'crops' is a tensor\(uint8\), which needs preprocessing"):
        load_onnx(path)


def test_pooled_maps_are_flattened_and_other_ranks_refused(tmp_path):
    teacher = load_onnx(write(tmp_path / "net.onnx", tail="pooled"))
    np.testing.assert_allclose(teacher.embed(CROPS), by_torch(CROPS), atol=1e-5)
    with pytest.raises(InputError, match=r"net\.onnx: output 'map' has shape \(2, 5, 10, 6\) for 2 crops"):
        load_onnx(write(tmp_path / "net.onnx", tail="map"))


def test_the_hash_is_of_all_that_decides(tmp_path):
    def digest(*args, **kwargs):
        return load_onnx(*args, **kwargs).hash

    path, again = write(tmp_path / "a.onnx", ("b", 3, "h", "w")), write(tmp_path / "b.onnx", ("b", 3, "h", "w"))
    assert digest(path, (20, 12)) == digest(again, (20, 12))
    hashes = {digest(path, (20, 12)), digest(path, (24, 12)), digest(path, (20, 12), "unit")}
    hashes |= {digest(write(again, ("b", 3, "h", "w"), kernel=KERNEL * 2), (20, 12))}
    assert len(hashes) == 4


@pytest.mark.parametrize("name", ["a.onnx.data", "weights.bin", f"{'long' * 40}.bin", "folder/weights.bin"])
def test_the_hash_is_of_the_tensors_beside_the_file_too(tmp_path, name):
    """Whatever that file is called, and when the file that names it stays the same."""
    (tmp_path / "folder").mkdir()
    path, hashes = tmp_path / "a.onnx", set()
    for kernel in (KERNEL, KERNEL * 2):
        model = onnx.load(write(path, kernel=kernel))
        (tmp_path / name).unlink(missing_ok=True)  # it would be appended to
        onnx.save(model, path, save_as_external_data=True, location=name, size_threshold=0)
        hashes.add((path.read_bytes(), load_onnx(path).hash))
    assert len({content for content, _ in hashes}) == 1 and len(hashes) == 2


@pytest.mark.parametrize(
    "change, message",
    [
        ({"shape": ("b", 3, "h", "w")}, "leaves the size open: set config.teacher.crop_size"),
        ({"shape": ("b", 1, 20, 12)}, "teachers take colour crops"),
        ({"inputs": 2}, r"has 2 inputs \('crops', 'other0'\)"),
        ({"outputs": 2}, r"has 2 outputs \('flat', 'conv'\)"),
        ({"kind": TensorProto.INT64}, r"input 'crops' is a tensor\(int64\)"),
        ({"kernel": np.full_like(KERNEL, np.nan)}, "zero or not finite"),
        ({"kernel": np.zeros_like(KERNEL)}, "zero or not finite"),
        ({"kernel": KERNEL[:, :2]}, "net.onnx: (cannot be run|not an ONNX file that onnxruntime can open)"),
        ({"tail": "centred"}, "depends on the crops beside it"),
    ],
)
def test_what_is_no_teacher_is_named(tmp_path, change, message):
    with pytest.raises(InputError, match=message) as error:
        load_onnx(write(tmp_path / "net.onnx", **change))
    assert str(error.value).startswith(str(tmp_path / "net.onnx")) and "\n" not in str(error.value)


def test_files_that_are_no_onnx(tmp_path, monkeypatch):
    whole = write(tmp_path / "net.onnx").read_bytes()
    for content in (b"", b"no network at all", whole[: len(whole) // 2]):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(InputError, match=r"bad\.onnx: not an ONNX file") as error:
            load_onnx(tmp_path / "bad.onnx")
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"gone\.onnx: no such ONNX file"):
        load_onnx(tmp_path / "gone.onnx")
    with pytest.raises(InputError, match="preprocessing 'grey': choose one of imagenet"):
        load_onnx(tmp_path / "net.onnx", preprocessing="grey")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match="needs onnxruntime: pip install onnxruntime"):
        load_onnx(tmp_path / "net.onnx")


@pytest.mark.skipif(not (OSNET.is_file() and PEOPLE.is_file()), reason="the real network is not at hand")
def test_a_real_network_knows_people_again_and_wants_imagenet_preprocessing():
    teacher = load_onnx(OSNET, (128, 64))
    assert teacher.crop_size == (256, 128) and teacher.dim == 512
    views = {}
    with tarfile.open(PEOPLE) as tar:
        for member in tar:
            person, _, view = Path(member.name).stem.partition("_")
            if view in ("00", "05") and int(person) < 40:
                image = cv2.imdecode(np.frombuffer(tar.extractfile(member).read(), np.uint8), cv2.IMREAD_COLOR_RGB)
                views[person, view] = cv2.resize(image, (128, 256), interpolation=cv2.INTER_CUBIC)
    people = [person for person, view in sorted(views) if view == "00" and (person, "05") in views]
    cameras = [np.stack([views[person, view] for person in people]) for view in ("00", "05")]

    def first(teacher):  # share of people who are found at once in the other camera
        query, gallery = map(teacher.embed, cameras)
        return ((query @ gallery.T).argmax(1) == np.arange(len(people))).mean()

    good = first(teacher)
    assert good > 0.3 and good > 1.3 * first(load_onnx(OSNET, preprocessing="unit"))
