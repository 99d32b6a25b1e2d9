"""The numbers of an evaluation and the hits of a search as plain text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from psdiff_jax.inference.ranking import Hit
from psdiff_jax.report.naming import in_words, settings_in_words
from psdiff_jax.report.tables import DETECTION, SEARCH, Cell, Table, align, amount, as_text, detection_rates, rate


def format_table(numbers: Mapping[str, Any]) -> str:
    """Two tables, detection and search, in percent; above them the settings, below them what the numbers are.

    numbers: the content of evaluation.json. Means over several seeds have their standard
    deviation behind them: "48.0 ± 0.5".
    """
    counts = " · ".join(f"{value:,} {in_words(key)}" for key, value in numbers["counts"].items())
    settings = " · ".join(f"{name} {value}" for name, value in settings_in_words(numbers["settings"]).items())
    remarks = [f"{name}: {description}" for name, description in numbers["protocols"].items() if description]
    if "seeds" in numbers["settings"]:
        remarks.append(f"mean ± standard deviation over {len(numbers['settings']['seeds'])} seeds of the sampler")
    remarks.append("percent; a query without a hit scores 0; detection AP is average precision x recall at IoU 0.5")
    wrapped = [row for line in remarks for row in textwrap.wrap(line, 110, subsequent_indent="    ")]
    parts = [counts, settings, "", "Detection", _detection(numbers), "", "Search", _search(numbers), "", *wrapped]
    return "\n".join(parts) + "\n"


def format_hits(hits: Sequence[Hit]) -> str:
    """One line a hit: rank, similarity, detection score, image, box."""
    rows = [
        [str(hit.rank), f"{hit.similarity:.3f}", f"{hit.score:.3f}", hit.label, " ".join(f"{v:.0f}" for v in hit.box)]
        for hit in hits
    ]
    return "\n".join(align([["rank", "similarity", "score", "image", "box (x1 y1 x2 y2)"], *rows], left=(3, 4))) + "\n"


def _detection(numbers: Mapping[str, Any]) -> str:
    rows = [
        [Cell(steps), *detection_rates(kinds), amount(kinds["all"], "detections")]
        for steps, kinds in numbers["detection"].items()
    ]
    return as_text(Table(["steps", *DETECTION, "detections"], rows, labels=0))


def _search(numbers: Mapping[str, Any]) -> str:
    rows = []
    for protocol, sizes in numbers["search"].items():
        for size, by_steps in sizes.items():
            for steps, leaf in by_steps.items():
                rates = [rate(leaf, key) for key in SEARCH]
                counts = [amount(leaf, key) for key in ("queries", "queries_without_truth", "queries_without_hit")]
                rows.append([Cell(protocol), Cell(size), Cell(steps), *rates, *counts])
    heads = ["protocol", "gallery", "steps", *SEARCH, "queries", "without positives", "without hit"]
    return as_text(Table(heads, rows))
