"""The row read-out in closed form: ridge regression from the features of ground-truth boxes to the teacher's targets.

Minimises |Z W + P - Y|^2 + s |W|^2 over all ground truths with a target: Z are their standardised features, P is what
is said already by another run's read-out and by the re-ID backbone's own head, where there are any. Sums are streamed,
so that only the features of a sample of boxes are kept. The strength s is chosen by cross-validation over identities: a
map of all folds but one must rank the boxes of that one, people that it has not seen. Ranking, not the error: towards
new people all maps are far from the targets, and the least error is that of a map which says nothing.

Legend: B image, M ground truth (padded), n box, F feature, D embedding.
"""

import functools
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from flax import nnx

from psdiff_jax import parallel
from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.reid import reid_scores
from psdiff_jax.models.psdiff import PSDiff, merge
from psdiff_jax.ops.normalize import unit_rows

FOLDS = 5
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # per box of the fit
MOST_KEPT = 4000  # boxes of a fold that are ranked


class Fit(NamedTuple):
    """A linear map of features and how it was found.

    mean, variance [F]: of the features; kernel [F,D], bias [D]: the map of standardised ones. strength: the chosen one,
    per box. scores: mAP of the ranking with each of `STRENGTHS`. boxes: how many were fitted.
    """

    mean: np.ndarray
    variance: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray
    strength: float
    scores: dict[float, float]
    boxes: int

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Features [n,F] -> [n,D]."""
        return (x - self.mean) / np.sqrt(self.variance) @ self.kernel + self.bias

    def plus(self, prior: "Fit") -> "Fit":
        """The sum of two maps, standardised by this one's statistics."""
        scale = np.sqrt(self.variance / prior.variance)[:, None]
        shift = (self.mean - prior.mean) / np.sqrt(prior.variance)
        return self._replace(
            kernel=self.kernel + scale * prior.kernel, bias=self.bias + prior.bias + shift @ prior.kernel
        )


class Boxes(NamedTuple):
    """Ground truths: features [n,F], unit targets [n,D], person ids [n]; said [n,D]: by whatever the fit is added to,
    from which it departs no further than the boxes tell."""

    features: np.ndarray
    targets: np.ndarray
    ids: np.ndarray
    said: np.ndarray


class Sums:
    """Count, sum and products of [1, features, targets], in float64."""

    def __init__(self, features: int, targets: int):
        self.count = 0
        self.x, self.y = np.zeros(features), np.zeros(targets)
        self.xx, self.xy = np.zeros((features, features)), np.zeros((features, targets))

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """x [n,F], y [n,D]."""
        x, y = x.astype(np.float64), y.astype(np.float64)
        self.count += len(x)
        self.x += x.sum(0)
        self.y += y.sum(0)
        self.xx += x.T @ x
        self.xy += x.T @ y

    def plus(self, other: "Sums", sign: int = 1) -> "Sums":
        """The sums of both, or of what is in this one only (sign -1)."""
        both = Sums(len(self.x), len(self.y))
        for name, value in vars(self).items():
            setattr(both, name, value + sign * getattr(other, name))
        return both

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of the features [F]."""
        mean = self.x / self.count
        return mean, np.maximum(np.diag(self.xx) / self.count - mean**2, 1e-12)

    def solve(self, strengths: Sequence[float]) -> list[Fit]:
        """The map for each strength; its bias is not penalised."""
        mean, variance = self.moments()
        deviation = np.sqrt(variance)
        centred = self.xx - self.count * np.outer(mean, mean)
        products = (self.xy - np.outer(mean, self.y)) / deviation[:, None]
        correlation = centred / np.outer(deviation, deviation)
        bias, found = self.y / self.count, []
        for strength in strengths:
            penalised = correlation + strength * self.count * np.eye(len(deviation))
            kernel = scipy.linalg.solve(penalised, products, assume_a="pos", overwrite_a=True)
            found.append(Fit(mean, variance, kernel, bias, strength, {}, self.count))
        return found


def fit(boxes: Iterable[Boxes]) -> Fit:
    """Fits (features, targets, person ids, what is said of them already) batch by batch.

    Raises:
      InputError: a fold has no box: there are too few people.
    """
    sums: list[Sums] = []
    kept: list[list[Boxes]] = [[] for _ in range(FOLDS)]
    people, nameless = dict[int, int](), itertools.count()
    for x, y, ids, said in boxes:
        sums = sums or [Sums(x.shape[1], y.shape[1]) for _ in range(FOLDS)]
        # People are counted as they come, for ids may all be multiples of something. Boxes without one are people as
        # well: each is one of its own.
        number = [people.setdefault(i, len(people)) if i >= 0 else next(nameless) for i in ids.tolist()]
        fold = np.asarray(number, int) % FOLDS
        for k in np.unique(fold):
            mine = fold == k
            part = Boxes(x[mine], y[mine], ids[mine], said[mine])
            sums[k].add(part.features, part.targets - part.said)
            if sum(len(each.ids) for each in kept[k]) < MOST_KEPT:
                kept[k].append(part)
    if not sums or not all(part.count for part in sums):
        raise InputError(
            f"config.train.closed_form: needs ground truths of at least {FOLDS} people with a target; turn it off"
        )
    total = functools.reduce(Sums.plus, sums)
    scores = _cross_validated(total, sums, kept)
    best = max(scores, key=lambda strength: scores[strength])
    [found] = total.solve([best])
    return found._replace(scores=scores)


def _cross_validated(total: Sums, sums: list[Sums], kept: list[list[Boxes]]) -> dict[float, float]:
    """Mean over the folds of the mAP with which maps of the other folds rank a fold's boxes, for each strength."""
    found: dict[float, list[float]] = {strength: [] for strength in STRENGTHS}
    for part, rows in zip(sums, kept, strict=True):
        x, _, ids, said = (np.concatenate(values) for values in zip(*rows, strict=True))
        people, counts = np.unique(ids[ids >= 0], return_counts=True)
        queries = np.flatnonzero(np.isin(ids, people[counts > 1]))
        if not len(queries):
            continue
        for each in total.plus(part, -1).solve(STRENGTHS):
            found[each.strength].append(float(reid_scores(unit_rows(each(x) + said), ids, queries=queries)["mAP"]))
    return {strength: float(np.mean(values)) if values else 0.0 for strength, values in found.items()}


def start_readout(model: PSDiff, batches: Iterable[dict[str, np.ndarray]]) -> Fit:
    """Sets the model's row read-out to the closed form, and what the denoising layers add to it to zero.

    batches: with ground truths, their embeddings (zeros = unknown) and person ids, in any order, without augmentation.
    Every device and process computes the features of its own images.
    """
    readout = model.readout
    assert readout is not None
    norm, linear = nnx.state(readout.norm), nnx.state(readout.linear)
    mean, variance, kernel, bias = (
        np.asarray(each[name][...], np.float64)
        for each, name in ((norm, "mean"), (norm, "var"), (linear, "kernel"), (linear, "bias"))
    )
    prior = Fit(mean, variance + readout.norm.epsilon, kernel, bias, 0.0, {}, 0) if kernel.any() else None

    def known() -> Iterator[Boxes]:
        for features, y, ids in box_features(model, batches):
            x, said = readout.split(features)
            said = np.broadcast_to(said + (0.0 if prior is None else prior(x)), y.shape)
            yield Boxes(*(each[np.any(y != 0, axis=-1)] for each in (x, y, ids, said)))

    found = fit(known())
    found = found if prior is None else found.plus(prior)
    new = {
        "norm": {"mean": found.mean, "var": found.variance - readout.norm.epsilon},
        "linear": {"kernel": found.kernel, "bias": found.bias},
    }
    nnx.update(readout, jax.tree.map(jnp.float32, new))
    for layer in model.cdl:
        layer.leave_embeddings_to_readout()
    scores = ", ".join(f"{strength:g}: {100 * score:.1f}" for strength, score in found.scores.items())
    print(
        f"closed form: {found.boxes} boxes; mAP of unseen people by strength {scores}; taken: {found.strength:g}",
        file=sys.stderr,
        flush=True,
    )
    return found


def box_features(
    model: PSDiff, batches: Iterable[dict[str, np.ndarray]]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(features [n,F], targets [n,D], person ids [n]) of the ground truths of every batch, image by image."""
    graphdef, state = nnx.split(model)
    mesh = parallel.make_mesh()
    state = parallel.put_replicated(state, mesh)

    @jax.jit
    def features(state: nnx.State, image: jax.Array, size: jax.Array, boxes: jax.Array) -> jax.Array:
        network = merge(graphdef, state, folded=True)
        return network.read(network.features(image, size), boxes).astype(jnp.float32)

    names = ("image", "image_size", "boxes", "embeddings", "person_ids", "boxes_mask")
    for batch in batches:
        # All by way of the devices, for on TPUs the rows of a process need not lie side by side in the whole batch.
        on_device = parallel.put_batch({name: batch[name] for name in names}, mesh)
        x = features(state, *(on_device[name] for name in names[:3]))
        x, embeddings, ids, real = parallel.fetch((x, *(on_device[name] for name in names[3:])))
        yield x[real], embeddings[real], ids[real]
