"""Curves of a run: quality against the number of denoising steps, and against the size of the gallery."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_COLORS = ("#1f6fb2", "#d1495b", "#2a9d6f", "#8a5fbf", "#e08e1b", "#555b66")
_MARKS = ("o", "s", "^", "D", "v", "P")


def steps_figure(result: Mapping[str, Any], path: str | Path, title: str = "") -> Path | None:
    """Writes a PNG of search and detection quality against the number of denoising steps (the paper's Fig. 5).

    result: what `evaluate` returns. Left: mAP of each protocol at its largest gallery, and top-1 of the first
    protocol. Right: detection AP and recall, COCO's AP50. None, and no file, when no result belongs to a number of
    steps.
    """
    steps = [name for name in result["steps"] if name.isdecimal()]
    if not steps:
        return None
    search = {}
    for i, (protocol, sizes) in enumerate(result["search"].items()):
        size, by_steps = list(sizes.items())[-1]
        name = protocol.replace("_", " ").replace(":", " ") + ("" if size == "all" else f", gallery {size}")
        values = [by_steps[s]["mAP"] for s in steps]
        if values in search.values():
            continue  # sized galleries of all photographs are the whole gallery again
        search[f"mAP, {name}"] = values
        if i == 0:
            search[f"top-1, {name}"] = [by_steps[s]["top-1"] for s in steps]
    by_steps = result["detection"]
    detection = {
        "AP (x recall)": [by_steps[s]["all"]["AP"] for s in steps],
        "AP50 (COCO)": [by_steps[s]["coco"]["AP50"] for s in steps],
        "recall": [by_steps[s]["all"]["recall"] for s in steps],
    }
    panels = [("Person search", search), ("Detection, IoU 0.5", detection)]
    return _panels(panels, [int(s) for s in steps], "denoising steps", path, title)


def sizes_figure(result: Mapping[str, Any], path: str | Path, protocol: str = "sized", title: str = "") -> Path | None:
    """Writes a PNG of mAP and top-1 against the number of photographs in the gallery, a line for each number of steps.

    None, and no file, when `protocol` was not scored at two sizes or more.
    """
    sizes = result["search"].get(protocol, {})
    if len(sizes) < 2:
        return None
    x = [round(next(iter(by_steps.values()))["gallery_images_mean"]) for by_steps in sizes.values()]
    panels = []
    for key in ("mAP", "top-1"):
        lines = {
            f"{s} step{'s' * (s != '1')}": [by_steps[s][key] for by_steps in sizes.values()] for s in result["steps"]
        }
        panels.append((key, lines))
    return _panels(panels, x, "photographs in the gallery", path, title)


def _panels(
    panels: Sequence[tuple[str, Mapping[str, Sequence[float]]]],
    x: Sequence[int],
    x_label: str,
    path: str | Path,
    title: str,
) -> Path:
    """Panels side by side; `x` is spaced by its logarithm, values are fractions shown in percent."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.9 * len(panels), 3.9), dpi=160, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    for axes, (name, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for i, (label, values) in enumerate(lines.items()):
            style = {"color": _COLORS[i % len(_COLORS)], "marker": _MARKS[i % len(_MARKS)]}
            axes.plot(x, [100 * v for v in values], label=label, lw=1.8, ms=5.5, mec="white", mew=0.8, **style)
        axes.set_xscale("log", base=2)
        axes.set_xticks(x, [f"{v:,}" for v in x])
        axes.minorticks_off()
        axes.set_xlabel(x_label)
        axes.set_ylabel("percent")
        axes.set_title(name, fontsize=11, loc="left", fontweight="bold")
        axes.grid(axis="y", color="#e3e5e8", lw=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#9aa0a8")
        axes.tick_params(color="#9aa0a8", labelsize=9)
        axes.margins(x=0.06, y=0.12)
        axes.legend(fontsize=8.5, frameon=False, loc="best")
    if title:
        figure.suptitle(title, fontsize=12)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    figure.savefig(unfinished, format="png")
    os.replace(unfinished, path)
    return path
