"""What a published family of re-ID networks must say. A new one is a file with such a class and its registration in
`families.FAMILIES`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from flax import nnx

from psdiff_jax.convert.layout import Checkpoint, Layout
from psdiff_jax.convert.resnet import LEAVES

COUNTERS = r".*\.num_batches_tracked"


class NetworkSpec(Protocol):
    """What distinguishes one network of a family from another: a frozen dataclass of numbers, text and tuples.

    dim: D. least_size: (h, w) of the smallest crops. make: the network, a function of crops [B,h,w,3] RGB 0..255, uint8
    or float, that gives float32 [B,D] of unit length. describe: its parts in a phrase.
    """

    @property
    def dim(self) -> int: ...
    @property
    def least_size(self) -> tuple[int, int]: ...
    def make(self, *, rngs: nnx.Rngs) -> Any: ...
    def describe(self) -> str: ...


@dataclass(frozen=True)
class Family(Layout):
    """The networks of one project: how it names their tensors, and what the shapes of those tell.

    spec_type: class of its specs. crop_size: (h, w) that the authors test with.
    """

    crop_size: tuple[int, int] = (256, 128)
    spec_type: ClassVar[type]
    prefixes: ClassVar[tuple[str, ...]] = ("module", "model", "net")

    def poolings(self, file: Checkpoint) -> tuple[str, ...]:
        """The poolings that a file leaves open; the first is taken unless --pool says otherwise."""
        del file
        return ("avg",)

    def spec(self, file: Checkpoint, pooling: str) -> NetworkSpec:
        """What the tensors of a file say of its network; InputError where one of them does not fit."""
        raise NotImplementedError

    def reference(self, file: Checkpoint, spec: Any, crops: np.ndarray) -> np.ndarray | None:
        """float32 [B,D], unit norm: PyTorch's embeddings of crops uint8 [B,h,w,3]; None where no such code is here.

        Raises:
          ImportError: PyTorch is not installed.
        """
        del file, spec, crops
        return None


def renamed(pairs: Sequence[tuple[str, str]]) -> Callable[[str], tuple[str, ...]]:
    """`Layout.names` by (pattern, replacement) pairs that turn the dotted name of a module of ours into theirs."""

    def names(ours: str) -> tuple[str, ...]:
        """ "backbone/layer1/0/bn1/mean" -> ("base.4.0.bn1.running_mean",)."""
        module, leaf = ours.replace("/", ".").rsplit(".", 1)
        for pattern, replacement in pairs:
            module = re.sub(pattern, replacement, module)
        return (f"{module}.{LEAVES.get(leaf, leaf)}",)

    return names
