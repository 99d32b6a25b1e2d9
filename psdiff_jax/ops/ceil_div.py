"""Integer division that rounds up, for sizes that are only known on the device."""

import jax
import jax.numpy as jnp


def ceil_div(a: jax.Array, b: jax.Array | int) -> jax.Array:
    """ceil(a / b) of integers a >= 0 and b >= 1, in the dtype of `a`.

    Written with the one division that truncates. `//` rounds down, which takes a remainder and a choice by sign, and
    jax2onnx cannot convert those where the batch size is open; an added b - 1 it would take for a mean where b is 2.
    """
    b = jnp.asarray(b, a.dtype)
    return -jax.lax.div(*jnp.broadcast_arrays(-a - (b - 1), b))
