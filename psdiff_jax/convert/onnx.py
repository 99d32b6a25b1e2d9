"""The tensors of an ONNX file by the names that they had in PyTorch. Needs `onnx`."""

from pathlib import Path

import numpy as np

from psdiff_jax.errors import InputError

_FLOATS = ("FLOAT", "FLOAT16", "DOUBLE", "BFLOAT16")


def read_onnx(path: Path) -> dict[str, np.ndarray]:
    """Name -> array of the floating-point initializers; integers in such a file are shapes and axes, not weights.

    PyTorch's exporter renames what it folds ("onnx::Conv_1047"). Such a tensor is named after the module whose
    convolution or linear layer reads it: "/conv2/conv2.0/conv1/conv/Conv" -> "conv2.0.conv1.conv.weight" and ".bias".

    Raises:
      InputError: not an ONNX file, or `onnx` is missing.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise InputError(f"{path}: reading the weights of an ONNX file needs onnx: pip install onnx") from error
    try:
        graph = onnx.load(str(path)).graph
        floats = {onnx.TensorProto.DataType.Value(name) for name in _FLOATS}
        arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.data_type in floats}
    except Exception as error:  # protobuf's, and those of files with tensors beside them
        raise InputError(f"{path}: not a readable ONNX file, or truncated") from error
    modules = {}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            for name, role in zip(node.input[1:], ("weight", "bias"), strict=False):
                if name.startswith("onnx::") and name in arrays:
                    modules[f"{module_name(node.name)}.{role}"] = name  # one tensor may serve several modules
    kept = {name: array for name, array in arrays.items() if name not in modules.values()}
    return kept | {name: arrays[stored] for name, stored in modules.items()}


def module_name(node: str) -> str:
    """ "/conv2/conv2.0/conv2b/conv2b.1/conv1/Conv" -> "conv2.0.conv2b.1.conv1": items of a list repeat its name."""
    modules: list[str] = []
    for part in node.strip("/").split("/")[:-1]:
        if modules and part.startswith(f"{modules[-1]}."):
            modules.pop()
        modules.append(part)
    return ".".join(modules)
