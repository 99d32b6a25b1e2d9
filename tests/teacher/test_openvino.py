"""OpenVINO teachers: agree with NumPy on the same weights; what is no teacher is refused in one line."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from psdiff_jax.data.schema import Annotations
from psdiff_jax.errors import InputError
from psdiff_jax.teacher.crop_teacher import network_targets
from psdiff_jax.teacher.crops import crop_boxes
from psdiff_jax.teacher.exported import PREPROCESSING
from psdiff_jax.teacher.openvino import load_maps, load_openvino

from ..shared import SHARED
from ..stored import stored

INTEL, SEQUENCE = SHARED / "weights" / "intel" / "person-reidentification-retail-0277.xml", SHARED / "prw_c6s1"
KERNEL = np.random.default_rng(0).normal(size=(5, 3, 3, 3)).astype(np.float32)
CROPS = np.random.default_rng(1).integers(0, 256, (19, 20, 12, 3), np.uint8)
FROZEN = (["conversion_parameters", "reverse_input_channels"], "True")


def write(path, shape=(1, 3, 20, 12), *, kernel=KERNEL, tail="flat", kind=np.float32, inputs=1, outputs=1, info=()):
    """An IR with a convolution, global pooling and normalisation; `tail` is what is left of it or comes after it."""
    crops = ops.parameter(openvino.PartialShape(list(shape)), kind, name="crops")
    x = crops if kind == np.float32 else ops.convert(crops, "f32")
    x = ops.transpose(x, ops.constant([0, 3, 1, 2])) if shape[-1] == 3 else x
    maps = ops.relu(ops.convolution(x, ops.constant(kernel), [2, 2], [1, 1], [1, 1], [1, 1]))
    pooled = ops.reduce_mean(maps, ops.constant([2, 3]), tail == "pooled")
    flat = ops.normalize_l2(pooled, ops.constant([1]), 1e-12, "max")
    results = {"maps": maps, "pooled": pooled, "flat": flat}
    if tail == "centred":  # by the mean of the batch: what BatchNorm in training mode does
        results["centred"] = ops.subtract(pooled, ops.reduce_mean(pooled, ops.constant([0]), True))
    others = [ops.parameter([1], np.float32, name=f"other{i}") for i in range(inputs - 1)]
    model = openvino.Model([results[tail], *[maps] * (outputs - 1)], [crops, *others], "net")
    for entry in info:
        model.set_rt_info(entry[1], entry[0])
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


def by_numpy(crops, preprocessing="imagenet", kernel=KERNEL):
    """The same network in float64; preprocessing as torchvision and OpenCV define it."""
    x = np.asarray(crops, np.float64)
    if preprocessing in ("unit", "imagenet"):
        x = x / 255
    if preprocessing == "imagenet":
        x = (x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    if preprocessing == "raw_bgr":
        x = x[..., ::-1]
    x = maps_by_numpy(x, kernel).mean((1, 2))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def maps_by_numpy(x, kernel=KERNEL):
    """The maps before it pools, of what goes in."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (1, 2))
    return np.maximum(np.einsum("bijchw,ochw->bijo", windows[:, ::2, ::2], kernel.astype(np.float64)), 0)


@pytest.mark.parametrize(
    "shape",
    [
        (1, 3, 20, 12),
        (4, 3, 20, 12),
        (-1, 3, 20, 12),
        (1, 20, 12, 3),
        (-1, 20, 12, 3),
        (-1, 3, -1, -1),
        (1, -1, -1, -1),
    ],
)
def test_every_layout_and_batch_gives_what_numpy_gives(tmp_path, shape):
    teacher = load_openvino(write(tmp_path / "net.xml", shape), (20, 12))
    assert teacher.crop_size == (20, 12) and teacher.dim == 5
    embeddings = teacher.embed(CROPS)  # more than a batch of any of them
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, by_numpy(CROPS), atol=1e-5)
    np.testing.assert_allclose(teacher.embed(CROPS[:1]), embeddings[:1], atol=1e-6)


@pytest.mark.parametrize("preprocessing", PREPROCESSING)
def test_preprocessing(tmp_path, preprocessing):
    teacher = load_openvino(write(tmp_path / "net.xml"), preprocessing=preprocessing)
    np.testing.assert_allclose(teacher.embed(CROPS), by_numpy(CROPS, preprocessing), atol=1e-5)


def test_the_file_says_whether_its_channels_are_reversed(tmp_path):
    teacher = load_openvino(write(tmp_path / "net.xml", info=[FROZEN]))
    np.testing.assert_allclose(teacher.embed(CROPS), by_numpy(CROPS, "raw_bgr"), atol=1e-5)
    other = load_openvino(write(tmp_path / "net.xml", info=[(FROZEN[0], "False")]))
    np.testing.assert_allclose(other.embed(CROPS), by_numpy(CROPS, "imagenet"), atol=1e-5)
    assert teacher.interpolation == "bilinear"
    assert load_openvino(tmp_path / "net.xml", interpolation="bicubic").interpolation == "bicubic"


@pytest.mark.parametrize("kind", [np.float16, np.uint8])
def test_inputs_of_other_types(tmp_path, kind):
    path = write(tmp_path / "net.xml", kind=kind)
    np.testing.assert_allclose(load_openvino(path, preprocessing="raw").embed(CROPS), by_numpy(CROPS, "raw"), atol=1e-5)
    if kind == np.uint8:
        with pytest.raises(InputError, match=r"net\.xml: input 'crops' is a u8, which needs preprocessing raw"):
            load_openvino(path)


class Dataset:
    """One image with two boxes, of which one is resized."""

    name = "pair"

    def __init__(self):
        self.image = np.random.default_rng(2).integers(0, 256, (48, 64, 3), np.uint8)

    def source(self, split: str):
        return [stored(self.image[..., ::-1])]

    def annotations(self, split: str) -> Annotations:
        boxes = np.asarray([[5, 6, 17, 26], [20, 3, 51, 44]], np.float32)
        one = np.zeros(1, np.int32)
        return Annotations(("pair.png",), np.full((1, 2), (48, 64), np.int32), one, one, (boxes,), (np.arange(2),))


def test_targets_are_of_crops_that_are_resized_bilinearly(tmp_path, capsys):
    teacher, dataset = load_openvino(write(tmp_path / "net.xml")), Dataset()
    targets = network_targets(teacher, dataset, folder=tmp_path).all("train")
    boxes = dataset.annotations("train").boxes[0]
    first, second = (crop_boxes(dataset.image, boxes, (20, 12), way) for way in ("bilinear", "bicubic"))
    np.testing.assert_allclose(targets, by_numpy(first), atol=1e-5)
    bicubic = replace(teacher, interpolation="bicubic")
    np.testing.assert_allclose(
        network_targets(bicubic, dataset, folder=tmp_path).all("train"), by_numpy(second), atol=1e-5
    )
    assert "targets-train.npy is stale (interpolation changed)" in capsys.readouterr().err


def test_the_hash_is_of_all_that_decides(tmp_path):
    """Of the .bin too: where the weights alone change, the .xml stays as it is."""

    def digest(name, *args):
        return load_openvino(tmp_path / f"{name}.xml", *args).hash

    write(tmp_path / "a.xml", (1, 3, -1, -1))
    for name in ("same", "weights", "graph"):
        for suffix in (".xml", ".bin"):
            shutil.copy(tmp_path / f"a{suffix}", tmp_path / f"{name}{suffix}")
    assert digest("a", (20, 12)) == digest("same", (20, 12))
    content = (tmp_path / "weights.bin").read_bytes().replace(KERNEL.tobytes(), (KERNEL * 2).tobytes())
    (tmp_path / "weights.bin").write_bytes(content)
    text = (tmp_path / "graph.xml").read_text().replace('"net"', '"other"')
    (tmp_path / "graph.xml").write_text(text)
    hashes = {digest("a", *args) for args in (((20, 12),), ((24, 12),), ((20, 12), "unit"))}
    assert len(hashes | {digest("weights", (20, 12)), digest("graph", (20, 12))}) == 5


@pytest.mark.parametrize(
    "change, message",
    [
        ({"shape": (1, 3, -1, -1)}, "leaves the size open: set config.teacher.crop_size"),
        ({"shape": (1, 1, 20, 12), "kernel": KERNEL[:, :1]}, "teachers take colour crops"),
        ({"inputs": 2}, r"has 2 inputs \('crops', 'other0'\)"),
        ({"outputs": 2}, "has 2 outputs"),
        ({"kind": np.int64}, r"input 'crops' is a i64; teachers take f32, f16, u8"),
        ({"kernel": np.full_like(KERNEL, np.nan)}, "zero or not finite"),
        ({"kernel": np.zeros_like(KERNEL)}, "zero or not finite"),
        ({"tail": "centred", "shape": (-1, 3, 20, 12)}, "depends on the crops beside it"),
        ({"tail": "maps"}, r"has shape \(1, 5, 10, 6\) for 1 crops"),
    ],
)
def test_what_is_no_teacher_is_named(tmp_path, change, message):
    with pytest.raises(InputError, match=message) as error:
        load_openvino(write(tmp_path / "net.xml", **change))
    assert str(error.value).startswith(str(tmp_path / "net.xml")) and "\n" not in str(error.value)


def test_a_network_of_other_channels_is_named(tmp_path):
    path = write(tmp_path / "net.xml", (1, -1, -1, -1), kernel=KERNEL[:, :2])
    with pytest.raises(
        InputError, match=r"cannot be run on crops of shape \(1, 3, 20, 12\) \(Data batch channel"
    ) as error:
        load_openvino(path, (20, 12))
    assert "\n" not in str(error.value)


def test_pooled_maps_are_flattened(tmp_path):
    teacher = load_openvino(write(tmp_path / "net.xml", tail="pooled"))
    np.testing.assert_allclose(teacher.embed(CROPS), by_numpy(CROPS), atol=1e-5)


@pytest.mark.parametrize(
    "xml, weights, message",
    [
        (b"", b"", r"net\.xml: not an OpenVINO IR; name its \.xml"),
        (b"no network at all", b"", r"net\.xml: not an OpenVINO IR"),
        (0.5, 1.0, r"net\.xml: not an IR that OpenVINO can open \(Start-end tags mismatch"),
        (1.0, 0.5, r"net\.xml: not an IR that OpenVINO can open \(Incorrect weights in bin file!\)"),
        (1.0, None, r"net\.bin: missing; an OpenVINO IR is an \.xml and a \.bin"),
        (None, 1.0, r"net\.xml: no such OpenVINO IR"),
    ],
)
def test_damaged_and_missing_files(tmp_path, xml, weights, message):
    path = write(tmp_path / "net.xml")
    for file, share in ((path, xml), (path.with_suffix(".bin"), weights)):
        content = file.read_bytes()
        file.unlink()
        if share is not None:
            file.write_bytes(share if isinstance(share, bytes) else content[: int(share * len(content))])
    with pytest.raises(InputError, match=message) as error:
        load_openvino(path)
    assert "\n" not in str(error.value)


def test_without_the_package(tmp_path, monkeypatch):
    path = write(tmp_path / "net.xml")
    with pytest.raises(InputError, match="preprocessing 'grey': choose one of imagenet"):
        load_openvino(path, preprocessing="grey")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match=r"needs openvino: pip install 'psdiff-jax\[openvino\]'"):
        load_openvino(path)


@pytest.mark.skipif(not (INTEL.is_file() and SEQUENCE.is_dir()), reason="the real network is not at hand")
def test_a_real_network_gives_the_targets_that_were_made_with_it():
    teacher = load_openvino(INTEL)
    assert teacher.crop_size == (256, 128) and teacher.dim == 256
    with np.load(SEQUENCE / "teacher_omz0277.npz") as file:
        names, boxes, expected = (file[key][::100] for key in ("image_name", "box_xywh", "embedding"))
    images = [cv2.imread(str(SEQUENCE / "frames" / name), cv2.IMREAD_COLOR_RGB) for name in names]
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)

    def cosines(interpolation):
        crops = [
            crop_boxes(image, box[None], (256, 128), interpolation)[0]
            for image, box in zip(images, corners, strict=True)
        ]
        return (teacher.embed(np.stack(crops)) * expected.astype(np.float32)).sum(1)

    assert cosines(teacher.interpolation).min() > 0.999
    assert cosines("bicubic").mean() < 0.997


def test_maps_of_whole_images(tmp_path):
    path = write(tmp_path / "net.xml")
    [relu] = [node for node in openvino.Core().read_model(path).get_ops() if node.get_type_name() == "Relu"]
    images = np.random.default_rng(2).integers(0, 256, (3, 32, 40, 3), np.uint8)
    [maps] = load_maps(path, [relu.get_friendly_name()], (32, 40))(images)
    np.testing.assert_allclose(maps, maps_by_numpy(images[..., ::-1].astype(float)), rtol=1e-4, atol=1e-2)
    with pytest.raises(InputError, match=r"net\.xml: has no node 'none'; look its names up"):
        load_maps(path, ["none"], (32, 40))


def test_the_import_reports_to_nobody(tmp_path):
    """openvino would send an event from a forked process: here its package for that is one that leaves a trace."""
    reported = tmp_path / "reported"
    (tmp_path / "openvino_telemetry").mkdir()
    (tmp_path / "openvino_telemetry" / "__init__.py").write_text(f"open({str(reported)!r}, 'w').close()\n")
    network = write(tmp_path / "net.xml")
    code = "import {}, sys; from psdiff_jax.teacher.openvino import load_openvino; load_openvino(sys.argv[1])"
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    for first, is_reported in (("sys", False), ("openvino", True)):  # the second shows that the trace would be seen
        subprocess.run([sys.executable, "-c", code.format(first), network], env=env, check=True)
        assert reported.exists() == is_reported
