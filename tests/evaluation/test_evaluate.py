"""The numbers of a run as a dict, as JSON, as a table; and one query's hits."""

import json

import numpy as np
import pytest

from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.evaluate import evaluate, threshold_at, write_evaluation
from psdiff_jax.evaluation.person_search import score_search
from psdiff_jax.evaluation.protocols import make_protocols
from psdiff_jax.evaluation.seeds import mean_and_sd
from psdiff_jax.inference.ranking import hits_of_query, rank
from psdiff_jax.report.terminal import format_hits, format_table


@pytest.fixture
def case(make):
    return make.random_case(3, images=40, identities=8)


@pytest.fixture
def result(case):
    protocols = make_protocols(["whole", "temporal_gap:100", "sized:5,all"], case.annotations, case.queries)
    runs = {1: (case.gallery, case.query), 8: (case.gallery, case.query)}
    return evaluate(
        runs,
        case.annotations,
        case.queries,
        protocols,
        search_threshold=0.3,
        query_embedding="match",
        settings={"seed": 4},
    ).numbers


def test_every_protocol_size_and_number_of_steps(case, result):
    assert {p: sorted(sizes) for p, sizes in result["search"].items()} == {
        "whole": ["all"],
        "temporal_gap:100": ["all"],
        "sized": ["5", "all"],
    }
    for sizes in result["search"].values():
        for by_steps in sizes.values():
            assert list(by_steps) == ["1", "8"] and by_steps["1"] == by_steps["8"]
            assert 0 < by_steps["1"]["mAP"] < 1
            assert by_steps["1"]["top-1"] <= by_steps["1"]["top-5"] <= by_steps["1"]["top-10"] <= 1
    assert result["search"]["whole"]["all"] == result["search"]["sized"]["all"]
    assert result["search"]["sized"]["5"]["1"]["mAP"] > result["search"]["sized"]["all"]["1"]["mAP"]
    assert result["settings"] == {
        "seed": 4,
        "query_embedding": "match",
        "detection_threshold": 0.01,
        "search_threshold": 0.3,
    }
    assert set(result["detection"]["8"]) == {"all", "labelled", "coco"}
    assert result["counts"]["gallery_images"] == 40 and result["counts"]["queries"] == len(case.queries.image_names)


def test_json_reads_back_the_same(tmp_path, result):
    write_evaluation(tmp_path / "run" / "evaluation.json", result)
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text(encoding="utf-8")) == result
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["evaluation.json"]


def test_table_is_aligned_and_complete(result):
    text = format_table(result)
    lines = text.splitlines()
    assert max(map(len, lines)) < 130
    rows = [line for line in lines if line.startswith(("whole ", "sized ", "temporal_gap:100 "))]
    assert len(rows) == 8 and len({len(row) for row in rows}) == 1
    assert f"{100 * result['search']['whole']['all']['8']['mAP']:.1f}" in rows[1]
    assert "query embedding of the detected box" in text


def scored(case, **options):
    protocols = make_protocols(["whole", "sized:5,all"], case.annotations, case.queries)
    runs = {1: (case.gallery, case.query), 8: (case.gallery, case.query)}
    return evaluate(runs, case.annotations, case.queries, protocols, **options).numbers


def test_scorings_beside_the_plain_one(case):
    plain, result = scored(case), scored(case, reranking=["cws", "cws+cbgm:5,3"])
    assert list(result["search"]) == [
        "whole", "sized", "whole+cws", "sized+cws", "whole+cws+cbgm:5,3", "sized+cws+cbgm:5,3"
    ]  # fmt: skip
    assert {name: result["search"][name] for name in plain["search"]} == plain["search"]
    mAP = {name: sizes["all"]["1"]["mAP"] for name, sizes in result["search"].items()}
    assert mAP["whole+cws"] == mAP["sized+cws"] and len(set(mAP.values())) == 3
    assert list(result["protocols"]) == list(result["search"]) and all(result["protocols"].values())
    assert "\nsized+cws+cbgm:5,3  " in format_table(result)
    with pytest.raises(InputError, match=r"config\.evaluate\.reranking: 'cws:1' is not understood"):
        scored(case, reranking=["cws:1"])
    with pytest.raises(InputError, match=r"config\.evaluate\.reranking: 'cbgm:5,3' is given twice"):
        scored(case, reranking=["cbgm:5,3", "cbgm:5, 3"])


def test_a_search_threshold_for_each_number_of_steps(case):
    low, high = scored(case, search_threshold=0.2), scored(case, search_threshold=0.6)
    both = scored(case, search_threshold={"1": 0.2, 8: 0.6}, settings={"calibration": {"1": {}, "8": {}}})
    assert both["settings"]["search_threshold"] == {"1": 0.2, "8": 0.6}
    for steps, one in (("1", low), ("8", high)):
        assert both["search"]["whole"]["all"][steps] == one["search"]["whole"]["all"][steps]
    assert both["search"]["whole"]["all"]["1"] != both["search"]["whole"]["all"]["8"]
    head = format_table(both).splitlines()[1]
    assert "search threshold 0.2 at 1 step, 0.6 at 8 steps" in head and "calibration on held-out" in head
    with pytest.raises(InputError, match="no search threshold is given for 8 denoising steps, only for 1"):
        scored(case, search_threshold={1: 0.2})


def test_means_of_seeds_and_their_deviation(case):
    one, other = scored(case, search_threshold=0.3, settings={"seed": 0}), scored(case, settings={"seed": 1})
    text = format_table(mean_and_sd([one, other]))
    values = [100 * r["search"]["whole"]["all"]["8"]["mAP"] for r in (one, other)]
    assert f"  {np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}  " in text
    assert "seeds 0, 1" in text and "over 2 seeds" in text


def test_rank(make, case):
    hits = rank(case.query.embeddings[0], case.gallery, top=5)
    similarity = case.gallery.embeddings @ case.query.embeddings[0]
    assert [h.detection for h in hits] == np.argsort(-similarity)[:5].tolist()
    assert [h.rank for h in hits] == [1, 2, 3, 4, 5]
    best = hits[0]
    assert best.image == case.gallery.images[case.gallery.image_index[best.detection]]
    assert json.loads(json.dumps(best.as_json()))["box"] == pytest.approx(case.gallery.boxes[best.detection].tolist())
    without = rank(case.query.embeddings[0], case.gallery, top=5, threshold=0.5, leave_out=[best.image])
    assert all(h.image != best.image and h.score >= 0.5 for h in without)
    assert rank(case.query.embeddings[0], case.gallery, top=0) == []
    assert len(rank(case.query.embeddings[0], case.gallery, top=10**6)) == len(case.gallery)
    assert rank(np.array([1, 0]), make.gallery(case.annotations, [])) == []
    table = format_hits(hits).splitlines()
    assert len(table) == 7 and best.image in table[2]


def test_rank_refuses_a_wrong_embedding(case):
    with pytest.raises(InputError, match="3 wide"):
        rank(np.ones(3), case.gallery)
    with pytest.raises(InputError, match="unit norm"):
        rank(np.full(4, np.nan), case.gallery)


def test_hits_of_a_search_result(case):
    protocols = make_protocols(["whole"], case.annotations, case.queries)
    found = score_search(case.gallery, case.query, case.annotations, case.queries, protocols, 0.5, keep=6)[0]
    for q in range(len(case.queries.image_names)):
        ours = [h.detection for h in hits_of_query(found, q, case.gallery)]
        again = rank(
            case.query.embeddings[q], case.gallery, top=6, threshold=0.5, leave_out=[case.queries.image_names[q]]
        )
        assert ours == [h.detection for h in again]


def test_threshold_at():
    assert threshold_at(0.4, 8) == 0.4 == threshold_at({"8": 0.4}, 8) == threshold_at({8: 0.4}, "8")
    with pytest.raises(InputError, match="is given for 4 denoising steps, only for 1, 8"):
        threshold_at({"1": 0.2, "8": 0.4}, 4)
