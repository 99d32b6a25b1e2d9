"""Residual backbones: ResNet-50 in both published layouts and small ones for CPUs.

Legend: B image, H W rows and columns, C channels. Images are NHWC.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class ResNetSpec:
    """What distinguishes one residual network from another.

    Attributes:
      depths: blocks in stages 2 to 5.
      widths: channels inside the blocks of each stage (a bottleneck puts out four times as many).
      bottleneck: 1x1-3x3-1x1 blocks (ResNet-50) instead of 3x3-3x3.
      stem: "pool" = 7x7 stride 2 and a 3x3 max-pool (He et al. 2016); "conv" = two 3x3 convolutions of stride 2.
      stem_width: channels after the stem.
      stride_in_1x1: stride on the first 1x1 (the v1 layout) rather than on the 3x3 (torchvision's).
      last_stride: stride of stage 5; re-ID networks use 1.
      epsilon: BatchNorm's.
      mean, std: per channel, of the 0..255 RGB input.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    bottleneck: bool
    stem: str = "pool"
    stem_width: int = 64
    stride_in_1x1: bool = False
    last_stride: int = 2
    epsilon: float = 1e-5
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    @property
    def channels(self) -> tuple[int, ...]:
        """Output channels of stages 2 to 5."""
        return tuple(width * (4 if self.bottleneck else 1) for width in self.widths)


SPECS = {
    "resnet50": ResNetSpec((3, 4, 6, 3), (64, 128, 256, 512), bottleneck=True),
    "resnet50_v1": ResNetSpec(
        (3, 4, 6, 3), (64, 128, 256, 512), bottleneck=True, stride_in_1x1=True, epsilon=1e-3,
        mean=(123.68, 116.779, 103.939), std=(1.0, 1.0, 1.0),
    ),
    "small": ResNetSpec((1, 1, 1, 1), (24, 48, 96, 128), bottleneck=False, stem="conv", stem_width=24),
    "tiny": ResNetSpec((1, 1, 1, 1), (16, 24, 32, 48), bottleneck=False, stem="conv", stem_width=16),
}


def conv(cin: int, cout: int, kernel: int, stride: int = 1, *, bias: bool = False, rngs: nnx.Rngs) -> nnx.Conv:
    """A square convolution with symmetric padding: `SAME` at stride 2 would shift against PyTorch's weights."""
    pad = kernel // 2
    return nnx.Conv(cin, cout, (kernel, kernel), strides=stride, padding=((pad, pad), (pad, pad)), use_bias=bias,
                    kernel_init=nnx.initializers.he_normal(), rngs=rngs)


def max_pool(x: jax.Array) -> jax.Array:
    """3x3 max-pool of stride 2, padded by one with -inf. [B,H,W,C] -> [B,H/2,W/2,C]."""
    return jax.lax.reduce_window(x, -np.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))


def normalized(norm: nnx.BatchNorm, x: jax.Array, train: bool) -> jax.Array:
    """BatchNorm with float32 statistics whose result has the dtype of its input."""
    return norm(x, use_running_average=not train).astype(x.dtype)


class Block(nnx.Module):
    """A residual block; names follow torchvision's state_dict (conv1, bn1, ..., downsample)."""

    def __init__(self, cin: int, width: int, stride: int, spec: ResNetSpec, *, rngs: nnx.Rngs):
        norm = partial(nnx.BatchNorm, epsilon=spec.epsilon, momentum=0.9, rngs=rngs)
        self.bottleneck = spec.bottleneck
        cout = width * 4 if spec.bottleneck else width
        if spec.bottleneck:
            first, second = (stride, 1) if spec.stride_in_1x1 else (1, stride)
            self.conv1 = conv(cin, width, 1, first, rngs=rngs)
            self.conv2 = conv(width, width, 3, second, rngs=rngs)
            self.conv3 = conv(width, cout, 1, rngs=rngs)
            self.bn3 = norm(cout)
        else:
            self.conv1 = conv(cin, width, 3, stride, rngs=rngs)
            self.conv2 = conv(width, width, 3, rngs=rngs)
        self.bn1, self.bn2 = norm(width), norm(width)
        projected = stride != 1 or cin != cout
        self.downsample = nnx.List([conv(cin, cout, 1, stride, rngs=rngs), norm(cout)]) if projected else None

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        shortcut = x
        if self.downsample is not None:
            shortcut = normalized(self.downsample[1], self.downsample[0](x), train)
        x = nnx.relu(normalized(self.bn1, self.conv1(x), train))
        x = normalized(self.bn2, self.conv2(x), train)
        if self.bottleneck:
            x = normalized(self.bn3, self.conv3(nnx.relu(x)), train)
        return nnx.relu(x + shortcut)


class ResNet(nnx.Module):
    """Stages 2 to 5 of a residual network.

    Call: images [B,H,W,3] float, 0..255 RGB -> (C2, C3, C4, C5), strides 4, 8, 16 and 32.
    `train=True` normalises by the batch and updates the running statistics; otherwise BatchNorm is frozen.
    """

    def __init__(self, spec: ResNetSpec, *, rngs: nnx.Rngs):
        self.spec = spec
        norm = partial(nnx.BatchNorm, epsilon=spec.epsilon, momentum=0.9, rngs=rngs)
        if spec.stem == "pool":
            self.conv1, self.bn1 = conv(3, spec.stem_width, 7, 2, rngs=rngs), norm(spec.stem_width)
        else:
            half = spec.stem_width // 2
            self.conv1, self.bn1 = conv(3, half, 3, 2, rngs=rngs), norm(half)
            self.conv2, self.bn2 = conv(half, spec.stem_width, 3, 2, rngs=rngs), norm(spec.stem_width)
        strides = (1, 2, 2, spec.last_stride)
        cin, stages = spec.stem_width, []
        for depth, width, stride, cout in zip(spec.depths, spec.widths, strides, spec.channels, strict=True):
            stages.append(nnx.List([
                Block(cin if i == 0 else cout, width, stride if i == 0 else 1, spec, rngs=rngs) for i in range(depth)
            ]))
            cin = cout
        self.layer1, self.layer2, self.layer3, self.layer4 = stages

    def __call__(self, images: jax.Array, train: bool = False, dtype: jnp.dtype = jnp.float32) -> Sequence[jax.Array]:
        mean, std = (jnp.asarray(v, jnp.float32) for v in (self.spec.mean, self.spec.std))
        x = ((images - mean) / std).astype(dtype)
        x = nnx.relu(normalized(self.bn1, self.conv1(x), train))
        if self.spec.stem == "pool":
            x = max_pool(x)
        else:
            x = nnx.relu(normalized(self.bn2, self.conv2(x), train))
        outputs = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x = block(x, train)
            outputs.append(x)
        return tuple(outputs)
