"""Non-maximum suppression against a plain loop."""

import jax
import jax.numpy as jnp
import numpy as np

from psdiff_jax.ops.nms import nms


def plain_iou(a, b):
    area = lambda v: max(v[2] - v[0], 0) * max(v[3] - v[1], 0)  # noqa: E731
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    union = area(a) + area(b) - width * height
    return width * height / union if union > 0 else 0.0


def plain_nms(boxes, scores, threshold):
    """Greedy suppression as it is usually told: take the best, strike out what overlaps it, go on."""
    waiting = [i for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)) if scores[i] > -np.inf]
    keep = np.zeros(len(scores), bool)
    while waiting:
        best = waiting.pop(0)
        keep[best] = True
        waiting = [i for i in waiting if plain_iou(boxes[best], boxes[i]) <= threshold]
    return keep


def test_against_a_plain_loop():
    run = jax.jit(nms)
    rng = np.random.default_rng(0)
    kept = []
    for case in range(60):
        low = rng.uniform(0, 40, (30, 2))
        boxes = np.concatenate([low, low + rng.uniform(4, 30, low.shape)], -1).astype(np.float32)
        scores = rng.uniform(size=30).astype(np.float32)
        if case % 3 == 0:
            scores = np.round(scores, 1)  # ties go to the lower index
        scores[rng.uniform(size=30) < 0.2] = -np.inf
        threshold = rng.choice([0.0, 0.3, 0.5, 0.7])
        want = plain_nms(boxes.astype(np.float64), scores, threshold)
        np.testing.assert_array_equal(run(boxes, scores, threshold), want)
        kept.append(want.sum())
    assert min(kept) < 10 < max(kept)


def test_a_suppressed_box_suppresses_nothing():
    boxes = jnp.float32([[0, 0, 10, 10], [0, 4, 10, 14], [0, 8, 10, 18]])  # a chain: neighbours overlap, ends hardly
    np.testing.assert_array_equal(nms(boxes, jnp.float32([0.9, 0.8, 0.7]), 0.3), [True, False, True])
    np.testing.assert_array_equal(nms(boxes, jnp.float32([0.8, 0.9, 0.7]), 0.3), [False, True, False])
    np.testing.assert_array_equal(nms(boxes, jnp.float32([0.9, -np.inf, -np.inf]), 0.3), [True, False, False])


def test_adversarial_boxes():
    """Copies, overlaps of exactly the threshold, long chains, boxes in boxes, empty and inside-out ones, no box."""
    run = jax.jit(nms)
    rng = np.random.default_rng(1)
    step = np.arange(24)[:, None]
    cases = {
        "copies": np.repeat([[3, 4, 9, 20]], 24, 0),
        "half": np.where(step % 2, [[0, 0, 10, 10]], [[0, 0, 10, 5]]),  # IoU is 0.5 exactly: not above it
        "chain": np.concatenate([2 * step, 0 * step, 2 * step + 8, 0 * step + 8], 1),
        "nested": np.concatenate([step, step, 64 - step, 64 - step], 1),
        "empty": np.where(step % 3, [[5, 5, 5, 9]], [[0, 0, 10, 10]]),
        "inside out": np.where(step % 3, [[9, 9, 3, 3]], [[0, 0, 10, 10]]),
        "grid": np.concatenate([step % 5 * 4, step // 5 * 4, step % 5 * 4 + 6, step // 5 * 4 + 6], 1),
    }
    for name, boxes in cases.items():
        boxes = boxes.astype(np.float32)
        for scores in (
            rng.permutation(24) / 24,
            np.ones(24),
            np.linspace(1, 0, 24),
            np.linspace(0, 1, 24),
            np.where(np.arange(24) % 2, -np.inf, 0.5),
            np.full(24, -np.inf),
        ):
            for threshold in (0.0, 0.5, 1.0):
                want = plain_nms(boxes.astype(np.float64), scores.astype(np.float32), threshold)
                got = run(boxes, scores.astype(np.float32), threshold)
                np.testing.assert_array_equal(got, want, err_msg=f"{name} {threshold}")
    assert run(np.float32(cases["half"]), np.float32(np.ones(24)), 0.5).sum() == 2
