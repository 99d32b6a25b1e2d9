"""Several finished runs side by side: what differs in how they were made, and in their numbers.

Numbers stand in one table only where they are comparable: runs on the same dataset with the same counts, and protocols
of the same name and description. Everything else gets tables of its own, and a remark that says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from psdiff_jax.report import page
from psdiff_jax.report.figures import line_of, sizes_line
from psdiff_jax.report.grid import MISSING, Cell, Table, as_text, mark_best, rate
from psdiff_jax.report.naming import gallery_name, in_words, option_name, plain, size_name, split_name, steps_name
from psdiff_jax.report.plots import Line, Panel
from psdiff_jax.report.runs import Finished

READING = (
    "Percent; in brackets the difference to the first run; bold (* in text) is the best of a row. mAP and top-1 "
    "only: the rest is in the report of each run."
)
_DETECTION = (
    ("all", "AP", "AP"),
    ("all", "recall", "recall"),
    ("labelled", "AP", "AP labelled"),
    ("labelled", "recall", "recall labelled"),
    ("coco", "AP", "COCO AP"),
    ("coco", "AP50", "AP50"),
    ("coco", "AP75", "AP75"),
)


@dataclasses.dataclass(frozen=True)
class Chapter:
    """title, reading, remarks: plain text; tables: (name, what it is about, table); wide: its tables hold text."""

    title: str
    reading: str
    remarks: Sequence[str] = ()
    tables: Sequence[tuple[str, str, Table]] = ()
    panels: Sequence[Panel] = ()
    wide: bool = False


def compare(runs: Sequence[Finished]) -> list[Chapter]:
    """The chapters of a comparison; differences are to the first run of each gallery."""
    by_gallery: dict[tuple, list[Finished]] = {}
    for run in runs:
        by_gallery.setdefault(run.gallery, []).append(run)
    galleries = list(by_gallery.values())
    chapters = [_differences(runs, galleries)]
    for i, members in enumerate(galleries, 1):
        where = f", gallery {i}: {members[0].result['settings'].get('dataset', '')}" if len(galleries) > 1 else ""
        chapters += [_search(members, where), _detection(members, where), _curves(members, where)]
    return [chapter for chapter in chapters if chapter.tables or chapter.panels or chapter.remarks]


def comparison_page(runs: Sequence[Finished], chapters: Sequence[Chapter]) -> str:
    """The comparison as one self-contained HTML page."""
    sections = {}
    for chapter in chapters:
        content = [page.paragraph(remark) for remark in chapter.remarks]
        for name, about, table in chapter.tables:
            content += [page.heading(name)] * (name != chapter.title) + [page.paragraph(about)] * bool(about)
            content += [page.table(table, name, chapter.wide)]
        content += [page.panels(chapter.panels)] * bool(chapter.panels)
        sections[chapter.title] = page.section(chapter.title, chapter.reading, *content)
    return page.document(
        f"{len(runs)} runs of PSDiff", "Side by side: " + ", ".join(run.name for run in runs) + ".", sections
    )


def comparison_text(chapters: Sequence[Chapter]) -> str:
    """The same tables for a terminal."""
    parts = []
    for chapter in chapters:
        parts += [chapter.title, "=" * len(chapter.title), *chapter.remarks, *[""] * bool(chapter.remarks)]
        for name, about, table in chapter.tables:
            parts += [f"{name}: {about}" if about else name, ""] * (name != chapter.title) + [as_text(table), ""]
    return "\n".join(parts)


def _differences(runs: Sequence[Finished], galleries: Sequence[Sequence[Finished]]) -> Chapter:
    remarks = []
    if len(galleries) > 1:
        remarks.append(
            "These runs were evaluated on different galleries, whose numbers cannot be compared; each has "
            "tables of its own."
        )
        remarks += [
            f"Gallery {i}: {_gallery_in_words(members[0])}. Runs: {', '.join(run.name for run in members)}."
            for i, members in enumerate(galleries, 1)
        ]
    remarks += [f"{run.name} has no config.json: its settings are unknown." for run in runs if run.config is None]
    made = [_made_of(run) for run in runs]
    keys = sorted(dict.fromkeys(key for entries in made for key in entries), key=_of_config)
    rows = []
    for key in keys:
        values = [entries.get(key, "–") for entries in made]
        known = [v for run, v in zip(runs, values, strict=True) if run.config is not None or not _of_config(key)]
        if len(set(known)) > 1:
            rows.append([Cell(key), *map(Cell, values)])
    if not rows:
        remarks.append("Nothing differs in their settings.")
    table = Table(["setting", *(run.name for run in runs)], rows)
    return Chapter(
        "What differs",
        "Only settings that are not the same in all runs.",
        remarks,
        [("What differs", "", table)] if rows else [],
        wide=True,
    )


def _gallery_in_words(run: Finished) -> str:
    counts = run.result["counts"]
    told = ", ".join(f"{value:,} {in_words(key)}" for key, value in counts.items())
    return f"{run.result['settings'].get('dataset', 'unknown dataset')}, {told}"


def _of_config(key: str) -> bool:
    return key.startswith("config.")


def _made_of(run: Finished) -> dict[str, str]:
    """Settings of the evaluation, then the config's keys with dots."""
    settings = {key: plain(value) for key, value in run.result["settings"].items() if key != "calibration"}
    settings["calibrated"] = "yes" if run.result["settings"].get("calibration") else "no"
    return settings | {f"config.{key}": plain(value) for key, value in _flat(run.config or {})}


def _flat(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _search(runs: Sequence[Finished], where: str) -> Chapter:
    tables, remarks = [], []
    for base in dict.fromkeys(split_name(name)[0] for run in runs for name in run.result["search"]):
        by_rule: dict[str, list[Finished]] = {}
        for run in runs:
            if any(split_name(name)[0] == base for name in run.result["search"]):
                by_rule.setdefault(run.result["protocols"].get(base, ""), []).append(run)
        name = gallery_name(base)
        if len(by_rule) > 1:
            remarks.append(f"The rule of {name} is not the same in all runs; each stands in a table of its own.")
        for rule, members in by_rule.items():  # of a rule that is the only one, runs without it show as dashes
            tables.append(
                (name[:1].upper() + name[1:], rule, search_table(runs if len(by_rule) == 1 else members, base))
            )
    return Chapter(f"Search{where}", READING, remarks, tables)


def search_table(runs: Sequence[Finished], base: str) -> Table:
    """A row a gallery size, re-ranking, number of steps and metric; a column a run, "–" where it has no such number."""
    leaves = dict.fromkeys(
        (size, split_name(name)[1], k)
        for run in runs
        for name, sizes in run.result["search"].items()
        if split_name(name)[0] == base
        for size, by_steps in sizes.items()
        for k in by_steps
    )
    rows, groups = [], []
    sizes = list(dict.fromkeys(size for size, *_ in leaves))
    sized, reranked = len(sizes) > 1, any(option for _, option, _ in leaves)
    for size, option, k in sorted(leaves, key=lambda leaf: sizes.index(leaf[0])):
        name = f"{base}+{option}" if option else base
        numbers = [run.result["search"].get(name, {}).get(size, {}).get(k) for run in runs]
        for metric in ("mAP", "top-1"):
            labels = [*[size_name(size)] * sized, *[option_name(option)] * reranked, k, metric]
            rows.append([*map(Cell, labels), *_beside([rate(found, metric) for found in numbers])])
            groups.append((size, option))
    heads = [*["gallery"] * sized, *["re-ranking"] * reranked, "steps", "", *(run.name for run in runs)]
    return Table(heads, rows, 2 + sized + reranked, groups)


def _detection(runs: Sequence[Finished], where: str) -> Chapter:
    rows, groups = [], []
    for k in dict.fromkeys(k for run in runs for k in run.result["detection"]):
        for kind, metric, name in _DETECTION:
            found = [run.result["detection"].get(k, {}).get(kind) for run in runs]
            rows.append([Cell(k), Cell(name), *_beside([rate(numbers, metric) for numbers in found])])
            groups.append(k)
    table = Table(["steps", "", *(run.name for run in runs)], rows, 2, groups)
    return Chapter(f"Detection{where}", READING.partition(" mAP")[0], tables=[(f"Detection{where}", "", table)])


def _beside(cells: Sequence[Cell]) -> list[Cell]:
    """The best marked, and behind every other number its difference to the first."""
    first, *others = mark_best(cells)
    if first.exact is None:
        return [first, *others]
    return [
        first,
        *(
            cell
            if cell is MISSING or cell.exact is None
            else dataclasses.replace(cell, text=f"{cell.text} ({100 * (cell.exact - first.exact):+.1f})")
            for cell in others
        ),
    ]


def _curves(runs: Sequence[Finished], where: str) -> Chapter:
    without = [run.name for run in runs if run.curves is None]
    remarks = (
        [f"Without precision-recall curves, for there is no report/curves.json: {', '.join(without)}."]
        if (without)
        else []
    )
    panels = [*_steps_panels(runs), *_sizes_panels(runs), *_precision_recall_panels(runs)]
    return Chapter(
        f"Curves{where}", "A line a run; where one is missing, the run has no such numbers.", remarks, panels=panels
    )


def _leaves(runs: Sequence[Finished]) -> dict[str, str]:
    """Protocol without re-ranking -> the size of gallery to draw, the last that all runs have; protocols whose rule is
    not the same in all are left out."""
    drawn = {}
    for name, sizes in runs[0].result["search"].items():
        if not split_name(name)[1] and len({run.result["protocols"].get(split_name(name)[0], "") for run in runs}) == 1:
            common = [size for size in sizes if all(size in run.result["search"].get(name, {}) for run in runs)]
            drawn |= {name: common[-1]} if common else {}
    return drawn


def _steps_panels(runs: Sequence[Finished]) -> list[Panel]:
    def panel(title: str, of_run: Any, key: str) -> Panel:
        lines = [line_of(of_run(run.result), _numbered(run), key, run.name) for run in runs if _numbered(run)]
        return Panel(title, "denoising steps", "percent", lines, log="x")

    panels = [
        panel(f"mAP, {gallery_name(name, size)}", lambda r, n=name, s=size: r["search"][n][s], "mAP")
        for name, size in _leaves(runs).items()
    ]
    panels.append(
        panel("Detection AP (x recall)", lambda r: {k: kinds["all"] for k, kinds in r["detection"].items()}, "AP")
    )
    return [p for p in panels if any(len(line.x) > 1 for line in p.series)]


def _numbered(run: Finished) -> list[str]:
    return sorted((k for k in run.result["steps"] if k.isdecimal()), key=int)


def _sizes_panels(runs: Sequence[Finished]) -> list[Panel]:
    panels = []
    for name in _leaves(runs):
        lines = [
            sizes_line(run.result["search"][name], k, "mAP", f"{run.name}, {steps_name(k)}")
            for run in runs
            for k in run.result["steps"][-1:]
        ]
        if all(len(line.x) > 1 for line in lines):
            panels.append(Panel(f"mAP, {gallery_name(name)}", "photographs in the gallery", "percent", lines, log="x"))
    return panels


def _precision_recall_panels(runs: Sequence[Finished]) -> list[Panel]:
    found: dict[str, list[Line]] = {}
    comparable = _leaves(runs)
    for run in runs:
        for k, curve in list((run.curves or {}).get("detection", {}).items())[-1:]:
            found.setdefault("Detection", []).append(_pr_line(run, k, curve))
        for name, sizes in (run.curves or {}).get("search", {}).items():
            for size, by_steps in sizes.items() if name in comparable else ():
                k, curve = list(by_steps.items())[-1]
                found.setdefault(f"Search, {gallery_name(name, size)}", []).append(_pr_line(run, k, curve))
    return [
        Panel(title, "recall, percent", "precision, percent", lines, percent="xy", unit_square=True)
        for title, lines in found.items()
    ]


def _pr_line(run: Finished, steps: str, curve: Mapping[str, Any]) -> Line:
    return Line(f"{run.name}, {steps_name(steps)}", curve["recall"], curve["precision"])
