"""Residual backbones: ResNet-50 in both published layouts and small ones for CPUs.

Legend: B image, H W rows and columns, C channels. Images are NHWC.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from psdiff_jax.models.backbone import BackboneSpec, Path
from psdiff_jax.models.padding import clear_outside


@dataclass(frozen=True)
class ResNetSpec(BackboneSpec):
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
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    bottleneck: bool
    stem: str = "pool"
    stem_width: int = 64
    stride_in_1x1: bool = False
    last_stride: int = 2
    epsilon: float = 1e-5

    @property
    def channels(self) -> tuple[int, ...]:
        """Output channels of stages 2 to 5."""
        return tuple(width * (4 if self.bottleneck else 1) for width in self.widths)

    def make(self, *, rngs: nnx.Rngs) -> "ResNet":
        return ResNet(self, rngs=rngs)

    def for_reid(self) -> "ResNetSpec":
        return dataclasses.replace(self, last_stride=1)

    def is_trained(self, path: Path) -> bool:
        """All but BatchNorm, which detectors keep frozen."""
        return not any(str(p).startswith("bn") for p in path) and not ("downsample" in path and 1 in path)

    def fold(self, network: "ResNet") -> None:
        fold_batch_norm(network)


SPECS = {
    "resnet50": ResNetSpec((3, 4, 6, 3), (64, 128, 256, 512), bottleneck=True),
    "resnet50_v1": ResNetSpec(
        (3, 4, 6, 3),
        (64, 128, 256, 512),
        bottleneck=True,
        stride_in_1x1=True,
        epsilon=1e-3,
        mean=(123.68, 116.779, 103.939),
        std=(1.0, 1.0, 1.0),
    ),
    "small": ResNetSpec((1, 1, 1, 1), (24, 48, 96, 128), bottleneck=False, stem="conv", stem_width=24),
    "tiny": ResNetSpec((1, 1, 1, 1), (16, 24, 32, 48), bottleneck=False, stem="conv", stem_width=16),
}


class Pointwise(nnx.Conv):
    """A 1x1 convolution as one product of matrices: on CPUs its gradient takes a fifth of a convolution's time."""

    def __call__(self, x: jax.Array) -> jax.Array:
        step = cast(int, self.strides)
        x = x[:, ::step, ::step]
        y = rearrange(x, "b h w c -> (b h w) c") @ self.kernel[...][0, 0]
        y = rearrange(y, "(b h w) c -> b h w c", b=x.shape[0], h=x.shape[1])
        return y if self.bias is None else y + self.bias[...]


def conv(cin: int, cout: int, kernel: int, stride: int = 1, *, bias: bool = False, rngs: nnx.Rngs) -> nnx.Conv:
    """A square convolution with symmetric padding: `SAME` at stride 2 would shift against PyTorch's weights."""
    pad = kernel // 2
    return (Pointwise if kernel == 1 else nnx.Conv)(
        cin,
        cout,
        (kernel, kernel),
        strides=stride,
        padding=((pad, pad), (pad, pad)),
        use_bias=bias,
        kernel_init=nnx.initializers.he_normal(),
        rngs=rngs,
    )


def max_pool(x: jax.Array) -> jax.Array:
    """3x3 max-pool of stride 2, padded by one with -inf. [B,H,W,C] -> [B,H/2,W/2,C]."""
    return jax.lax.reduce_window(x, -np.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))


def normalized(norm: nnx.BatchNorm | None, x: jax.Array, train: bool) -> jax.Array:
    """BatchNorm with float32 statistics whose result has the dtype of its input. None: it is folded away."""
    return x if norm is None else norm(x, use_running_average=not train).astype(x.dtype)


class Block(nnx.Module):
    """A residual block; names follow torchvision's state_dict (conv1, bn1, ..., downsample)."""

    def __init__(self, cin: int, width: int, stride: int, spec: ResNetSpec, *, rngs: nnx.Rngs):
        norm = partial(nnx.BatchNorm, epsilon=spec.epsilon, momentum=0.9, rngs=rngs)
        self.bottleneck, self.stride = spec.bottleneck, stride
        self.first_stride = stride if spec.stride_in_1x1 or not spec.bottleneck else 1
        cout = width * 4 if spec.bottleneck else width
        if spec.bottleneck:
            self.conv1 = conv(cin, width, 1, self.first_stride, rngs=rngs)
            self.conv2 = conv(width, width, 3, stride // self.first_stride, rngs=rngs)
            self.conv3 = conv(width, cout, 1, rngs=rngs)
            self.bn3 = norm(cout)
        else:
            self.conv1 = conv(cin, width, 3, stride, rngs=rngs)
            self.conv2 = conv(width, width, 3, rngs=rngs)
        self.bn1, self.bn2 = norm(width), norm(width)
        projected = stride != 1 or cin != cout
        self.downsample: Any = nnx.List([conv(cin, cout, 1, stride, rngs=rngs), norm(cout)]) if projected else None

    def __call__(self, x: jax.Array, train: bool, image_size: jax.Array | None, stride: int) -> jax.Array:
        """`stride` is that of `x`. Only what 3x3 convolutions read is cleared outside the images."""
        shortcut = x
        if self.downsample is not None:
            shortcut = normalized(self.downsample[1], self.downsample[0](x), train)
        if not self.bottleneck:
            x = clear_outside(x, image_size, stride)
        x = nnx.relu(normalized(self.bn1, self.conv1(x), train))
        x = clear_outside(x, image_size, stride * self.first_stride)
        x = normalized(self.bn2, self.conv2(x), train)
        if self.bottleneck:
            x = normalized(self.bn3, self.conv3(nnx.relu(x)), train)
        return nnx.relu(x + shortcut)


class ResNet(nnx.Module):
    """Stages 2 to 5 of a residual network.

    Call: images [B,H,W,3] float, 0..255 RGB -> (C2, C3, C4, C5), strides 4, 8, 16 and 32.
    `train=True` normalises by the batch and updates the running statistics; otherwise BatchNorm is frozen.
    `image_size` [B,2]: (h, w) of the valid pixels (None: all are). What is inside ceil(h/s) x ceil(w/s) does then not
    depend on how far the batch is padded to the right and below, nor on what it holds there; outside it means nothing.
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
            stages.append(
                nnx.List(
                    [
                        Block(cin if i == 0 else cout, width, stride if i == 0 else 1, spec, rngs=rngs)
                        for i in range(depth)
                    ]
                )
            )
            cin = cout
        self.layer1, self.layer2, self.layer3, self.layer4 = stages

    def stem(self, images: jax.Array, train: bool, image_size: jax.Array | None, dtype: jnp.dtype) -> jax.Array:
        """[B,H,W,3] pixels -> [B,H/4,W/4,C]."""
        x = clear_outside(self.spec.normalize(images, dtype), image_size)
        x = nnx.relu(normalized(self.bn1, self.conv1(x), train))
        x = clear_outside(x, image_size, 2)  # after a ReLU, zero is to the pooling what -inf is
        if self.spec.stem == "pool":
            return max_pool(x)
        return nnx.relu(normalized(self.bn2, self.conv2(x), train))

    def __call__(
        self,
        images: jax.Array,
        train: bool = False,
        dtype: jnp.dtype = jnp.float32,
        *,
        image_size: jax.Array | None = None,
    ) -> tuple[jax.Array, ...]:
        x, stride = self.stem(images, train, image_size, dtype), 4
        outputs = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x = checkpoint_name(block(x, train, image_size, stride), "block")
                stride *= block.stride
            outputs.append(x)
        return tuple(outputs)


def fold_batch_norm(network: "ResNet") -> None:
    """Folds a ResNet's frozen BatchNorm into its convolutions, in place.

    For inference, on a network that was just merged (inside `jax.jit` too: it costs one pass over the kernels), so
    that states and checkpoints keep their structure. Kernels keep their dtype: fold float32 ones, then cast.
    """
    pairs = [(network, name) for name in ("1", "2")]
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        for block in stage:
            pairs += [(block, name) for name in ("1", "2", "3")]
            if block.downsample is not None:
                convolution, norm = block.downsample
                fold_into(convolution, norm)
                block.downsample = nnx.List([convolution, None])
    for module, name in pairs:
        if hasattr(module, f"conv{name}"):
            fold_into(getattr(module, f"conv{name}"), getattr(module, f"bn{name}"))
            setattr(module, f"bn{name}", None)


def fold_into(convolution: nnx.Conv, norm: Any) -> None:
    """Folds BatchNorm into the convolution before it: g (W x - mean) / sd + b = (g / sd) W x + (b - mean g / sd)."""
    kernel = convolution.kernel[...]
    factor = norm.scale[...] * jax.lax.rsqrt(norm.var[...] + norm.epsilon)
    convolution.kernel = nnx.Param((kernel * factor).astype(kernel.dtype))
    convolution.use_bias = True
    convolution.bias = nnx.Param((norm.bias[...] - norm.mean[...] * factor).astype(kernel.dtype))
