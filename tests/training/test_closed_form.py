"""The row read-out's closed form against scikit-learn, and that it ranks people it has not seen."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from psdiff_jax.errors import InputError
from psdiff_jax.training.closed_form import STRENGTHS, Boxes, Sums, fit


def people(count=60, each=6, features=30, dim=8, noise=0.5, seed=0):
    """Features of boxes whose first 10 columns tell people apart (after a mixing) and whose others do not."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(count), each)
    looks, mixing = rng.normal(size=(count, 10))[ids], rng.normal(size=(10, dim))
    x = np.concatenate([looks + noise * rng.normal(size=looks.shape), rng.normal(size=(len(ids), features - 10))], 1)
    y = looks @ mixing
    x = (x * rng.uniform(0.1, 30, features) + rng.normal(size=features)).astype(np.float32)
    return x, (y / np.linalg.norm(y, axis=1, keepdims=True)).astype(np.float32), ids


def boxes(x, y, ids) -> Boxes:
    """Of which nothing is said yet."""
    return Boxes(x, y, ids, np.zeros_like(y))


def test_equals_ridge_regression_of_scikit_learn():
    x, y, ids = people()
    sums = Sums(x.shape[1], y.shape[1])
    for part in np.array_split(np.arange(len(x)), 7):
        sums.add(x[part], y[part])
    mean, variance = sums.moments()
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(variance, x.var(0), rtol=1e-4)
    z = (x - mean) / np.sqrt(variance)
    for found in sums.solve(STRENGTHS):
        reference = Ridge(alpha=found.strength * len(x)).fit(z, y)
        np.testing.assert_allclose(found(x), reference.predict(z), atol=1e-6)
    found = fit(boxes(x[part], y[part], ids[part]) for part in np.array_split(np.arange(len(x)), 7))
    np.testing.assert_allclose(found.kernel, sums.solve([found.strength])[0].kernel, atol=1e-6)
    assert found.boxes == len(x) and found.strength == max(found.scores, key=lambda s: found.scores[s])


def test_ranks_people_that_it_has_not_seen():
    x, y, ids = people(count=160, noise=0.15)
    seen = ids < 100
    found = fit([boxes(x[seen], y[seen], ids[seen])])

    def top1(embeddings):
        e = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        similarity = e @ e.T - 9 * np.eye(len(e))
        return np.mean(ids[~seen][similarity.argmax(1)] == ids[~seen])

    assert top1(found(x[~seen])) > 0.9 > 0.5 > top1(x[~seen])


def test_departs_from_a_prior():
    """Ridge regression of what a map of other people leaves over; with few people of one's own it is the better one."""
    x, y, ids = people(count=300, noise=0.15)
    others, few, new = ids < 200, (ids >= 200) & (ids < 215), ids >= 215
    prior = fit([boxes(x[others], y[others], ids[others])])
    found = fit([Boxes(x[few], y[few], ids[few], prior(x[few]))]).plus(prior)
    alone = fit([boxes(x[few], y[few], ids[few])])
    z = (x[few] - x[few].mean(0)) / x[few].std(0)
    reference = Ridge(alpha=found.strength * few.sum()).fit(z, y[few] - prior(x[few]))
    np.testing.assert_allclose(found(x[few]), prior(x[few]) + reference.predict(z), atol=1e-5)
    error, own = (np.square(each(x[new]) - y[new]).sum(1).mean() for each in (found, alone))
    assert error < 0.9 * own


def test_people_without_identity_are_fitted_and_not_ranked():
    x, y, ids = people()
    found = fit([boxes(x, y, np.where(ids % 2, ids, -1))])
    assert found.boxes == len(x) and max(found.scores.values()) > 0.5


def test_ids_may_be_multiples_of_the_number_of_folds():
    x, y, ids = people()
    assert fit([boxes(x, y, 10 * ids)]).scores == fit([boxes(x, y, ids)]).scores


def test_too_few_people():
    x, y, ids = people(count=4)
    with pytest.raises(InputError, match=r"config\.train\.closed_form: needs ground truths of at least 5 people"):
        fit([boxes(x, y, ids)])
    with pytest.raises(InputError, match="closed_form"):
        fit([])
