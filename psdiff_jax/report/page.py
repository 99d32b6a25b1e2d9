"""HTML of the pages that PSDiff writes: one file each, without scripts and without anything from elsewhere.

Every function takes plain text and returns HTML; nothing else escapes.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np
from PIL import Image

from psdiff_jax.report.grid import Cell, Table
from psdiff_jax.report.plots import Panel, svg

_STYLE = """
:root { color-scheme: light; --ink: #20242a; --soft: #565d67; --line: #d8dce1; --best: #e3eefb; --accent: #1f6fb2; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1.5rem 1.25rem 4rem; color: var(--ink); background: #fff;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.3rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 0.3rem; padding-top: 0.9rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 1.3rem 0 0.3rem; overflow-wrap: anywhere; }
p { margin: 0.3rem 0 0.8rem; max-width: 48rem; overflow-wrap: anywhere; }
.soft { color: var(--soft); }
nav ul { display: flex; flex-wrap: wrap; gap: 0.2rem 1.1rem; list-style: none; margin: 0.8rem 0; padding: 0; }
a { color: var(--accent); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 0.8rem; margin: 1rem 0; }
.tile { border: 1px solid var(--line); border-radius: 0.5rem; padding: 0.7rem 0.9rem; }
.tile b { display: block; font-size: 1.55rem; line-height: 1.25; }
.tile .sd { font-size: 1rem; font-weight: 400; color: var(--soft); }
.tile span { font-size: 0.9rem; }
dl { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: 0.15rem 1.2rem; margin: 0.6rem 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: 0.5rem 0 1rem; }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.26rem 0.7rem; text-align: right; white-space: nowrap; }
thead th { border-bottom: 2px solid var(--ink); vertical-align: bottom; font-weight: 600; white-space: normal; }
th.label, td.label { text-align: left; font-weight: 400; }
thead th.label { font-weight: 600; }
tbody { border-bottom: 1px solid var(--line); }
td.wide, th.wide { white-space: normal; min-width: 12rem; overflow-wrap: anywhere; }
.best { background: var(--best); }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem; }
figure { margin: 0.4rem 0; }
.panels img { width: 100%; height: auto; max-width: 34rem; }
figcaption { font-size: 0.92rem; margin-bottom: 0.25rem; overflow-wrap: anywhere; }
.strip img { min-width: 68rem; width: 100%; height: auto; display: block; }
@media (max-width: 40rem) { body { padding: 1rem 0.8rem 3rem; } dl { grid-template-columns: 1fr; }
  dd { margin: 0 0 0.4rem; } }
@media print { body { max-width: none; padding: 0; font-size: 11px; } nav { display: none; }
  .scroll { overflow: visible; } table { font-size: 9px; } th, td { padding: 0.15rem 0.35rem; }
  .strip img { min-width: 0; } figure, .tile, tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .best { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def text(value: object) -> str:
    """Anything as text that is safe in HTML, between tags and in quoted attributes."""
    return html.escape(str(value), quote=True)


def paragraph(words: str, soft: bool = False) -> str:
    return f"<p{_classes(soft=soft)}>{text(words)}</p>\n"


def heading(words: str) -> str:
    return f"<h3>{text(words)}</h3>\n"


def tiles(entries: Sequence[tuple[str, Cell, str]]) -> str:
    """Large numbers: (name, number, what it belongs to)."""
    parts = []
    for name, cell, what in entries:
        number, _, spread = cell.text.partition(" ± ")
        spread = f' <span class="sd">± {text(spread)}</span>' if spread else ""
        parts.append(
            f'<div class="tile"><span>{text(name)}</span><b>{text(number)}{spread}</b>'
            f'<span class="soft">{text(what)}</span></div>'
        )
    return f'<div class="tiles">{"".join(parts)}</div>\n'


def facts(entries: Mapping[str, object]) -> str:
    """Names and values, one below the other."""
    return "<dl>" + "".join(f"<dt>{text(k)}</dt><dd>{text(v)}</dd>" for k, v in entries.items()) + "</dl>\n"


def table(content: Table, caption: str, wide: bool = False) -> str:
    """A table that scrolls sideways where it is too wide; the best are bold on a tint; numbers carry their exact
    value as a tooltip. caption: its name for screen readers; wide: cells of text, which may wrap."""
    head = "".join(
        f'<th scope="col"{_classes(label=i < content.labels or wide, wide=wide)}>{_breakable(name)}</th>'
        for i, name in enumerate(content.heads)
    )
    keys = list(content.groups) or [None] * len(content.rows)
    bodies = []
    for _, members in groupby(range(len(keys)), key=lambda i: keys[i]):
        bodies.append("<tbody>" + "".join(_row(content.rows[i], content.labels, wide) for i in members) + "</tbody>\n")
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{text(caption)}"><table>'
        f"<thead><tr>{head}</tr></thead>\n{''.join(bodies)}</table></div>\n"
    )


def _breakable(name: str) -> str:
    """The name of a column, which may go on in the next line after a separator, as names of runs are long."""
    return re.sub(r"([_/=,+-])", r"\1<wbr>", text(name))


def _row(row: Sequence[Cell], labels: int, wide: bool) -> str:
    cells = []
    for i, cell in enumerate(row):
        shown = f"<b>{text(cell.text)}</b>" if cell.best else text(cell.text)
        exact = f' title="{cell.exact:.10g}"' if cell.exact is not None else ""
        if i < labels:
            cells.append(f'<th scope="row"{_classes(label=True, wide=wide)}>{shown}</th>')
        else:
            cells.append(f"<td{_classes(label=wide, wide=wide, best=cell.best)}{exact}>{shown}</td>")
    return f"<tr>{''.join(cells)}</tr>\n"


def _classes(**names: bool) -> str:
    used = [name for name, use in names.items() if use]
    return f' class="{" ".join(used)}"' if used else ""


def panels(content: Sequence[Panel]) -> str:
    """Diagrams beside each other where there is room."""
    parts = [
        f'<figure><img alt="{text(panel.description)}" src="{_data("image/svg+xml", svg(panel))}"></figure>\n'
        for panel in content
    ]
    return f'<div class="panels">{"".join(parts)}</div>\n'


def strip(picture: np.ndarray, caption: str, alt: str) -> str:
    """A wide picture, uint8 RGB, that scrolls sideways on small screens, below its caption."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=88)
    return (
        f'<figure><figcaption>{text(caption)}</figcaption><div class="scroll strip" role="region" tabindex="0" '
        f'aria-label="{text(caption)}"><img alt="{text(alt)}" src="{_data("image/jpeg", buffer.getvalue())}">'
        "</div></figure>\n"
    )


def section(title: str, reading: str, *content: str) -> str:
    """A chapter: its title, one sentence that says how to read it, and HTML."""
    return (
        f'<section id="{_anchor(title)}" aria-label="{text(title)}"><h2>{text(title)}</h2>\n'
        f"{paragraph(reading, soft=True)}{''.join(content)}</section>\n"
    )


def document(title: str, lead: str, sections: Mapping[str, str], top: str = "") -> str:
    """The whole page; sections: title -> what `section` made. top: HTML above the list of the chapters."""
    links = "".join(f'<li><a href="#{_anchor(name)}">{text(name)}</a></li>' for name in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<header>\n<h1>{text(title)}</h1>\n"
        f'{paragraph(lead)}</header>\n{top}<nav aria-label="Chapters"><ul>{links}</ul></nav>\n<main>\n'
        f"{''.join(sections.values())}</main>\n</body>\n</html>\n"
    )


def _anchor(title: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in title.lower()).strip("-")


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
