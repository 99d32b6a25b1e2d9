"""The set loss against torch, and by hand."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psdiff_jax.models.psdiff import Estimate
from psdiff_jax.training.losses import set_loss, sigmoid_focal
from psdiff_jax.training.matcher import MatchSpec

SPEC = MatchSpec(cls=2.0, l1=5.0, giou=2.0, reid=3.0)
TERMS = {"cls", "l1", "giou", "reid"}


def test_focal_loss_and_its_gradient_are_torchs():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits = np.concatenate([4 * rng.normal(size=200), [-60, 60, -60, 60]])
    targets = np.concatenate([rng.integers(0, 2, 200), [0, 0, 1, 1]]).astype(float)
    x, y = torch.tensor(logits, requires_grad=True), torch.tensor(targets)
    # Lin et al. 2017, Eq. 5, by torch's own cross-entropy.
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(x, y, reduction="none")
    want = torch.where(y > 0, 0.25, 0.75) * (1 - torch.exp(-entropy)) ** 2 * entropy
    want.sum().backward()
    got, gradient = jax.vmap(jax.value_and_grad(sigmoid_focal))(jnp.float32(logits), jnp.float32(targets))
    np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-3, atol=1e-6)


@pytest.fixture(scope="module")
def scene():
    """One photograph 200 wide and 100 high, two truths and a padded one; slots 0 and 2 lie on the truths."""
    truths = np.float32([[[20, 20, 60, 80], [120, 10, 160, 90], [0, 0, 0, 0]]])
    batch = {
        "boxes": truths, "boxes_mask": np.array([[True, True, False]]), "image_size": np.int32([[100, 200]]),
        "embeddings": np.float32([[[1, 0, 0], [0, 1, 0], [0, 0, 0]]]),
    }
    boxes = np.float32([[[120, 10, 160, 70], [90, 40, 110, 60], [20, 20, 70, 80], [0, 0, 10, 10]]])
    embeddings = np.float32([[[0, 1, 0.5], [5, 5, 5], [0.2, 0, 0], [1, 2, 3]]])
    return Estimate(boxes, np.float32([[1.0, -2.0, 0.5, -3.0]]), embeddings), batch


@pytest.fixture(scope="module")
def loss():
    """Terms and the gradient of their sum, jitted for each rule."""
    def total(estimate, batch, spec):
        terms = set_loss(estimate, batch, spec)
        return sum(terms.values()), terms

    compiled = {rule: jax.jit(jax.value_and_grad(partial(total, spec=dataclasses.replace(SPEC, rule=rule)),
                                                 has_aux=True)) for rule in ("simota", "hungarian")}

    def run(estimate, batch, rule="simota"):
        (_, terms), gradient = compiled[rule](estimate, {k: jnp.asarray(v) for k, v in batch.items()})
        assert set(terms) == TERMS
        return {k: float(v) for k, v in terms.items()}, gradient

    return run


@pytest.mark.parametrize("rule", ["simota", "hungarian"])
def test_every_term_by_hand(scene, loss, rule):
    terms, gradient = loss(*scene, rule)
    p = 1 / (1 + np.exp(-np.array([1.0, -2.0, 0.5, -3.0])))
    focal = np.where([1, 0, 1, 0], -0.25 * (1 - p) ** 2 * np.log(p), -0.75 * p**2 * np.log(1 - p))
    assert terms["cls"] == pytest.approx(2 * focal.sum() / 2, rel=1e-5)
    # Slot 0 ends 20 px too high (of 100), slot 2 ends 10 px too far right (of 200).
    assert terms["l1"] == pytest.approx(5 * (20 / 100 + 10 / 200) / 2, rel=1e-5)
    # One box holds the other in both, so the hull is the union: GIoU = IoU = 2400 / 3200 and 2400 / 3000.
    assert terms["giou"] == pytest.approx(2 * (0.25 + 0.2) / 2, rel=1e-5)
    assert terms["reid"] == pytest.approx(3 * (0.5 + 0.8) / 2, rel=1e-5)  # the norm, not its square
    # Slots 1 and 3 are matched to nothing: only their score is taught.
    for value in (gradient.boxes, gradient.embeddings):
        assert not np.any(value[0, [1, 3]]) and np.any(value[0, 0]) and np.any(value[0, 2])
    assert np.all(gradient.logits[0, [1, 3]] > 0) and np.all(gradient.logits[0, [0, 2]] < 0)


def test_terms_are_divided_by_the_matches_of_the_whole_batch(scene, loss):
    """Three photographs, the second with one truth, the third with none: sums are shared, not averaged by image."""
    estimate, batch = scene
    batch = {k: np.concatenate([v, v, v]) for k, v in batch.items()}
    batch["boxes_mask"] = np.array([[True, True, False], [True, False, False], [False] * 3])
    terms, _ = loss(Estimate(*(np.concatenate([v, v, v]) for v in estimate)), batch)
    assert terms["l1"] == pytest.approx(5 * (0.25 + 0.05) / 3, rel=1e-5)
    assert terms["reid"] == pytest.approx(3 * (1.3 + 0.8) / 3, rel=1e-5)


def test_photographs_without_people(scene, loss):
    estimate, batch = scene
    batch = batch | {"boxes_mask": np.zeros((1, 3), bool), "boxes": np.zeros((1, 3, 4), np.float32)}
    for rule in ("simota", "hungarian"):
        terms, gradient = loss(estimate, batch, rule)
        p = 1 / (1 + np.exp(-np.asarray(estimate.logits, np.float64)))
        assert terms["cls"] == pytest.approx(2 * (-0.75 * p**2 * np.log(1 - p)).sum(), rel=1e-5)
        assert terms["l1"] == terms["giou"] == terms["reid"] == 0
        assert all(np.isfinite(v).all() for v in gradient)
        assert not np.any(gradient.boxes) and not np.any(gradient.embeddings) and np.all(gradient.logits > 0)


def test_truths_without_an_embedding_are_no_embedding_target(scene, loss):
    estimate, batch = scene
    known = batch["embeddings"].copy()
    known[0, 1] = 0
    terms, gradient = loss(estimate, batch | {"embeddings": known})
    assert terms["reid"] == pytest.approx(3 * 0.8, rel=1e-5)  # the mean over those that have one
    assert terms["l1"] == pytest.approx(5 * 0.25 / 2, rel=1e-5)  # the box still counts
    assert not np.any(gradient.embeddings[0, 0]) and np.any(gradient.embeddings[0, 2])
    terms, gradient = loss(estimate, batch | {"embeddings": np.zeros_like(known)})
    assert terms["reid"] == 0 and np.isfinite(gradient.embeddings).all()


def test_a_perfect_estimate_costs_next_to_nothing(scene, loss):
    _, batch = scene
    boxes = np.concatenate([batch["boxes"][:, :2], [[[90, 40, 95, 60], [0, 0, 5, 5]]]], 1).astype(np.float32)
    embeddings = np.concatenate([batch["embeddings"][:, :2], np.ones((1, 2, 3))], 1).astype(np.float32)
    terms, gradient = loss(Estimate(boxes, np.float32([[20, 20, -20, -20]]), embeddings), batch)
    assert sum(terms.values()) < 1e-4 and all(np.isfinite(v).all() for v in gradient)
