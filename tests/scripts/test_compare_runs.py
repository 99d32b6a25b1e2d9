"""Comparisons mark the best, keep apart what cannot be compared, and say what is missing."""

import copy
import json
import sys

import pytest

from psdiff_jax.errors import InputError
from psdiff_jax.report.compare import compare
from psdiff_jax.report.runs import read_runs

from ..report.html_check import Page
from .loading import load_script

LEAF = {
    "mAP": 0.5,
    "top-1": 0.6,
    "top-5": 0.7,
    "top-10": 0.8,
    "queries": 9,
    "queries_total": 9,
    "queries_without_truth": 0,
    "queries_without_hit": 1,
    "recall": 0.9,
    "gallery_images_mean": 30.0,
}
SIZED = "true ones and random others (seed 0)"


def evaluation(mAP=0.5, AP=0.7, dataset="street", steps=("1", "4"), images=31, rule=SIZED, **settings):
    """evaluation.json of a run: `mAP` at the last step, 0.1 less before; the same for detection AP."""

    def leaf(k, images_mean):
        return {**LEAF, "mAP": mAP - 0.1 * (k != steps[-1]), "gallery_images_mean": images_mean}

    counts = {"gallery_images": images, "gallery_boxes": 60, "labelled_boxes": 50, "people": 8, "queries": 9}
    whole = {"all": {k: leaf(k, images - 1.0) for k in steps}}
    sized = {size: {k: leaf(k, float(size)) for k in steps} for size in ("5", "20")}
    found = {"recall": 0.8, "truths": 60, "detections": 99}
    detection = {
        k: {
            "all": {"AP": AP - 0.1 * (k != steps[-1]), **found},
            "labelled": {"AP": AP, **found},
            "coco": {"AP": 0.3, "AP50": 0.6, "AP75": 0.2},
        }
        for k in steps
    }
    return {
        "settings": {"dataset": dataset, "seed": 0, "search_threshold": 0.3, **settings},
        "counts": counts,
        "protocols": {"whole": "all others", "sized": rule},
        "steps": list(steps),
        "detection": detection,
        "search": {"whole": whole, "sized": sized},
    }


CURVES = {
    "detection": {"4": {"recall": [0.1, 0.8], "precision": [1.0, 0.4], "score": [0.9, 0.1]}},
    "search": {"whole": {"all": {"4": {"recall": [0, 0.5, 1], "precision": [0.9, 0.6, 0.1], "queries": 9}}}},
    "scores": {},
    "similarities": {},
}


@pytest.fixture
def write(tmp_path):
    def run(name, result=None, config=None, curves=None):
        folder = tmp_path / name
        (folder / "report").mkdir(parents=True)
        (folder / "evaluation.json").write_text(json.dumps(result or evaluation()))
        if config is not None:
            (folder / "config.json").write_text(json.dumps(config))
        if curves is not None:
            (folder / "report" / "curves.json").write_text(json.dumps(curves))
        return folder

    return run


def rows_of(table):
    return [[cell.text + "*" * cell.best for cell in row] for row in table.rows]


def test_the_best_of_each_row_is_marked_and_differences_are_to_the_first(write):
    spread = evaluation(0.62)
    spread["search"]["whole"]["all"]["4"]["sd"] = {"mAP": 0.011}
    runs = read_runs([write("a"), write("b", spread), write("c", evaluation(0.48, AP=0.75))])
    search, detection = compare(runs)[1:3]
    names = [name for name, *_ in search.tables]
    assert names == ["Whole gallery", "Sampled gallery size"] and search.tables[1][1] == [SIZED]
    whole = search.tables[0][2]
    assert whole.heads == ["steps", "", "a", "b", "c"]
    assert rows_of(whole) == [
        ["1", "mAP", "40.0", "52.0 (+12.0)*", "38.0 (-2.0)"],
        ["1", "top-1", "60.0", "60.0 (+0.0)", "60.0 (+0.0)"],
        ["4", "mAP", "50.0", "62.0 ± 1.1 (+12.0)*", "48.0 (-2.0)"],
        ["4", "top-1", "60.0", "60.0 (+0.0)", "60.0 (+0.0)"],
    ]
    assert [row[0].text for row in search.tables[1][2].rows] == ["5"] * 4 + ["20"] * 4
    assert rows_of(detection.tables[0][2])[7] == ["4", "AP", "70.0", "70.0 (+0.0)", "75.0 (+5.0)*"]


def test_only_settings_that_differ_are_shown(write):
    configs = [{"model": {"dim": 64, "heads": 8}, "seed": 0}, {"model": {"dim": 128, "heads": 8}, "seed": 0}]
    runs = [write("a", evaluation(), configs[0]), write("b", evaluation(training_step=7), configs[1])]
    ((_, _, table),) = compare(read_runs(runs))[0].tables
    assert rows_of(table) == [["training_step", "–", "7"], ["config.model.dim", "64", "128"]]
    same = compare(read_runs([runs[0], write("c", evaluation(), configs[0])]))[0]
    assert not same.tables and same.remarks == ["Their settings are the same."]
    before, now = {"noise": {"slots": 9}, "seed": 0}, {"noise": {"num_proposals": 9}, "seed": 0}
    renamed = [write("e", evaluation(), before), write("f", evaluation(), now)]
    assert not compare(read_runs(renamed))[0].tables  # the same settings by the names of another version
    no_config = compare(read_runs([runs[0], write("d")]))[0]
    assert not no_config.tables and no_config.remarks[0] == "d has no config.json: its settings are unknown."


@pytest.mark.parametrize("other", [{"dataset": "prw"}, {"images": 32}])
def test_runs_on_different_galleries_have_tables_of_their_own(write, other):
    runs = read_runs([write("a"), write("b", evaluation(0.9, **other)), write("c", evaluation(0.6))])
    chapters = compare(runs)
    assert "cannot be compared" in chapters[0].remarks[0]
    assert [r.partition("Runs: ")[2] for r in chapters[0].remarks[1:3]] == ["a, c.", "b."]
    tables = [table for chapter in chapters[1:] for _, _, table in chapter.tables]
    assert {tuple(table.heads[-2:]) for table in tables} == {("a", "c"), ("", "b")}
    assert len({chapter.title for chapter in chapters}) == len(chapters) == 7
    alone = [row for table in tables if table.heads[-1] == "b" for row in rows_of(table)]
    assert not any("*" in text or "(" in text for row in alone for text in row)


def test_a_protocol_with_another_rule_has_a_table_of_its_own_and_is_not_drawn(write):
    runs = read_runs([write("a"), write("b", evaluation(0.9, rule="true ones and random others (seed 1)"))])
    search, _, curves = compare(runs)[1:]
    assert [(name, table.heads[3:]) for name, _, table in search.tables] == [
        ("Whole gallery", ["b"]),
        ("Sampled gallery size", ["a"]),
        ("Sampled gallery size", ["b"]),
    ]
    assert search.remarks == [
        "The rule of sampled gallery size is not the same in all runs; each rule has a table of its own."
    ]
    assert not any("sampled" in panel.title for panel in curves.panels)


def test_what_a_run_lacks_is_a_dash(write):
    less = evaluation(0.6, steps=("4",))
    del less["search"]["sized"]
    more = evaluation()
    more["search"]["whole+cws"] = copy.deepcopy(more["search"]["whole"])
    search = compare(read_runs([write("less", less), write("more", more)]))[1]
    whole, sized = (table for *_, table in search.tables)
    assert ["CWS", "4", "mAP", "–", "50.0"] in rows_of(whole) and ["none", "4", "mAP", "60.0*", "50.0 (-10.0)"] in (
        rows_of(whole)
    )
    assert all(row[3] == "–" for row in rows_of(sized))


def test_curves_lie_over_each_other_and_missing_ones_are_named(write):
    runs = read_runs([write("a", curves=CURVES), write("b", evaluation(0.6), curves=CURVES), write("c")])
    chapter = compare(runs)[-1]
    assert chapter.remarks == ["Without precision-recall curves, for lack of report/curves.json: c."]
    lines = {panel.title: {line.label: list(line.y) for line in panel.series} for panel in chapter.panels}
    assert lines["mAP, whole gallery"] == {"a": [0.4, 0.5], "b": [0.5, 0.6], "c": [0.4, 0.5]}
    assert lines["mAP, sampled gallery size"]["b, 4 steps"] == [0.6, 0.6]
    assert lines["Detection"] == {"a, 4 steps": [1.0, 0.4], "b, 4 steps": [1.0, 0.4]}
    assert list(lines["Search, whole gallery"]) == ["a, 4 steps", "b, 4 steps"]


@pytest.fixture(scope="module")
def script():
    return load_script("compare_runs")


def call(script, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["compare_runs.py", *map(str, words)])
    script.main()


def test_the_page_and_the_text_hold_the_same(script, write, tmp_path, monkeypatch, capsys):
    evil = '<b onclick="x">Straße & "Söhne"</b>'
    runs = [write("a", evaluation(dataset=evil), curves=CURVES), write("b", evaluation(0.62, dataset=evil))]
    out = tmp_path / "deep" / "page.html"
    call(script, monkeypatch, runs[0], runs[1] / "evaluation.json", "--out", out, "--names", f"one {evil},two")
    text, page = capsys.readouterr().out, Page(out.read_text(encoding="utf-8"))
    assert page.best.count("62.0 (+12.0)") == 3 and text.count("62.0 (+12.0)*") == 3
    assert f"one {evil}" in [shown for _, shown in page.cells] and page.texts[0] == "2 runs of PSDiff"
    assert len(page.images) == 6 and text.rstrip().endswith(f"comparison: {out}")
    for _, shown in page.cells:
        assert shown in text


def test_names_are_the_ends_that_differ(write):
    def names(*paths):
        return [run.name for run in read_runs([write(path) for path in paths])]

    assert names("base/seed_0", "wide/seed_0") == ["base", "wide"]
    assert names("x/seed_1", "x/seed_2") == ["seed_1", "seed_2"]
    assert names("y/seed_1", "z/seed_2", "z/seed_1") == ["y/seed_1", "z/seed_2", "z/seed_1"]
    assert names("alone") == ["alone"]


def test_wrong_inputs_are_one_line(write, tmp_path):
    run = write("run")
    (tmp_path / "empty").mkdir()

    def complaint(paths, names=()):
        with pytest.raises(InputError) as error:
            read_runs(paths, names)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert complaint([tmp_path / "none"]).endswith("none: no such run; name a workdir or its evaluation.json")
    assert complaint([tmp_path / "empty"]).endswith(
        "empty has no evaluation.json: evaluate it first with --mode evaluate"
    )
    assert "is given twice" in complaint([run, run / "evaluation.json"])
    for names in (["a"], ["a", "a"], ["a", ""]):
        assert "--names" in complaint([run, write("-".join(names))], names)
    for i, damage in enumerate(
        (
            lambda r: r.pop("steps"),
            lambda r: r.update(steps=[]),
            lambda r: r.update(search=3),
            lambda r: r["search"]["whole"]["all"].pop("4"),
            lambda r: r["search"]["whole"]["all"]["4"].update(mAP=None),
            lambda r: r["detection"]["1"]["coco"].pop("AP50"),
        )
    ):
        result = evaluation()
        damage(result)
        message = complaint([write(f"damaged {i}", result)])
        assert f"damaged {i}" in message and "is not what an evaluation writes" in message
    for name, text in (("evaluation.json", "{"), ("config.json", "[]"), ("report/curves.json", "{}")):
        folder = write(f"broken {name.partition('/')[0]}")
        (folder / name).write_text(text)
        assert name in complaint([folder]) and "broken" in complaint([folder])


def test_the_script_says_what_is_wrong_and_ends(script, write, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"error: .*none: no such run"):
        call(script, monkeypatch, tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match=r"error: .*page\.html: cannot be written"):
        call(script, monkeypatch, write("a"), "--out", tmp_path / "file" / "page.html")
