"""A validation as one self-contained HTML file: its tables, images with findings, and sample images."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from psdiff_jax.data.transforms import decode_image
from psdiff_jax.datasets.common.records import AnnotatedImage, Query
from psdiff_jax.datasets.validation import Kind, Validation
from psdiff_jax.errors import InputError
from psdiff_jax.report.drawing import QUERY, Color, frame, resize, tag
from psdiff_jax.report.pages import render
from psdiff_jax.report.tables import Cell, Table

EXAMPLES = 3  # findings, and images, of a kind
SAMPLES = 4  # images of a split
WIDTH = 480  # pixels
LABELLED: Color = (0, 190, 255)
UNLABELLED: Color = (240, 120, 60)


def page(validation: Validation) -> str:
    """The whole file as text."""
    return render(
        "validation.html.jinja",
        title=f"Validation of {validation.name}",
        lead=validation.root,
        validation=validation,
        counts=_counts(validation),
        examples=EXAMPLES,
        colors={"labelled": LABELLED, "unlabelled": UNLABELLED, "query": QUERY},
        samples=[(kind, title, figures) for kind, title, figures in _samples(validation) if figures],
    )


def picture(image: AnnotatedImage, queries: list[Query], boxes: bool = True) -> np.ndarray | None:
    """uint8 RGB [h, w, 3], at most WIDTH wide: the image with its boxes and queries; None if it cannot be decoded."""
    try:
        pixels = decode_image(image.path.read_bytes(), image.name)
    except (OSError, InputError):
        return None
    scale = min(1.0, WIDTH / pixels.shape[1])
    canvas = resize(pixels, (round(pixels.shape[1] * scale), max(1, round(pixels.shape[0] * scale))))
    drawn = []
    if boxes:
        for box, person in zip(image.boxes, image.person_ids.tolist(), strict=True):
            drawn.append((box, str(person), LABELLED) if person >= 0 else (box, "", UNLABELLED))
    drawn += [(query.box, str(query.person_id), QUERY) for query in queries]
    for box, _, color in drawn:
        frame(canvas, box * scale, color, 1)
    for box, text, color in drawn:
        canvas = tag(canvas, text, box * scale, color) if text else canvas
    return canvas


def _counts(validation: Validation) -> Table:
    rows = []
    compared = bool(validation.dataset.published)  # no empty columns
    for count in validation.counts:
        published = "" if count.published is None else f"{count.published:,}"
        rows.append([Cell(count.key), Cell(f"{count.found:,}"), *[Cell(published), Cell(count.verdict)] * compared])
    return Table(["", "found", *["published", ""] * compared], rows)


def _samples(validation: Validation) -> list[tuple[Kind | None, str, list[dict[str, Any]]]]:
    """(kind of finding or None, title, figures), group by group."""
    dataset, queries = validation.dataset, defaultdict(list)
    for query in dataset.queries:
        queries[query.image_name].append(query)
    images = {image.name: image for image in dataset.images}
    groups = []
    for kind in validation.kinds:
        shown = [name for name in dict.fromkeys(f.image for f in kind.findings) if name in images][:EXAMPLES]
        what = {f.image: str(f) for f in reversed(kind.findings)}
        groups.append((kind, kind.check, [_figure(images[name], queries[name], what[name]) for name in shown]))
    for split, found in dataset.splits.items():
        spread = _spread([image for image in found if len(image.boxes)])
        groups.append((None, f"Samples of {split}", [_figure(image, []) for image in spread]))
    spread = _spread([query for query in dataset.queries if query.image_name in images])
    figures = [_figure(images[q.image_name], [q], f"query: person {q.person_id}", False) for q in spread]
    return [*groups, (None, "Samples of the queries", figures)]


def _figure(image: AnnotatedImage, queries: list[Query], finding: str = "", boxes: bool = True) -> dict[str, Any]:
    camera = f", camera {image.camera}" if image.camera >= 0 else ""
    about = f"{image.name} ({image.width} x {image.height}{camera}, {len(image.boxes)} boxes)"
    return {"name": image.name, "picture": picture(image, queries, boxes), "about": about, "finding": finding}


def _spread(items: list) -> list:
    """Up to SAMPLES of them, evenly from the first to the last."""
    return [items[i] for i in sorted({round(k) for k in np.linspace(0, len(items) - 1, SAMPLES)})] if items else []
