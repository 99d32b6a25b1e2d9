"""The reader of OpenVINO's IR against files that openvino writes; what is no readable IR is one line."""

import numpy as np
import pytest

from psdiff_jax.convert.files import read_state_dict
from psdiff_jax.errors import InputError

openvino = pytest.importorskip("openvino")


def constant(array, name):
    node = openvino.opset13.constant(array)
    node.set_friendly_name(name)
    return node


def write(path, compress=False):
    """A convolution, a depthwise one and a linear layer, each with a bias; the tensors by the names they should get."""
    ops, rng = openvino.opset13, np.random.default_rng(0)
    shapes = {
        "stem.weight": (6, 3, 3, 3), "stem.bias": (6,), "12.weight": (6, 1, 3, 3), "12.bias": (6,),
        "head.fc.weight": (5, 6), "head.fc.bias": (5,), "20.weight": (2, 5),
    }  # fmt: skip
    kind = np.float16 if compress else np.float32
    arrays = {name: rng.normal(size=shape).astype(kind).astype(np.float32) for name, shape in shapes.items()}
    image = ops.parameter([1, 3, 8, 8], np.float32, name="image")

    def bias(name, x, layer):
        array = arrays[name]
        node = ops.add(x, constant(array.reshape(1, -1, *[1] * (len(x.shape) - 2)), f"{name}_const"))
        node.set_friendly_name(layer)
        return ops.relu(node)

    x = ops.convolution(image, constant(arrays["stem.weight"], "Copy_stem.weight/Out_const"), [1, 1], *[[1, 1]] * 3)
    x = bias("stem.bias", x, "10")
    grouped = constant(arrays["12.weight"].reshape(6, 1, 1, 3, 3), "374/Fused_Mul_51_const")
    x = ops.group_convolution(x, grouped, [2, 2], *[[1, 1]] * 3)
    x.set_friendly_name("12/WithoutBiases")
    x = ops.reduce_mean(bias("12.bias", x, "12"), constant(np.int64([2, 3]), "axes"), False)
    x = ops.matmul(x, constant(arrays["head.fc.weight"], "head.fc.weight"), False, True)
    x = ops.matmul(bias("head.fc.bias", x, "19"), constant(arrays["20.weight"].T.copy(), "numbers"), False, False)
    x.set_friendly_name("20")
    openvino.save_model(openvino.Model([x], [image], "m"), path, compress_to_fp16=compress)
    return arrays


@pytest.mark.parametrize("compress", [False, True])
def test_what_openvino_writes(tmp_path, compress):
    arrays = write(tmp_path / "a.xml", compress)
    read = read_state_dict(tmp_path / "a.xml")
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        assert read[name].dtype == (np.float16 if compress else np.float32)
        np.testing.assert_array_equal(read[name], array)


def test_damaged_files_are_one_line(tmp_path):
    write(tmp_path / "a.xml")
    text, content = (tmp_path / "a.xml").read_text(), (tmp_path / "a.bin").read_bytes()
    for damaged in (
        "",
        "<html>",
        "<html></html>",
        text[:-99],
        text.replace("to-port", "port"),
        text.replace('"f32"', '"f16"'),
    ):
        (tmp_path / "b.xml").write_text(damaged)
        (tmp_path / "b.bin").write_bytes(content)
        with pytest.raises(InputError, match=r"b\.xml: not a readable OpenVINO IR$"):
            read_state_dict(tmp_path / "b.xml")
    (tmp_path / "a.bin").write_bytes(content[:-9])
    with pytest.raises(InputError, match=r"a\.bin: truncated: a\.xml has weights up to byte \d+$"):
        read_state_dict(tmp_path / "a.xml")
    (tmp_path / "a.bin").unlink()
    with pytest.raises(InputError, match=r"a\.xml: the weights of an IR are in a\.bin beside it, which is missing"):
        read_state_dict(tmp_path / "a.xml")


def test_quantised_weights_are_refused(tmp_path):
    ops = openvino.opset13
    image = ops.parameter([1, 3, 8, 8], np.float32, name="image")
    kernel = ops.multiply(ops.convert(ops.constant(np.ones((4, 3, 1, 1), np.int8)), np.float32), np.float32(0.1))
    x = ops.convolution(image, kernel, [1, 1], [0, 0], [0, 0], [1, 1])
    x.set_friendly_name("conv7")
    openvino.save_model(openvino.Model([x], [image], "m"), tmp_path / "a.xml")
    with pytest.raises(InputError, match=r"a\.xml: the weights of layer 'conv7' are computed; is it quantised\?"):
        read_state_dict(tmp_path / "a.xml")
