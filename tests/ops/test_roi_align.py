"""RoIAlign against onnxruntime's operator, a float64 loop and a NumPy rule for the levels."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psdiff_jax.ops.roi_align import assign_levels, choose_backend, roi_align

STRIDES, SIDE, CANONICAL = (4, 8, 16, 32), 7, 56.0
HEIGHT, WIDTH = 96, 160
BACKENDS = ("gather", "matmul")


def numpy_levels(boxes, levels, canonical):
    size = np.maximum(boxes[..., 2:].astype(np.float64) - boxes[..., :2], 0)
    with np.errstate(divide="ignore"):
        raw = np.floor(4 + np.log2(np.sqrt(size[..., 0] * size[..., 1]) / canonical + 1e-8))
    return np.minimum(np.maximum(raw, 2), levels + 1).astype(int) - 2


def onnx_roi_align(features, boxes, stride, ratio=2):
    """features [H,W,C], boxes [N,4] -> [N,S,S,C] from onnxruntime."""
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    tensor = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node(
        "RoiAlign",
        ["x", "rois", "index"],
        ["y"],
        mode="avg",
        output_height=SIDE,
        output_width=SIDE,
        sampling_ratio=ratio,
        spatial_scale=1.0 / stride,
        coordinate_transformation_mode="half_pixel",
    )
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [
            tensor("x", onnx.TensorProto.FLOAT, None),
            tensor("rois", onnx.TensorProto.FLOAT, None),
            tensor("index", onnx.TensorProto.INT64, None),
        ],
        [tensor("y", onnx.TensorProto.FLOAT, None)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 16)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {"x": features.transpose(2, 0, 1)[None], "rois": boxes, "index": np.zeros(len(boxes), np.int64)}
    return session.run(None, feed)[0].transpose(0, 2, 3, 1)


def plain_weights(box, height, width, stride, sides, ratio):
    """[Y,X,H,W] float64: what each cell of the map contributes to each output cell, by loops over samples."""
    weights = np.zeros((*sides, height, width))
    x1, y1, x2, y2 = (float(v) / stride - 0.5 for v in box)

    def corners(at, size):
        if at < -1 or at > size:
            return []
        at = min(max(at, 0.0), size - 1)
        low = int(np.floor(at))
        return [(low, 1 - (at - low)), (min(low + 1, size - 1), at - low)]

    for i, j in np.ndindex(*sides):
        for a, b in np.ndindex(ratio, ratio):
            y = y1 + (y2 - y1) / sides[0] * (i + (a + 0.5) / ratio)
            x = x1 + (x2 - x1) / sides[1] * (j + (b + 0.5) / ratio)
            for row, row_weight in corners(y, height):
                for column, column_weight in corners(x, width):
                    weights[i, j, row, column] += row_weight * column_weight / ratio**2
    return weights


def case_boxes(rng, count):
    """Boxes of all sizes; then at the border, across it, outside, empty, and as large as the image."""
    size = np.exp(rng.uniform(np.log(3), np.log(120), (count, 2)))
    low = rng.uniform(-0.2, 1, (count, 2)) * [WIDTH, HEIGHT]
    special = [
        [0, 0, 10, 10],
        [WIDTH - 20, HEIGHT - 40, WIDTH, HEIGHT],
        [-30, -30, 20, 20],
        [150, 80, 200, 130],
        [-80, 5, -40, 60],
        [WIDTH + 50, 10, WIDTH + 90, 60],
        [20, 300, 60, 400],
        [-4, -4, 12, 12],
        [30, 30, 30, 30],
        [0, 0, 0, 0],
        [40, 20, 40, 60],
        [0, 0, WIDTH, HEIGHT],
        [-50, -50, 300, 200],
        [WIDTH - 1, HEIGHT - 1, WIDTH + 6, HEIGHT + 6],
    ]
    return np.concatenate([np.concatenate([low, low + size], -1), special]).astype(np.float32)


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    pyramid = tuple(rng.uniform(-1, 1, (2, HEIGHT // s, WIDTH // s, 5)).astype(np.float32) for s in STRIDES)
    return pyramid, np.stack([case_boxes(rng, 40) for _ in range(2)])


@pytest.fixture(scope="module")
def values(case):
    return {
        b: np.asarray(
            jax.jit(partial(roi_align, strides=STRIDES, side=SIDE, canonical_size=CANONICAL, backend=b))(*case)
        )
        for b in BACKENDS
    }


def onnx_multilevel(pyramid, boxes, ratio=2):
    """One image: levels [H,W,C], boxes [N,4] -> [N,S,S,C], each box from its level."""
    levels, want = numpy_levels(boxes, 4, CANONICAL), np.zeros((len(boxes), SIDE, SIDE, 5), np.float32)
    for level, stride in enumerate(STRIDES):
        want[levels == level] = onnx_roi_align(pyramid[level], boxes[levels == level], stride, ratio)
    return want


@pytest.mark.parametrize("backend", BACKENDS)
def test_values_against_onnxruntime(case, values, backend):
    pyramid, boxes = case
    assert set(numpy_levels(boxes, 4, CANONICAL).flat) == {0, 1, 2, 3}
    for image in range(2):
        want = onnx_multilevel([level[image] for level in pyramid], boxes[image])
        np.testing.assert_allclose(values[backend][image], want, atol=1e-5)


@pytest.mark.parametrize("ratio", [1, 3, 4])
@pytest.mark.parametrize("backend", BACKENDS)
def test_other_sampling_ratios_against_onnxruntime(case, backend, ratio):
    pyramid, boxes = ([level[:1] for level in case[0]], case[1][:1])
    got = jax.jit(partial(roi_align, canonical_size=CANONICAL, sampling_ratio=ratio, backend=backend))(pyramid, boxes)
    np.testing.assert_allclose(got[0], onnx_multilevel([level[0] for level in pyramid], boxes[0], ratio), atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_border_is_the_images_own_and_padding_is_never_read(backend):
    """Two images of different sizes in one batch read what each reads alone, whatever their padding holds."""
    rng = np.random.default_rng(3)
    sizes = np.int32([[61, 97], [96, 70]])  # no multiples of a stride: the last cells belong to the image

    @jax.jit
    def run(pyramid, boxes, sizes):
        out, pull = jax.vjp(
            lambda p: roi_align(p, boxes, canonical_size=CANONICAL, backend=backend, image_size=sizes), pyramid
        )
        return out, pull(jnp.ones_like(out))[0]

    boxes = np.stack([case_boxes(rng, 30) * ([97 / WIDTH, 61 / HEIGHT] * 2), case_boxes(rng, 30)]).astype(np.float32)
    alone = [[rng.normal(size=(-(-h // s), -(-w // s), 5)).astype(np.float32) for s in STRIDES] for h, w in sizes]
    for height, width in ((96, 97), (128, 200)):
        pyramid = tuple(
            1e3 * rng.normal(size=(2, -(-height // s), -(-width // s), 5)).astype(np.float32) for s in STRIDES
        )
        for image, levels in enumerate(alone):
            for padded, level in zip(pyramid, levels, strict=True):
                padded[image, : level.shape[0], : level.shape[1]] = level
        got, gradients = run(pyramid, boxes, sizes)
        for image, levels in enumerate(alone):
            np.testing.assert_allclose(got[image], onnx_multilevel(levels, boxes[image]), atol=1e-5)
        for image, levels in enumerate(alone):
            for gradient, level in zip(gradients, levels, strict=True):
                rows, columns = level.shape[:2]
                assert np.any(gradient[image, :rows, :columns])
                assert not np.any(gradient[image, rows:]) and not np.any(gradient[image, :, columns:])
        whole = np.int32([[height, width]] * 2)
        assert np.abs(run(pyramid, boxes, whole)[0] - got).max() > 1  # taken for the image's own, padding is read


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_features(case, values, backend):
    """Weights stay exact enough: as far from float32 as the features' own rounding, 8 bits."""
    pyramid = tuple(jnp.asarray(level, jnp.bfloat16) for level in case[0])

    @jax.jit
    def read(pyramid):
        out, pull = jax.vjp(lambda p: roi_align(p, case[1], canonical_size=CANONICAL, backend=backend), pyramid)
        return out, pull(jnp.ones_like(out))[0]

    got, gradients = read(pyramid)
    assert got.dtype == jnp.bfloat16 and all(g.dtype == jnp.bfloat16 for g in gradients)
    np.testing.assert_allclose(got.astype(np.float32), values[backend], atol=0.02)
    exact = read(case[0])[1]
    for gradient, want in zip(gradients, exact, strict=True):
        # Dozens of boxes add up in one cell: the sum must not be kept in 8 bits by the gather backend.
        np.testing.assert_allclose(
            gradient.astype(np.float32), want, rtol=0.01 if backend == "gather" else 0.05, atol=0.02
        )


def test_backends_agree_and_outside_is_zero(case, values):
    np.testing.assert_allclose(values["gather"], values["matmul"], atol=1e-5)
    _, boxes = case
    outside = boxes[0, :, 0] > WIDTH + 40
    assert outside.any()
    for v in values.values():
        assert not v[0, outside].any()


def test_auto_is_the_measured_choice(case, values):
    got = jax.jit(partial(roi_align, side=SIDE, canonical_size=CANONICAL))(*case)
    np.testing.assert_array_equal(got, values[choose_backend(jax.default_backend())])
    assert [choose_backend(device) for device in ("cpu", "gpu", "tpu")] == ["gather", "gather", "matmul"]


@pytest.mark.parametrize(("side", "ratio"), [(2, 3), ((4, 2), 1)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_other_sides_and_ratios_and_gradients_against_a_float64_loop(backend, side, ratio):
    rng = np.random.default_rng(1)
    sizes, strides = ((9, 13), (5, 7)), (4, 8)  # odd sizes, as pyramids of odd images have
    sides = (side, side) if isinstance(side, int) else side
    pyramid = tuple(jnp.float32(rng.normal(size=(1, *size, 3))) for size in sizes)
    boxes = np.float32(
        [[[2, 3, 17, 30], [-6, -6, 5, 9], [5, 5, 49, 35], [30, 1, 56, 33], [80, 80, 90, 90], [10, 10, 10, 10]]]
    )
    levels = numpy_levels(boxes, 2, 16.0)[0]
    assert set(levels) == {0, 1}
    upstream = rng.normal(size=(1, 6, *sides, 3))
    want, gradients = np.zeros((6, *sides, 3)), [np.zeros((*size, 3)) for size in sizes]
    for n, level in enumerate(levels):
        weights = plain_weights(boxes[0, n], *sizes[level], strides[level], sides, ratio)
        want[n] = np.einsum("ijhw,hwc->ijc", weights, np.float64(pyramid[level][0]))
        gradients[level] += np.einsum("ijhw,ijc->hwc", weights, upstream[0, n])

    def f(pyramid, boxes):
        out = roi_align(
            pyramid, boxes, strides=strides, side=side, sampling_ratio=ratio, canonical_size=16.0, backend=backend
        )
        return (out * upstream).sum(), out

    (_, out), (of_pyramid, of_boxes) = jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))(
        pyramid, jnp.asarray(boxes)
    )
    np.testing.assert_allclose(out[0], want, atol=1e-5)
    for got, gradient in zip(of_pyramid, gradients, strict=True):
        np.testing.assert_allclose(got[0], gradient, atol=1e-5)
    assert not of_boxes.any()


def test_levels_against_numpy():
    rng = np.random.default_rng(2)
    low = rng.uniform(0, 800, (2000, 2))
    boxes = np.concatenate([low, low + np.exp(rng.uniform(0, 7, low.shape))], -1).astype(np.float32)
    np.testing.assert_array_equal(assign_levels(jnp.asarray(boxes), 4), numpy_levels(boxes, 4, 224.0))
    np.testing.assert_array_equal(assign_levels(jnp.asarray(boxes), 3, 40.0), numpy_levels(boxes, 3, 40.0))
    # The borders between levels belong to the upper one; empty and inside-out boxes to the finest.
    sides = np.float32([0, 56, 111.9, 112, 223.9, 224, 447.9, 448, 4000])
    square = jnp.stack([0 * sides, 0 * sides, sides, sides], -1)
    np.testing.assert_array_equal(assign_levels(square, 4), [0, 0, 0, 1, 1, 2, 2, 3, 3])
    assert assign_levels(jnp.float32([50, 50, 10, 10]), 4) == 0


@pytest.mark.parametrize("canonical", [56.0, 112.0, 224.0, 300.0])
def test_levels_at_the_exact_thresholds(canonical):
    """A box of exactly a threshold's area, square or not, is of the upper level; the next smaller float is not."""
    for level, threshold in enumerate(canonical * np.float32([0.5, 1, 2])):
        for wide in (1, 2, 4):  # exact in float32
            at = np.float32([3, 5, 3 + threshold * wide, 5 + threshold / wide])
            below = at - np.float32([0, 0, 0, 0.01])
            for box, want in ((at, level + 1), (below, level)):
                assert assign_levels(jnp.asarray(box), 4, canonical) == want
                assert numpy_levels(box, 4, canonical) == want
