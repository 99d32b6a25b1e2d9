"""Pictures of rankings: a query beside its best matches (the paper's Fig. 6), and the answer to one search.

Photographs come through `load_image(name) -> uint8 [H,W,3] RGB`, so that nothing here knows a dataset.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from psdiff_jax.data.detections import Detections
from psdiff_jax.evaluation.person_search import SearchResult
from psdiff_jax.inference.ranking import Hit, hits_of_query
from psdiff_jax.report.drawing import (
    FAINT,
    INK,
    PAPER,
    PREDICTED,
    QUERY,
    RIGHT,
    WRONG,
    Color,
    crop_around,
    draw_boxes,
    font,
    frame,
    shortened,
)

if TYPE_CHECKING:
    from psdiff_jax.data.records import Queries

LoadImage = Callable[[str], np.ndarray]

TILE = (100, 200)  # width and height of a crop in a strip
SCENE = (300, 225)  # of a hit in a search picture
QUERY_CLOSE = (130, 260)  # of the query seen closely there
MARGIN, GAP = 20, 12


@dataclasses.dataclass(frozen=True)
class Strip:
    """One row of a sheet: a query and its hits.

    image, box: the query's photograph and box (xyxy pixels). hits: best first. right: whether each hit is right, None
    where nobody knows. caption: a line above the row.
    """

    image: str
    box: tuple[float, float, float, float]
    hits: Sequence[Hit]
    right: Sequence[bool] | None = None
    caption: str = ""


def telling_queries(result: SearchResult, queries: Queries, each: int = 2) -> list[tuple[str, int]]:
    """[("best" | "median" | "worst", query)], up to `each` of each by AP, best first, no person and no query twice in
    a group.

    Queries without a true photograph are passed over. Of equal APs the query with more true photographs is the better
    one, or the worse one when it was never found.
    """
    able = np.flatnonzero(result.positives > 0)
    ap = result.average_precision[able]
    weight = np.where(ap > 0, result.positives[able], -result.positives[able])
    order = able[np.lexsort((able, -weight, -ap))]
    groups = {"best": order, "median": order[len(order) // 2 :], "worst": order[::-1]}
    taken: list[tuple[str, int]] = []
    for name, candidates in groups.items():
        picks: dict[int, int] = {}
        for q in candidates.tolist():
            if len(picks) < each and q not in [other for _, other in taken]:
                picks.setdefault(int(queries.person_ids[q]), q)
        taken += [(name, q) for q in sorted(picks.values(), key=order.tolist().index)]
    return taken


def telling_strips(
    found: SearchResult,
    gallery: Detections,
    queries: Queries,
    each: int = 2,
) -> list[Strip]:
    """The strips of `telling_queries`."""
    return [strip_of(found, q, gallery, queries, name) for name, q in telling_queries(found, queries, each)]


def strip_of(result: SearchResult, query: int, gallery: Detections, queries: Queries, name: str = "") -> Strip:
    """The Strip of one query of a SearchResult made with `score_search(..., keep=10)`."""
    hits = hits_of_query(result, query, gallery)
    facts = [
        f"query {query}, person {int(queries.person_ids[query])}",
        f"AP {100 * result.average_precision[query]:.1f}",
        f"found in {result.found[query]} of {result.positives[query]} photographs",
        f"first right at rank {result.first_rank[query]}" if result.first_rank[query] else "never found",
    ]
    caption = (f"{name}: " if name else "") + " · ".join(facts)
    box = tuple(float(v) for v in queries.boxes[query])
    return Strip(queries.image_names[query], box, hits, result.true_positive[query][: len(hits)].tolist(), caption)


def ranking_sheet(strips: Sequence[Strip], load_image: LoadImage, title: str = "", columns: int = 10) -> np.ndarray:
    """uint8 RGB: a row for each strip, the query (amber box) left, then its best hits.

    Frames are green where right, red where wrong, blue where nobody knows; under each crop stand rank, similarity, a
    tick or a cross, and the photograph.
    """
    row_height = 26 + TILE[1] + 42
    head = 86 if title else 58
    width = 2 * MARGIN + TILE[0] + 3 * GAP + columns * (TILE[0] + GAP) - GAP
    sheet = Image.new("RGB", (width, head + len(strips) * (row_height + GAP) + MARGIN - GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    if title:
        pen.text((MARGIN, MARGIN), title, font=font(18, bold=True), fill=INK)
    _legend(pen, MARGIN, head - 34, any(strip.right is None for strip in strips))
    for i, strip in enumerate(strips):
        _paste_strip(sheet, pen, strip, load_image, head + i * (row_height + GAP), columns)
    return np.array(sheet)


def strip_picture(strip: Strip, load_image: LoadImage, columns: int = 10) -> np.ndarray:
    """uint8 RGB: one row of a `ranking_sheet`, without its caption."""
    width = TILE[0] + 3 * GAP + columns * (TILE[0] + GAP) - GAP
    row = Image.new("RGB", (width, TILE[1] + 40), PAPER)
    _paste_tiles(row, ImageDraw.Draw(row), strip, load_image, 0, 0, columns)
    return np.array(row)


def described(strip: Strip, columns: int = 10) -> str:
    """The row in words: the query's photograph, then rank, right or wrong, similarity and photograph of each hit."""
    right = strip.right if strip.right is not None else [None] * len(strip.hits)
    words = {None: "", True: " right,", False: " wrong,"}
    hits = [
        f"{hit.rank}.{words[r]} similarity {hit.similarity:.3f}, {hit.image}"
        for hit, r in list(zip(strip.hits, right, strict=True))[:columns]
    ]
    return f"Query from {strip.image}. " + ("Best matches: " + "; ".join(hits) if hits else "No match") + "."


def search_picture(
    image: np.ndarray,
    box: np.ndarray,
    hits: Sequence[Hit],
    load_image: LoadImage,
    title: str = "",
    name: str = "",
    right: Sequence[bool] | None = None,
    columns: int = 3,
) -> np.ndarray:
    """uint8 RGB: the query's photograph [H,W,3], called `name`, with its box xyxy; beside it the hits as parts of
    their scenes.

    Under each hit: rank, similarity, detection score, photograph; box and frame are green or red where `right` is
    given.
    """
    columns = max(1, min(columns, len(hits)))
    rows = -(-len(hits) // columns)
    cell = SCENE[0] + GAP, SCENE[1] + 44
    head = MARGIN + (34 if title else 0)
    left, close = 560, QUERY_CLOSE
    photograph = _fitted(draw_boxes(image, [box], color=QUERY, enlarge_to=left), left, 640)
    below = head + photograph.shape[0] + GAP
    height = max(head + rows * cell[1], below + close[1] + GAP) + MARGIN - GAP
    sheet = Image.new("RGB", (2 * MARGIN + left + 2 * GAP + columns * cell[0] - GAP, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    if title:
        pen.text(
            (MARGIN, MARGIN),
            shortened(title, sheet.width - 2 * MARGIN, font(18, bold=True)),
            font=font(18, bold=True),
            fill=INK,
        )
    sheet.paste(Image.fromarray(photograph), (MARGIN, head))
    sheet.paste(Image.fromarray(_tile(image, box, close, QUERY, 1.3)), (MARGIN, below))
    beside = MARGIN + close[0] + GAP
    pen.text((beside, below), "query", font=font(13, bold=True), fill=INK)
    facts = shortened(name, left - close[0] - GAP, font(11)), "box " + " ".join(f"{float(v):.0f}" for v in box)
    pen.multiline_text((beside, below + 20), "\n".join(facts).strip(), font=font(11), fill=FAINT, spacing=5)
    for i, hit in enumerate(hits):
        at = MARGIN + left + 2 * GAP + i % columns * cell[0], head + i // columns * cell[1]
        color = PREDICTED if right is None else RIGHT if right[i] else WRONG
        sheet.paste(Image.fromarray(_tile(load_image(hit.image), hit.box, SCENE, color, 2.2)), at)
        text = f"{hit.rank}.  similarity {hit.similarity:.3f}   detection {hit.score:.2f}"
        pen.text((at[0], at[1] + SCENE[1] + 5), text, font=font(13, bold=True), fill=INK)
        pen.text((at[0], at[1] + SCENE[1] + 22), shortened(hit.image, SCENE[0], font(11)), font=font(11), fill=FAINT)
    if not hits:
        pen.text((MARGIN + left + 2 * GAP, head), "no detection to compare with", font=font(14), fill=FAINT)
    return np.array(sheet)


def write_picture(path: str | Path, picture: np.ndarray) -> Path:
    """Writes uint8 RGB as PNG (or what the suffix says), making the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path


def _paste_strip(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, strip: Strip, load_image: LoadImage, y: int, columns: int
):
    pen.text((MARGIN, y), strip.caption, font=font(13), fill=INK)
    _paste_tiles(sheet, pen, strip, load_image, MARGIN, y + 26, columns)


def _paste_tiles(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, strip: Strip, load_image: LoadImage, x: int, y: int, columns: int
):
    sheet.paste(Image.fromarray(_tile(load_image(strip.image), strip.box, TILE, QUERY, 1.35)), (x, y))
    _under(pen, x, y, "query", strip.image)
    x += TILE[0] + 3 * GAP
    for i, hit in enumerate(strip.hits[:columns]):
        color = PREDICTED if strip.right is None else RIGHT if strip.right[i] else WRONG
        mark = "" if strip.right is None else "  ✓" if strip.right[i] else "  ✗"  # colours are not for all eyes
        tile = _tile(load_image(hit.image), hit.box, TILE, color, 1.15, boxed=False)
        sheet.paste(Image.fromarray(tile), (x, y))
        _under(pen, x, y, f"{hit.rank}.  {hit.similarity:.3f}{mark}", hit.image)
        x += TILE[0] + GAP
    if not strip.hits:
        pen.text((x, y), "no detection in its gallery", font=font(13), fill=FAINT)


def _tile(
    image: np.ndarray, box, size: tuple[int, int], color: Color, context: float, boxed: bool = True
) -> np.ndarray:
    picture, inside = crop_around(image, box, size, context)
    if boxed:
        frame(picture, inside, color)
    else:
        for i in range(4):
            picture[i, :], picture[-1 - i, :], picture[:, i], picture[:, -1 - i] = color, color, color, color
    return picture


def _under(pen: ImageDraw.ImageDraw, x: int, y: int, text: str, name: str) -> None:
    pen.text((x, y + TILE[1] + 4), text, font=font(13, bold=True), fill=INK)
    pen.text((x, y + TILE[1] + 22), shortened(name, TILE[0], font(10)), font=font(10), fill=FAINT)


def _legend(pen: ImageDraw.ImageDraw, x: int, y: int, unknown: bool) -> None:
    entries = [(QUERY, "query"), *([(PREDICTED, "hit")] if unknown else [(RIGHT, "right ✓"), (WRONG, "wrong ✗")])]
    for color, name in entries:
        pen.rectangle((x, y + 2, x + 12, y + 14), fill=color)
        pen.text((x + 18, y), name, font=font(13), fill=INK)
        x += 18 + int(font(13).getlength(name)) + 22
    pen.text((x, y), "below each crop: rank, similarity, photograph", font=font(13), fill=FAINT)


def _fitted(image: np.ndarray, width: int, height: int) -> np.ndarray:
    scale = min(width / image.shape[1], height / image.shape[0])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
