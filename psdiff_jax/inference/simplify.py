"""A traced function with fewer equations, for converters whose time grows with their number.

Nested calls are written out, what follows from constants alone is computed, and what was computed before is not
computed again. A model with two backbones takes 12,000 equations for an image's features, and about 2,000 are left.
"""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, Literal, jaxpr_as_fun

CALLS = {"jit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}  # primitive -> its body


def _stack(*arrays: jax.Array, axis: int) -> jax.Array:
    return jax.lax.concatenate([jax.lax.expand_dims(array, (axis,)) for array in arrays], axis)


def _tile(array: jax.Array, *, reps: Sequence[int]) -> jax.Array:
    for axis, times in enumerate(reps):
        array = jax.lax.concatenate([array] * times, axis) if times > 1 else array
    return array


def _pad(array: jax.Array, value: jax.Array, *, padding_config: Sequence[tuple[int, int, int]]) -> jax.Array:
    if any(low < 0 or high < 0 or between for low, high, between in padding_config):
        return jax.lax.pad(array, value, padding_config)
    for axis, (low, high, _) in enumerate(padding_config):
        rows = [jax.lax.broadcast(value, (*array.shape[:axis], n, *array.shape[axis + 1 :])) for n in (low, high)]
        array = jax.lax.concatenate([rows[0], array, rows[1]], axis) if low or high else array
    return array


def _max_pool(
    array: jax.Array,
    *,
    window_dimensions: Sequence[int],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **_: Any,
) -> jax.Array:
    """One axis at a time: the largest of shifted copies. No dilation."""
    lowest = jnp.asarray(-np.inf, array.dtype)
    for axis, (size, stride, sides) in enumerate(zip(window_dimensions, window_strides, padding, strict=True)):
        if (size, stride) == (1, 1):
            continue
        array = _pad(array, lowest, padding_config=[(*sides, 0) if i == axis else (0, 0, 0) for i in range(array.ndim)])
        reach = (array.shape[axis] - size) // stride * stride + 1
        copies = (jax.lax.slice_in_dim(array, i, i + reach, stride, axis) for i in range(size))
        array = functools.reduce(jax.lax.max, copies)
    return array


def _named(array: jax.Array, *, name: str) -> jax.Array:
    """A name for training (`checkpoint_name`) changes nothing."""
    del name
    return array


# What jax2onnx does not know (the first three), cannot convert where the batch size is open, or converts to what
# onnxruntime cannot run.
WRITTEN_OUT = {"name": _named, "stack": _stack, "tile": _tile, "pad": _pad, "reduce_window_max": _max_pool}


def simplified(function: Callable[..., Any], *args: jax.ShapeDtypeStruct) -> Callable[..., Sequence[Any]]:
    """`function` as traced for arguments of these shapes; its results come as a flat list."""
    traced = jax.make_jaxpr(function)(*args)
    again = jax.make_jaxpr(lambda *given: _run(traced.jaxpr, traced.consts, given, {}))(*args)
    return jaxpr_as_fun(again)


def _run(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], known: dict[Any, Any]) -> list[Any]:
    """The results of `jaxpr`. known: those of earlier equations of the same trace, by what they are made of."""
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        values.update(zip(equation.outvars, _results(equation, inputs, known), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _results(equation: Any, inputs: list[Any], known: dict[Any, Any]) -> Sequence[Any]:
    primitive, params = equation.primitive, equation.params
    if primitive.name in CALLS:
        body = params[CALLS[primitive.name]]
        return _run(body.jaxpr, body.consts, inputs, known)
    if primitive.name == "scan":
        return _scan(inputs, **params)
    if primitive.name == "cond":
        return _cond(inputs, **params)
    key = _key(equation, inputs)
    if key not in known:
        # A symbolic size has no value yet.
        sides = [side for variable in equation.outvars for side in variable.aval.shape]
        constant = primitive.name != "dim_as_value" and all(isinstance(side, int) for side in sides)
        with jax.ensure_compile_time_eval() if constant else contextlib.nullcontext():
            made = WRITTEN_OUT.get(primitive.name, primitive.bind)(*inputs, **params)
        results = made if primitive.multiple_results else [made]
        known[key] = (inputs, results)  # inputs are kept: a key names them by their ids
    return known[key][1]


def _key(equation: Any, inputs: list[Any]) -> Any:
    """The same for equations that compute the same."""
    read = (
        (repr(atom.val), str(atom.aval)) if isinstance(atom, Literal) else id(value)
        for atom, value in zip(equation.invars, inputs, strict=True)
    )
    key = (equation.primitive, *read, *sorted((name, value) for name, value in equation.params.items()))
    try:
        hash(key)
    except TypeError:
        return object()
    return key


def _scan(inputs: list[Any], *, jaxpr: Any, num_consts: int, num_carry: int, length: int, reverse: bool, **_: Any):
    """A scan whose body is simplified, the constants that it reads among it."""
    outer, start, rows = inputs[:num_consts], inputs[num_consts:][:num_carry], inputs[num_consts + num_carry :]

    def body(carry: list[Any], row: list[Any]) -> tuple[list[Any], list[Any]]:
        results = _run(jaxpr.jaxpr, jaxpr.consts, (*outer, *carry, *row), {})
        return results[:num_carry], results[num_carry:]

    last, stacked = jax.lax.scan(body, start, rows, length=length, reverse=reverse)
    return [*last, *stacked]


def _cond(inputs: list[Any], *, branches: Sequence[Any], **_: Any) -> Sequence[Any]:
    """A choice whose branches are simplified."""
    index, *operands = inputs

    def simpler(branch: Any) -> Callable[..., list[Any]]:
        return lambda *given: _run(branch.jaxpr, branch.consts, given, {})

    return jax.lax.switch(index, [simpler(branch) for branch in branches], *operands)
