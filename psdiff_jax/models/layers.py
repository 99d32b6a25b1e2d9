"""Convolutions with what follows them, of the networks that are built from depthwise ones (OSNet, MobileNetV2)."""

from collections.abc import Callable

import jax
from flax import nnx

from psdiff_jax.models.resnet import fold_into, normalized
from psdiff_jax.ops.depthwise import depthwise


class Depthwise(nnx.Conv):
    """A 3x3 convolution of each channel by itself: [B,H,W,C] -> [B,H/stride,W/stride,C], rounded up.

    shifted: as `ops.depthwise`, for XLA, or as one grouped convolution, for runtimes that have a fast one.
    """

    def __init__(self, width: int, stride: int = 1, *, rngs: nnx.Rngs):
        init = nnx.initializers.he_normal()
        super().__init__(
            width,
            width,
            (3, 3),
            stride,
            padding=1,
            feature_group_count=width,
            use_bias=False,
            kernel_init=init,
            rngs=rngs,
        )
        self.stride, self.shifted = stride, True

    def __call__(self, x: jax.Array) -> jax.Array:
        if not self.shifted:
            return super().__call__(x)
        y = depthwise(x, self.kernel[...][:, :, 0], self.stride)
        return y if self.bias is None else y + self.bias[...]


class Layer(nnx.Module):
    """A convolution, BatchNorm (None: it is folded away) and an activation, if there is one."""

    def __init__(
        self,
        convolution: nnx.Conv,
        epsilon: float,
        activation: Callable[[jax.Array], jax.Array] | None = nnx.relu,
        *,
        rngs: nnx.Rngs,
    ):
        self.conv, self.activation = convolution, activation
        self.bn: nnx.BatchNorm | None = nnx.BatchNorm(
            convolution.out_features, epsilon=epsilon, momentum=0.9, rngs=rngs
        )

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = normalized(self.bn, self.conv(x), train)
        return x if self.activation is None else self.activation(x)


def fold_layers(network: nnx.Module) -> None:
    """Folds the BatchNorm of every `Layer` into its convolution, in place."""
    for _, module in nnx.iter_modules(network):
        if isinstance(module, Layer):
            fold_into(module.conv, module.bn)
            module.bn = None
