"""PyTorch residual networks -> `models.resnet.ResNet`: torchvision's names, from .npz, .safetensors or a pickle.

Both layouts have the same names and shapes; whether stride 2 sits on the first 1x1 (v1) or on the 3x3 is said by the
`ResNetSpec` of the network that is filled ("resnet50_v1" or "resnet50"), as are BatchNorm's epsilon and the scale of
the input.

Legend: O output, I input channels, H W rows and columns of a kernel.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange

from psdiff_jax.errors import InputError
from psdiff_jax.models.weights import assign, flatten_state, read_npz

_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_IGNORED = ("num_batches_tracked",)  # a counter that inference does not use
_CLASSIFIER = ("fc.weight", "fc.bias")
_WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
_SAFETENSORS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}


def torch_name(name: str) -> str:
    """PyTorch's name of one of our tensors: "layer1/0/bn1/mean" -> "layer1.0.bn1.running_mean"."""
    *module, leaf = name.split("/")
    norm = module[-1].startswith("bn") or (module[-2:-1] == ["downsample"] and module[-1] == "1")
    return ".".join([*module, _NORM[leaf] if norm else {"kernel": "weight"}.get(leaf, leaf)])


def convert_resnet(arrays: Mapping[str, np.ndarray], state: Any, where: str) -> tuple[Any, list[str]]:
    """Fills the state of a `ResNet` from a PyTorch state_dict.

    Args:
      arrays: torchvision's names -> arrays, convolutions [O,I,H,W]; a prefix "module." (DataParallel) is taken off.
      state: `nnx.state(ResNet(spec, ...))`. where: the file's name, for errors.

    Returns:
      The state with these weights, and the names of the tensors that were left out (classifier, counters).

    Raises:
      InputError: a tensor that is missing, left over or of another shape, by its PyTorch name.
    """
    given = {name.removeprefix("module."): array for name, array in arrays.items()}
    left_out = [name for name in given if name in _CLASSIFIER or name.endswith(_IGNORED)]
    wanted = {torch_name(name): name for name in flatten_state(state)}
    missing = [name for name in wanted if name not in given]
    left_over = [name for name in given if name not in wanted and name not in left_out]
    for names, what in ((missing, "lacks"), (left_over, "holds, unknown to this backbone,")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise InputError(f"{where}: {what} {names[0]!r}{more}; is it a ResNet of the configured depth and width?")
    converted = {}
    for name, ours in wanted.items():
        array = np.asarray(given[name], np.float32)
        if ours.endswith("kernel"):
            if array.ndim != 4:
                raise InputError(f"{where}: {name!r} has shape {array.shape}, a convolution [O,I,H,W] is expected")
            array = rearrange(array, "o i h w -> h w i o")
        converted[ours] = array
    return assign(state, converted, where), left_out


def load_resnet(path: str | Path, state: Any) -> tuple[Any, list[str]]:
    """`convert_resnet` of a file: .npz, .safetensors, or a PyTorch pickle (for which torch must be installed)."""
    return convert_resnet(read_state_dict(path), state, str(path))


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Name -> array of every tensor of a weights file. Nothing in the file is executed.

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
    if path.suffix in (".pth", ".pt", ".bin", ".tar"):
        return _read_pickle(path)
    raise InputError(f"{path}: weights come as .npz, .safetensors, .pth, .pt or .bin")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The format is a little-endian u64 length, that many bytes of JSON, and the tensors' bytes."""
    content = path.read_bytes()
    try:
        length = int.from_bytes(content[:8], "little")
        header, body = json.loads(content[8 : 8 + length]), memoryview(content)[8 + length :]
        header.pop("__metadata__", None)
    except (ValueError, AttributeError) as error:
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


def _read_pickle(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise InputError(f"{path}: reading PyTorch pickles needs torch; or save .safetensors") from error
    import pickle

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"{path}: holds more than tensors and is not loaded; save its state_dict alone") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a readable PyTorch file, or truncated") from error
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise InputError(f"{path}: not a state_dict (names and tensors)")
    return {
        name: (value.float() if value.dtype == torch.bfloat16 else value).numpy() for name, value in content.items()
    }
