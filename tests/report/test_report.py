"""The page of a run: every number, nothing from elsewhere, nothing unescaped; tables and what they mark."""

import base64
import copy
import dataclasses
import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from psdiff_jax.evaluation.evaluate import evaluate
from psdiff_jax.evaluation.protocols import make_protocols
from psdiff_jax.evaluation.seeds import mean_and_sd
from psdiff_jax.report.naming import gallery_name, option_name, plain, split_name, steps_name
from psdiff_jax.report.rankings import example_queries
from psdiff_jax.report.run_page import headline, made_of, search_table, write_report
from psdiff_jax.report.tables import Cell, Table, amount, as_text, mark_best, mark_columns, rate

from .html_check import Page

EVIL = '<b onclick="x">Straße & "Söhne"</b>'


def scene(name):
    return np.full((120, 160, 3), 120, np.uint8)


@pytest.fixture(scope="module")
def case(make):
    return make.random_case(3, images=30, identities=6)


@pytest.fixture(scope="module")
def protocols(case):
    return make_protocols(["whole", "temporal_gap:100", "sized:5,10,all"], case.annotations, case.queries)


def result_of(case, protocols, threshold=0.3, **settings):
    pair = case.gallery, case.query
    return evaluate(
        {1: pair, 4: pair},
        case.annotations,
        case.queries,
        protocols,
        reranking=["cws"],
        search_threshold={1: 0.1, 4: threshold},
        settings={"dataset": EVIL, "seed": 0, **settings},
    ).numbers


@pytest.fixture(scope="module")
def result(case, protocols):
    """Three seeds, calibrated, trained elsewhere."""
    calibration = {k: {"threshold": 0.3, "thresholds": (0.1, 0.3), "mAP": (0.25, 0.375)} for k in ("1", "4")}
    settings = {"trained_on": "a <i> street", "calibration": calibration}
    seeds = [result_of(case, protocols, t, **settings) | {} for t in (0.3, 0.5, 0.6)]
    for seed, one in enumerate(seeds):
        one["settings"] |= {"seed": seed, "search_threshold": {"1": 0.1, "4": 0.3}}
    return mean_and_sd(seeds)


@pytest.fixture(scope="module")
def written(tmp_path_factory, case, protocols, result):
    folder = tmp_path_factory.mktemp("run") / "report"
    pair = case.gallery, case.query
    evaluation = evaluate({1: pair, 4: pair}, case.annotations, case.queries, protocols, search_threshold=0.3)
    curves, examples = evaluation.curves, example_queries(evaluation.ranked, case.gallery, case.queries, each=1)
    examples = [dataclasses.replace(example, caption=f"{EVIL} {example.caption}") for example in examples]
    path = write_report(folder, result, curves, examples, scene, "whole gallery, 4 steps")
    return path, path.read_text(encoding="utf-8"), curves


def test_the_page_is_one_sound_file_and_the_figures_lie_beside_it(written):
    path, html, curves = written
    page = Page(html)
    assert path.name == "index.html"
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "calibration.png",
        "curves.json",
        "gallery_sizes.png",
        "index.html",
        "precision_recall.png",
        "ranking.png",
        "scores.png",
        "similarities.png",
        "steps.png",
    ]
    assert json.loads((path.parent / "curves.json").read_text()) == curves
    with Image.open(path.parent / "steps.png") as picture:
        assert picture.size[0] > 1000
    kinds = [src.partition(";")[0] for _, src in page.images]
    assert kinds.count("data:image/jpeg") == 3 and kinds.count("data:image/svg+xml") == 2 + 2 + 3 + 1 + 1 + 1
    for kind, (_, src) in zip(kinds, page.images, strict=True):
        if kind.endswith("svg+xml"):
            assert ElementTree.fromstring(base64.b64decode(src.partition(",")[2])).tag.endswith("svg")
    assert page.links == [
        re.sub(r"\W", "-", name.lower())
        for name in (
            "Settings",
            "Search",
            "Gallery size",
            "Denoising steps",
            "Detection",
            "Precision and recall",
            "Scores",
            "Similarities",
            "Search threshold",
            "Rankings",
        )
    ]


def test_every_number_is_there(written, result):
    cells = [(attrs.get("title"), text) for attrs, text in Page(written[1]).cells]
    leaves = [leaf for sizes in result["search"].values() for by_steps in sizes.values() for leaf in by_steps.values()]
    for leaf in leaves:
        for key in ("mAP", "top-1", "top-5", "top-10", "recall"):
            wanted = f"{100 * leaf[key]:.1f} ± {100 * leaf['sd'][key]:.1f}"
            assert (f"{leaf[key]:.10g}", wanted) in cells
        for key in ("gallery_images_mean", "queries", "queries_without_truth", "queries_without_hit"):
            assert f"{leaf[key]:.10g}" in [exact for exact, _ in cells]
    assert any(
        f"{leaf['mAP_all_queries']:.10g}" in [exact for exact, _ in cells]
        for leaf in leaves
        if "mAP_all_queries" in leaf
    )
    for kinds in result["detection"].values():
        for leaf in kinds.values():
            for key, value in leaf.items():
                if key != "sd":
                    assert f"{float(value):.10g}" in [exact for exact, _ in cells]


def test_settings_are_there_and_everything_is_escaped(written, result):
    html, page = written[1], Page(written[1])
    assert "<b onclick" not in html and "<i>" not in html
    assert f"PSDiff on {EVIL}" in page.texts
    assert f"Trained on a <i> street, evaluated on {EVIL}." in page.text
    assert "means over 3 seeds" in page.text and "0, 1, 2" in page.texts
    assert "0.1 at 1 step, 0.3 at 4 steps" in page.texts
    for value in result["counts"].values():
        assert f"{value:,}" in page.texts
    assert "whole gallery, 4 steps" in page.texts
    assert any(text.startswith(f"{EVIL} best: query") for text in page.texts)
    assert made_of(result)["query embedding"] == "of the ground-truth box"


def test_a_folder_of_embeddings_without_figures_makes_a_page(tmp_path, case, protocols):
    result = evaluate({"given": (case.gallery, case.query)}, case.annotations, case.queries, protocols[:1]).numbers
    for name in ("steps.png", "ranking.png", "curves.json"):
        (tmp_path / name).write_bytes(b"of an evaluation before")
    page = Page(write_report(tmp_path, result).read_text(encoding="utf-8"))
    assert page.links == ["settings", "search", "detection"] and not page.images
    assert [p.name for p in tmp_path.iterdir()] == ["index.html"]
    assert headline(result)[0][1].exact == result["search"]["whole"]["all"]["given"]["mAP"]


def test_headline_of_listed_galleries_is_gallery_size_100(result):
    listed = copy.deepcopy(result)
    sizes = listed["search"].pop("sized")
    listed["search"] = {"listed": {"50": sizes["5"], "100": sizes["10"], "4000": sizes["all"]}}
    listed["search"]["listed"]["100"]["4"]["mAP"] = 0.4321
    entries = headline(listed)
    assert entries[0][:2] == ("search mAP", rate(listed["search"]["listed"]["100"]["4"], "mAP"))
    assert entries[0][2] == "gallery size 100, 4 steps"
    assert entries[2][1].exact == result["detection"]["4"]["all"]["AP"]


def test_search_table_marks_the_best_of_each_gallery(result):
    changed = copy.deepcopy(result)
    for name, value in (("sized", 0.1), ("sized+cws", 0.2)):
        for size, plus in (("5", 0.5), ("10", 0.3), ("all", 0.0)):
            for steps in ("1", "4"):
                changed["search"][name][size][steps]["mAP"] = value + plus + (steps == "4") * 0.01
    table = search_table(changed, "sized")
    assert table.heads[:4] == ["gallery", "re-ranking", "steps", "mAP"]
    marked = [[cell.text for cell in row[:3]] for row in table.rows if row[3].best]
    assert marked == [["5", "CWS", "4"], ["10", "CWS", "4"], ["all", "CWS", "4"]]
    plain_only = {**changed, "search": {"whole": changed["search"]["whole"]}}
    assert search_table(plain_only, "whole").heads[:2] == ["steps", "mAP"]
    gap = search_table(changed, "temporal_gap:100")
    leaf = changed["search"]["temporal_gap:100"]["all"]["4"]
    assert f"{leaf['queries']} of {leaf['queries_total']}" in [cell.text for cell in gap.rows[-1]]


def test_best_are_those_that_show_the_highest_number():
    cells = [Cell("50.0", 0.50001), Cell("49.9", 0.499), Cell("50.0", 0.49999), Cell("–")]
    assert [cell.best for cell in mark_best(cells)] == [True, False, True, False]
    assert not any(cell.best for cell in mark_best([Cell("50.0", 0.5), Cell("50.0", 0.50004)]))
    table = Table(
        ["", "a"],
        [[Cell("x"), Cell("1", 0.1)], [Cell("y"), Cell("2", 0.2)], [Cell("z"), Cell("1", 0.1)]],
        1,
        ["one", "one", "two"],
    )
    assert [row[1].best for row in mark_columns(table, [1]).rows] == [False, True, False]


def test_numbers_in_words():
    assert rate({"mAP": 0.12345, "sd": {"mAP": 0.012}}, "mAP") == Cell("12.3 ± 1.2", 0.12345)
    assert rate({}, "mAP").text == "–" == rate(None, "mAP").text == amount({}, "n").text
    assert [amount({"n": n}, "n").text for n in (1234, 1234.0, 1234.56)] == ["1,234", "1,234", "1,234.6"]
    assert split_name("temporal_gap:250+cws+cbgm:30,4") == ("temporal_gap:250", "cws+cbgm:30,4")
    assert option_name("cws+cbgm:30,4") == "CWS + CBGM 30,4" and option_name("") == "none"
    assert gallery_name("listed", "4000") == "gallery size 4,000"
    assert gallery_name("listed+cws", "low_resolution") == "low resolution subset, CWS"
    assert gallery_name("whole", "all") == "whole gallery" and gallery_name("temporal_gap:9") == "temporal gap 9"
    assert [steps_name(k) for k in ("1", "8", "given")] == ["1 step", "8 steps", "embeddings as given"]
    assert plain({"a": [1, 2.50, True]}) == "a: 1, 2.5, True" and plain(()) == "none" == plain("")


def test_text_tables_line_up():
    text = as_text(
        Table(
            ["", "one", "b"],
            [[Cell("x"), Cell("1.0", 1, True), Cell("2")], [Cell("long"), Cell("11.0", 0.1), Cell("–")]],
        )
    )
    assert text.splitlines() == ["       one   b", "----  -----  -", "x      1.0*  2", "long  11.0   –"]
