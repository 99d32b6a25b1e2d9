"""Weights as one `.npz`: '/'-joined path of the parameter -> array. Small checkpoints are shipped in this format.

A state is any pytree of arrays: an `nnx.State`, nested dicts, or a tuple of them. Loading accounts for every tensor:
none may be left over, none may be missing, and a wrong shape is named. A part of a network is loaded by naming the
prefix in the file (`source`) and in the state (`target`), e.g. a teacher's backbone into a student.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from psdiff_jax.errors import InputError
from psdiff_jax.files import replacing, writing


def path_name(path: tuple[Any, ...]) -> str:
    """'/'-joined name of a pytree path; the `.value` that `nnx.State` appends to every leaf is left out."""
    parts = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path]
    if len(parts) > 1 and isinstance(path[-1], jax.tree_util.GetAttrKey) and parts[-1] == "value":
        parts.pop()
    return "/".join(parts)


def flatten_state(state: Any) -> dict[str, Any]:
    """Name -> array of every leaf of `state`, in the order of the tree."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]}


def state_hash(state: Any) -> str:
    """Digest of names, shapes, types and bytes: the same weights have the same hash on every machine."""
    digest = hashlib.sha256()
    for name, leaf in sorted(flatten_state(state).items()):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{name}{array.shape}{array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def save_npz(path: str | Path, state: Any, half: bool = False) -> None:
    """Writes `state` whole or not at all. `half` stores kernels (two axes or more) as float16, vectors stay float32.

    Raises:
      InputError: the file cannot be written.
    """
    path = Path(path)
    arrays = {}
    for name, leaf in flatten_state(state).items():
        array = np.asarray(leaf)
        if array.dtype.kind not in "biufU":
            array = array.astype(np.float32)  # an .npz cannot hold bfloat16
        arrays[name] = array.astype(np.float16) if half and array.ndim >= 2 and array.dtype == np.float32 else array
    write = np.savez_compressed if half else np.savez  # compression saves 7% of float32 and takes most of the time
    with writing(path, "make room or name another place"), replacing(path) as unfinished, unfinished.open("wb") as file:
        write(file, **arrays)


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """Every array of a `.npz`; InputError naming the file, and the array, that cannot be read."""
    path, name = Path(path), ""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with np.load(path, allow_pickle=False) as stored:
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise InputError(f"{path}: a single array, not an .npz of named arrays")
            arrays = {}
            for name in stored.files:
                arrays[name] = stored[name]
            return arrays
    except InputError:
        raise
    except Exception as error:  # a damaged file fails in every way there is
        what = f"array {name!r} cannot be read" if name else "not a readable .npz file"
        why = (str(error).splitlines() or [type(error).__name__])[0]
        objects = "; store numbers or plain text in it" if "allow_pickle" in why else ""
        raise InputError(f"{path}: {what} ({why}){objects}") from error


def refuse(missing: Sequence[str], left_over: Sequence[str], subject: str, kind: str, question: str) -> None:
    """Raises InputError when a tensor is missing or left over, naming the first; `subject` begins the line."""
    for names, what in ((missing, "lacks"), (left_over, f"holds, unknown to this {kind},")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise InputError(f"{subject} {what} {names[0]!r}{more}; {question}")


def check_finite(array: np.ndarray, name: str, where: str) -> None:
    """Raises InputError when a tensor of the file `where` holds NaN or infinity."""
    if not np.isfinite(np.asarray(array, np.float64)).all():
        raise InputError(f"{where}: {name!r} holds values that are not finite; the file is damaged")


def assign(state: Any, arrays: Mapping[str, np.ndarray], where: str, target: str = "") -> Any:
    """`state` with the leaves under the prefix `target` replaced by `arrays` (named relative to it), in their types.

    Raises:
      InputError: an array too many, one too few, one of another shape or with NaN, by name; `where` begins the line.
    """
    prefix = f"{target}/" if target else ""
    leaves, tree = jax.tree_util.tree_flatten_with_path(state)
    wanted = {path_name(path)[len(prefix) :]: leaf for path, leaf in leaves if path_name(path).startswith(prefix)}
    if not wanted:
        raise InputError(f"{where}: the network has no part {target!r}")
    missing = [name for name in wanted if name not in arrays]
    left_over = [name for name in arrays if name not in wanted]
    refuse(
        [prefix + name for name in missing],
        [prefix + name for name in left_over],
        f"{where}:",
        "network",
        "do file and model config belong together?",
    )
    for name, leaf in wanted.items():
        if tuple(arrays[name].shape) != tuple(leaf.shape):
            shapes = f"shape {tuple(arrays[name].shape)}, the network needs {tuple(leaf.shape)}"
            raise InputError(f"{where}: {prefix + name!r} has {shapes}")
        check_finite(arrays[name], prefix + name, where)

    def pick(path: tuple[Any, ...], leaf: Any) -> Any:
        name = path_name(path)
        if not name.startswith(prefix):
            return leaf
        # NumPy casts, and nothing but the values is sent: `jnp.asarray` compiles a program for each shape.
        return jax.device_put(np.asarray(arrays[name[len(prefix) :]], leaf.dtype))

    return jax.tree_util.tree_unflatten(tree, [pick(path, leaf) for path, leaf in leaves])


def load_npz(path: str | Path, state: Any, source: str = "", target: str = "") -> Any:
    """`state` with the weights of the file `path`.

    Args:
      state: a state of the right structure (`nnx.state(model)`). Its own values are not used where the file has some,
        so they may be abstract (`nnx.eval_shape`).
      source: only what the file has under this prefix is taken, e.g. "backbone"; the rest of the file is ignored.
      target: the part of `state` to fill, e.g. "backbone"; the rest of the state is kept.

    Raises:
      InputError: see `assign` and `read_npz`.
    """
    arrays = read_npz(path)
    if source:
        arrays = {name[len(source) + 1 :]: array for name, array in arrays.items() if name.startswith(f"{source}/")}
        if not arrays:
            raise InputError(f"{path}: holds nothing under {source!r}")
    return assign(state, arrays, str(path), target)
