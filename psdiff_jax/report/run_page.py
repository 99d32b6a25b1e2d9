"""`report/index.html`: one run's numbers, its settings, and how to read them, in one self-contained file.

Beside it, for slides and papers: the figures as PNG files, and curves.json, from which runs can be compared later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from psdiff_jax.evaluation.curves import write_curves
from psdiff_jax.evaluation.evaluate import threshold_at
from psdiff_jax.evaluation.protocols import protocol_class
from psdiff_jax.files import write_atomically
from psdiff_jax.report import figures
from psdiff_jax.report.naming import gallery_name, in_words, option_name, settings_in_words, split_name, steps_name
from psdiff_jax.report.pages import Chapter, render
from psdiff_jax.report.plots import Panel, write_png
from psdiff_jax.report.rankings import ExampleQuery, LoadImage, ranking_figure, ranking_row, write_picture
from psdiff_jax.report.tables import (
    DETECTION,
    SEARCH,
    Cell,
    Table,
    amount,
    detection_rates,
    mark_columns,
    rate,
    search_rows,
)

PAGE, CURVES, RANKING = "index.html", "curves.json", "ranking.png"
READING = {  # chapter -> how to read it, in the order of the page
    "Settings": "Compare only with numbers that were made with the same settings.",
    "Search": "Percent; bold is the best of a column within one gallery. A query whose person is not found scores 0. "
    "Found: the share of positives (gallery images that show the person) in which the person was detected; without "
    "positives: queries with no positive in their gallery; without hit: queries whose person was never detected.",
    "Gallery size": "A larger gallery holds more distractors: the lines fall, and a flatter line is better.",
    "Denoising steps": "Where a line levels off, more steps cost time and improve nothing.",
    "Detection": "Percent; a row is a number of denoising steps; bold is the best of a column. AP and recall at IoU "
    "0.5 as person search counts them (AP times recall), over all ground-truth boxes and over those with an identity; "
    "beside them COCO's.",
    "Precision and recall": "The nearer a curve is to the upper right, the better: the share of true positives among "
    "the detections, against the share of the ground truth that is found. Search: the mean over the queries of the "
    "highest precision at that recall or beyond.",
    "Scores": "Only detections to the right of the line are searched: it should leave out false positives (hatched) "
    "and keep true positives.",
    "Similarities": "The less the two overlap, the better the embeddings discriminate; each is in percent of its own "
    "kind, because negative pairs are far more frequent.",
    "Search threshold": "The threshold of the highest mAP on held-out training images; no test image was used.",
    "Rankings": "Left the query (amber box), then its best matches: green with a tick for a true positive, red with a "
    "cross for a false positive; below each its rank, similarity and image.",
}
_FIGURES = {
    "Gallery size": "gallery_sizes",
    "Denoising steps": "steps",
    "Precision and recall": "precision_recall",
    "Scores": "scores",
    "Similarities": "similarities",
    "Search threshold": "calibration",
}


def write_report(
    folder: str | Path,
    numbers: Mapping[str, Any],
    curves: Mapping[str, Any] | None = None,
    examples: Sequence[ExampleQuery] = (),
    load_image: LoadImage | None = None,
    searched: str = "",
) -> Path:
    """Writes the report of one run and returns the path of its page.

    numbers, curves: what evaluation.json and curves.json hold. examples: queries to show, whose images
    `load_image(name)` gives as uint8 [H,W,3] RGB; searched: the gallery that they are searched in, in words.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*(f"{figure}.png" for figure in _FIGURES.values()), RANKING, CURVES):
        (folder / name).unlink(missing_ok=True)  # of an evaluation before this one
    drawn = _panels(numbers, curves)
    for title, panels in drawn.items():
        if panels:
            write_png(folder / f"{_FIGURES[title]}.png", panels, str(numbers["settings"].get("dataset", "")))
    if curves is not None:
        write_curves(folder / CURVES, curves)
    rankings = []
    if examples and load_image:
        write_picture(folder / RANKING, ranking_figure(examples, load_image, searched))
        rankings = [(example.caption, example.words(), ranking_row(example, load_image)) for example in examples]
    content: dict[str, dict[str, Any]] = {
        "Settings": {"facts": made_of(numbers)},
        "Search": {"tables": _search_tables(numbers)},
        "Detection": {"tables": [("Detection", (), detection_table(numbers))]},
        "Rankings": {"rankings": rankings, "remarks": [searched] if rankings and searched else []},
        **{title: {"panels": panels} for title, panels in drawn.items()},
    }
    chapters = [Chapter(title, reading, **content.get(title, {})) for title, reading in READING.items()]
    page = render(
        "chapters.html.jinja",
        title=f"PSDiff on {numbers['settings'].get('dataset', 'a gallery')}",
        lead=_lead(numbers),
        headline=headline(numbers),
        chapters=[chapter for chapter in chapters if not chapter.is_empty],
    )
    write_atomically(folder / PAGE, page)
    return folder / PAGE


def _panels(numbers: Mapping[str, Any], curves: Mapping[str, Any] | None) -> dict[str, list[Panel]]:
    """Chapter -> what is drawn."""
    settings = numbers["settings"]
    drawn = {
        "Gallery size": figures.sizes_panels(numbers),
        "Denoising steps": figures.steps_panels(numbers),
        "Search threshold": figures.calibration_panels(settings.get("calibration") or {}),
    }
    if curves is not None:
        thresholds = {k: threshold_at(settings["search_threshold"], k) for k in numbers["steps"]}
        drawn["Precision and recall"] = figures.precision_recall_panels(curves)
        drawn["Scores"] = figures.score_panels(curves, thresholds)
        drawn["Similarities"] = figures.similarity_panels(curves)
    return drawn


def headline(numbers: Mapping[str, Any]) -> list[tuple[str, Cell, str]]:
    """(name, number, what it belongs to): search of the first protocol at its headline size, and detection; both at
    the last number of steps."""
    steps, entries = numbers["steps"][-1], []
    for protocol, sizes in list(numbers["search"].items())[:1]:
        size = protocol_class(split_name(protocol)[0]).headline_size(list(sizes))
        where = f"{gallery_name(protocol, size)}, {steps_name(steps)}"
        entries += [(f"search {key}", rate(sizes[size][steps], key), where) for key in ("mAP", "top-1")]
    found, where = numbers["detection"][steps]["all"], f"IoU 0.5, {steps_name(steps)}"
    return entries + [(f"detection {key}", rate(found, key), where) for key in ("AP", "recall")]


def made_of(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Settings and counts in words."""
    counts = {in_words(key): f"{value:,}" for key, value in numbers["counts"].items()}
    return settings_in_words(numbers["settings"]) | counts


def detection_table(numbers: Mapping[str, Any]) -> Table:
    """A row a number of steps."""
    heads = ["steps", *DETECTION, "detections", "gt boxes", "detections labelled", "gt boxes labelled"]
    rows = []
    for steps, kinds in numbers["detection"].items():
        counts = [amount(kinds[kind], key) for kind in ("all", "labelled") for key in ("detections", "truths")]
        rows.append([Cell(steps), *detection_rates(kinds), *counts])
    return mark_columns(Table(heads, rows), range(1, 1 + len(DETECTION)))


def search_table(numbers: Mapping[str, Any], base: str) -> Table:
    """All galleries of one protocol: a row a size, re-ranking and number of steps; the best of a size marked."""
    heads, found = search_rows([numbers], base)
    leaves = [numbers["search"][name][size][steps] for _, name, size, steps in found]
    means = [*SEARCH, *["mAP_all_queries"] * any("mAP_all_queries" in leaf for leaf in leaves), "recall"]
    rows = []
    for (labels, *_), leaf in zip(found, leaves, strict=True):
        counts = [amount(leaf, key) for key in ("queries_without_truth", "queries_without_hit")]
        means_of_leaf = [rate(leaf, key) for key in means]
        rows.append([*labels, *means_of_leaf, amount(leaf, "gallery_images_mean"), _queries(leaf), *counts])
    columns = [{"mAP_all_queries": "mAP all queries", "recall": "found"}.get(key, key) for key in means]
    columns += ["images", "queries", "without positives", "without hit"]
    table = Table([*heads, *columns], rows, len(heads), [size for _, _, size, _ in found])
    return mark_columns(table, range(len(heads), len(heads) + len(means)))


def _queries(leaf: Mapping[str, Any]) -> Cell:
    """How many queries the means are over, and of how many where some are left out."""
    counted, total = amount(leaf, "queries"), amount(leaf, "queries_total")
    return counted if counted.text == total.text else Cell(f"{counted.text} of {total.text}", counted.exact)


def _search_tables(numbers: Mapping[str, Any]) -> list[tuple[str, list[str], Table]]:
    tables = []
    for base in dict.fromkeys(split_name(name)[0] for name in numbers["search"]):
        about = []
        for name, description in numbers["protocols"].items():
            own, option = split_name(name)
            if own == base and description:
                about.append(f"{option_name(option)}: {description}" if option else description)
        name = gallery_name(base)
        tables.append((name[:1].upper() + name[1:], about, search_table(numbers, base)))
    return tables


def _lead(numbers: Mapping[str, Any]) -> str:
    settings, counts = numbers["settings"], numbers["counts"]
    parts = [
        f"{counts['queries']:,} queries searched in {counts['gallery_images']:,} images of "
        f"{counts['people']:,} identities."
    ]
    if settings.get("trained_on") and settings["trained_on"] != settings.get("dataset"):
        parts.append(f"Trained on {settings['trained_on']}, evaluated on {settings.get('dataset')}.")
    if len(settings.get("seeds") or ()) > 1:
        parts.append(
            f"Numbers are means over {len(settings['seeds'])} seeds of the sampler, ± their standard deviation (bars "
            "in the diagrams); curves and rankings are those of the first."
        )
    return " ".join(parts)
