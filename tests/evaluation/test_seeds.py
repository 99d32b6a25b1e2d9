"""Means and standard deviations over seeds of the sampler."""

import copy
import json
import statistics

import pytest

from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.evaluate import evaluate
from psdiff_jax.evaluation.protocols import make_protocols
from psdiff_jax.evaluation.seeds import mean_and_sd


@pytest.fixture
def results(make):
    """Three evaluations that differ as seeds do: other detections in the same images."""
    cases = [make.random_case(3, images=20, identities=5) for _ in range(3)]
    protocols = make_protocols(["whole", "sized:5,all"], cases[0].annotations, cases[0].queries)
    return [
        evaluate(
            {"1": (case.gallery, case.query), "4": (case.gallery, case.query)},
            case.annotations,
            case.queries,
            protocols,
            search_threshold={"1": 0.2 + 0.2 * seed, "4": 0.5},
            reranking=("cws",),
            settings={"seed": seed, "dataset": "made up"},
        ).numbers
        for seed, case in enumerate(cases)
    ]


def test_means_and_deviations(results):
    merged = mean_and_sd(results)
    for name in ("whole", "whole+cws"):
        leaves = [result["search"][name]["all"]["1"] for result in results]
        ours = merged["search"][name]["all"]["1"]
        assert set(ours) == {*leaves[0], "sd"} and set(ours["sd"]) == set(leaves[0])
        for key in leaves[0]:
            values = [leaf[key] for leaf in leaves]
            assert ours[key] == pytest.approx(statistics.mean(values))
            assert ours["sd"][key] == pytest.approx(statistics.stdev(values))
        assert ours["sd"]["mAP"] > 0
    assert merged["search"]["whole"]["all"]["4"]["sd"]["mAP"] == 0.0
    assert merged["detection"]["1"]["coco"]["sd"]["AP50"] == 0.0
    assert set(merged["detection"]["4"]["all"]) == {"recall", "AP", "truths", "detections", "sd"}


def test_what_is_the_same_stays(results):
    merged = mean_and_sd(results)
    assert merged["settings"] == {
        "seeds": [0, 1, 2],
        "dataset": "made up",
        "query_embedding": "pin",
        "detection_threshold": 0.01,
        "search_threshold": [result["settings"]["search_threshold"] for result in results],
    }
    assert {key: merged[key] for key in ("counts", "protocols", "steps")} == {
        key: results[0][key] for key in ("counts", "protocols", "steps")
    }
    queries = merged["search"]["whole"]["all"]["1"]["queries"]
    assert isinstance(queries, int)  # a count that no seed changes is still one
    assert json.loads(json.dumps(merged, allow_nan=False)) == merged


def test_one_seed_is_unchanged(results):
    before = copy.deepcopy(results[1])
    assert mean_and_sd(results[1:2]) == before


def test_results_of_different_evaluations_are_refused(results):
    fewer = copy.deepcopy(results[1])
    fewer["counts"]["queries"] -= 1
    with pytest.raises(InputError, match="differ in 'counts'"):
        mean_and_sd([results[0], fewer])
    other = copy.deepcopy(results[1])
    del other["search"]["sized"]["5"]
    with pytest.raises(InputError, match="differ in what 'search/sized' holds"):
        mean_and_sd([results[0], other])
    with pytest.raises(InputError, match="no result"):
        mean_and_sd([])
