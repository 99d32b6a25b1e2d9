"""OSNet (Zhou et al. 2019, "Omni-Scale Feature Learning for Person Re-Identification"): a re-ID network as a backbone.

The four maps are those of conv2 and conv3 (before their transitions, strides 4 and 8), of conv4 (16) and of conv5,
max-pooled to stride 32: OSNet itself stays at 16. Two things differ from the re-ID network, so that it runs on images:

- Gates weigh the channels by their mean over a crop. In an image they take the mean over a window of the size of a
  crop (`OSNetSpec.gate_window`), one for every 16x16 pixels.
- Sizes that do not divide by 16 are rounded up. Where 2x2 average pooling meets the border it averages what is inside.

Legend: B image, H W rows and columns of a map, C channels, G G' rows and columns of the gates.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import repeat
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from psdiff_jax.models.backbone import BackboneSpec, Path
from psdiff_jax.models.layers import Depthwise, Layer, fold_layers
from psdiff_jax.models.padding import clear_outside, shrunk, valid_size
from psdiff_jax.models.reid_head import ReidHead
from psdiff_jax.models.resnet import conv, max_pool

GATE_STRIDE = 16  # of the cells of an image that have a gate of their own
CONTEXT_GROUPS = 16  # of channels, in a `ContextGate`


@dataclass(frozen=True)
class OSNetSpec(BackboneSpec):
    """What distinguishes one OSNet from another.

    Attributes:
      stem_width: channels of conv1.
      widths: channels of conv2, conv3 and conv4; conv5 has those of conv4. Inside the blocks there is a quarter.
      depths: blocks in conv2, conv3 and conv4.
      gate_window: (h, w) in pixels of the image, over which gates average, in whole cells of 16 pixels around theirs;
        None = over everything, for crops.
      last_stride: of conv5's max-pooling; 1 = none, for crops.
      instance_norm: images and what conv1 makes of them are normalised by their own statistics (Zhou et al. 2021).
      context_gates: the second block of a stage has gates without an MLP (`ContextGate`).
      epsilon: BatchNorm's and instance normalisation's.
    """

    stem_width: int
    widths: tuple[int, int, int]
    depths: tuple[int, int, int] = (2, 2, 2)
    gate_window: tuple[int, int] | None = (256, 128)
    last_stride: int = 2
    instance_norm: bool = False
    context_gates: bool = False
    epsilon: float = 1e-5

    @property
    def channels(self) -> tuple[int, ...]:
        return (*self.widths, self.widths[-1])

    def make(self, *, rngs: nnx.Rngs) -> "OSNet":
        return OSNet(self, rngs=rngs)

    def for_reid(self) -> "OSNetSpec":
        return dataclasses.replace(self, gate_window=None, last_stride=1)

    def is_trained(self, path: Path) -> bool:
        """All but BatchNorm, as in `ResNetSpec`."""
        return "bn" not in path

    def fold(self, network: "OSNet") -> None:
        fold_layers(network)


SPECS = {
    "osnet_x0_25": OSNetSpec(16, (64, 96, 128)),
    "osnet_x0_5": OSNetSpec(32, (128, 192, 256)),
    "osnet_x0_75": OSNetSpec(48, (192, 288, 384)),
    "osnet_x1_0": OSNetSpec(64, (256, 384, 512)),
    "osnet_omz": OSNetSpec(
        64,
        (256, 384, 512),
        instance_norm=True,
        context_gates=True,
        embedding_dim=256,
        mean=(0.0, 0.0, 0.0),
        std=(255.0, 255.0, 255.0),
    ),
}


class LiteLayer(Layer):
    """A 1x1 convolution, then a depthwise 3x3 one, BatchNorm and ReLU (Fig. 3b)."""

    def __init__(self, width: int, epsilon: float, *, rngs: nnx.Rngs):
        super().__init__(Depthwise(width, rngs=rngs), epsilon, rngs=rngs)
        self.pointwise = conv(width, width, 1, rngs=rngs)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return super().__call__(self.pointwise(x), train)


class Gate(nnx.Module):
    """Weighs each channel by what a small MLP makes of the means (Eq. 3): [B,H,W,C] -> same."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        hidden = max(width // 16, 1)
        self.fc1, self.fc2 = conv(width, hidden, 1, bias=True, rngs=rngs), conv(hidden, width, 1, bias=True, rngs=rngs)

    def __call__(self, x: jax.Array, grid: "Grid") -> jax.Array:
        return x * grid.spread(nnx.sigmoid(self.fc2(nnx.relu(self.fc1(grid.means(x))))), x)


class ContextGate(nnx.Module):
    """Weighs each channel by its mean, relative to those of its group ("Linear Context Transform", Ruan et al. 2020,
    section 3.2): [B,H,W,C] -> same."""

    def __init__(self, width: int, epsilon: float, *, rngs: nnx.Rngs):
        self.norm = nnx.GroupNorm(width, CONTEXT_GROUPS, epsilon=epsilon, rngs=rngs)

    def __call__(self, x: jax.Array, grid: "Grid") -> jax.Array:
        means = grid.means(x)
        gates = nnx.sigmoid(self.norm(means.reshape(-1, means.shape[-1])).reshape(means.shape))
        return x * grid.spread(gates.astype(x.dtype), x)


class InstanceNorm(nnx.Module):
    """Each channel of an image normalised by its own mean and variance over the valid cells: [B,H,W,C] -> same."""

    def __init__(self, width: int, epsilon: float):
        self.epsilon = epsilon
        self.scale, self.bias = nnx.Param(jnp.ones(width)), nnx.Param(jnp.zeros(width))

    def __call__(self, x: jax.Array, grid: "Grid") -> jax.Array:
        wide = grid.clear(x.astype(jnp.float32))
        mean = grid.means(wide)
        variance = jnp.maximum(grid.means(wide**2) - mean**2, 0)
        return ((wide - mean) * jax.lax.rsqrt(variance + self.epsilon) * self.scale[...] + self.bias[...]).astype(
            x.dtype
        )


class InstanceLayer(nnx.Module):
    """A convolution, instance normalisation and a ReLU."""

    def __init__(self, convolution: nnx.Conv, epsilon: float):
        self.conv, self.norm = convolution, InstanceNorm(convolution.out_features, epsilon)

    def __call__(self, x: jax.Array, grid: "Grid") -> jax.Array:
        return nnx.relu(self.norm(self.conv(x), grid))


class Block(nnx.Module):
    """The omni-scale residual block (Fig. 4): streams of one to four lite layers, summed through one shared gate."""

    def __init__(self, cin: int, cout: int, epsilon: float, context: bool = False, *, rngs: nnx.Rngs):
        width = cout // 4
        self.conv1 = Layer(conv(cin, width, 1, rngs=rngs), epsilon, rngs=rngs)
        self.streams = nnx.List(
            [nnx.List([LiteLayer(width, epsilon, rngs=rngs) for _ in range(depth)]) for depth in (1, 2, 3, 4)]
        )
        self.gate = ContextGate(width, epsilon, rngs=rngs) if context else Gate(width, rngs=rngs)
        self.conv3 = Layer(conv(width, cout, 1, rngs=rngs), epsilon, activation=None, rngs=rngs)
        self.downsample = (
            Layer(conv(cin, cout, 1, rngs=rngs), epsilon, activation=None, rngs=rngs) if cin != cout else None
        )

    def __call__(self, x: jax.Array, train: bool, grid: "Grid") -> jax.Array:
        shortcut = x if self.downsample is None else self.downsample(x, train)
        first = grid.clear(self.conv1(x, train))
        merged = jnp.zeros_like(first)
        for stream in self.streams:
            x = first
            for layer in stream:
                x = grid.clear(layer(x, train))
            merged += self.gate(x, grid)
        return nnx.relu(self.conv3(merged, train) + shortcut)


class OSNet(nnx.Module):
    """OSNet, without its pooling and fully connected layers unless the spec has a head, which is called by itself.

    Call: images [B,H,W,3] float, 0..255 RGB -> four maps of strides 4, 8, 16 and 32 (16 with `last_stride` 1).
    `train` and `image_size` as in `ResNet`.
    """

    def __init__(self, spec: OSNetSpec, *, rngs: nnx.Rngs):
        self.spec = spec
        layer = partial(Layer, epsilon=spec.epsilon, rngs=rngs)
        first = conv(3, spec.stem_width, 7, 2, rngs=rngs)
        self.norm: Any = InstanceNorm(3, spec.epsilon) if spec.instance_norm else None
        self.conv1: Any = InstanceLayer(first, spec.epsilon) if spec.instance_norm else layer(first)
        stages = []
        for cin, cout, depth in zip((spec.stem_width, *spec.widths), spec.widths, spec.depths, strict=False):
            blocks = [
                Block(cin if i == 0 else cout, cout, spec.epsilon, spec.context_gates and i > 0, rngs=rngs)
                for i in range(depth)
            ]
            stages.append(nnx.List(blocks))
        self.conv2, self.conv3, self.conv4 = stages
        self.transitions = nnx.List([layer(conv(width, width, 1, rngs=rngs)) for width in spec.widths[:2]])
        self.conv5 = layer(conv(spec.widths[-1], spec.widths[-1], 1, rngs=rngs))
        if spec.head:
            self.head = ReidHead(spec.widths[-1], spec.embedding_dim, rngs=rngs)

    def __call__(
        self,
        images: jax.Array,
        train: bool = False,
        dtype: jnp.dtype = jnp.float32,
        image_size: jax.Array | None = None,
    ) -> tuple[jax.Array, ...]:
        x = clear_outside(self.spec.normalize(images, dtype), image_size)
        if self.spec.instance_norm:
            x = clear_outside(self.norm(x, Grid(image_size, 1, None)), image_size)
            x = self.conv1(x, Grid(image_size, 2, None))
        else:
            x = self.conv1(x, train)
        x = max_pool(clear_outside(x, image_size, 2))  # after a ReLU zero is to it what -inf is
        outputs: list[jax.Array] = []
        for i, (stage, stride) in enumerate(zip((self.conv2, self.conv3, self.conv4), (4, 8, 16), strict=True)):
            if i:
                x = shrunk(self.transitions[i - 1](x, train), image_size, 2, stride // 2)
            grid = Grid(image_size, stride, self.spec.gate_window)
            for block in stage:
                x = checkpoint_name(block(x, train, grid), "block")
            outputs.append(x)
        x = self.conv5(x, train)
        last = max_pool(clear_outside(x, image_size, 16)) if self.spec.last_stride == 2 else x
        return (*outputs, last, x) if self.spec.head else (*outputs, last)


@dataclass(frozen=True)
class Grid:
    """The cells of a map: valid sizes of the images [B,2] or None (all), its stride, the window of the gates in pixels.

    The window is a product of intervals, hence a matrix of zeros and ones for the rows and one for the columns.
    """

    image_size: jax.Array | None
    stride: int
    window: tuple[int, int] | None

    def clear(self, x: jax.Array) -> jax.Array:
        """Zeros outside the images."""
        return clear_outside(x, self.image_size, self.stride)

    def means(self, x: jax.Array) -> jax.Array:
        """Means of a cleared map over the valid cells of each window: [B,H,W,C] -> [B,G,G',C]; without one, G = 1."""
        dtype = x.dtype
        for axis, formula in ((1, "gh,bhwc->bgwc"), (2, "gw,bhwc->bhgc")):
            place = np.arange(x.shape[axis])
            near = np.ones((1, len(place)), bool)
            if self.window is not None:
                gate = place * self.stride // GATE_STRIDE
                near = abs(np.arange(gate[-1] + 1)[:, None] - gate) <= self.window[axis - 1] // (2 * GATE_STRIDE)
            inside = np.ones((1, len(place)), bool)
            if self.image_size is not None:
                inside = place < valid_size(self.image_size, self.stride)[:, axis - 1, None]
            counts = jnp.maximum((near & inside[:, None]).sum(-1), 1)  # [B,G]
            sums = jnp.einsum(formula, near.astype(dtype), x, preferred_element_type=jnp.float32)
            x = (sums / jnp.expand_dims(counts, (2, 3) if axis == 1 else (1, 3))).astype(dtype)
        return x

    def spread(self, gates: jax.Array, x: jax.Array) -> jax.Array:
        """Each cell's gate: [B,G,G',C] -> the shape of `x` [B,H,W,C], or as it is where one gate serves all."""
        if self.window is None:
            return gates
        times = GATE_STRIDE // self.stride
        return repeat(gates, "b h w c -> b (h i) (w j) c", i=times, j=times)[:, : x.shape[1], : x.shape[2]]
