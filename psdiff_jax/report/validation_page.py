"""A validation as one self-contained HTML file: its tables, images with findings, and sample images."""

from __future__ import annotations

import base64
from collections import defaultdict
from html import escape

import cv2
import numpy as np

from psdiff_jax.data.transforms import decode_image
from psdiff_jax.datasets.common.records import AnnotatedImage, Query
from psdiff_jax.datasets.validation import Kind, Validation
from psdiff_jax.errors import InputError
from psdiff_jax.report.drawing import QUERY, Color, frame, resize, tag

EXAMPLES = 3  # findings, and images, of a kind
SAMPLES = 4  # images of a split
WIDTH = 480  # pixels
QUALITY = 80
LABELLED: Color = (0, 190, 255)
UNLABELLED: Color = (240, 120, 60)

STYLE = """
:root { color-scheme: light dark; --line: #d9dce1; --faint: #667; --card: #f6f7f9; }
@media (prefers-color-scheme: dark) { :root { --line: #3a3f47; --faint: #99a; --card: #1e2126; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; margin: .5rem 0 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
p, li, figcaption { overflow-wrap: anywhere; }
.faint, figcaption { color: var(--faint); } figcaption, ul { font-size: .85rem; }
.verdict { padding: .7rem 1rem; border-radius: .5rem; background: var(--card); border-left: .4rem solid #22a048; }
.verdict.bad { border-color: #d73030; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .4rem; border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
ul { margin: 0; padding-left: 1rem; }
.level { display: inline-block; padding: 0 .5rem; border-radius: 1rem; font-size: .85rem; color: #fff; }
.error { background: #c62828; } .warning { background: #b26a00; } .known { background: #5f6b7a; }
.key { display: inline-block; width: .9rem; height: .9rem; border-radius: .2rem; vertical-align: -.1rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 18rem), 1fr)); gap: .8rem; }
figure { margin: 0; } img { width: 100%; height: auto; border-radius: .3rem; display: block; }
""".strip()


def page(validation: Validation) -> str:
    """The whole file as text."""
    title = f"Validation of {validation.name}"
    return "\n".join([
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>",
        f'<h1>{escape(title)}</h1>\n<p class="faint">{escape(validation.root)}</p>',
        f'<p class="verdict{" bad" * bool(validation.status)}">{escape(validation.verdict)}</p>',
        _counts(validation), _findings(validation), *_pictures(validation), "</body>\n</html>\n",
    ])  # fmt: skip


def picture(image: AnnotatedImage, queries: list[Query], boxes: bool = True) -> np.ndarray | None:
    """uint8 RGB [h, w, 3], at most WIDTH wide: the image with its boxes and queries; None if it cannot be decoded."""
    try:
        pixels = decode_image(image.path.read_bytes(), image.name)
    except (OSError, InputError):
        return None
    scale = min(1.0, WIDTH / pixels.shape[1])
    canvas = resize(pixels, (round(pixels.shape[1] * scale), max(1, round(pixels.shape[0] * scale))))
    drawn = (
        [
            (box, str(i) if i >= 0 else "", LABELLED if i >= 0 else UNLABELLED)
            for box, i in zip(image.boxes, image.person_ids.tolist(), strict=True)
        ]
        if boxes
        else []
    )
    drawn += [(query.box, str(query.person_id), QUERY) for query in queries]
    for box, _, color in drawn:
        frame(canvas, box * scale, color, 1)
    for box, text, color in drawn:
        canvas = tag(canvas, text, box * scale, color) if text else canvas
    return canvas


def _counts(validation: Validation) -> str:
    compared = bool(validation.dataset.published)  # no empty columns
    head = '<th></th><th class="number">found</th>' + '<th class="number">published</th><th></th>' * compared
    rows = []
    for count in validation.counts:
        published = "" if count.published is None else f"{count.published:,}"
        rows.append(
            f'<tr><td>{escape(count.key)}</td><td class="number">{count.found:,}</td>'
            + f'<td class="number">{published}</td><td>{count.verdict}</td>' * compared
            + "</tr>"
        )
    return f"<h2>Counts</h2>\n<table>\n<tr>{head}</tr>\n" + "\n".join(rows) + "\n</table>"


def _findings(validation: Validation) -> str:
    if not validation.kinds:
        return "<h2>Findings</h2>\n<p>No faults were found.</p>"
    return (
        '<h2>Findings</h2>\n<table>\n<tr><th>level</th><th class="number">count</th><th>check</th></tr>\n'
        + "\n".join(_finding_row(kind) for kind in validation.kinds)
        + "\n</table>"
    )


def _finding_row(kind: Kind) -> str:
    items = [f"<li>{escape(str(finding))}</li>" for finding in kind.findings[:EXAMPLES]]
    left = len(kind.findings) - len(items)
    items += [f"<li>and {left:,} more</li>"] * bool(left)
    return (
        f'<tr><td>{_badge(kind)}</td><td class="number">{len(kind.findings):,}</td>'
        f"<td>{escape(kind.check)}<ul>{''.join(items)}</ul></td></tr>"
    )


def _badge(kind: Kind) -> str:
    return f'<span class="level {escape(kind.level)}">{escape(kind.level)}</span>'


def _pictures(validation: Validation) -> list[str]:
    dataset = validation.dataset
    queries = defaultdict(list)
    for query in dataset.queries:
        queries[query.image_name].append(query)
    images = {image.name: image for image in dataset.images}
    parts = [
        f"<h2>Images</h2>\n<p>Boxes: {_key(LABELLED)} with the person id, {_key(UNLABELLED)} unlabelled,"
        f" {_key(QUERY)} query.</p>"
    ]
    for kind in validation.kinds:
        shown = [name for name in dict.fromkeys(f.image for f in kind.findings) if name in images][:EXAMPLES]
        what = {f.image: str(f) for f in reversed(kind.findings)}
        figures = [_figure(images[name], queries[name], what[name]) for name in shown]
        parts += [f"<h3>{_badge(kind)} {escape(kind.check)}</h3>\n{_grid(figures)}"] if figures else []
    for split, found in dataset.splits.items():
        figures = [_figure(image, []) for image in _spread([image for image in found if len(image.boxes)])]
        parts += [f"<h3>Samples of {split}</h3>\n{_grid(figures)}"] if figures else []
    shown = [query for query in dataset.queries if query.image_name in images]
    figures = [_figure(images[q.image_name], [q], f"query: person {q.person_id}", False) for q in _spread(shown)]
    return parts + ([f"<h3>Samples of the queries</h3>\n{_grid(figures)}"] if figures else [])


def _figure(image: AnnotatedImage, queries: list[Query], what: str = "", boxes: bool = True) -> str:
    shown = picture(image, queries, boxes)
    camera = f", camera {image.camera}" if image.camera >= 0 else ""
    about = f"{image.name} ({image.width} x {image.height}{camera}, {len(image.boxes)} boxes)"
    caption = f"<figcaption>{escape(about)}{'<br>' * bool(what)}{escape(what)}</figcaption>"
    if shown is None:
        return f"<figure><p>(cannot be decoded)</p>{caption}</figure>"
    data = cv2.imencode(".jpg", cv2.cvtColor(shown, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    source = f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"
    return f'<figure><img alt="{escape(image.name)}" src="{source}">{caption}</figure>'


def _spread(items: list) -> list:
    """Up to SAMPLES of them, evenly from the first to the last."""
    return [items[i] for i in sorted({round(k) for k in np.linspace(0, len(items) - 1, SAMPLES)})] if items else []


def _grid(figures: list[str]) -> str:
    return '<div class="pictures">\n' + "\n".join(figures) + "\n</div>"


def _key(color: Color) -> str:
    return f'<span class="key" style="background: rgb{color}"></span>'
