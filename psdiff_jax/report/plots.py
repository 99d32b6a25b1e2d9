"""Panels of lines or histograms, drawn the same way everywhere: as PNG files and inside the pages of a report.

What a panel shows is data (`Panel`), so that tests and pages can read it. Lines differ by mark and dash as well as by
colour, and the legend is below the axes.
"""

from __future__ import annotations

import dataclasses
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from psdiff_jax.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#1f6fb2", "#c2410c", "#1a7f55", "#7c4dbd", "#b0740a", "#4a505a", "#b8326e", "#0e7c86")
_MARKS = ("o", "s", "^", "D", "v", "P", "X")  # 8 colours, 7 marks, 5 dashes: 280 different lines
_DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (7, 2, 1.5, 2)), (0, (4, 1, 1, 1, 1, 1)))
_HATCHES = ("", "////", "....", "xxxx")
_FEW = 12  # up to so many points are all marked; of more, about eight are
_FAINT = "#8a919b"


@dataclasses.dataclass(frozen=True)
class Line:
    """A line through (x, y); `sd` its standard deviation, drawn as bars. Fractions are drawn as percent."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    sd: Sequence[float | None] | None = None


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Counts between `edges`, one more than counts."""

    label: str
    edges: Sequence[float]
    counts: Sequence[float]


@dataclasses.dataclass(frozen=True)
class Panel:
    """One diagram.

    percent: of the axes named, "x" and "y", values are fractions and shown in percent. log: axes with a logarithmic
    scale; a logarithmic x axis of lines has its ticks at the points. marks: (x, what it is) of vertical lines.
    unit_square: both axes go from 0 to 100 percent.
    """

    title: str
    x_label: str
    y_label: str
    series: Sequence[Line | Histogram]
    percent: str = "y"
    log: str = ""
    marks: Sequence[tuple[float, str]] = ()
    unit_square: bool = False

    @property
    def description(self) -> str:
        """What the panel shows, for those who cannot see it: the axes, and where each line begins and ends."""
        parts = []
        for series in self.series:
            if isinstance(series, Line) and len(series.x):
                scale = 100 if "y" in self.percent else 1
                parts.append(f"{series.label}: from {scale * series.y[0]:.1f} to {scale * series.y[-1]:.1f}")
            else:
                parts.append(series.label)
        return f"{self.title}: {self.y_label} against {self.x_label}. " + "; ".join(parts) + "."


def draw(panels: Sequence[Panel], title: str = "", columns: int = 2) -> Figure:
    """A matplotlib Figure with the panels in rows of `columns`, each with its legend below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(1, min(columns, len(panels)))
    rows = -(-len(panels) // columns)
    entries = max((len(panel.series) + len(panel.marks) for panel in panels), default=0)
    figure = Figure(figsize=(4.9 * columns, rows * (3.5 + 0.2 * entries)), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        _draw_panel(axes, panel)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    if title:
        figure.suptitle(_plain(title), fontsize=12)
    return figure


def write_png(path: str | Path, panels: Sequence[Panel], title: str = "") -> Path:
    """Writes the panels as one image."""
    buffer = io.BytesIO()
    draw(panels, title).savefig(buffer, format="png", dpi=160)
    write_atomically(Path(path), buffer.getvalue())
    return Path(path)


def svg(panel: Panel) -> bytes:
    """One panel as SVG with its letters as outlines: the same in every browser, and without a date."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "psdiff"}):
        draw([panel]).savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _draw_panel(axes: Axes, panel: Panel) -> None:
    across, up = (100 if axis in panel.percent else 1 for axis in "xy")
    barred = "x" in panel.log and sum(isinstance(s, Line) and s.sd is not None for s in panel.series) > 1
    for i, series in enumerate(panel.series):
        if isinstance(series, Line):  # error bars of several lines side by side, for they would cover each other
            _draw_line(axes, series, i, across * 1.015 ** (barred * (i - (len(panel.series) - 1) / 2)), up)
        else:
            _draw_histogram(axes, series, i, across, up)
    for i, (x, what) in enumerate(panel.marks):
        axes.axvline(across * x, color="#20242a", lw=1.4, ls=("-.", ":", "--")[i % 3], label=_plain(what))
    _scale(axes, panel)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.set_title("\n".join(textwrap.wrap(_plain(panel.title), 46)), fontsize=11, loc="left", fontweight="bold")
    axes.grid(axis="both" if panel.unit_square else "y", color="#e3e5e8", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(color=_FAINT, labelsize=9)
    if axes.get_legend_handles_labels()[1]:
        below = {"loc": "upper left", "bbox_to_anchor": (-0.02, -0.16), "borderaxespad": 0.0}
        axes.legend(**below, fontsize=9, frameon=False, handlelength=3.4)


def _draw_line(axes: Axes, line: Line, i: int, across: float, up: float) -> None:
    few, every = len(line.x) <= _FEW, max(1, len(line.x) // 8)
    style = {
        "color": COLORS[i % len(COLORS)],
        "marker": _MARKS[i % len(_MARKS)],
        "ls": _DASHES[i % len(_DASHES)],
        "markevery": 1 if few else (i * every // 3 % every, every),
        "lw": 1.8,
        "ms": 6,
        "mec": "white",
        "mew": 0.8,
    }
    x, y = [across * v for v in line.x], [up * v for v in line.y]
    axes.plot(x, y, label=_plain(line.label), **style)
    if line.sd is not None and any(line.sd):
        bars = [up * (v or 0.0) for v in line.sd]
        axes.errorbar(x, y, bars, fmt="none", ecolor=style["color"], capsize=3, lw=1.2)


def _draw_histogram(axes: Axes, bars: Histogram, i: int, across: float, up: float) -> None:
    color = COLORS[i % len(COLORS)]
    data = [up * v for v in bars.counts], [across * v for v in bars.edges]
    axes.stairs(
        *data, fill=True, facecolor=color + "30"
    )  # apart from the hatch, which an SVG would make as transparent
    outline = {"facecolor": "none", "edgecolor": color, "hatch": _HATCHES[i % len(_HATCHES)], "lw": 1.3}
    axes.stairs(*data, fill=True, label=_plain(bars.label), **outline)


def _scale(axes: Axes, panel: Panel) -> None:
    axes.margins(x=0.05, y=0.1)
    lines = [series for series in panel.series if isinstance(series, Line)]
    if "x" in panel.log and lines:
        ticks = sorted({float(v) for line in lines for v in line.x})
        axes.set_xscale("log", base=2)
        axes.minorticks_off()
        axes.set_xticks(ticks, [f"{v:,.0f}" for v in ticks], rotation=45 if len(ticks) > 6 else 0)
    if "y" in panel.log and any(max(s.y if isinstance(s, Line) else s.counts, default=0) > 0 for s in panel.series):
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.7)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    elif len(panel.series) > len(lines):
        axes.set_ylim(bottom=0.0)
    if panel.unit_square:
        axes.set(xlim=(0, 100), ylim=(0, 102))


def _plain(text: str, most: int = 60) -> str:
    """`text` without matplotlib's mathematics, shown in a legend even where it begins with an underscore, its middle
    left out where it is very long."""
    text = text if len(text) <= most else f"{text[: most // 2]}…{text[-most // 2 :]}"
    return " " * text.startswith("_") + text.replace("$", r"\$")
