"""The set loss against torch, and by hand. As a program: one set loss on all devices, results to the file named."""

import dataclasses
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psdiff_jax.models.psdiff import Estimate
from psdiff_jax.training.losses import quality_focal, set_loss, sigmoid_focal
from psdiff_jax.training.matcher import MatchOptions, cost_matrix, match

pytestmark = pytest.mark.slow

SPEC = MatchOptions(cls=2.0, l1=5.0, giou=2.0, reid=3.0)
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
    """One image 200 wide and 100 high, two ground truths and a padded one; proposals 0 and 2 lie on them."""
    gts = np.float32([[[20, 20, 60, 80], [120, 10, 160, 90], [0, 0, 0, 0]]])
    batch = {
        "boxes": gts,
        "boxes_mask": np.array([[True, True, False]]),
        "image_size": np.int32([[100, 200]]),
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

    compiled = {
        rule: jax.jit(jax.value_and_grad(partial(total, spec=dataclasses.replace(SPEC, rule=rule)), has_aux=True))
        for rule in ("simota", "hungarian")
    }

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
    # Proposal 0 ends 20 px too high (of 100), proposal 2 ends 10 px too far right (of 200).
    assert terms["l1"] == pytest.approx(5 * (20 / 100 + 10 / 200) / 2, rel=1e-5)
    # One box holds the other in both, so the hull is the union: GIoU = IoU = 2400 / 3200 and 2400 / 3000.
    assert terms["giou"] == pytest.approx(2 * (0.25 + 0.2) / 2, rel=1e-5)
    assert terms["reid"] == pytest.approx(3 * (0.5 + 0.8) / 2, rel=1e-5)  # the norm, not its square
    # Proposals 1 and 3 are matched to nothing: only their score is taught.
    for value in (gradient.boxes, gradient.embeddings):
        assert not np.any(value[0, [1, 3]]) and np.any(value[0, 0]) and np.any(value[0, 2])
    assert np.all(gradient.logits[0, [1, 3]] > 0) and np.all(gradient.logits[0, [0, 2]] < 0)


def test_quality_focal_loss_is_that_of_its_paper_and_least_at_its_target():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits, targets = 3 * rng.normal(size=200), rng.uniform(size=200) * rng.integers(0, 2, 200)
    x, y = torch.tensor(logits, requires_grad=True), torch.tensor(targets)
    # Li et al. 2020, Eq. 4, by torch's own cross-entropy.
    want = (y - torch.sigmoid(x)).abs() ** 2 * torch.nn.functional.binary_cross_entropy_with_logits(
        x, y, reduction="none"
    )
    want.sum().backward()
    got, gradient = jax.vmap(jax.value_and_grad(quality_focal))(jnp.float32(logits), jnp.float32(targets))
    np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-3, atol=1e-5)
    inner = jnp.float32(targets[targets > 0])
    least = jax.vmap(jax.grad(quality_focal))(jax.scipy.special.logit(inner), inner)
    np.testing.assert_allclose(least, 0, atol=1e-5)


def test_what_a_score_learns(scene):
    """Proposal 0 has IoU 0.75 with the second ground truth, 2 has 0.8 with the first; 1 then overlaps the first too."""
    estimate, batch = scene
    want = {"matched_iou": [0.75, 0, 0.8, 0], "iou": [0.75, 0, 0.8, 0]}
    moved = estimate._replace(
        boxes=np.float32([[[120, 10, 160, 70], [50, 40, 70, 60], [20, 20, 70, 80], [0, 0, 10, 10]]])
    )
    overlap = 10 * 20 / (40 * 60 + 20 * 20 - 10 * 20)
    for given, by in ((estimate, want), (moved, {**want, "iou": [0.75, overlap, 0.8, 0]})):
        for score, targets in by.items():
            terms = set_loss(given, batch, dataclasses.replace(SPEC, score=score))
            loss = quality_focal(jnp.asarray(given.logits[0]), jnp.float32(targets)).sum()
            assert float(terms["cls"]) == pytest.approx(2 * float(loss) / 2, rel=1e-5)


def test_terms_are_divided_by_the_matches_of_the_whole_batch(scene, loss):
    """Three images, the second with one ground truth, the third with none: sums are shared, not averaged by image."""
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


def made_up(images: int, num_proposals: int, gts: int, dim: int = 8, seed: int = 0) -> tuple[Estimate, dict]:
    """Estimates near the ground truth; the images have 0, 1, ... `gts` people, most of them in the last images."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 60, (images, gts, 2))
    boxes = np.concatenate([low, low + rng.uniform(8, 40, low.shape)], -1)
    near = boxes[np.arange(images)[:, None], rng.integers(0, gts, (images, num_proposals))]
    near = near + rng.normal(size=near.shape) * 3
    near[..., 2:] = np.maximum(near[..., 2:], near[..., :2] + 1)
    embeddings = rng.normal(size=(images, gts, dim))
    embeddings /= np.linalg.norm(embeddings, axis=-1, keepdims=True)
    embeddings[:, 0] *= rng.uniform(size=(images, 1)) < 0.7  # some without an embedding
    batch = {"boxes": boxes, "embeddings": embeddings, "image_size": np.full((images, 2), (100, 120))}
    batch = {k: v.astype(np.float32) for k, v in batch.items()} | {
        "boxes_mask": np.arange(gts) < np.arange(images)[:, None] * (gts + 1) // images
    }
    batch["image_size"] = batch["image_size"].astype(np.int32)
    estimate = Estimate(
        near, 2 * rng.normal(size=(images, num_proposals)) - 1, rng.normal(size=(images, num_proposals, dim))
    )
    return Estimate(*(v.astype(np.float32) for v in estimate)), batch


def torch_loss(torch, estimate, batch, matched, gt):
    """Eq. 13 and 14 for given matches in float64: the terms, with torch's own losses where it has them."""
    image, proposal = np.nonzero(matched)
    target = gt[image, proposal]
    boxes, wanted = estimate.boxes[image, proposal], torch.tensor(batch["boxes"][image, target], dtype=torch.float64)
    height, width = (torch.tensor(batch["image_size"][image, axis], dtype=torch.float64) for axis in (0, 1))
    scale = torch.stack([width, height, width, height], -1)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(
        estimate.logits, torch.tensor(matched, dtype=torch.float64), reduction="none"
    )
    focal = torch.where(torch.tensor(matched), 0.25, 0.75) * (1 - torch.exp(-entropy)) ** 2 * entropy
    area = lambda v: (v[:, 2:] - v[:, :2]).clamp(min=0).prod(-1)  # noqa: E731
    meet = torch.cat([torch.maximum(boxes[:, :2], wanted[:, :2]), torch.minimum(boxes[:, 2:], wanted[:, 2:])], -1)
    hull = torch.cat([torch.minimum(boxes[:, :2], wanted[:, :2]), torch.maximum(boxes[:, 2:], wanted[:, 2:])], -1)
    union = area(boxes) + area(wanted) - area(meet)
    giou = area(meet) / union - (area(hull) - union) / area(hull)
    vector = torch.tensor(batch["embeddings"][image, target], dtype=torch.float64)
    known = vector.abs().sum(-1) > 0
    distance = torch.linalg.vector_norm(estimate.embeddings[image, proposal] - vector, dim=-1)[known]
    return {
        "cls": 2 * focal.sum() / len(proposal),
        "giou": 2 * (1 - giou).sum() / len(proposal),
        "l1": 5 * torch.nn.functional.l1_loss(boxes / scale, wanted / scale, reduction="sum") / len(proposal),
        "reid": 3 * distance.sum() / known.sum(),
    }


@pytest.mark.parametrize("rule", ["simota", "hungarian"])
def test_terms_and_gradients_are_torchs(loss, rule):
    torch = pytest.importorskip("torch")
    estimate, batch = made_up(6, 12, 5)

    def matches(logits, boxes, embeddings, gt_boxes, gt_embeddings, mask, size):
        spec = dataclasses.replace(SPEC, rule=rule)
        return match(*cost_matrix(logits, boxes, embeddings, gt_boxes, gt_embeddings, mask, size, spec), mask, spec)

    matched, gt = (
        np.asarray(v)
        for v in jax.jit(jax.vmap(matches))(
            estimate.logits,
            estimate.boxes,
            estimate.embeddings,
            batch["boxes"],
            batch["embeddings"],
            batch["boxes_mask"],
            batch["image_size"],
        )
    )
    assert matched.any(1).tolist() == [False, *[True] * 5]  # the first image has no person
    tensors = Estimate(*(torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in estimate))
    want = torch_loss(torch, tensors, batch, matched, gt)
    sum(want.values()).backward()
    terms, gradient = loss(estimate, batch, rule)
    for name, value in want.items():
        assert terms[name] == pytest.approx(value.item(), rel=1e-5), name
    for ours, tensor in zip(gradient, tensors, strict=True):
        np.testing.assert_allclose(ours, tensor.grad.numpy(), rtol=2e-4, atol=1e-6)


def test_more_people_than_slots(loss):
    estimate, batch = made_up(1, 3, 8)
    batch["boxes_mask"] = np.ones((1, 8), bool)
    for rule in ("simota", "hungarian"):
        terms, gradient = loss(estimate, batch, rule)
        assert all(np.isfinite(v) and v > 0 for v in terms.values())
        assert np.abs(gradient.boxes).sum((0, 2)).min() > 0  # every proposal is matched, so every box is taught


def test_eight_devices_lose_what_one_does(tmp_path):
    """Both rules, images sharded so that the first devices see no one and the last see crowds."""
    out = tmp_path / "sharded.npz"
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, __file__, str(out)], capture_output=True, text=True, timeout=600, env=environment
    )
    assert done.returncode == 0, done.stderr
    with np.load(out) as numbers:
        for name in (name for name in numbers if name.endswith(".one")):
            np.testing.assert_allclose(
                numbers[name.replace(".one", ".eight")], numbers[name], rtol=1e-5, atol=1e-7, err_msg=name
            )
        assert {name.split(".")[0] for name in numbers} == {"simota", "hungarian"}
        assert len(numbers.files) == 2 * 2 * (len(TERMS) + 3)


def test_stacked_layers_are_each_supervised(tiny, make_batch, monkeypatch):
    """num_cdl = 2: the loss is the sum of both layers' set losses, and each layer learns by its own."""
    from psdiff_jax.diffusion.samplers import SamplerOptions
    from psdiff_jax.models.psdiff import Condition, PSDiff
    from psdiff_jax.training import step
    from psdiff_jax.training.states import NoiseOptions

    # A backbone, attention and matching would take a minute to compile.
    plain = {"self_attention": False, "dynamic_conv": False, "cross_attention": False}
    model = tiny.make(dataclasses.replace(tiny.options, num_cdl=2, **plain))
    rng, asked = np.random.default_rng(0), []
    pyramid = tuple(rng.normal(size=(2, 64 // s, 96 // s, 16)).astype(np.float32) for s in (4, 8, 16, 32))

    def stand_in(estimate, batch, matching):
        asked.append(matching)
        value = sum((v**2).mean() for v in estimate)
        return {"some": 7.0 ** len(asked) + value - jax.lax.stop_gradient(value)}

    monkeypatch.setattr(PSDiff, "features", lambda _, images, size: Condition(pyramid, size))
    monkeypatch.setattr(step, "set_loss", stand_in)
    noise = NoiseOptions(num_proposals=8, random_fraction=0.0, rollout_probability=0.0, gt_box_proposals=0)
    (total, terms), gradients = jax.jit(
        jax.value_and_grad(
            partial(
                step.loss_fn,
                graphdef=model.graphdef,
                key=jax.random.key(0),
                batch=make_batch(2),
                matching=SPEC,
                noise=noise,
                sampler=SamplerOptions(num_proposals=8),
            ),
            has_aux=True,
        )
    )(model.params, model.rest)
    assert asked == [SPEC, SPEC] and float(total) == pytest.approx(7 + 49) and float(terms["some"]) == pytest.approx(49)
    for layer in (0, 1):
        for part in ("tower", "embedding_head", "delta", "score"):
            assert all(np.any(v) for v in jax.tree.leaves(gradients["cdl"][layer][part])), (layer, part)


def main(out: Path) -> None:
    """The set loss and its gradients on 8 devices, and on one, for both rules."""
    from psdiff_jax import parallel

    estimate, batch = made_up(16, 10, 4)
    mesh, results = parallel.make_mesh(), {}
    assert jax.device_count() == 8

    def total(estimate, batch, spec):
        terms = set_loss(estimate, batch, spec)
        return sum(terms.values()), terms

    for rule in ("simota", "hungarian"):
        step = jax.jit(jax.value_and_grad(partial(total, spec=dataclasses.replace(SPEC, rule=rule)), has_aux=True))
        for name, place in (("one", jax.devices()[0]), ("eight", parallel.batch_sharding(mesh))):
            (_, terms), gradient = step(*jax.device_put((estimate, batch), place))
            numbers = terms | gradient._asdict()
            results |= {f"{rule}.{key}.{name}": np.asarray(value) for key, value in numbers.items()}
            assert len(gradient.boxes.sharding.device_set) == {"one": 1, "eight": 8}[name]
    np.savez(out, **results)


if __name__ == "__main__":
    main(Path(sys.argv[1]))


def test_the_sum_of_eq_14_is_the_mean_times_the_matched_predictions_of_an_image():
    estimate, batch = made_up(4, 12, 5)
    mean, total = (
        set_loss(estimate, batch, MatchOptions("hungarian", reid_reduction=reduction)) for reduction in ("mean", "sum")
    )
    matched = batch["boxes_mask"].sum()  # one to one, and proposals enough for all
    np.testing.assert_allclose(total["reid"], mean["reid"] * matched / len(batch["boxes"]), rtol=1e-5)
    for name in ("cls", "l1", "giou"):
        np.testing.assert_allclose(total[name], mean[name])
