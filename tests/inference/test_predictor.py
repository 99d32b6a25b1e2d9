"""The sampler driven by a (tiny) model: psdiff_jax.inference.predictor."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psdiff_jax.diffusion.samplers import SamplerOptions
from psdiff_jax.inference.predictor import Predictions, Predictor, one_box_a_person, pool
from psdiff_jax.models.psdiff import Estimate, PSDiff
from psdiff_jax.ops.nms import nms

from ..ops.test_nms import plain_iou

pytestmark = pytest.mark.slow

STEPS = (1, 3)
FIELDS = ("image", "image_size", "image_index")


@pytest.fixture(scope="module")
def predictor(tiny):
    return Predictor(tiny.graphdef, SamplerOptions(num_proposals=10, eta=1.0, renewal_threshold=0.5))


@pytest.fixture
def batch(make_batch):
    """Four different images."""
    return {k: v for k, v in make_batch(4).items() if k in FIELDS} | {"image_index": np.int32([7, 3, 11, 0])}


@pytest.fixture
def predict(predictor, tiny):
    return lambda batch, *query: predictor(tiny.params, tiny.rest, batch, jax.random.key(1), STEPS, *query)


def same(a, b):
    np.testing.assert_allclose(a.boxes, b.boxes, atol=2e-3)
    np.testing.assert_allclose(a.scores, b.scores, atol=2e-5)
    np.testing.assert_allclose(a.embeddings, b.embeddings, atol=2e-5)
    np.testing.assert_array_equal(a.keep, b.keep)


def test_a_result_does_not_depend_on_the_batch(predict, batch):
    together = predict(batch)
    # The same shapes, so the same program: other neighbours, another place.
    order = np.int32([2, 0, 0, 1])
    moved = predict({k: v[order] for k, v in batch.items()})
    for k in STEPS:
        same(moved[k], jax.tree.map(lambda v: v[order], together[k]))
    last = together[3]
    assert not np.allclose(last.boxes[0], last.boxes[1], atol=1)
    assert not np.allclose(together[1].boxes, last.boxes, atol=0.1)  # steps do something
    scores = np.asarray(last.scores)
    assert (scores < 0.5).any() and (scores >= 0.5).any()  # renewal took some and left some


def test_what_people_are(predict, batch):
    for people in predict(batch).values():
        boxes = np.asarray(people.boxes)
        assert boxes.shape == (4, 10, 4) and boxes.min() >= 0
        assert boxes[..., [0, 2]].max() <= 96 and boxes[..., [1, 3]].max() <= 64
        np.testing.assert_allclose(np.linalg.norm(people.embeddings, axis=-1), 1, atol=1e-5)
        assert people.keep.dtype == bool and people.keep.any(axis=1).all()


def test_a_pinned_query_looks_at_its_box(predict, batch):
    """The held proposal's answer depends on the query box; other proposals of this model do not."""
    low = np.float32([[4, 4, 30, 40], [50, 10, 80, 60], [10, 10, 20, 30], [0, 0, 90, 60]])
    here, there = predict(batch, low), predict(batch, low[::-1].copy())
    for k in STEPS:
        assert not np.allclose(here[k].embeddings[:, 0], there[k].embeddings[:, 0], atol=1e-3)
        np.testing.assert_allclose(here[k].boxes[:, 1:], there[k].boxes[:, 1:], atol=2e-3)


def test_images_with_and_without_a_query_share_a_program(predict, predictor, batch):
    boxes, every = np.float32([[4, 4, 30, 40]] * 4), np.ones(4, bool)
    plain, held, mixed = (
        predict(batch, *query) for query in ((), (boxes, every), (boxes, np.bool_([True, False, False, True])))
    )
    programs = type(predictor).__call__._cache_size()
    predict(batch, np.zeros((4, 4), np.float32), ~every)
    assert type(predictor).__call__._cache_size() == programs
    for k in STEPS:
        for image, one in enumerate((held, plain, plain, held)):
            same(*(jax.tree.map(lambda v, i=image: v[i], found[k]) for found in (mixed, one)))


def test_an_ensemble_pools_all_steps_last_first_and_padding_changes_nothing(predict, predictor, tiny, batch):
    """The images stand in a larger frame, beside whatever lies there: proposals are those of the plain run."""
    query = np.float32([[4, 4, 30, 40], [50, 10, 80, 60], [10, 10, 20, 30], [0, 0, 90, 60]])
    plain = predict(batch, query)
    frame = np.full((4, 96, 128, 3), 99, np.uint8)
    frame[:, :64, :96] = batch["image"]
    ensemble = Predictor(tiny.graphdef, replace(predictor.sampler, ensemble=True))
    pooled = ensemble(tiny.params, tiny.rest, {**batch, "image": frame}, jax.random.key(1), STEPS, query)
    same(pooled[1], plain[1])
    num_proposals = jax.tree.map(lambda v: v.reshape(4, 3, 10, *v.shape[2:]), pooled[3])
    for step, want in ((0, plain[3]), (2, plain[1])):  # the first step is the same in any number of steps
        same(jax.tree.map(lambda v, step=step: v[:, step], num_proposals)._replace(keep=0), want._replace(keep=0))
    assert not np.allclose(num_proposals.boxes[:, 0], num_proposals.boxes[:, 1], atol=0.1)
    for image in range(4):
        want = plain_nms(np.float64(pooled[3].boxes[image]), np.asarray(pooled[3].scores[image]), 0.5)
        np.testing.assert_array_equal(pooled[3].keep[image], want)


def plain_nms(boxes, scores, threshold):
    """The best box, without all that it overlaps, and so on."""
    low, high = boxes[:, :2], boxes[:, 2:]
    keep, waiting = np.zeros(len(scores), bool), np.argsort(-scores, kind="stable")
    while len(waiting):
        best, *rest = waiting
        keep[best] = True
        overlap = np.minimum(high[best], high[rest]) - np.maximum(low[best], low[rest])
        overlap = np.prod(np.maximum(overlap, 0), -1)
        union = np.prod(high[best] - low[best]) + np.prod(high[rest] - low[rest], -1) - overlap
        waiting = np.array(rest, int)[overlap <= threshold * np.maximum(union, 1e-9)]
    return keep


def test_nms_of_the_slots_of_eight_steps():
    """Near and exact copies of a few people, as the steps of an ensemble make them, with equal scores among them."""
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 700, (20, 2))
    people = np.concatenate([low, low + rng.uniform(20, 200, low.shape)], -1)[rng.integers(0, 20, 8 * 300)]
    boxes = np.float32(people + rng.normal(size=people.shape) * rng.choice([0, 2, 10], (2400, 1)))
    scores = np.float32(np.round(rng.uniform(size=2400), 2))
    want = plain_nms(np.float64(boxes), scores, 0.5)
    assert 20 <= want.sum() < 300
    np.testing.assert_array_equal(jax.jit(partial(nms, threshold=0.5))(boxes, scores), want)


def test_proposals_of_one_person_average_their_boxes_and_embeddings(predictor, tiny, batch):
    """Beside a plain loop; scores are as without, also with empty boxes, and NMS sees the averaged boxes."""
    key = jax.random.key(1)
    plain = predictor(tiny.params, tiny.rest, batch, key, (3,))[3]
    averaging = Predictor(tiny.graphdef, replace(predictor.sampler, average_threshold=0.3))
    found = averaging(tiny.params, tiny.rest, batch, key, (3,))[3]
    np.testing.assert_allclose(found.scores, plain.scores, atol=2e-5)
    changed = 0
    for image in range(len(plain.boxes)):
        boxes, scores = np.float64(plain.boxes[image]), np.float64(plain.scores[image])
        for n, box in enumerate(boxes):
            embedding, voted, weights = np.zeros(plain.embeddings.shape[-1]), np.zeros(4), 0
            for m, other in enumerate(boxes):
                overlap = 1 if m == n else plain_iou(box, other)
                if overlap >= 0.3:
                    embedding += overlap * scores[m] * plain.embeddings[image, m]
                    voted += overlap * scores[m] * other
                    weights += overlap * scores[m]
                    changed += m != n
            np.testing.assert_allclose(found.embeddings[image, n], embedding / np.linalg.norm(embedding), atol=1e-5)
            np.testing.assert_allclose(found.boxes[image, n], voted / weights, atol=1e-3)
        np.testing.assert_array_equal(found.keep[image], nms(found.boxes[image], found.scores[image], 0.5))
    assert changed >= 10


def test_a_person_has_one_box_where_boxes_overlap():
    """Beside a plain loop: of kept boxes that overlap and look alike the best stays; apart, or different, both do."""
    rng = np.random.default_rng(0)
    dropped = 0
    for _ in range(40):
        low = rng.uniform(0, 60, (1, 24, 2))
        boxes = np.float32(np.concatenate([low, low + rng.uniform(5, 30, low.shape)], -1))
        embeddings = np.eye(4)[rng.integers(0, 4, (1, 24))] + rng.normal(size=(1, 24, 4)) * 0.3
        embeddings = np.float32(embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True))
        scores = np.float32(np.round(rng.uniform(size=(1, 24)), 1))
        before = rng.uniform(size=(1, 24)) < 0.7
        after = one_box_a_person(Predictions(boxes, scores, embeddings, before), 0.6).keep[0]
        want = list[int]()
        for n in np.argsort(-scores[0], kind="stable"):
            overlapping = [m for m in want if plain_iou(boxes[0, n], boxes[0, m]) > 0.25]
            if before[0, n] and not any(embeddings[0, n] @ embeddings[0, m] > 0.6 for m in overlapping):
                want.append(n)
        assert np.flatnonzero(after).tolist() == sorted(want)
        dropped += before.sum() - len(want)
    assert dropped > 30


def test_a_predictor_keeps_one_box_of_a_person_if_it_is_asked_to(predictor, tiny, batch):
    key = jax.random.key(1)
    plain = predictor(tiny.params, tiny.rest, batch, key, (1,))[1]
    once = Predictor(tiny.graphdef, replace(predictor.sampler, same_person=0.2))
    found = once(tiny.params, tiny.rest, batch, key, (1,))[1]
    np.testing.assert_allclose(found.boxes, plain.boxes, atol=1e-3)
    np.testing.assert_array_equal(found.keep, one_box_a_person(plain, 0.2).keep)
    assert 0 < np.sum(found.keep) < np.sum(plain.keep)


def test_pooling_keeps_a_slots_numbers_together():
    steps, images, num_proposals = 3, 2, 4
    number = np.arange(steps * images * num_proposals).reshape(steps, images, num_proposals)
    pooled = pool(Estimate(np.stack([number] * 4, -1), number, np.stack([number] * 8, -1)))
    assert pooled.logits.tolist() == [
        [*range(16, 20), *range(8, 12), *range(4)],
        [*range(20, 24), *range(12, 16), *range(4, 8)],
    ]
    np.testing.assert_array_equal(pooled.boxes[..., 3], pooled.logits)
    np.testing.assert_array_equal(pooled.embeddings[..., 7], pooled.logits)


def test_features_are_computed_once(tiny, batch, monkeypatch):
    calls = []
    original = PSDiff.features
    monkeypatch.setattr(PSDiff, "features", lambda self, *a: calls.append(1) or original(self, *a))
    fresh = Predictor(tiny.graphdef, SamplerOptions(num_proposals=10, nms_threshold=0.4))
    jax.eval_shape(
        partial(fresh, steps=(1, 4)), tiny.params, tiny.rest, jax.tree.map(jnp.asarray, batch), jax.random.key(1)
    )
    assert len(calls) == 1
