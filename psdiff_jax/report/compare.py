"""Several evaluated runs side by side: how their settings and their numbers differ.

Numbers share a table only where they are comparable: runs on the same dataset with the same counts, and protocols of
the same name and description. All others have tables of their own, and a remark that says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from psdiff_jax.report.figures import line_of, precision_recall_line, precision_recall_panel, sizes_line
from psdiff_jax.report.naming import gallery_name, in_words, plain, split_name, steps_name
from psdiff_jax.report.pages import Chapter, render
from psdiff_jax.report.plots import Line, Panel
from psdiff_jax.report.runs import Run
from psdiff_jax.report.tables import DETECTION, Cell, Table, as_text, detection_rates, mark_best, rate, search_rows

PERCENT = "Percent; in brackets the difference to the first run; bold (* in text) is the best of a row."
READING = f"{PERCENT} mAP and top-1 only: the rest is in the report of each run."


def compare(runs: Sequence[Run]) -> list[Chapter]:
    """The chapters of a comparison; differences are to the first run of each gallery."""
    by_gallery: dict[tuple, list[Run]] = {}
    for run in runs:
        by_gallery.setdefault(run.gallery, []).append(run)
    galleries = list(by_gallery.values())
    chapters = [_differences(runs, galleries)]
    for i, members in enumerate(galleries, 1):
        where = f", gallery {i}: {members[0].numbers['settings'].get('dataset', '')}" if len(galleries) > 1 else ""
        chapters += [_search(members, where), _detection(members, where), _curves(members, where)]
    return [chapter for chapter in chapters if not chapter.is_empty]


def comparison_page(runs: Sequence[Run], chapters: Sequence[Chapter]) -> str:
    """The comparison as one self-contained HTML page."""
    lead = "Side by side: " + ", ".join(run.name for run in runs) + "."
    title = f"{len(runs)} runs of PSDiff"
    return render("chapters.html.jinja", title=title, lead=lead, headline=(), chapters=chapters)


def comparison_text(chapters: Sequence[Chapter]) -> str:
    """The same tables for a terminal."""
    parts = []
    for chapter in chapters:
        parts += [chapter.title, "=" * len(chapter.title), *chapter.remarks, *[""] * bool(chapter.remarks)]
        for name, about, table in chapter.tables:
            heading = [": ".join([name, *about]), ""] if name != chapter.title else []
            parts += [*heading, as_text(table), ""]
    return "\n".join(parts)


def _differences(runs: Sequence[Run], galleries: Sequence[Sequence[Run]]) -> Chapter:
    remarks = []
    if len(galleries) > 1:
        remarks.append(
            "These runs were evaluated on different galleries, whose numbers cannot be compared; each has tables of "
            "its own."
        )
        remarks += [
            f"Gallery {i}: {_gallery_in_words(members[0])}. Runs: {', '.join(run.name for run in members)}."
            for i, members in enumerate(galleries, 1)
        ]
    remarks += [f"{run.name} has no config.json: its settings are unknown." for run in runs if run.config is None]
    made = [_made_of(run) for run in runs]
    rows = []
    for key in sorted(dict.fromkeys(key for entries in made for key in entries), key=_of_config):
        values = [entries.get(key, "–") for entries in made]
        known = [v for run, v in zip(runs, values, strict=True) if run.config is not None or not _of_config(key)]
        if len(set(known)) > 1:
            rows.append([Cell(key), *map(Cell, values)])
    if not rows:
        remarks.append("Their settings are the same.")
    table = Table(["setting", *(run.name for run in runs)], rows, is_text=True)
    title, reading = "What differs", "Only settings that are not the same in all runs."
    return Chapter(title, reading, remarks, tables=[(title, (), table)] if rows else [])


def _gallery_in_words(run: Run) -> str:
    counts = run.numbers["counts"]
    words = ", ".join(f"{value:,} {in_words(key)}" for key, value in counts.items())
    return f"{run.numbers['settings'].get('dataset', 'unknown dataset')}, {words}"


def _of_config(key: str) -> bool:
    return key.startswith("config.")


def _made_of(run: Run) -> dict[str, str]:
    """Settings of the evaluation, then the config's keys with dots."""
    settings = {key: plain(value) for key, value in run.numbers["settings"].items() if key != "calibration"}
    settings["calibrated"] = "yes" if run.numbers["settings"].get("calibration") else "no"
    return settings | {f"config.{key}": plain(value) for key, value in _flat(run.config or {})}


def _flat(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _search(runs: Sequence[Run], where: str) -> Chapter:
    tables, remarks = [], []
    for base in dict.fromkeys(split_name(name)[0] for run in runs for name in run.numbers["search"]):
        by_rule: dict[str, list[Run]] = {}
        for run in runs:
            if any(split_name(name)[0] == base for name in run.numbers["search"]):
                by_rule.setdefault(run.numbers["protocols"].get(base, ""), []).append(run)
        name = gallery_name(base)
        if len(by_rule) > 1:
            remarks.append(f"The rule of {name} is not the same in all runs; each rule has a table of its own.")
        for rule, members in by_rule.items():  # of a rule that is the only one, runs without it are dashes
            table = search_table(runs if len(by_rule) == 1 else members, base)
            tables.append((name[:1].upper() + name[1:], [rule] * bool(rule), table))
    return Chapter(f"Search{where}", READING, remarks, tables=tables)


def search_table(runs: Sequence[Run], base: str) -> Table:
    """A row a gallery size, re-ranking, number of steps and metric; a column a run, "–" where it has no such number."""
    heads, found = search_rows([run.numbers for run in runs], base)
    rows, groups = [], []
    for labels, name, size, steps in found:
        leaves = [run.numbers["search"].get(name, {}).get(size, {}).get(steps) for run in runs]
        for metric in ("mAP", "top-1"):
            rows.append([*labels, Cell(metric), *_beside([rate(leaf, metric) for leaf in leaves])])
            groups.append((size, name))
    return Table([*heads, "", *(run.name for run in runs)], rows, len(heads) + 1, groups)


def _detection(runs: Sequence[Run], where: str) -> Chapter:
    rows, groups = [], []
    for k in dict.fromkeys(k for run in runs for k in run.numbers["detection"]):
        columns = [detection_rates(run.numbers["detection"].get(k, {})) for run in runs]
        for name, *cells in zip(DETECTION, *columns, strict=True):
            rows.append([Cell(k), Cell(name), *_beside(cells)])
            groups.append(k)
    title = f"Detection{where}"
    return Chapter(title, PERCENT, tables=[(title, (), Table(["steps", "", *(r.name for r in runs)], rows, 2, groups))])


def _beside(cells: Sequence[Cell]) -> list[Cell]:
    """The best marked, and behind every other number its difference to the first."""
    first, *others = mark_best(cells)
    for i, cell in enumerate(others):
        if cell.exact is not None and first.exact is not None:
            text = f"{cell.text} ({100 * (cell.exact - first.exact):+.1f})"
            others[i] = dataclasses.replace(cell, text=text)
    return [first, *others]


def _curves(runs: Sequence[Run], where: str) -> Chapter:
    without = [run.name for run in runs if run.curves is None]
    remarks = [f"Without precision-recall curves, for lack of report/curves.json: {', '.join(without)}."]
    panels = [*_steps_panels(runs), *_sizes_panels(runs), *_precision_recall_panels(runs)]
    reading = "A line a run; where one is missing, the run has no such numbers."
    return Chapter(f"Curves{where}", reading, remarks * bool(without), panels=panels)


def _leaves(runs: Sequence[Run]) -> dict[str, str]:
    """Protocol without re-ranking -> the size of gallery to draw, the last that all runs have; protocols whose rule is
    not the same in all are left out."""
    drawn = {}
    for name, sizes in runs[0].numbers["search"].items():
        base, option = split_name(name)
        if not option and len({run.numbers["protocols"].get(base, "") for run in runs}) == 1:
            common = [size for size in sizes if all(size in run.numbers["search"].get(name, {}) for run in runs)]
            drawn |= {name: common[-1]} if common else {}
    return drawn


def _steps_panels(runs: Sequence[Run]) -> list[Panel]:
    found: dict[str, tuple[str, list[Any]]] = {
        f"mAP, {gallery_name(name, size)}": ("mAP", [run.numbers["search"][name][size] for run in runs])
        for name, size in _leaves(runs).items()
    }
    detection = [{k: kinds["all"] for k, kinds in run.numbers["detection"].items()} for run in runs]
    found["Detection AP (x recall)"] = "AP", detection
    panels = []
    for title, (key, by_run) in found.items():
        pairs = [(run, by_steps) for run, by_steps in zip(runs, by_run, strict=True) if _numbered(run)]
        lines = [line_of(by_steps, _numbered(run), key, run.name) for run, by_steps in pairs]
        if any(len(line.x) > 1 for line in lines):
            panels.append(Panel(title, "denoising steps", "percent", lines, log="x"))
    return panels


def _numbered(run: Run) -> list[str]:
    return sorted((k for k in run.numbers["steps"] if k.isdecimal()), key=int)


def _sizes_panels(runs: Sequence[Run]) -> list[Panel]:
    panels = []
    for name in _leaves(runs):
        lines = [
            sizes_line(run.numbers["search"][name], k, "mAP", f"{run.name}, {steps_name(k)}")
            for run in runs
            for k in run.numbers["steps"][-1:]
        ]
        if all(len(line.x) > 1 for line in lines):
            title = f"mAP, {gallery_name(name)}"
            panels.append(Panel(title, "images in the gallery", "percent", lines, log="x"))
    return panels


def _precision_recall_panels(runs: Sequence[Run]) -> list[Panel]:
    found: dict[str, list[Line]] = {}
    comparable = _leaves(runs)
    for run in runs:
        curves = run.curves or {"detection": {}, "search": {}}
        named = {"Detection": curves["detection"]} | {
            f"Search, {gallery_name(name, size)}": by_steps
            for name, sizes in curves["search"].items()
            if name in comparable
            for size, by_steps in sizes.items()
        }
        for title, by_steps in named.items():
            for k, curve in list(by_steps.items())[-1:]:
                line = precision_recall_line(f"{run.name}, {steps_name(k)}", curve)
                found.setdefault(title, []).append(line)
    return [precision_recall_panel(title, lines) for title, lines in found.items()]
