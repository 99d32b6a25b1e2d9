"""Depthwise 3x3 convolution as nine shifted products.

XLA fuses them into one loop. On CPUs its grouped convolution takes 5 to 80 times as long (16 to 32 channels). The
gradient is written out, as automatic differentiation would pad and add nine times.

Legend: B image, H W rows and columns, C channels.
"""

from collections.abc import Iterator
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
from einops import rearrange, reduce

BAND = 4  # rows of the gradient that are multiplied at once on CPUs


@partial(jax.jit, static_argnums=2)  # layers of one shape are traced once
def _convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Each channel of `x` [B,H,W,C] convolved with its own kernel [3,3,C], zeros around: [B,H/stride,W/stride,C].

    Sizes are rounded up: the first window is centred on the first cell. Sums are float32, the result has the dtype of
    `x`. No forward-mode derivative.
    """
    y = jnp.zeros((), jnp.float32)
    for part, tap in zip(_shifted(x, stride), kernel.reshape(9, -1).astype(jnp.float32), strict=True):
        y = y + part * tap
    return y.astype(x.dtype)


depthwise = jax.custom_vjp(_convolve, nondiff_argnums=(2,))


def _shifted(x: jax.Array, stride: int) -> Iterator[jax.Array]:
    """What the nine taps read of `x`, row by row."""
    batch, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for i, j in product(range(3), repeat=2):
        # Not `padded[:, ...]`, which takes ten times as long to trace.
        yield jax.lax.slice(padded, (0, i, j, 0), (batch, i + height, j + width, channels), (1, stride, stride, 1))


def _forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return depthwise(x, kernel, stride), (x, kernel)


def _backward(stride: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The barrier keeps what made the gradient out of the loops that read it nine times."""
    (x, kernel), gradient = saved, gradient.astype(jnp.float32)
    x, gradient = jax.lax.optimization_barrier((x, gradient))
    taps = _kernel_gradient(x, gradient, stride).reshape(kernel.shape).astype(kernel.dtype)
    return depthwise(_spread(gradient, stride, x.shape), kernel[::-1, ::-1]).astype(x.dtype), taps


def _kernel_gradient(x: jax.Array, gradient: jax.Array, stride: int) -> jax.Array:
    """For each tap the sum over all cells of what it read times the gradient: [9,C], band by band of rows.

    The sum over the rows of a band is a product with ones, the one form of it that XLA vectorises on CPUs. A band's
    products stay in a core's cache: whole maps take 2 to 8 times as long.
    """
    batch, height, width, channels = gradient.shape
    rows = BAND if jax.default_backend() == "cpu" else height
    bands = -(-height // rows)
    below = (bands * rows - height) * stride + stride
    gradient = jnp.pad(gradient, ((0, 0), (0, bands * rows - height), (0, 0), (0, 0)))
    padded = jnp.pad(x, ((0, 0), (1, 1 + below), (1, 1), (0, 0)))
    # Images of one device are summed in the loop, those of different ones after it: not one exchange for each band.
    devices = jax.device_count() if batch % jax.device_count() == 0 else 1
    ones = jnp.ones((devices, 1, batch // devices * rows), jnp.float32)

    def add(band: jax.Array, sums: jax.Array) -> jax.Array:
        read = jax.lax.dynamic_slice_in_dim(padded, band * rows * stride, (rows - 1) * stride + 3, axis=1)
        part = jax.lax.dynamic_slice_in_dim(gradient, band * rows, rows, axis=1)
        products = (
            rearrange(
                read[:, i : i + rows * stride : stride, j : j + width * stride : stride] * part,
                "(n b) h w c -> n (b h) (w c)",
                n=devices,
            )
            for i, j in product(range(3), repeat=2)
        )
        return sums + jnp.concatenate([jnp.matmul(ones, each, precision="highest") for each in products], axis=1)

    sums = jax.lax.fori_loop(0, bands, add, jnp.zeros((devices, 9, width * channels), jnp.float32))
    return reduce(sums, "n t (w c) -> t c", "sum", c=channels)


def _spread(gradient: jax.Array, stride: int, shape: tuple[int, ...]) -> jax.Array:
    """The gradient at the cells on which windows are centred, zeros between."""
    if stride == 1:
        return gradient
    gaps = [(0, 0, 0), *((0, (side - 1) % stride, stride - 1) for side in shape[1:3]), (0, 0, 0)]
    return jax.lax.pad(gradient, jnp.zeros((), gradient.dtype), gaps)


depthwise.defvjp(_forward, _backward)
