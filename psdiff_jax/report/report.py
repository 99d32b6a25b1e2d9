"""`report/index.html`: one run's numbers, what made them, and how to read them, in one file that needs nothing else.

Beside it, for slides and papers: the figures as PNG files, and curves.json, from which runs can be compared later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from psdiff_jax.evaluation.curves import write_curves
from psdiff_jax.evaluation.evaluate import threshold_at
from psdiff_jax.files import write_atomically
from psdiff_jax.report import figures, page
from psdiff_jax.report.grid import Cell, Table, amount, mark_columns, rate
from psdiff_jax.report.naming import (
    gallery_name,
    in_words,
    option_name,
    plain,
    size_name,
    size_order,
    split_name,
    steps_name,
)
from psdiff_jax.report.plots import Panel, write_png
from psdiff_jax.report.rankings import LoadImage, Strip, described, ranking_sheet, strip_picture, write_picture

PAGE, CURVES, SHEET = "index.html", "curves.json", "ranking.png"
RATES = ("mAP", "top-1", "top-5", "top-10")
_SETTINGS = {
    "dataset": "evaluated on",
    "training_step": "training steps done",
    "search_threshold": "search threshold",
    "detection_threshold": "detection threshold",
    "query_embedding": "query embedding",
    "seeds": "sampler seeds",
}
_QUERIES = {
    "pin": "pin (the given box is held and embedded)",
    "match": "match (the detection that overlaps the given box most)",
    "crop": "crop (the given box is cut out)",
}
READING = {  # chapter -> how to read it, in the order of the page
    "What made these numbers": "Compare only with numbers that were made in the same way.",
    "Search": "Percent; bold is the best of a column within one gallery. A query that is never found scores 0. Found: "
    "the share of true photographs in which the person was detected; without truth: queries that no "
    "photograph of their gallery could answer; without hit: queries whose person was never detected.",
    "Gallery size": "The more photographs are searched, the more strangers look like somebody: the lines fall, and the "
    "flatter the better.",
    "Denoising steps": "Where a line levels off, more steps cost time and bring nothing.",
    "Detection": "Percent; a row is a number of denoising steps; bold is the best of a column. AP and recall at IoU "
    "0.5 as person search counts them (AP times recall), of all people and of those with an identity; "
    "beside them COCO's.",
    "Precision and recall": "The further a curve reaches to the upper right the better: how many of those found are "
    "right, against how many of all are found. Search: the mean over the queries of the "
    "highest precision at that recall or beyond.",
    "Scores": "Only detections right of the line are searched: it should leave the wrong ones (hatched) behind and "
    "keep the right ones.",
    "Similarities": "The less the two overlap, the better people are told apart; each is in percent of its own kind, "
    "for there are many more other pairs.",
    "Choice of the threshold": "The search threshold is the one of the highest mAP on training photographs that were "
    "held out; test photographs had no part in it.",
    "Rankings": "Left the query (amber box), then its best matches: green with a tick where right, red with a cross "
    "where wrong; below each its rank, similarity and photograph.",
}
_FIGURES = {
    "Gallery size": "gallery_sizes",
    "Denoising steps": "steps",
    "Precision and recall": "precision_recall",
    "Scores": "scores",
    "Similarities": "similarities",
    "Choice of the threshold": "calibration",
}


def write_report(
    folder: str | Path,
    result: Mapping[str, Any],
    curves: Mapping[str, Any] | None = None,
    strips: Sequence[Strip] = (),
    load_image: LoadImage | None = None,
    strips_of: str = "",
) -> Path:
    """Writes the report of one run and returns the path of its page.

    result: what `evaluate` (or `mean_and_sd`) returns; curves: what `make_curves` returns; strips: queries to show,
    whose photographs `load_image(name)` gives as uint8 [H,W,3] RGB; strips_of: which search they are of, in words.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*(f"{figure}.png" for figure in _FIGURES.values()), SHEET, CURVES):
        (folder / name).unlink(missing_ok=True)  # of an evaluation before this one
    drawn = _figures(result, curves)
    for name, panels in drawn.items():
        if panels:
            write_png(folder / f"{name}.png", panels, str(result["settings"].get("dataset", "")))
    if curves is not None:
        write_curves(folder / CURVES, curves)
    pictures = [page.strip(strip_picture(strip, load_image), strip.caption, described(strip)) for strip in strips]
    if strips:
        write_picture(folder / SHEET, ranking_sheet(strips, load_image, strips_of))
        pictures = [page.heading(strips_of)] * bool(strips_of) + pictures
    write_atomically(folder / PAGE, report_page(result, drawn, pictures))
    return folder / PAGE


def _figures(result: Mapping[str, Any], curves: Mapping[str, Any] | None) -> dict[str, list[Panel]]:
    """File name -> what is drawn."""
    settings = result["settings"]
    drawn = {
        "gallery_sizes": figures.sizes_panels(result),
        "steps": figures.steps_panels(result),
        "calibration": figures.calibration_panels(settings.get("calibration") or {}),
    }
    if curves is not None:
        thresholds = {k: threshold_at(settings["search_threshold"], k) for k in result["steps"]}
        drawn["precision_recall"] = figures.precision_recall_panels(curves)
        drawn["scores"] = figures.score_panels(curves, thresholds)
        drawn["similarities"] = figures.similarity_panels(curves)
    return drawn


def report_page(result: Mapping[str, Any], drawn: Mapping[str, Sequence[Panel]], pictures: Sequence[str]) -> str:
    """The page as HTML. drawn: panels by file name; pictures: HTML of the rankings."""
    content = {
        "What made these numbers": page.facts(made_of(result)),
        "Search": "".join(_search_content(result)),
        "Detection": page.table(detection_table(result), "Detection"),
        "Rankings": "".join(pictures),
    }
    content |= {title: page.panels(drawn[name]) for title, name in _FIGURES.items() if drawn.get(name)}
    sections = {
        title: page.section(title, reading, content[title]) for title, reading in READING.items() if content.get(title)
    }
    return page.document(_title(result), _lead(result), sections, page.tiles(headline(result)))


def headline(result: Mapping[str, Any]) -> list[tuple[str, Cell, str]]:
    """(name, number, what it belongs to): search of the first protocol and detection, at the last number of steps.

    The gallery is the whole one, or the one of 100 photographs where the dataset lists galleries, as papers have it.
    """
    steps, entries = result["steps"][-1], []
    for protocol, sizes in list(result["search"].items())[:1]:
        size = "100" if "100" in sizes and split_name(protocol)[0] == "listed" else max(sizes, key=size_order)
        where = f"{gallery_name(protocol, size)}, {steps_name(steps)}"
        entries += [(f"search {key}", rate(sizes[size][steps], key), where) for key in ("mAP", "top-1")]
    every = result["detection"][steps]["all"]
    return entries + [
        (f"detection {key}", rate(every, key), f"IoU 0.5, {steps_name(steps)}") for key in ("AP", "recall")
    ]


def made_of(result: Mapping[str, Any]) -> dict[str, str]:
    """Settings and counts in words."""
    entries = {}
    for key, value in result["settings"].items():
        if key == "calibration":
            value = "search threshold chosen on held-out training photographs" if value else "none"
        elif key == "query_embedding":
            value = _QUERIES.get(value, value)
        elif key == "search_threshold" and isinstance(value, Mapping):
            value = [f"{threshold:g} at {steps_name(str(steps))}" for steps, threshold in value.items()]
        entries[_SETTINGS.get(key, in_words(key))] = plain(value)
    return entries | {in_words(key): f"{value:,}" for key, value in result["counts"].items()}


def detection_table(result: Mapping[str, Any]) -> Table:
    """A row a number of steps."""
    heads = [
        "steps",
        "AP",
        "recall",
        "AP labelled",
        "recall labelled",
        "COCO AP",
        "AP50",
        "AP75",
        "detections",
        "people",
        "detections labelled",
        "people labelled",
    ]
    rows = []
    for steps, kinds in result["detection"].items():
        every, labelled, coco = kinds["all"], kinds["labelled"], kinds["coco"]
        rates = [rate(kind, key) for kind in (every, labelled) for key in ("AP", "recall")]
        rates += [rate(coco, key) for key in ("AP", "AP50", "AP75")]
        counts = [amount(kind, key) for kind in (every, labelled) for key in ("detections", "truths")]
        rows.append([Cell(steps), *rates, *counts])
    return mark_columns(Table(heads, rows), range(1, 8))


def search_table(result: Mapping[str, Any], base: str) -> Table:
    """All galleries of one protocol: a row a size, re-ranking and number of steps; the best of a size marked."""
    family = [name for name in result["search"] if split_name(name)[0] == base]
    leaves = [
        (size, split_name(name)[1], steps, numbers)
        for name in family
        for size, by_steps in result["search"][name].items()
        for steps, numbers in by_steps.items()
    ]
    order = list(dict.fromkeys(size for size, *_ in leaves))
    leaves.sort(key=lambda leaf: order.index(leaf[0]))
    sized, reranked = len(order) > 1, any(option for _, option, *_ in leaves)
    hopeless = any("mAP_all_queries" in numbers for *_, numbers in leaves)
    heads = [
        *["gallery"] * sized,
        *["re-ranking"] * reranked,
        "steps",
        *RATES,
        *["mAP all queries"] * hopeless,
        "found",
        "photographs",
        "queries",
        "without truth",
        "without hit",
    ]
    rows = []
    for size, option, steps, numbers in leaves:
        labels = [*[Cell(size_name(size))] * sized, *[Cell(option_name(option))] * reranked, Cell(steps)]
        rates = [rate(numbers, key) for key in (*RATES, *["mAP_all_queries"] * hopeless, "recall")]
        counts = [amount(numbers, key) for key in ("queries_without_truth", "queries_without_hit")]
        rows.append([*labels, *rates, amount(numbers, "gallery_images_mean"), _queries(numbers), *counts])
    labels = 1 + sized + reranked
    table = Table(heads, rows, labels, [size for size, *_ in leaves])
    return mark_columns(table, range(labels, labels + len(RATES) + hopeless + 1))


def _queries(numbers: Mapping[str, Any]) -> Cell:
    """How many queries the means are over, and of how many where some are left out."""
    counted, total = amount(numbers, "queries"), amount(numbers, "queries_total")
    return counted if counted.text == total.text else Cell(f"{counted.text} of {total.text}", counted.exact)


def _search_content(result: Mapping[str, Any]) -> list[str]:
    parts = []
    for base in dict.fromkeys(split_name(name)[0] for name in result["search"]):
        title = gallery_name(base)
        parts += [page.heading(title[:1].upper() + title[1:])]
        for name, about in result["protocols"].items():
            own, option = split_name(name)
            if own == base and about:
                parts.append(page.paragraph(f"{option_name(option)}: {about}" if option else about))
        parts += [page.table(search_table(result, base), f"Search, {title}")]
    return parts


def _title(result: Mapping[str, Any]) -> str:
    return f"PSDiff on {result['settings'].get('dataset', 'a gallery')}"


def _lead(result: Mapping[str, Any]) -> str:
    settings, counts = result["settings"], result["counts"]
    parts = [
        f"{counts['queries']:,} queries searched in {counts['gallery_images']:,} photographs of "
        f"{counts['people']:,} people."
    ]
    if settings.get("trained_on") and settings["trained_on"] != settings.get("dataset"):
        parts.append(f"Trained on {settings['trained_on']}, evaluated on {settings.get('dataset')}.")
    if len(settings.get("seeds") or ()) > 1:
        parts.append(
            f"Numbers are means over {len(settings['seeds'])} seeds of the sampler, ± their standard "
            "deviation (bars in the diagrams); curves and rankings are those of the first."
        )
    return " ".join(parts)
