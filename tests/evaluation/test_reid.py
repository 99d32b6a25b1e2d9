"""Re-ID scores: worked by hand, against a plain loop over the published rule, and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from psdiff_jax.errors import InputError
from psdiff_jax.evaluation import similarity
from psdiff_jax.evaluation.reid import cross_camera_queries, hold_out, reid_scores


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def crops(seed, count=60, identities=8, cameras=3, images=30):
    rng = np.random.default_rng(seed)
    ids = rng.integers(-1, identities, count)
    centres = rng.normal(size=(identities + 1, 6))
    embeddings = unit(centres[ids] + rng.normal(size=(count, 6)))
    return embeddings, ids, rng.integers(-1, cameras, count), rng.integers(0, images, count)


def plain(embeddings, ids, cameras, images, queries, gallery):
    """The rule of Market-1501's page: junk is skipped, then precision is averaged over the true matches."""
    precisions, ranks, without_positives = [], [], 0
    for q in queries:
        order = sorted((g for g in gallery), key=lambda g: (-float(embeddings[q] @ embeddings[g]), ids[g] == ids[q]))
        labels = []
        for g in order:
            same = ids[g] == ids[q]
            junk = g == q or (same and cameras[q] >= 0 and cameras[g] == cameras[q])
            if not junk and not (same and images[g] == images[q]):
                labels.append(same)
        if not any(labels):
            without_positives += 1
            continue
        places = [i for i, true in enumerate(labels) if true]
        precisions.append(sum((n + 1) / (place + 1) for n, place in enumerate(places)) / len(places))
        ranks.append(places[0] + 1)
    scores = {"mAP": np.mean(precisions), "queries": len(precisions), "queries_without_truth": without_positives}
    return scores | {f"top-{k}": np.mean([rank <= k for rank in ranks]) for k in (1, 5, 10)}


@pytest.mark.parametrize("seed", range(4))
def test_scores_equal_a_plain_loop(seed, monkeypatch):
    monkeypatch.setattr(similarity, "AT_ONCE", 64)  # several blocks
    embeddings, ids, cameras, images = crops(seed)
    gallery = np.flatnonzero(np.arange(60) % 5 > 0)
    queries = np.flatnonzero((ids >= 0) & (np.arange(60) % 3 == 0))
    ours = reid_scores(embeddings, ids, cameras, queries=queries, gallery=gallery, images=images)
    expected = plain(embeddings, ids, cameras, images, queries, gallery)
    assert ours["gallery"] == len(gallery)
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, abs=1e-9), name


def test_average_precision_is_scikit_learns_also_with_ties():
    embeddings, ids, _, _ = crops(5, identities=5)
    largest = np.abs(embeddings) == np.abs(embeddings).max(1, keepdims=True)
    embeddings = np.sign(embeddings) * largest  # similarities are exactly -1, 0 or 1, so most are equal
    rows = np.flatnonzero(ids >= 0)
    expected = []
    for q in rows:
        others = np.flatnonzero(np.arange(len(ids)) != q)
        if (ids[others] == ids[q]).any():
            expected.append(average_precision_score(ids[others] == ids[q], (embeddings @ embeddings[q])[others]))
    assert reid_scores(embeddings, ids)["mAP"] == pytest.approx(np.mean(expected), abs=1e-6)


def test_by_hand():
    """Query 0 (camera 0): its own camera's crop 1 is left out; stranger 2 is first, then 3 and 5 true, 4 false."""
    angle = np.radians([0, 1, 5, 10, 20, 30])
    embeddings = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    ids, cameras = np.asarray([7, 7, 8, 7, 9, 7]), np.asarray([0, 0, 0, 1, 1, 2])
    scores = reid_scores(embeddings, ids, cameras, queries=np.asarray([0]))
    assert scores["mAP"] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert (scores["top-1"], scores["top-5"], scores["queries"]) == (0, 1, 1)
    assert reid_scores(embeddings, ids, queries=np.asarray([0]))["top-1"] == 1  # unknown cameras: crop 1 counts


def test_embeddings_that_do_not_discriminate_score_low():
    ids = np.repeat(np.arange(10), 3)
    same = np.tile(np.float32([1, 0]), (30, 1))
    scores = reid_scores(same, ids)
    assert scores["top-10"] == 0 and scores["mAP"] == pytest.approx(2 / 29)


def test_bad_input_is_named():
    embeddings, ids, cameras, _ = crops(0)
    with pytest.raises(InputError, match="differ in number"):
        reid_scores(embeddings, ids[1:], cameras)
    with pytest.raises(InputError, match="no person id"):
        reid_scores(embeddings, ids, queries=np.flatnonzero(ids < 0))
    with pytest.raises(InputError, match="no query has a true match"):
        reid_scores(embeddings, ids, np.zeros(60, int))


def test_held_out_identities_and_their_queries():
    ids = np.asarray([4, 4, 4, 2, 2, 9, 9, 9, -1, 11])
    cameras = np.asarray([0, 0, 1, 0, 0, 1, 0, 1, 0, -1])
    assert cross_camera_queries(ids, cameras).tolist() == [0, 2, 5, 6]  # 2 was seen by one camera, 11 by an unknown one
    assert cross_camera_queries(ids, cameras, each=2).tolist() == [0, 1, 2, 5, 6, 7]
    identities = np.arange(1000)
    held = hold_out(identities, 100)
    assert len(set(held)) == 100 and (held == np.sort(held)).all()
    assert (hold_out(identities[::-1], 100) == held).all() and (hold_out(identities, 100, seed=1) != held).any()
    assert set(hold_out(identities, 40)) < set(held)
    with pytest.raises(InputError, match="10 identities cannot be held out of 4"):
        hold_out(ids, 10)
