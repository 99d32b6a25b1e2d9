"""What a backbone must offer. A new one is a file with such a class and its registration in `backbones.py`."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
Path = tuple[Any, ...]  # of a variable inside the backbone, such as ("layer1", 0, "bn1", "scale")


class Backbone(Protocol):
    """The network that a `BackboneSpec` makes."""

    def __call__(
        self,
        images: jax.Array,
        train: bool = False,
        dtype: jnp.dtype = ...,
        image_size: jax.Array | None = None,
    ) -> tuple[jax.Array, ...]:
        """Images float [B,H,W,3], 0..255 RGB -> four maps [B,H/s,W/s,C] of strides 4, 8, 16 and 32.

        `train` updates statistics, if there are any. `image_size` [B,2]: (h, w) of the valid pixels, None = all: what
        lies inside must not depend on how far the batch is padded to the right and below, nor on what it holds there.

        The outputs of its blocks bear the name "block" (`jax.ad_checkpoint.checkpoint_name`): they are kept where
        training computes the other activations again (config.train.remat).
        """
        ...


@dataclass(frozen=True)
class BackboneSpec(ABC):
    """What distinguishes one backbone from another; frozen, as it is a part of a static graph.

    mean, std: per channel, of the 0..255 RGB input. embedding_dim: of the re-ID head that it may have
    (`models.reid_head`); 0 = none is known here. head: whether that is there, as its attribute `head`; then the network
    gives out a fifth map, of stride 16, for it to read.
    """

    mean: tuple[float, ...] = field(default=IMAGENET_MEAN, kw_only=True)
    std: tuple[float, ...] = field(default=IMAGENET_STD, kw_only=True)
    embedding_dim: int = field(default=0, kw_only=True)
    head: bool = field(default=False, kw_only=True)

    def normalize(self, images: jax.Array, dtype: Any) -> jax.Array:
        """Images float [...,3], 0..255 RGB -> what the network was trained on."""
        mean, std = (jnp.asarray(v, jnp.float32) for v in (self.mean, self.std))
        return ((images - mean) / std).astype(dtype)

    @property
    @abstractmethod
    def channels(self) -> tuple[int, ...]:
        """Of the four maps."""

    @abstractmethod
    def make(self, *, rngs: nnx.Rngs) -> Any:
        """A `Backbone` with random weights."""

    def for_reid(self) -> "BackboneSpec":
        """The same for crops of people; re-ID networks keep stage 4's resolution in stage 5 where they can."""
        return self

    def is_trained(self, path: Path) -> bool:
        """Whether a parameter is trained with the detector."""
        del path
        return True

    def is_decayed(self, path: Path) -> bool:
        """Whether weight decay applies to a parameter with more than one axis."""
        del path
        return True

    def fold(self, network: Any) -> None:
        """Folds frozen normalisation into the weights, in place, for inference; None to do by default."""
        del network
