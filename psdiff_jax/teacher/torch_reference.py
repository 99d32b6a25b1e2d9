"""A reference for a converted re-ID network: the published architecture in plain functions of PyTorch.

It runs on the checkpoint's own tensors, in PyTorch's axes and by their names in the file, and shares only the spec with
`teacher.published`. `teacher.convert` prints the difference.

Legend: B crop, h w rows and columns of a crop, C channels, D embedding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from psdiff_jax.convert.layout import Checkpoint
from psdiff_jax.teacher.published import ReIDSpec

if TYPE_CHECKING:
    from torch import Tensor


class Runner:
    """The layers of one checkpoint, by our names of them."""

    def __init__(self, file: Checkpoint, spec: ReIDSpec):
        import torch
        from torch.nn import functional

        self.file, self.spec, self.torch, self.functional = file, spec, torch, functional

    def tensor(self, name: str) -> Tensor:
        """A tensor of the file."""
        return self.torch.from_numpy(np.array(self.file.get(name), np.float32))

    def has(self, name: str) -> bool:
        return self.file.get(name) is not None

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.tensor(f"{name}/kernel")
        bias = self.tensor(f"{name}/bias") if self.has(f"{name}/bias") else None
        return self.functional.conv2d(x, weight, bias, stride, weight.shape[-1] // 2)

    def norm(self, name: str, x: Tensor) -> Tensor:
        if self.has(f"{name}/mean"):
            return self.functional.batch_norm(
                x, *(self.tensor(f"{name}/{p}") for p in ("mean", "var", "scale", "bias"))
            )
        scale, bias = self.tensor(f"{name}/instance/scale"), self.tensor(f"{name}/instance/bias")
        first = self.functional.instance_norm(x[:, : len(scale)], weight=scale, bias=bias)
        return self.torch.cat([first, self.norm(f"{name}/batch", x[:, len(scale) :])], 1)

    def block(self, name: str, x: Tensor, stride: int) -> Tensor:
        y = self.norm(f"{name}/bn1", self.conv(f"{name}/conv1", x)).relu()
        y = self.norm(f"{name}/bn2", self.conv(f"{name}/conv2", y, stride)).relu()
        y = self.norm(f"{name}/bn3", self.conv(f"{name}/conv3", y))
        if self.has(f"{name}/downsample/0/kernel"):
            x = self.norm(f"{name}/downsample/1", self.conv(f"{name}/downsample/0", x, stride))
        return (x + y).relu()

    def stage(self, name: str, x: Tensor, depth: int, stride: int, non_local: str = "", attention: int = 0) -> Tensor:
        for i in range(depth):
            x = self.block(f"{name}/{i}", x, stride if i == 0 else 1)
            if i >= depth - attention:
                x = self.non_local(f"{non_local}/{i - depth + attention}", x)
        return x

    def non_local(self, name: str, x: Tensor) -> Tensor:
        query, key, value = (self.conv(f"{name}/{part}", x).flatten(2) for part in ("query", "key", "value"))
        weights = query.transpose(1, 2) @ key / key.shape[-1]
        y = (value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
        return x + self.norm(f"{name}/norm", self.conv(f"{name}/out", y))

    def stem(self, prefix: str, crops: np.ndarray) -> Tensor:
        x = self.torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
        mean, std = (self.torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        x = self.norm(f"{prefix}bn1", self.conv(f"{prefix}conv1", (x - mean) / std, 2))
        return self.functional.max_pool2d(x.relu() if self.spec.stem_relu else x, 3, 2, 1)

    def pool(self, x: Tensor) -> Tensor:
        if self.spec.pooling == "gem":
            p = self.tensor("gem/p")
            return (x.clamp(min=1e-6) ** p).mean((2, 3)) ** (1 / p)
        return x.amax((2, 3)) if self.spec.pooling == "max" else x.mean((2, 3))

    def neck_net(self, crops: np.ndarray) -> Tensor:
        x = self.stem("backbone/", crops)
        for i, stride in enumerate((1, 2, 2, 1)):
            attention = self.spec.non_local[i]
            x = self.stage(
                f"backbone/layer{i + 1}", x, self.spec.depths[i], stride, f"backbone/non_local/{i}", attention
            )
        x = self.pool(x)
        if self.spec.embedding_dim:
            x = self.functional.linear(x, self.tensor("feature/kernel"), self.tensor("feature/bias"))
        return self.norm("neck", x)

    def mgn(self, crops: np.ndarray) -> Tensor:
        depths = self.spec.depths
        x = self.stage("layer1", self.stem("", crops), depths[0], 1)
        x = self.block("layer3", self.stage("layer2", x, depths[1], 2), 2)
        maps = [
            self.stage(f"branches/{b}/1", self.stage(f"branches/{b}/0", x, depths[2] - 1, 1), depths[3], stride)
            for b, stride in enumerate((2, 1, 1))
        ]
        halves, thirds = (y.split(y.shape[2] // n, 2)[:n] for y, n in ((maps[1], 2), (maps[2], 3)))
        features = [self.pool(y)[:, :, None, None] for y in (*maps, *halves, *thirds)]
        reduced = [
            self.norm(f"reductions/{i}/bn", self.conv(f"reductions/{i}/conv", y)) for i, y in enumerate(features)
        ]
        return self.torch.cat(reduced, 1).relu().flatten(1)


def embeddings(file: Checkpoint, spec: ReIDSpec, crops: np.ndarray) -> np.ndarray:
    """float32 [B,D] of unit length, of crops uint8 [B,h,w,3]. ImportError without torch."""
    runner = Runner(file, spec)
    with runner.torch.no_grad():
        x = runner.mgn(crops) if spec.parts_dim else runner.neck_net(crops)
        return runner.functional.normalize(x).numpy()
