"""The diagrams of a report, as panels: quality against steps and gallery size, precision and recall, histograms, the
choice of the threshold. Each takes the content of evaluation.json or curves.json; [] where there is nothing to draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from psdiff_jax.evaluation.protocols import size_order
from psdiff_jax.report.naming import gallery_name, option_name, split_name, steps_name
from psdiff_jax.report.plots import Histogram, Line, Panel

MOST_LINES = 6
Numbers = Mapping[str, Any]


def steps_panels(result: Numbers) -> list[Panel]:
    """Search and detection quality against the number of denoising steps (the paper's Fig. 5).

    Search: mAP of each protocol at its largest gallery, and top-1 of the first.
    """
    steps = sorted((name for name in result["steps"] if name.isdecimal()), key=int)
    if not steps:
        return []
    lines: list[Line] = []
    for protocol in sorted(result["search"], key=lambda name: bool(split_name(name)[1])):  # plain ones first
        sizes = result["search"][protocol]
        size = max(sizes, key=size_order)
        line = line_of(sizes[size], steps, "mAP", f"mAP, {gallery_name(protocol, size)}")
        if any(line.y == other.y for other in lines):
            continue  # sampled galleries of all images are the whole gallery again
        lines += [line] + [line_of(sizes[size], steps, "top-1", f"top-1, {gallery_name(protocol, size)}")] * (not lines)
    every = {k: result["detection"][k]["all"] for k in steps}
    coco = {k: result["detection"][k]["coco"] for k in steps}
    detection = [
        line_of(every, steps, "recall", "recall"),
        line_of(coco, steps, "AP50", "AP50 (COCO)"),
        line_of(every, steps, "AP", "AP (x recall)"),
    ]
    panels = [("Person search", lines[:MOST_LINES]), ("Detection, IoU 0.5", detection)]
    return [Panel(title, "denoising steps", "percent", series, log="x") for title, series in panels if series]


def line_of(by_steps: Mapping[str, Numbers], steps: Sequence[str], key: str, label: str) -> Line:
    """A metric against the number of steps, with its standard deviations where there are any."""
    sd = [by_steps[k].get("sd", {}).get(key) for k in steps]
    return Line(label, [int(k) for k in steps], [by_steps[k][key] for k in steps], sd if any(sd) else None)


def sizes_panels(result: Numbers) -> list[Panel]:
    """mAP and top-1 against the gallery size (the paper's Fig. 4), for every protocol with two sizes or more: a line a
    number of steps without re-ranking, and one a re-ranking at the last number of steps."""
    panels = []
    for protocol in result["search"]:
        base, option = split_name(protocol)
        if option:
            continue
        family = [name for name in result["search"] if split_name(name)[0] == base]
        wanted = [
            (name, k) for name in family for k in (_some(result["steps"]) if name == base else result["steps"][-1:])
        ]
        for key in ("mAP", "top-1"):
            lines = [sizes_line(result["search"][name], k, key, _with_option(name, k)) for name, k in wanted]
            lines = [line for line in lines if len(set(line.x)) > 1]
            if lines:
                title = f"{key}, {gallery_name(base)}"
                panels.append(Panel(title, "images in the gallery", "percent", lines[:MOST_LINES], log="x"))
    return panels


def sizes_line(sizes: Mapping[str, Mapping[str, Numbers]], steps: str, key: str, label: str) -> Line:
    """A metric at one number of steps against the mean number of images in a gallery; named subsets left out."""
    rows = [by_steps[steps] for size, by_steps in sizes.items() if size_order(size) >= 0 and steps in by_steps]
    rows = sorted(rows, key=lambda row: row["gallery_images_mean"])
    sd = [row.get("sd", {}).get(key) for row in rows]
    sizes_x = [round(row["gallery_images_mean"]) for row in rows]
    return Line(label, sizes_x, [row[key] for row in rows], sd if any(sd) else None)


def precision_recall_panels(curves: Numbers) -> list[Panel]:
    """Precision against recall: of detection by steps; of search by steps for the first protocol, then by protocol."""
    panels = [("Detection", _by_steps(curves["detection"]))]
    by_protocol: list[Line] = []
    for i, (protocol, sizes) in enumerate(curves["search"].items()):
        for size, by_steps in sizes.items():
            if i == 0 and len(by_steps) > 1:
                panels.append((f"Search, {gallery_name(protocol, size)}", _by_steps(by_steps)))
            by_protocol.append(precision_recall_line(gallery_name(protocol, size), by_steps[list(by_steps)[-1]]))
    if len(by_protocol) > 1 or len(panels) == 1:
        last = f", {steps_name(list(curves['detection'])[-1])}" if curves["detection"] else ""
        panels.append((f"Search{last}", by_protocol[:MOST_LINES]))
    return [precision_recall_panel(title, lines) for title, lines in panels if lines]


def precision_recall_line(label: str, curve: Numbers) -> Line:
    return Line(label, curve["recall"], curve["precision"])


def precision_recall_panel(title: str, lines: Sequence[Line]) -> Panel:
    return Panel(title, "recall, percent", "precision, percent", lines, percent="xy", unit_square=True)


def _by_steps(curves: Mapping[str, Numbers]) -> list[Line]:
    return [precision_recall_line(steps_name(k), curves[k]) for k in _some(list(curves))]


def score_panels(curves: Numbers, thresholds: Mapping[str, float] | None = None) -> list[Panel]:
    """Detection scores of the last number of steps, true against false positives, with the search threshold."""
    if not curves["scores"]:
        return []
    steps, found = list(curves["scores"].items())[-1]
    kinds = {"right": "true positives", "wrong": "false positives"}
    bars = [Histogram(f"{name} ({sum(found[kind]):,})", found["edges"], found[kind]) for kind, name in kinds.items()]
    threshold = (thresholds or {}).get(steps)
    marks = [] if threshold is None else [(threshold, f"search threshold {threshold:g}")]
    title = f"Detection scores, {steps_name(steps)}"
    return [Panel(title, "score", "detections (log)", bars, percent="", log="y", marks=marks)]


def similarity_panels(curves: Numbers) -> list[Panel]:
    """Similarities of the first protocol at the last number of steps: positive against negative pairs, in shares."""
    panels = []
    for protocol, sizes in list(curves["similarities"].items())[:1]:
        for size, by_steps in sizes.items():
            steps, found = list(by_steps.items())[-1]
            edges, counts = _occupied(found["edges"], [found["right"], found["others"]])
            bars = [
                Histogram(f"{name} ({sum(row):,})", edges, [v / max(sum(row), 1) for v in row])
                for name, row in zip(("positive pairs", "negative pairs"), counts, strict=True)
            ]
            title = f"Similarities, {gallery_name(protocol, size)}, {steps_name(steps)}"
            panels.append(Panel(title, "similarity (cosine)", "percent of the pairs", bars))
    return panels


def calibration_panels(calibration: Mapping[str, Numbers]) -> list[Panel]:
    """mAP on held-out training images against the search threshold, and the thresholds chosen."""
    lines, marks = [], []
    for steps in _some(list(calibration)):
        found = calibration[steps]
        if found.get("thresholds") and found.get("mAP"):
            chosen = f"{found['threshold']:g}"
            lines.append(Line(f"{steps_name(steps)} (best at {chosen})", found["thresholds"], found["mAP"]))
            marks.append((found["threshold"], f"chosen at {steps_name(steps)}: {chosen}"))
    title = "mAP on held-out training images"
    return [Panel(title, "search threshold", "percent", lines, marks=marks[-1:])] if lines else []


def _occupied(edges: Sequence[float], rows: Sequence[Sequence[int]]) -> tuple[list[float], list[list[int]]]:
    """Without the empty bins at both ends."""
    filled = [i for i, counts in enumerate(zip(*rows, strict=True)) if any(counts)] or [0]
    first, last = filled[0], filled[-1] + 1
    return list(edges[first : last + 1]), [list(row[first:last]) for row in rows]


def _some(steps: Sequence[str], most: int = 4) -> list[str]:
    """At most `most` of them, evenly spaced, with the first and the last."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def _with_option(name: str, steps: str) -> str:
    option = split_name(name)[1]
    return steps_name(steps) + (f", {option_name(option)}" if option else "")
