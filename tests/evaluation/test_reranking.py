"""Names of scorings, the persons beside a query, and context matching on its own; the rest is in test_golden.py and
test_person_search.py."""

import dataclasses

import numpy as np
import pytest

from psdiff_jax.errors import InputError
from psdiff_jax.evaluation import reranking
from psdiff_jax.evaluation.person_search import score_search
from psdiff_jax.evaluation.protocols import make_protocols
from psdiff_jax.evaluation.reranking import Reranking, context_persons, parse_reranking, parse_rerankings


def test_names():
    assert parse_reranking("cws") == Reranking("cws", weighted=True)
    assert parse_reranking("cbgm:30,4") == Reranking("cbgm:30,4", top=30, persons=4)
    assert parse_reranking("cws+cbgm:10, 3") == Reranking("cws+cbgm:10,3", True, 10, 3)
    assert [r.of("temporal_gap:250") for r in (Reranking(), *parse_rerankings(["cws"]))] == [
        "temporal_gap:250",
        "temporal_gap:250+cws",
    ]
    assert "30" in parse_reranking("cbgm:30,4").describe() and "scores" not in parse_reranking("cbgm:30,4").describe()


@pytest.mark.parametrize("spec", ["", "cbgm", "cbgm:30", "cbgm:0,3", "cbgm:3,-1", "cbgm:3,2+cws", "CWS", "cws+", "x"])
def test_a_scoring_that_means_nothing_is_named(spec):
    with pytest.raises(InputError, match=r"config\.evaluate\.reranking: .* there are 'cws', 'cbgm:K1,K2'") as error:
        parse_reranking(spec)
    assert repr(spec) in str(error.value)


def test_persons_beside_a_query():
    """Without those of IoU over 0.5; exactly 0.5 stays; best score first, of equal scores the lower row."""
    box = np.array([0, 0, 40, 100])
    boxes = np.array([[0, 0, 40, 51], [0, 0, 40, 50], [90, 0, 99, 9], [9, 9, 9, 9], [50, 0, 90, 100]], float)
    scores = np.array([0.9, 0.6, 0.8, 0.8, 0.7])
    rows = np.arange(5)
    assert context_persons(box, rows, boxes, scores, 9).tolist() == [2, 3, 4, 1]
    assert context_persons(box, rows, boxes, scores, 2).tolist() == [2, 3]
    assert context_persons(box, rows[[0, 4]], boxes, scores, 2).tolist() == [4]
    assert context_persons(box, rows[:0], boxes, scores, 2).tolist() == []


@pytest.mark.parametrize("seed", range(60))
def test_one_matching_is_one_of_the_best(plain, seed):
    """Against all permutations, ties among small integers included."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 5), rng.integers(1, 6)
    weights = rng.integers(-3, 4, shape) if seed % 2 else rng.normal(size=shape)
    ours = reranking._match_one(weights.astype(np.float32), 10 + np.arange(shape[1]))
    column, value = (None, None) if ours is None else (ours[0] - 10, ours[1])
    outcomes = plain.best_matchings(weights.tolist())
    assert any(column == c and (c is None or value == pytest.approx(v, abs=1e-6)) for c, v in outcomes)


def test_highest():
    values = np.array([3, 1, 3, 2, 3, 0], np.float32)
    assert reranking._highest(values, 2).tolist() == [0, 2]  # of equal ones at the border the first
    assert reranking._highest(values, 4).tolist() == [0, 2, 4, 3]
    assert reranking._highest(values, 99).tolist() == [0, 2, 4, 3, 1, 5]


@pytest.fixture
def case(make):
    return make.random_case(11, images=40, identities=6)


def scored(case, gallery, option):
    protocols = make_protocols(["whole", "cross_camera", "sized:4"], case.annotations, case.queries)
    data = (gallery, case.query, case.annotations, case.queries, protocols, 0.1, 5)
    return score_search(*data, rerankings=parse_rerankings([option]))


def test_the_number_of_leaders_does_not_matter(case, monkeypatch):
    few = scored(case, case.gallery, "cbgm:6,3")
    monkeypatch.setattr(reranking, "LEADERS", 3)
    again = scored(case, case.gallery, "cbgm:6,3")
    assert [r.summary() for r in few] == [r.summary() for r in again]
    assert few[3].summary() != few[0].summary()


def test_scores_of_one_change_nothing_under_cws(case):
    certain = dataclasses.replace(case.gallery, scores=np.ones_like(case.gallery.scores))
    results = scored(case, certain, "cws")
    assert [r.summary() for r in results[:3]] == [r.summary() for r in results[3:]]
    uncertain = scored(case, case.gallery, "cws")
    assert uncertain[0].summary() != uncertain[3].summary()


def test_a_query_without_context_is_not_reranked(make):
    """No person beside the query: the best detection of an image would get its own similarity."""
    box = (0, 0, 40, 100)
    annotations = make.annotations([("own", 0, 0, [(box, 1)]), ("a", 0, 1, [(box, 1)])])
    queries = make.queries(annotations, [("own", box, 1)])
    gallery = make.gallery(annotations, [("a", box, 0.9, [0.6, 0.8]), ("own", box, 0.9, [1, 0])])
    query, protocols = make.query(queries, [[1, 0]]), make_protocols(["whole"], annotations, queries)
    plain, matched = score_search(
        gallery, query, annotations, queries, protocols, keep=1, rerankings=parse_rerankings(["cbgm:3,3"])
    )
    assert plain.similarities.tolist() == matched.similarities.tolist() == [[np.float32(0.6)]]
