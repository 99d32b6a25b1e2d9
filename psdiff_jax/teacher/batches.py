"""Identity-balanced, augmented batches of crops.

Legend: N crops of a split, B crops of a batch = P identities x K crops + U unlabelled, h w rows and columns of a crop.
"""

import numpy as np

from psdiff_jax.errors import InputError
from psdiff_jax.teacher.augment import AugmentOptions, augment_crops
from psdiff_jax.teacher.crops import CropSet


class BalancedBatches:
    """Batches of P identities x K crops, and U unlabelled crops at the end; batch `step` depends on (seed, step) alone.

    Every identity comes once an epoch of `steps_per_epoch` steps (a remainder smaller than P waits for the next
    shuffle). Identities with fewer than K crops repeat some. Without unlabelled crops U is 0. Any crop of an identity
    is as likely as any other, for not every dataset knows its cameras: HHCL's sampler takes the other K - 1 from
    cameras other than the first one's, where it can. Where `devices` cannot share such a batch, P is the next
    lower number with which they can.

    Attributes:
      labels: int32 [N], 0..num_identities-1 by rising person id, -1 unlabelled. identities_per_batch: P. size: B.
    """

    def __init__(
        self,
        crops: CropSet,
        identities: int,
        crops_per_identity: int,
        *,
        unlabelled: int = 0,
        devices: int = 1,
        augment: AugmentOptions | None = None,
        seed: int = 0,
    ):
        self.crops, self.augment, self.seed = crops, augment or AugmentOptions(), seed
        known = crops.person_ids >= 0
        ids = np.unique(crops.person_ids[known])
        if len(ids) < 2:
            raise InputError(
                "config.teacher.kind=trained needs labelled identities and the train split has fewer than two:"
                " bring a teacher along (kind network, onnx, openvino or file)"
            )
        self.labels = np.where(known, np.searchsorted(ids, crops.person_ids), -1).astype(np.int32)
        self.num_identities = len(ids)
        self.identities_per_batch, self.crops_per_identity = min(identities, self.num_identities), crops_per_identity
        order = np.argsort(self.labels, kind="stable")
        self._members = np.split(order, np.searchsorted(self.labels[order], np.arange(self.num_identities)))
        self._unlabelled, self._members = self._members[0], self._members[1:]
        self.unlabelled = unlabelled if len(self._unlabelled) else 0
        self.identities_per_batch = self._shared_by(devices)
        self.steps_per_epoch = self.num_identities // self.identities_per_batch
        self.size = self.identities_per_batch * crops_per_identity + self.unlabelled

    def _shared_by(self, devices: int) -> int:
        """The most identities of a batch that so many devices can share; all of them where there is no such number."""
        most, others = self.identities_per_batch, self.unlabelled
        fits = (p for p in range(most, 1, -1) if (p * self.crops_per_identity + others) % devices == 0)
        return next(fits, most)

    def rows(self, step: int) -> np.ndarray:
        """int [B], the crops of batch `step`: K of the first identity, K of the second, ..., the unlabelled."""
        epoch, place = divmod(step, self.steps_per_epoch)
        chosen = np.random.default_rng([self.seed, 1, epoch]).permutation(self.num_identities)
        chosen = chosen[place * self.identities_per_batch :][: self.identities_per_batch]
        rng = np.random.default_rng([self.seed, 2, step])
        rows = [_draw(rng, self._members[label], self.crops_per_identity) for label in chosen]
        return np.concatenate([*rows, _draw(rng, self._unlabelled, self.unlabelled)])

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """{"crops": uint8 [B,h,w,3], "labels": int32 [B]}."""
        rows = self.rows(step)
        rng = np.random.default_rng([self.seed, 3, step])
        return {"crops": augment_crops(self.crops.crops[rows], self.augment, rng), "labels": self.labels[rows]}


def _draw(rng: np.random.Generator, members: np.ndarray, count: int) -> np.ndarray:
    """`count` of `members`, each as often as any other, give or take one."""
    if count == 0:
        return np.zeros(0, np.int64)
    repeats = -(-count // len(members))
    return np.concatenate([rng.permutation(members) for _ in range(repeats)])[:count]
