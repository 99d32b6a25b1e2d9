"""MobileNetV2 (Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks").

The four maps are those of the last blocks before strides 8, 16 and 32, and of the last of all; the 1x1 convolution to
1280 channels that feeds the classifier is left out.
"""

import dataclasses
from dataclasses import dataclass
from itertools import accumulate

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from psdiff_jax.models.backbone import BackboneSpec, Path
from psdiff_jax.models.layers import Depthwise, Layer, fold_layers
from psdiff_jax.models.padding import clear_outside
from psdiff_jax.models.resnet import conv

EXPANSION = 6  # of the blocks but for the first, which has none
STRIDES = (1, 2, 2, 2, 1, 2, 1)  # of the first block of each stage
OUTPUTS = (1, 2, 4, 6)  # the stages whose maps are of strides 4, 8, 16 and 32


@dataclass(frozen=True)
class MobileNetV2Spec(BackboneSpec):
    """What distinguishes one MobileNetV2 from another.

    Attributes:
      expands_first: the first block, whose expansion is 1, has a 1x1 convolution before the depthwise one all the same.
      stem_width: channels of the first convolution.
      widths, depths: channels and blocks of the seven stages (the paper's Table 2).
      last_stride: of stage 6; re-ID networks use 1.
      epsilon: BatchNorm's.
    """

    expands_first: bool
    stem_width: int = 32
    widths: tuple[int, ...] = (16, 24, 32, 64, 96, 160, 320)
    depths: tuple[int, ...] = (1, 2, 3, 4, 3, 3, 1)
    last_stride: int = 2
    epsilon: float = 1e-5

    @property
    def channels(self) -> tuple[int, ...]:
        return tuple(self.widths[stage] for stage in OUTPUTS)

    def make(self, *, rngs: nnx.Rngs) -> "MobileNetV2":
        return MobileNetV2(self, rngs=rngs)

    def for_reid(self) -> "MobileNetV2Spec":
        return dataclasses.replace(self, last_stride=1)

    def is_trained(self, path: Path) -> bool:
        """All but BatchNorm, as in `ResNetSpec`."""
        return "bn" not in path

    def fold(self, network: "MobileNetV2") -> None:
        fold_layers(network)


SPECS = {
    "mobilenet_v2": MobileNetV2Spec(expands_first=False),
    # Of Open Model Zoo's person detectors: pixels are only divided.
    "mobilenet_v2_omz": MobileNetV2Spec(expands_first=True, mean=(0.0,) * 3, std=(255.0,) * 3),
}


class InvertedResidual(nnx.Module):
    """1x1 to more channels, depthwise 3x3, 1x1 to few without a nonlinearity (Fig. 3b): [B,H,W,C] -> [B,H',W',C']."""

    def __init__(self, cin: int, cout: int, stride: int, hidden: int, expands: bool, epsilon: float, *, rngs: nnx.Rngs):
        self.stride, self.residual = stride, stride == 1 and cin == cout
        self.expand = Layer(conv(cin, hidden, 1, rngs=rngs), epsilon, nnx.relu6, rngs=rngs) if expands else None
        self.depthwise = Layer(Depthwise(hidden, stride, rngs=rngs), epsilon, nnx.relu6, rngs=rngs)
        self.project = Layer(conv(hidden, cout, 1, rngs=rngs), epsilon, None, rngs=rngs)

    def __call__(self, x: jax.Array, train: bool, image_size: jax.Array | None, stride: int) -> jax.Array:
        """`stride` is that of `x`. Only what the 3x3 convolution reads is cleared outside the images."""
        inner = x if self.expand is None else self.expand(x, train)
        inner = self.project(self.depthwise(clear_outside(inner, image_size, stride), train), train)
        return x + inner if self.residual else inner


class MobileNetV2(nnx.Module):
    """MobileNetV2 without its last convolution, pooling and classifier.

    Call: images [B,H,W,3] float, 0..255 RGB -> four maps of strides 4, 8, 16 and 32 (16 with `last_stride` 1).
    `train` and `image_size` as in `ResNet`.
    """

    def __init__(self, spec: MobileNetV2Spec, *, rngs: nnx.Rngs):
        self.spec = spec
        self.stem = Layer(conv(3, spec.stem_width, 3, 2, rngs=rngs), spec.epsilon, nnx.relu6, rngs=rngs)
        blocks, cin = [], spec.stem_width
        strides = (*STRIDES[:5], spec.last_stride, *STRIDES[6:])
        for cout, depth, stride in zip(spec.widths, spec.depths, strides, strict=True):
            for i in range(depth):
                expands = bool(blocks) or spec.expands_first
                hidden = cin * (EXPANSION if blocks else 1)
                blocks.append(InvertedResidual(cin, cout, 1 if i else stride, hidden, expands, spec.epsilon, rngs=rngs))
                cin = cout
        self.blocks = nnx.List(blocks)

    def __call__(
        self,
        images: jax.Array,
        train: bool = False,
        dtype: jnp.dtype = jnp.float32,
        image_size: jax.Array | None = None,
    ) -> tuple[jax.Array, ...]:
        x, stride = self.stem(clear_outside(self.spec.normalize(images, dtype), image_size), train), 2
        outputs, ends = [], list(accumulate(self.spec.depths))
        for i, block in enumerate(self.blocks, 1):
            x = checkpoint_name(block(x, train, image_size, stride), "block")
            stride *= block.stride
            if i in (ends[stage] for stage in OUTPUTS):
                outputs.append(x)
        return tuple(outputs)
