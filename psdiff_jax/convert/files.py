"""Reading files of weights: .npz, .safetensors, .onnx, .xml and PyTorch pickles. Nothing in a file is executed."""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from psdiff_jax.convert.onnx import read_onnx
from psdiff_jax.convert.openvino_ir import read_openvino_ir
from psdiff_jax.errors import InputError
from psdiff_jax.models.weights import read_npz

_WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
_SAFETENSORS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Name -> array of every tensor of a weights file.

    Raises:
      InputError: a file that is missing, truncated or of no known kind, or a pickle that holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file of weights")
    if path.suffix == ".npz":
        return read_npz(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".onnx":
        return read_onnx(path)
    if path.suffix == ".xml":
        return read_openvino_ir(path)
    if path.suffix in (".pth", ".pt", ".bin", ".tar"):
        return _read_pickle(path)
    raise InputError(
        f"{path}: weights are .npz, .safetensors, .onnx, .xml, .pth, .pt, .bin or .tar; rename it if it is one"
    )


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The format is a little-endian u64 length, that many bytes of JSON, and the tensors' bytes."""
    content = path.read_bytes()
    try:
        length = int.from_bytes(content[:8], "little")
        header, body = json.loads(content[8 : 8 + length]), memoryview(content)[8 + length :]
        header.pop("__metadata__", None)
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{path}: not a readable .safetensors file") from error
    arrays = {}
    for name, entry in header.items():
        try:
            (start, end), kind = entry["data_offsets"], entry["dtype"]
            if kind == "BF16":  # the upper half of a float32
                raw = np.frombuffer(body[start:end], "<u2").astype(np.uint32) << 16
                arrays[name] = raw.view(np.float32).reshape(entry["shape"])
            else:
                arrays[name] = np.frombuffer(body[start:end], _SAFETENSORS[kind]).reshape(entry["shape"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: tensor {name!r} cannot be read; truncated or of an unknown type") from error
    return arrays


@contextlib.contextmanager
def _numpy_scalars() -> Iterator[None]:
    """Also accepts NumPy scalars, and nothing else: HHCL and its relatives store their best mAP beside the weights."""
    from torch.serialization import safe_globals

    scalar: Any = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8")}
    with safe_globals([scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, *kinds]):
        yield


def _read_pickle(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise InputError(f"{path}: reading PyTorch pickles needs torch; or save .safetensors") from error
    try:
        with _numpy_scalars():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle fails in every way there is
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        if foreign:
            convert = f"torch.save(torch.load('{path.name}', weights_only=False).state_dict(), 'weights.pth')"
            what = f"holds more than tensors ({foreign[1]}) and is not loaded; where that class can be imported, and if"
            raise InputError(f"{path}: {what} you trust the file, convert it once: {convert}") from error
        raise InputError(f"{path}: not a readable PyTorch file, or truncated") from error
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: holds a {type(content).__name__}; save the state_dict, names and tensors, alone")
    for name, value in content.items():
        if not isinstance(value, torch.Tensor):
            kind = type(value).__name__
            raise InputError(f"{path}: {name!r} is of type {kind}, no tensor; save the network's state_dict alone")
    tensors = {str(name): value.detach() for name, value in content.items()}  # parameters know their gradients
    return {name: (x.float() if x.dtype == torch.bfloat16 else x).numpy() for name, x in tensors.items()}
