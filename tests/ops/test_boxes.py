"""Box arithmetic against float64 NumPy and torch's gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psdiff_jax.ops import boxes as box_ops


def random_boxes(rng, *shape):
    low = rng.uniform(0, 60, (*shape, 2))
    return np.concatenate([low, low + rng.uniform(1, 50, low.shape)], -1)


def reference(a, b, library):
    """(IoU, GIoU) from Rezatofighi et al. 2019, Algorithm 1, in float64; library: numpy or torch."""
    lo, hi = library.maximum, library.minimum
    zero = library.zeros_like(a[..., 0])
    width = lo(hi(a[..., 2], b[..., 2]) - lo(a[..., 0], b[..., 0]), zero)
    height = lo(hi(a[..., 3], b[..., 3]) - lo(a[..., 1], b[..., 1]), zero)
    inside = width * height
    areas = [(v[..., 2] - v[..., 0]) * (v[..., 3] - v[..., 1]) for v in (a, b)]
    union = areas[0] + areas[1] - inside
    hull = (lo(a[..., 2], b[..., 2]) - hi(a[..., 0], b[..., 0])) * (lo(a[..., 3], b[..., 3]) - hi(a[..., 1], b[..., 1]))
    return inside / union, inside / union - (hull - union) / hull


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, 500), random_boxes(rng, 500)
    b[:100] = a[:100] + rng.uniform(-0.4, 0.4, (100, 4))  # some that nearly agree
    b[100:110] = a[100:110]
    b[110:120, :2] = a[110:120, 2:]  # some that touch in a corner
    b[110:120, 2:] = b[110:120, :2] + 5
    return tuple(np.float64(np.float32(v)) for v in (a, b))  # both sides read the same numbers


def test_iou_and_giou_values(pair):
    a, b = pair
    iou, giou = reference(a, b, np)
    np.testing.assert_allclose(box_ops.iou(jnp.float32(a), jnp.float32(b)), iou, atol=2e-6)
    np.testing.assert_allclose(box_ops.giou(jnp.float32(a), jnp.float32(b)), giou, atol=2e-6)
    assert (iou == 0).any() and (giou < -0.5).any() and np.isclose(giou, 1).any()  # the cases are all there


@pytest.mark.parametrize("which", ["iou", "giou"])
def test_gradients_against_torch(pair, which):
    torch = pytest.importorskip("torch")
    a, b = (v[:100] for v in pair)  # neither touching nor equal: there gradients are a convention
    tensors = [torch.tensor(v, requires_grad=True) for v in (a, b)]
    reference(*tensors, torch)[which == "giou"].sum().backward()
    metric = getattr(box_ops, which)
    ours = jax.jit(jax.grad(lambda x, y: metric(x, y).sum(), argnums=(0, 1)))(jnp.float32(a), jnp.float32(b))
    for got, tensor in zip(ours, tensors, strict=True):
        np.testing.assert_allclose(got, tensor.grad.numpy(), atol=1e-6, rtol=1e-4)


def test_degenerate_boxes_have_finite_values_and_gradients():
    boxes = jnp.float32([[5, 5, 5, 5], [0, 0, 0, 0], [9, 9, 3, 3], [1, 1, 4, 4]])
    for metric in (box_ops.iou, box_ops.giou):
        objective = lambda x, m=metric: box_ops.pairwise(m, x, boxes).sum()  # noqa: E731
        value, gradient = jax.jit(jax.value_and_grad(objective))(boxes)
        assert jnp.isfinite(value) and jnp.isfinite(gradient).all()
    assert box_ops.iou(boxes[0], boxes[0]) == 0 and box_ops.area(boxes[2]) == 0


def test_pairwise_is_every_pair(pair):
    a, b = pair[0][:6].reshape(2, 3, 4), pair[1][:10].reshape(2, 5, 4)
    want = np.array([[[reference(x, y, np)[0] for y in q] for x in p] for p, q in zip(a, b, strict=True)])
    np.testing.assert_allclose(box_ops.pairwise(box_ops.iou, jnp.float32(a), jnp.float32(b)), want, atol=2e-6)


def test_formats():
    np.testing.assert_array_equal(box_ops.to_cxcywh(jnp.float32([2, 4, 8, 14])), [5, 9, 6, 10])
    boxes = jnp.float32(random_boxes(np.random.default_rng(1), 4, 7))
    np.testing.assert_allclose(box_ops.to_xyxy(box_ops.to_cxcywh(boxes)), boxes, atol=1e-4)


def test_clip_takes_height_and_width_in_this_order():
    boxes = jnp.float32([[[-5, -6, 300, 300], [10, 20, 30, 40]], [[-5, 250, 90, 260], [10, 20, 30, 40]]])
    clipped = box_ops.clip(boxes, jnp.int32([[100, 200], [240, 80]]))
    np.testing.assert_array_equal(
        clipped, [[[0, 0, 200, 100], [10, 20, 30, 40]], [[0, 240, 80, 240], [10, 20, 30, 40]]]
    )


def test_formats_areas_and_clipping_in_float64():
    """Boxes of full-size images, some turned inside out, some beyond the border."""
    rng = np.random.default_rng(2)
    boxes = np.float64(np.float32(rng.uniform(-200, 1500, (3, 400, 4))))
    size = np.int32([[800, 1333], [1080, 1920], [96, 160]])
    ours = jnp.float32(boxes)
    centre = np.concatenate([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], -1)
    np.testing.assert_allclose(box_ops.to_cxcywh(ours), centre, atol=1e-4)
    np.testing.assert_allclose(box_ops.to_xyxy(jnp.float32(centre)), boxes, atol=5e-4)
    sides = np.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    np.testing.assert_allclose(box_ops.area(ours), sides[..., 0] * sides[..., 1], rtol=1e-5, atol=0.1)
    limits = np.concatenate([size[:, ::-1]] * 2, -1)[:, None]
    np.testing.assert_array_equal(box_ops.clip(ours, size), np.minimum(np.maximum(boxes, 0), limits))


@pytest.mark.parametrize(
    ("box", "inside"),
    [
        ((0, 0, 30, 20), True),
        ((0, 0, 30.5, 20), False),
        ((-1, 0, 5, 5), False),
        ((5, 5, 5, 9), False),
        ((9, 5, 5, 9), False),
        ((float("nan"), 0, 5, 5), False),
    ],
)
def test_a_box_lies_in_an_image(box, inside):
    assert box_ops.is_inside(np.float32(box), 20, 30) is inside
