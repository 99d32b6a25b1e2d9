"""Re-ID networks that other projects train, as they compute embeddings; their weights come from `teacher.convert`.

Two architectures cover the families in `teacher.residual_families`: a residual network under one BatchNorm neck
(`NeckNet`), and MGN's three branches (`MGN`). What sets them apart from a detector's backbone is here: a stem without
ReLU, IBN-a blocks, non-local blocks, a linear layer with bias. They are not trained here: BatchNorm always normalises
by its running statistics.

Legend: B crop, h w rows and columns of a crop, H W rows and columns of a map, N = H W cells, C channels, D embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from psdiff_jax.models.resnet import Block, ResNet, ResNetSpec, conv, max_pool, normalized
from psdiff_jax.ops.normalize import normalize
from psdiff_jax.teacher.network import GeM

# MGN's branches: which reduction takes the whole map, into how many parts it is cut, which takes the first of them.
PARTS = ((0, 1, 0), (1, 2, 3), (2, 3, 5))


@dataclass(frozen=True)
class ReIDSpec:
    """What distinguishes one re-ID network from another; all of it can be written as JSON.

    Attributes:
      depths, widths, stem_width: see `ResNetSpec`; blocks are bottlenecks with their stride on the 3x3.
      pooling: "avg", "max" or "gem" over the last map.
      embedding_dim: width of a linear layer after the pooling; 0 has none.
      stem_relu: whether a ReLU follows the first BatchNorm.
      ibn: stages 2 to 4 normalise the first half of the first 1x1's channels crop by crop (Pan et al. 2018, IBN-a).
      non_local: non-local blocks in stages 2 to 5, after their last blocks; non_local_width: channels inside those.
      parts_dim: channels of each of MGN's eight reduced features; 0 is a network with one neck.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    stem_width: int = 64
    pooling: str = "avg"
    embedding_dim: int = 0
    stem_relu: bool = True
    ibn: bool = False
    non_local: tuple[int, ...] = (0, 0, 0, 0)
    non_local_width: int = 1
    parts_dim: int = 0

    @property
    def backbone(self) -> ResNetSpec:
        """The residual network below, with stage 4's resolution in stage 5."""
        return ResNetSpec(self.depths, self.widths, bottleneck=True, stem_width=self.stem_width, last_stride=1)

    @property
    def dim(self) -> int:
        """D."""
        return 8 * self.parts_dim or self.embedding_dim or self.backbone.channels[-1]

    @property
    def least_size(self) -> tuple[int, int]:
        """(h, w) of crops; MGN cuts its map, of stride 16, into three."""
        return (48 if self.parts_dim else 32), 32

    def make(self, *, rngs: nnx.Rngs) -> NeckNet | MGN:
        return (MGN if self.parts_dim else NeckNet)(self, rngs=rngs)

    def describe(self) -> str:
        """ "ResNet-50 IBN-a, 5 non-local blocks, gem pooling"."""
        blocks = f", {sum(self.non_local)} non-local blocks" if any(self.non_local) else ""
        return f"ResNet-{3 * sum(self.depths) + 2}{' IBN-a' * self.ibn}{blocks}, {self.pooling} pooling"


class InstanceBatchNorm(nnx.Module):
    """Instance normalisation of the first half of the channels, BatchNorm of the rest: IBN-a. [B,H,W,C] -> same."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.half = width // 2
        self.instance = nnx.InstanceNorm(self.half, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
        self.batch = nnx.BatchNorm(width - self.half, epsilon=1e-5, momentum=0.9, rngs=rngs)

    def __call__(self, x: jax.Array, use_running_average: bool = True) -> jax.Array:
        rest = self.batch(x[..., self.half :], use_running_average=use_running_average)
        return jnp.concatenate([self.instance(x[..., : self.half]), rest], axis=-1)


class NonLocal(nnx.Module):
    """x + BN(W y) where y sums the values of all cells, weighted by query . key / N (Wang et al. 2018, dot product)."""

    def __init__(self, width: int, inner: int, *, rngs: nnx.Rngs):
        self.query, self.key, self.value = (conv(width, inner, 1, bias=True, rngs=rngs) for _ in range(3))
        self.out = conv(inner, width, 1, bias=True, rngs=rngs)
        self.norm = nnx.BatchNorm(width, epsilon=1e-5, momentum=0.9, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        query, key, value = (rearrange(part(x), "b h w c -> b (h w) c") for part in (self.query, self.key, self.value))
        # Keys and values first: the product is C x C, not N x N.
        y = jnp.einsum("bnk,bmk,bmc->bnc", query, key, value, optimize=[(1, 2), (0, 1)]) / query.shape[1]
        y = y.reshape(*x.shape[:3], -1)
        return x + normalized(self.norm, self.out(y), False)


class ReIDResNet(ResNet):
    """A residual network as re-ID networks vary it. Crops [B,h,w,3] 0..255 RGB -> [B,h/16,w/16,C]."""

    def __init__(self, spec: ReIDSpec, *, rngs: nnx.Rngs):
        super().__init__(spec.backbone, rngs=rngs)
        self.stem_relu = spec.stem_relu
        for stage, width in zip((self.layer1, self.layer2, self.layer3), spec.widths, strict=False):
            for block in stage if spec.ibn else ():
                block.bn1 = InstanceBatchNorm(width, rngs=rngs)
        self.non_local = nnx.List(
            [
                nnx.List([NonLocal(channels, spec.non_local_width, rngs=rngs) for _ in range(count)])
                for channels, count in zip(spec.backbone.channels, spec.non_local, strict=True)
            ]
        )

    def __call__(self, crops: jax.Array) -> jax.Array:
        x = stem(self, crops, self.stem_relu)
        for blocks, attention in zip((self.layer1, self.layer2, self.layer3, self.layer4), self.non_local, strict=True):
            for i, block in enumerate(blocks):
                x = block(x, False, None, 1)
                place = i - (len(blocks) - len(attention))
                x = attention[place](x) if place >= 0 else x
        return x


def stem(network: ReIDResNet | MGN, crops: jax.Array, relu: bool) -> jax.Array:
    """Normalised colours, 7x7 convolution, BatchNorm, max-pool: [B,h,w,3] 0..255 -> [B,h/4,w/4,C]."""
    mean, std = (jnp.asarray(v, jnp.float32) for v in (network.spec.mean, network.spec.std))
    x = normalized(network.bn1, network.conv1((crops - mean) / std), False)
    return max_pool(nnx.relu(x) if relu else x)


class NeckNet(nnx.Module):
    """Residual network, pooling, a linear layer where the spec has one, BatchNorm with bias, unit length.

    Call: crops [B,h,w,3] RGB 0..255, uint8 or float -> float32 [B,D] of unit length.
    """

    def __init__(self, spec: ReIDSpec, *, rngs: nnx.Rngs):
        self.backbone, self.pooling = ReIDResNet(spec, rngs=rngs), spec.pooling
        self.gem = GeM() if spec.pooling == "gem" else None
        width = spec.backbone.channels[-1]
        self.feature = nnx.Linear(width, spec.embedding_dim, rngs=rngs) if spec.embedding_dim else None
        self.neck = nnx.BatchNorm(spec.dim, epsilon=1e-5, momentum=0.9, rngs=rngs)

    def __call__(self, crops: jax.Array) -> jax.Array:
        x = self.backbone(crops.astype(jnp.float32))
        x = self.gem(x) if self.gem is not None else pool(x, self.pooling)
        x = self.feature(x) if self.feature is not None else x
        return normalize(self.neck(x, use_running_average=True))


class Reduction(nnx.Module):
    """1x1 convolution, BatchNorm, ReLU of a pooled feature: [B,C] -> [B,D/8]."""

    def __init__(self, width: int, dim: int, *, rngs: nnx.Rngs):
        self.conv, self.bn = conv(width, dim, 1, rngs=rngs), nnx.BatchNorm(dim, epsilon=1e-5, momentum=0.9, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(normalized(self.bn, self.conv(x[:, None, None]), False))[:, 0, 0]


class MGN(nnx.Module):
    """Multiple Granularity Network (Wang et al. 2018): one stem, three branches from stage 4's second block on.

    The first branch sees the whole map, with stride 2 in stage 5; the second the whole and two halves, the third the
    whole and three thirds, both with stride 1. The embedding is the eight reduced features side by side, of unit
    length. Heights that do not divide lose the rows at the bottom, as a max-pool with that kernel loses them.

    Call: crops [B,h,w,3] RGB 0..255, uint8 or float -> float32 [B,D] of unit length.
    """

    def __init__(self, spec: ReIDSpec, *, rngs: nnx.Rngs):
        self.spec, self.pooling, widths = spec.backbone, spec.pooling, spec.backbone.channels
        self.conv1 = conv(3, spec.stem_width, 7, 2, rngs=rngs)
        self.bn1 = nnx.BatchNorm(spec.stem_width, epsilon=1e-5, momentum=0.9, rngs=rngs)
        self.layer1 = self._stage(0, spec.stem_width, 1, spec.depths[0], rngs)
        self.layer2 = self._stage(1, widths[0], 2, spec.depths[1], rngs)
        self.layer3 = Block(widths[1], spec.widths[2], 2, spec.backbone, rngs=rngs)
        self.branches = nnx.List(
            [
                nnx.List(
                    [
                        self._stage(2, widths[2], 1, spec.depths[2] - 1, rngs),
                        self._stage(3, widths[2], stride, spec.depths[3], rngs),
                    ]
                )
                for stride in (2, 1, 1)
            ]
        )
        self.reductions = nnx.List([Reduction(widths[3], spec.parts_dim, rngs=rngs) for _ in range(8)])

    def _stage(self, stage: int, cin: int, stride: int, depth: int, rngs: nnx.Rngs) -> nnx.List:
        width, cout = self.spec.widths[stage], self.spec.channels[stage]
        return nnx.List(
            [Block(cin if i == 0 else cout, width, stride if i == 0 else 1, self.spec, rngs=rngs) for i in range(depth)]
        )

    def __call__(self, crops: jax.Array) -> jax.Array:
        x = stem(self, crops.astype(jnp.float32), relu=True)
        x = run([*self.layer1, *self.layer2, self.layer3], x)
        features: dict[int, jax.Array] = {}
        for branch, (whole, parts, first) in zip(self.branches, PARTS, strict=True):
            y = run([*branch[0], *branch[1]], x)
            features[whole] = pool(y, self.pooling)
            rows = y.shape[1] // parts
            for i in range(parts if parts > 1 else 0):
                features[first + i] = pool(y[:, i * rows : (i + 1) * rows], self.pooling)
        reduced = [self.reductions[i](features[i]) for i in range(8)]
        return normalize(jnp.concatenate(reduced, axis=-1))


def run(blocks: list[Block], x: jax.Array) -> jax.Array:
    """Blocks one after the other."""
    for block in blocks:
        x = block(x, False, None, 1)
    return x


def pool(x: jax.Array, pooling: str) -> jax.Array:
    """Mean ("avg") or maximum ("max") over the cells: [B,H,W,C] -> [B,C]."""
    return x.max(axis=(1, 2)) if pooling == "max" else x.mean(axis=(1, 2))
