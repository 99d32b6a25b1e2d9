"""Vectors of length one, for JAX and for NumPy."""

import jax
import jax.numpy as jnp
import numpy as np


def normalize(x: jax.Array) -> jax.Array:
    """x / ||x|| along the last axis, [...,D]; a zero vector stays zero and has a finite gradient."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-12))


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """x / ||x|| of each row of [N,D], in its dtype; a zero row stays zero."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 1e-12)


def first_off_unit(rows: np.ndarray, tolerance: float = 1e-2) -> int | None:
    """The first row of [N,D] that is not of length one (zero and not finite ones are not), or None."""
    off = np.flatnonzero(~(np.abs(np.linalg.norm(rows, axis=1) - 1) <= tolerance))  # NaN compares false
    return int(off[0]) if off.size else None
