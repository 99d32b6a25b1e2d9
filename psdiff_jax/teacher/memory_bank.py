"""Hybrid memory bank and its contrastive loss: HHCL (Hu et al. 2021) with identity labels in the place of clusters.

Each identity has two rows of unit length: `mean` follows the mean of its samples, `hard` its least similar sample. A
feature is contrasted with the rows of all other identities, of both kinds, and with embeddings of unlabelled people.

The rule is that of the authors' CM_Hybrid (github.com/bupt-ai-cz/HHCL-ReID, hhcl/models/cm.py, 61c43fc): the loss is
taken against the rows as they were, then both rows of each identity of the batch move. The weights of its two terms
are hard_weight and 1 - hard_weight; the place of a bracket in that code makes them 0.5 and 0.25 at hard_weight = 0.5.
There the rows are made anew every epoch (200 or 400 steps), with the clusters; identities stay, and so do our rows.

Legend: P identities, U unlabelled embeddings kept, B samples of a batch, D embedding.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from psdiff_jax.errors import InputError
from psdiff_jax.ops.normalize import normalize


class MemoryBank(NamedTuple):
    """mean, hard: float32 [P,D]. negatives: float32 [U,D], zero rows are empty. cursor: int32 [], the oldest one."""

    mean: jax.Array
    hard: jax.Array
    negatives: jax.Array
    cursor: jax.Array


def init_memory_bank(embeddings: np.ndarray, labels: np.ndarray, identities: int, negatives: int = 0) -> MemoryBank:
    """Both rows of an identity are the mean of its embeddings: training starts in the space that the network has.

    Args:
      embeddings: [K,D] unit norm. labels: int [K], 0..identities-1, or -1 unlabelled.
      negatives: U, how many embeddings of unlabelled people to keep (0: none).

    Raises:
      InputError: an identity without any sample.
    """
    embeddings, labels = np.asarray(embeddings, np.float32), np.asarray(labels)
    known = labels >= 0
    counts = np.bincount(labels[known], minlength=identities)
    if len(counts) != identities or (counts == 0).any():
        raise InputError(f"teacher training: identities are numbered 0..{identities - 1} and each needs a crop")
    sums = np.zeros((identities, embeddings.shape[1]), np.float32)
    np.add.at(sums, labels[known], embeddings[known])
    mean = np.asarray(normalize(jnp.asarray(sums / counts[:, None])))
    queue, unknown = np.zeros((negatives, embeddings.shape[1]), np.float32), embeddings[~known][:negatives]
    queue[: len(unknown)] = unknown
    return MemoryBank(jnp.array(mean), jnp.array(mean), jnp.array(queue), jnp.zeros((), jnp.int32))


def info_nce(
    features: jax.Array, rows: jax.Array, negatives: jax.Array, labels: jax.Array, temperature: float
) -> jax.Array:
    """-log softmax(f . rows / temperature) of each sample's own row: [B,D], [P,D], [U,D], int [B] -> [B].

    Samples with label -1 get 0. Empty rows of `negatives` take no part.
    """
    logits = jnp.einsum("bd,pd->bp", features, rows) / temperature
    own = jnp.take_along_axis(logits, jnp.maximum(labels, 0)[:, None], axis=1)[:, 0]
    if negatives.shape[0]:
        filled = jnp.any(negatives != 0, axis=-1)
        extra = jnp.where(filled, jnp.einsum("bd,ud->bu", features, negatives) / temperature, -jnp.inf)
        logits = jnp.concatenate([logits, extra], axis=1)
    return jnp.where(labels >= 0, jax.nn.logsumexp(logits, axis=1) - own, 0.0)


def memory_loss(
    features: jax.Array, labels: jax.Array, bank: MemoryBank, temperature: float = 0.05, hard_weight: float = 0.5
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(1 - hard_weight) InfoNCE(mean rows) + hard_weight InfoNCE(hard rows), averaged over the labelled samples.

    Args:
      features: [B,D] unit norm. labels: int32 [B], -1 unlabelled (no loss of their own).

    Returns:
      The loss, and scalars: the two terms, and the share of samples whose own mean row is the nearest.
    """
    count = jnp.maximum(jnp.sum(labels >= 0), 1)
    rows = jax.lax.stop_gradient(bank)
    terms = {
        name: jnp.sum(info_nce(features, row, rows.negatives, labels, temperature)) / count
        for name, row in (("mean", rows.mean), ("hard", rows.hard))
    }
    nearest = jnp.argmax(jnp.einsum("bd,pd->bp", features, rows.mean), axis=1)
    accuracy = jnp.sum((nearest == labels) & (labels >= 0)) / count
    loss = (1 - hard_weight) * terms["mean"] + hard_weight * terms["hard"]
    return loss, {"loss_mean": terms["mean"], "loss_hard": terms["hard"], "accuracy": accuracy}


def update_memory_bank(bank: MemoryBank, features: jax.Array, labels: jax.Array, momentum: float = 0.1) -> MemoryBank:
    """The memory bank after a batch: row <- unit(momentum row + (1 - momentum) x), for the identities in the batch.

    x is the mean of the identity's samples for `mean`, and the sample least similar to the row for `hard`.
    Unlabelled samples (-1) replace the oldest negatives.
    """
    features = jax.lax.stop_gradient(features)
    same = (labels[:, None] == labels[None, :]) & (labels >= 0)[None, :]
    mean = jnp.einsum("bc,cd->bd", same.astype(features.dtype), features) / jnp.maximum(same.sum(1, keepdims=True), 1)
    own_hard = bank.hard[jnp.maximum(labels, 0)]
    similarity = jnp.sum(features * own_hard, axis=-1)
    hardest = features[jnp.argmin(jnp.where(same, similarity[None, :], jnp.inf), axis=1)]
    # An index beyond the last row is dropped; samples of one identity all write the same value.
    target = jnp.where(labels >= 0, labels, bank.mean.shape[0])

    def moved(rows: jax.Array, x: jax.Array) -> jax.Array:
        new = normalize(momentum * rows[jnp.maximum(labels, 0)] + (1 - momentum) * x)
        return rows.at[target].set(new, mode="drop")

    negatives, cursor = bank.negatives, bank.cursor
    size = negatives.shape[0]
    if size:
        unknown = labels < 0
        order = jnp.cumsum(unknown) - 1
        # Of more newcomers than places only the last stay.
        fits = unknown & (order >= jnp.sum(unknown) - size)
        negatives = negatives.at[jnp.where(fits, (cursor + order) % size, size)].set(features, mode="drop")
        cursor = ((cursor + jnp.sum(unknown)) % size).astype(jnp.int32)
    return MemoryBank(moved(bank.mean, mean), moved(bank.hard, hardest), negatives, cursor)
