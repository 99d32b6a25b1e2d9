"""Matching against scipy, and against the rules written out plainly."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from psdiff_jax.training.matcher import FORBIDDEN, MatchOptions, cost_matrix, focal_cost, hungarian, match, simota

SHAPES = ((12, 5), (5, 8), (30, 6))  # the second has more ground truths than proposals
CASES = 100


def random_costs(num_proposals, gts, seed=0, cases=CASES, ties=False):
    """Costs as they occur: a spread of 10 and, for some, the penalties of 100 and 10,000. Masks from none to all.

    `ties`: whole numbers and quarters, so that many costs are equal.
    """
    rng = np.random.default_rng(seed)
    cost = rng.uniform(-2, 10, (cases, num_proposals, gts))
    cost = np.round(cost / 3) if ties else cost + 100 * (rng.uniform(size=cost.shape) < 0.4)
    cost += 1e4 * (rng.uniform(size=(cases, num_proposals, 1)) < 0.2)
    mask = rng.uniform(size=(cases, gts)) < rng.choice([0, 0.2, 0.6, 1, 1], size=(cases, 1))
    ious = rng.uniform(size=cost.shape) ** rng.uniform(0.5, 4, (cases, 1, 1)) * mask[:, None]
    ious = np.round(4 * ious) / 4 if ties else ious
    return np.where(mask[:, None], cost, FORBIDDEN).astype(np.float32), ious.astype(np.float32), mask


def plain_simota(cost, ious, mask, candidates):
    """The rule of the docstring, ground truth by ground truth: -1 or the ground truth of each proposal."""
    num_proposals = len(cost)
    claims = [set() for _ in range(num_proposals)]
    for gt in np.flatnonzero(mask):
        k = max(int(np.sort(ious[:, gt])[::-1][:candidates].sum()), 1)
        for proposal in sorted(range(num_proposals), key=lambda s: cost[s, gt])[:k]:
            claims[proposal].add(gt)
    owner = [min(sorted(c), key=lambda gt, s=s: cost[s, gt]) if c else -1 for s, c in enumerate(claims)]
    while True:
        free = [s for s in range(num_proposals) if owner[s] < 0]
        wishes: dict[int, list[int]] = {}
        for gt in np.flatnonzero(mask):
            if gt not in owner and free:
                wishes.setdefault(min(free, key=lambda s: cost[s, gt]), []).append(gt)
        if not wishes:
            return np.array(owner)
        for proposal, gts in wishes.items():
            owner[proposal] = min(gts, key=lambda gt: cost[proposal, gt])


def owners(result):
    matched, gt = (np.asarray(v) for v in result)
    assert not gt[~matched].any()
    return np.where(matched, gt, -1)


def check_against_scipy(cost, mask, results, tolerance):
    """Each case: as many matches as there can be, one to one, of scipy's total cost."""
    for case in range(len(cost)):
        real = np.flatnonzero(mask[case])
        rows, columns = linear_sum_assignment(cost[case][:, real].astype(np.float64))
        got = owners(jax.tree.map(lambda v, c=case: v[c], results))
        used = np.flatnonzero(got >= 0)
        assert len(used) == min(cost.shape[1], len(real))
        assert len(set(got[used])) == len(used) and set(got[used]) <= set(real)
        best = cost[case][rows, real[columns]].astype(np.float64).sum()
        assert cost[case][used, got[used]].astype(np.float64).sum() == pytest.approx(best, abs=tolerance), case


@pytest.mark.parametrize(("num_proposals", "gts", "cases"), [(12, 5, 400), (5, 8, 300), (30, 6, 300)])
def test_hungarian_costs_what_scipys_does(num_proposals, gts, cases):
    """1,000 cases, a third of them with more ground truths than proposals; their numbers vary by the masks."""
    cost, _, mask = random_costs(num_proposals, gts, cases=cases)
    results = jax.jit(jax.vmap(hungarian))(cost, mask)
    check_against_scipy(cost, mask, results, 5e-3)  # beside penalties of 1e4, float32 has three digits left
    assert {mask.sum(1).min(), mask.sum(1).max()} == {0, gts} and (mask.sum(1) == 1).any()


@pytest.mark.parametrize(("num_proposals", "gts", "cases"), [(300, 64, 12), (1, 1, 4), (1, 3, 10), (9, 9, 100)])
def test_hungarian_at_other_sizes_and_with_ties(num_proposals, gts, cases):
    run = jax.jit(jax.vmap(hungarian))
    rng = np.random.default_rng(1)
    mask = rng.uniform(size=(cases, gts)) < np.linspace(0, 1, cases)[:, None]
    for cost in (
        rng.uniform(-2, 10, (cases, num_proposals, gts)),
        rng.integers(0, 4, (cases, num_proposals, gts)),
        np.zeros((cases, num_proposals, gts)),
    ):
        check_against_scipy(cost.astype(np.float32), mask, run(cost.astype(np.float32), mask), 1e-4)


def test_hungarian_is_exact_whatever_padded_columns_hold():
    """A padded column's huge cost must not eat the digits of the real ones."""
    rng = np.random.default_rng(2)
    cost = rng.uniform(5, 5.01, (20, 6)).astype(np.float32)
    mask = np.array([True, True, False, True, True, False])
    run = jax.jit(hungarian)
    filled = [np.where(mask, cost, value).astype(np.float32) for value in (FORBIDDEN, 0, np.inf, np.nan)]
    results = [run(table, mask) for table in filled]
    for result in results:
        np.testing.assert_array_equal(owners(result), owners(results[0]))
        check_against_scipy(cost[None], mask[None], jax.tree.map(lambda v: v[None], result), 1e-6)


@pytest.mark.parametrize("rule", ["simota", "hungarian"])
def test_a_diverged_model_ends_no_matching(rule):
    cost, ious, mask = np.full((6, 4), np.nan, np.float32), np.full((6, 4), np.nan, np.float32), np.ones(4, bool)
    for broken in (cost, np.where(np.arange(4) < 2, cost, 1), np.where(np.arange(6)[:, None] < 5, np.inf, cost)):
        jax.block_until_ready(
            jax.jit(match, static_argnums=3)(broken.astype(np.float32), ious, mask, MatchOptions(rule))
        )


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("num_proposals", "gts"), SHAPES)
def test_simota_is_its_rule(num_proposals, gts, ties):
    cost, ious, mask = random_costs(num_proposals, gts, seed=1, ties=ties)
    results = jax.jit(jax.vmap(partial(simota, candidates=5)))(cost, ious, mask)
    conflicts = 0
    for case in range(CASES):
        got = owners(jax.tree.map(lambda v, c=case: v[c], results))
        np.testing.assert_array_equal(got, plain_simota(cost[case], ious[case], mask[case], 5), err_msg=str(case))
        missing = set(np.flatnonzero(mask[case])) - set(got)
        assert not missing or (got >= 0).all()  # a ground truth goes without only where every proposal is taken
        if num_proposals >= 5 * gts:
            assert not missing
        wanted = np.maximum(np.sort(ious[case], 0)[::-1][:5].sum(0).astype(int), 1)
        conflicts += sum((got == t).sum() != wanted[t] for t in np.flatnonzero(mask[case]))
    assert conflicts > 20  # the cases put the later rules to the test


def test_one_truth_takes_as_many_as_its_overlaps_sum_to():
    ious = jnp.float32([[0.9], [0.8], [0.7], [0.5], [0.2], [0.1]])  # the five largest sum to 3.1
    cost = 1 - ious
    np.testing.assert_array_equal(owners(simota(cost, ious, jnp.array([True]), 5)), [0, 0, 0, -1, -1, -1])
    np.testing.assert_array_equal(owners(simota(cost, 0 * ious, jnp.array([True]), 5)), [0, -1, -1, -1, -1, -1])
    np.testing.assert_array_equal(owners(simota(cost, ious, jnp.array([False]), 5)), [-1] * 6)


def random_scene(num_proposals=20, gts=5, seed=0):
    rng = np.random.default_rng(seed)
    height, width = 90, 160

    def boxes(count):
        low = rng.uniform(0, 1, (count, 2)) * [width - 30, height - 30]
        return np.concatenate([low, low + rng.uniform(5, 30, (count, 2))], -1)

    def unit(count):
        e = rng.normal(size=(count, 6))
        return e / np.linalg.norm(e, axis=-1, keepdims=True)

    mask = np.array([True, True, False, True, False])[:gts]
    return (
        3 * rng.normal(size=num_proposals),
        boxes(num_proposals),
        2 * unit(num_proposals),
        boxes(gts),
        unit(gts),
        mask,
        np.int32([height, width]),
    )


def plain_iou_giou(a, b):
    area = lambda v: (v[2] - v[0]) * (v[3] - v[1])  # noqa: E731
    inside = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = area(a) + area(b) - inside
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return inside / union, inside / union - (hull - union) / hull


@pytest.mark.parametrize("rule", ["simota", "hungarian"])
def test_costs_pair_by_pair(rule):
    spec = MatchOptions(rule, cls=2.0, l1=5.0, giou=2.5, reid=1.5, centre_radius=0.6)
    logits, boxes, embeddings, gt_boxes, gt_embeddings, mask, (height, width) = random_scene()
    want, want_iou = np.zeros((20, 5)), np.zeros((20, 5))
    for n in range(20):
        p = 1 / (1 + np.exp(-logits[n]))
        focal = -0.25 * (1 - p) ** 2 * np.log(p) + 0.75 * p**2 * np.log(1 - p)
        centre = (boxes[n, :2] + boxes[n, 2:]) / 2
        inside, near = np.zeros(5, bool), np.zeros(5, bool)
        for m in range(5):
            gt = gt_boxes[m]
            middle, sides = (gt[:2] + gt[2:]) / 2, gt[2:] - gt[:2]
            inside[m] = mask[m] and (gt[:2] < centre).all() and (centre < gt[2:]).all()
            near[m] = mask[m] and (abs(centre - middle) < 0.6 * sides).all()
            iou, giou = plain_iou_giou(boxes[n], gt)
            l1 = (np.abs(boxes[n] - gt) / [width, height, width, height]).sum()
            want[n, m] = 2 * focal + 5 * l1 - 2.5 * giou + 1.5 * np.linalg.norm(embeddings[n] - gt_embeddings[m])
            want_iou[n, m] = iou * mask[m]
        if rule == "simota":
            want[n] += 100 * ~(inside & near) + 1e4 * ~(inside | near).any()
    assert rule == "hungarian" or ((want < 50).any() and (want[:, mask] > 1e4).any())
    want[:, ~mask] = FORBIDDEN
    arrays = [np.float32(v) for v in (logits, boxes, embeddings, gt_boxes, gt_embeddings)]
    cost, iou = jax.jit(cost_matrix, static_argnums=7)(*arrays, mask, np.int32([height, width]), spec)
    np.testing.assert_allclose(cost, want, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(iou, want_iou, atol=1e-5)


def test_an_unknown_embedding_costs_nothing():
    """However long the prediction is: without a teacher nothing bounds it."""
    logits, boxes, embeddings, gt_boxes, gt_embeddings, mask, size = random_scene()
    gt_embeddings[1] = 0

    def cost(scale, reid):
        arrays = (np.float32(v) for v in (logits, boxes, scale * embeddings, gt_boxes, gt_embeddings))
        return np.asarray(cost_matrix(*arrays, mask, size, MatchOptions(reid=reid))[0])

    np.testing.assert_array_equal(cost(1, 5.0)[:, 1], cost(100, 5.0)[:, 1])
    np.testing.assert_array_equal(cost(1, 5.0)[:, 1], cost(1, 0.0)[:, 1])
    assert (cost(1, 5.0)[:, 0] > cost(1, 0.0)[:, 0]).all()


def test_extreme_scores_cost_something_finite():
    cost = focal_cost(jnp.float32([-200, 200, 0]), 0.25, 2.0)
    assert jnp.isfinite(cost).all() and cost[1] < cost[2] < cost[0]


def test_the_rule_of_the_spec_is_used():
    cost, ious, mask = (jnp.asarray(v[2]) for v in random_costs(12, 5, seed=3))
    run = jax.jit(match, static_argnums=3)
    np.testing.assert_array_equal(
        owners(run(cost, ious, mask, MatchOptions("hungarian"))), owners(jax.jit(hungarian)(cost, mask))
    )
    np.testing.assert_array_equal(
        owners(run(cost, ious, mask, MatchOptions(candidates=3))),
        plain_simota(np.asarray(cost), np.asarray(ious), np.asarray(mask), 3),
    )
