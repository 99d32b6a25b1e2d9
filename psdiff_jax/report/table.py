"""The numbers of `evaluate` (or `mean_and_sd`) and the hits of `rank` as plain text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from psdiff_jax.inference.ranking import Hit


def format_table(result: Mapping[str, Any]) -> str:
    """Two tables, detection and search, in percent; above them what made them, below them what to know about them.

    A mean over several seeds stands with its standard deviation, as in "48.0 +- 0.5".
    """
    counts, settings = result["counts"], result["settings"]
    head = " · ".join(f"{counts[key]:,} {key.replace('_', ' ')}" for key in counts)
    made = " · ".join(_setting(key, value) for key, value in settings.items())
    parts = [head, made, "", "Detection", *_detection(result), "", "Search", *_search(result), "", *_remarks(result)]
    return "\n".join(parts) + "\n"


def format_hits(hits: Sequence[Hit]) -> str:
    """One line a hit: rank, similarity, detection score, image, box."""
    rows = [
        [str(hit.rank), f"{hit.similarity:.3f}", f"{hit.score:.3f}", hit.image, " ".join(f"{v:.0f}" for v in hit.box)]
        for hit in hits
    ]
    return "\n".join(align([["rank", "similarity", "score", "image", "box (x1 y1 x2 y2)"], *rows], left=(3, 4))) + "\n"


def _detection(result: Mapping[str, Any]) -> list[str]:
    rows = [["steps", "AP", "recall", "AP labelled", "recall labelled", "COCO AP", "AP50", "AP75", "boxes"]]
    for steps, numbers in result["detection"].items():
        every, labelled, coco = numbers["all"], numbers["labelled"], numbers["coco"]
        rates = [_rate(split, key) for split in (every, labelled) for key in ("AP", "recall")]
        rates += [_rate(coco, key) for key in ("AP", "AP50", "AP75")]
        rows.append([steps, *rates, _count(every["detections"])])
    return align(rows)


def _search(result: Mapping[str, Any]) -> list[str]:
    rows = [
        ["protocol", "gallery", "steps", "mAP", "top-1", "top-5", "top-10", "queries", "without truth", "without hit"]
    ]
    for protocol, sizes in result["search"].items():
        for size, by_steps in sizes.items():
            for steps, numbers in by_steps.items():
                rates = [_rate(numbers, key) for key in ("mAP", "top-1", "top-5", "top-10")]
                queries = [_count(numbers[key]) for key in ("queries", "queries_without_truth", "queries_without_hit")]
                rows.append([protocol, size, steps, *rates, *queries])
    return align(rows, left=(0,))


def _remarks(result: Mapping[str, Any]) -> list[str]:
    lines = [f"{name}: {description}" for name, description in result["protocols"].items() if description]
    if "seeds" in result["settings"]:
        lines.append(f"mean +- standard deviation over {len(result['settings']['seeds'])} seeds of the sampler")
    lines.append("percent; a query without a hit scores 0; detection AP is average precision x recall at IoU 0.5")
    return [row for line in lines for row in textwrap.wrap(line, 110, subsequent_indent="    ")]


def align(rows: Sequence[Sequence[str]], left: Sequence[int] = ()) -> list[str]:
    """The lines of a table, its heads (the first of `rows`) underlined; columns flush right but for those in `left`."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    return [line(rows[0]), "  ".join("-" * w for w in widths), *map(line, rows[1:])]


def _setting(key: str, value: Any) -> str:
    """ "search threshold 0.3 (1 step), 0.25 (8 steps)"; of a calibration only that it was made."""
    name = key.replace("_", " ")
    if key == "calibration":
        return "search threshold calibrated on held-out training photographs"
    if isinstance(value, Mapping):
        return f"{name} " + ", ".join(f"{v} ({k} step{'s' * (k != '1')})" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return f"{name} " + ", ".join(map(str, value))
    return f"{name} {value}"


def _rate(numbers: Mapping[str, Any], key: str) -> str:
    """A fraction in percent, with its standard deviation where there is one."""
    spread = numbers.get("sd", {}).get(key)
    return f"{100 * numbers[key]:.1f}" + ("" if spread is None else f" +- {100 * spread:.1f}")


def _count(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:,.1f}"
