"""The sampler driven by a (tiny) model: psdiff_jax.evaluation.predict."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psdiff_jax.diffusion.samplers import SamplerSpec
from psdiff_jax.evaluation.predict import Predictor
from psdiff_jax.models.psdiff import PSDiff

STEPS = (1, 3)
FIELDS = ("image", "image_size", "image_index")


@pytest.fixture(scope="module")
def predictor(tiny):
    return Predictor(tiny.graphdef, SamplerSpec(slots=10, eta=1.0, renewal_threshold=0.5))


@pytest.fixture
def batch(make_batch):
    """Four different photographs."""
    return {k: v for k, v in make_batch(4).items() if k in FIELDS} | {"image_index": np.int32([7, 3, 11, 0])}


@pytest.fixture
def predict(predictor, tiny):
    return lambda batch, query=None: predictor(tiny.params, tiny.rest, batch, jax.random.key(1), STEPS, query)


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
    """The pinned slot's answer depends on the query box; other slots of this model do not."""
    low = np.float32([[4, 4, 30, 40], [50, 10, 80, 60], [10, 10, 20, 30], [0, 0, 90, 60]])
    here, there = predict(batch, low), predict(batch, low[::-1].copy())
    for k in STEPS:
        assert not np.allclose(here[k].embeddings[:, 0], there[k].embeddings[:, 0], atol=1e-3)
        np.testing.assert_allclose(here[k].boxes[:, 1:], there[k].boxes[:, 1:], atol=2e-3)


def test_features_are_computed_once(tiny, batch, monkeypatch):
    calls = []
    original = PSDiff.features
    monkeypatch.setattr(PSDiff, "features", lambda self, *a: calls.append(1) or original(self, *a))
    fresh = Predictor(tiny.graphdef, SamplerSpec(slots=10), nms_threshold=0.4)
    jax.eval_shape(partial(fresh, steps=(1, 4)), tiny.params, tiny.rest, jax.tree.map(jnp.asarray, batch),
                   jax.random.key(1))
    assert len(calls) == 1
