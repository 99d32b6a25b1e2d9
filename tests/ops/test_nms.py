"""Non-maximum suppression against a plain loop."""

import jax
import jax.numpy as jnp
import numpy as np

from psdiff_jax.ops.nms import nms


def plain_iou(a, b):
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
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
