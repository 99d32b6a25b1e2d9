"""Fills a network with the tensors of a file; every one of them is accounted for.

Legend: O output, I input channels, H W rows and columns of a kernel.
"""

import re
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
from einops import rearrange

from psdiff_jax.convert.layout import Checkpoint, Layout
from psdiff_jax.errors import InputError
from psdiff_jax.models.weights import assign, check_finite, flatten_state, refuse


class Filled(NamedTuple):
    """state: filled; layout: what the file was; count: tensors used; left_out: names not used; notes: lines to show."""

    state: Any
    layout: str
    count: int
    left_out: list[str]
    notes: list[str]


def fill(file: Checkpoint, state: Any, held: str) -> Filled:
    """Fills the state of a network, which may be abstract. held: what the file is, for errors.

    Raises:
      InputError: a tensor that is missing, left over, damaged or of another shape, by its name in the file.
    """
    layout, shapes = file.layout, {name: tuple(leaf.shape) for name, leaf in flatten_state(state).items()}
    wanted = {name: layout.names(name) for name in shapes}
    fresh = {name: value for name in wanted if (value := layout.default(name)) is not None and file.get(name) is None}
    used = {part for name, parts in wanted.items() if name not in fresh for part in parts}
    left_out = _account(file, used, held)
    converted, done = {}, Counter[str]()
    for name, parts in wanted.items():
        if name in fresh:
            converted[name] = np.full(shapes[name], fresh[name], np.float32)
            continue
        shape = _stored_shape(name, shapes[name], len(parts), layout)
        arrays, notes = zip(*(_fitted(file, name, part, shape) for part in parts), strict=True)
        converted[name] = _our_axes(name, np.concatenate(arrays), layout)
        done.update(filter(None, notes))
    notes = [f"{file.where}: {count} {note}" for note, count in done.items()]
    return Filled(assign(state, converted, file.where), layout.title, len(used), left_out, notes)


def _account(file: Checkpoint, used: set[str], held: str) -> list[str]:
    """The names in the file that the network has no place for; InputError for a tensor missing or left over."""
    layout, rest = file.layout, {name: full for name, full in file.full.items() if name not in used}
    left_out = [full for name, full in rest.items() if re.fullmatch(layout.left_out, name)]
    missing = [file.prefix + name for name in sorted(used - set(file.full))]
    over = [full for name, full in rest.items() if not re.fullmatch(layout.left_out, name)]
    refuse(missing, over, f"{file.where}: {held}", layout.noun, layout.advice)
    return left_out


def _stored_shape(name: str, shape: tuple[int, ...], parts: int, layout: Layout) -> tuple[int, ...]:
    """The shape that each of the tensors which make ours has in the file."""
    if name.endswith("kernel") and not layout.ours:
        shape = (shape[-1], shape[-2], *shape[:-2])
    return (shape[0] // parts, *shape[1:])


def _our_axes(name: str, array: np.ndarray, layout: Layout) -> np.ndarray:
    if layout.ours or not name.endswith("kernel"):
        return array
    return rearrange(array, "o i h w -> h w i o" if array.ndim == 4 else "o i -> i o")


def _fitted(file: Checkpoint, ours: str, theirs: str, shape: tuple[int, ...]) -> tuple[np.ndarray, str]:
    """(a tensor in float32 and of the wanted shape, what was done to it)."""
    full = file.full[theirs]
    array, note = file.layout.fitted(ours, np.asarray(file.arrays[full], np.float32), shape)
    if array.shape != shape:
        held = file.arrays[full].shape
        raise InputError(f"{file.where}: {full!r} has shape {held}, the {file.layout.noun} needs {shape}")
    check_finite(array, full, file.where)
    return array, note
