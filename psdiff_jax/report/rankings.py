"""Ranking figures: a query beside its most similar detections (the paper's Fig. 6), and the answer to one search.

Images come through `load_image(name) -> uint8 [H,W,3] RGB`, so that nothing here depends on a dataset.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from psdiff_jax.data.detections import Detections
from psdiff_jax.data.schema import Queries
from psdiff_jax.evaluation.person_search import SearchResult
from psdiff_jax.files import write_atomically
from psdiff_jax.inference.ranking import Hit, hits_of_query
from psdiff_jax.report.drawing import (
    FAINT,
    FALSE_POSITIVE,
    INK,
    PAPER,
    PREDICTED,
    QUERY,
    TRUE_POSITIVE,
    Color,
    crop_around,
    draw_boxes,
    font,
    frame,
    shortened,
)

LoadImage = Callable[[str], np.ndarray]

TILE = (100, 200)  # width and height of a crop in a row
SCENE = (300, 225)  # of a hit in a search picture
QUERY_CLOSE = (130, 260)  # of the query's crop there
MARGIN, GAP = 20, 12


@dataclasses.dataclass(frozen=True)
class ExampleQuery:
    """One row of a ranking figure: a query and its hits.

    image, box: the query's image and box (xyxy pixels). hits: best first. true_positive: one flag a hit, None where it
    is unknown. caption: a line above the row.
    """

    image: str
    box: tuple[float, ...]
    hits: Sequence[Hit]
    true_positive: Sequence[bool] | None = None
    caption: str = ""

    def words(self, columns: int = 10) -> str:
        """The row in words: the query's image, then rank, true or false positive, similarity and image of each hit."""
        labels = [""] * len(self.hits)
        if self.true_positive is not None:
            labels = [" true positive," if true else " false positive," for true in self.true_positive]
        hits = [
            f"{hit.rank}.{label} similarity {hit.similarity:.3f}, {hit.image}"
            for hit, label in list(zip(self.hits, labels, strict=True))[:columns]
        ]
        return f"Query from {self.image}. " + ("Best matches: " + "; ".join(hits) if hits else "No match") + "."


def choose_queries(result: SearchResult, queries: Queries, each: int = 2) -> list[tuple[str, int]]:
    """[("best" | "median" | "worst", query)], up to `each` of each by AP, best first, no person and no query twice in
    a group.

    Queries without positives are left out. Of equal APs the query with more positives is the better one, or the worse
    one when it was never found.
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


def example_queries(result: SearchResult, gallery: Detections, queries: Queries, each: int = 2) -> list[ExampleQuery]:
    """The rows of `choose_queries`, from a SearchResult with hits (`Evaluation.ranked`)."""
    return [example_query(result, q, gallery, queries, name) for name, q in choose_queries(result, queries, each)]


def example_query(
    result: SearchResult, query: int, gallery: Detections, queries: Queries, name: str = ""
) -> ExampleQuery:
    """One query of a SearchResult with hits."""
    hits = hits_of_query(result, query, gallery)
    facts = [
        f"query {query}, person {int(queries.person_ids[query])}",
        f"AP {100 * result.average_precision[query]:.1f}",
        f"found in {result.found[query]} of {result.positives[query]} images",
        f"first true positive at rank {result.first_rank[query]}" if result.first_rank[query] else "never found",
    ]
    caption = (f"{name}: " if name else "") + " · ".join(facts)
    box = tuple(float(v) for v in queries.boxes[query])
    true_positive = result.true_positive[query][: len(hits)].tolist()
    return ExampleQuery(queries.image_names[query], box, hits, true_positive, caption)


def ranking_figure(
    examples: Sequence[ExampleQuery], load_image: LoadImage, title: str = "", columns: int = 10
) -> np.ndarray:
    """uint8 RGB: a row for each example, the query (amber box) to the left of its best hits.

    Frames are green for true positives, red for false ones, blue where that is unknown; under each crop are its rank,
    similarity, a tick or a cross, and the image.
    """
    row_height = 26 + TILE[1] + 42
    head = 86 if title else 58
    size = 2 * MARGIN + _row_width(columns), head + len(examples) * (row_height + GAP) + MARGIN - GAP
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    if title:
        pen.text((MARGIN, MARGIN), title, font=font(18, bold=True), fill=INK)
    _legend(pen, MARGIN, head - 34, any(example.true_positive is None for example in examples))
    for i, example in enumerate(examples):
        y = head + i * (row_height + GAP)
        pen.text((MARGIN, y), example.caption, font=font(13), fill=INK)
        sheet.paste(Image.fromarray(ranking_row(example, load_image, columns)), (MARGIN, y + 26))
    return np.array(sheet)


def ranking_row(example: ExampleQuery, load_image: LoadImage, columns: int = 10) -> np.ndarray:
    """uint8 RGB: one row of a `ranking_figure`, without its caption."""
    row = Image.new("RGB", (_row_width(columns), TILE[1] + 40), PAPER)
    pen = ImageDraw.Draw(row)
    row.paste(Image.fromarray(_tile(load_image(example.image), example.box, TILE, QUERY, 1.35)), (0, 0))
    _under(pen, 0, "query", example.image)
    x = TILE[0] + 3 * GAP
    for hit, color in list(zip(example.hits, _colors(example.hits, example.true_positive), strict=True))[:columns]:
        mark = {TRUE_POSITIVE: "  ✓", FALSE_POSITIVE: "  ✗"}.get(color, "")  # for readers who cannot tell the colours
        tile = _tile(load_image(hit.image), hit.box, TILE, color, 1.15, boxed=False)
        row.paste(Image.fromarray(tile), (x, 0))
        _under(pen, x, f"{hit.rank}.  {hit.similarity:.3f}{mark}", hit.image)
        x += TILE[0] + GAP
    if not example.hits:
        pen.text((x, 0), "no detection in its gallery", font=font(13), fill=FAINT)
    return np.array(row)


def _colors(hits: Sequence[Hit], true_positive: Sequence[bool] | None) -> list[Color]:
    if true_positive is None:
        return [PREDICTED] * len(hits)
    return [TRUE_POSITIVE if true else FALSE_POSITIVE for true in true_positive]


def _row_width(columns: int) -> int:
    return TILE[0] + 3 * GAP + columns * (TILE[0] + GAP) - GAP


def search_picture(
    image: np.ndarray,
    box: np.ndarray,
    hits: Sequence[Hit],
    load_image: LoadImage,
    title: str = "",
    name: str = "",
    true_positive: Sequence[bool] | None = None,
    columns: int = 3,
) -> np.ndarray:
    """uint8 RGB: the query's image [H,W,3], called `name`, with its box xyxy; beside it the hits in their surroundings.

    Under each hit: rank, similarity, detection score, image; frames as in a `ranking_figure`.
    """
    columns = max(1, min(columns, len(hits)))
    rows = -(-len(hits) // columns)
    cell = SCENE[0] + GAP, SCENE[1] + 44
    head = MARGIN + (34 if title else 0)
    left, close = 560, QUERY_CLOSE
    whole = _fitted(image, left, 640)
    scaled = np.reshape(box, (1, 4)) * whole.shape[1] / image.shape[1]
    whole = draw_boxes(whole, scaled, color=QUERY, enlarge_to=1)  # after it is shrunk, or the lines would vanish
    below = head + whole.shape[0] + GAP
    height = max(head + rows * cell[1], below + close[1] + GAP) + MARGIN - GAP
    sheet = Image.new("RGB", (2 * MARGIN + left + 2 * GAP + columns * cell[0] - GAP, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    if title:
        letters = font(18, bold=True)
        pen.text((MARGIN, MARGIN), shortened(title, sheet.width - 2 * MARGIN, letters), font=letters, fill=INK)
    sheet.paste(Image.fromarray(whole), (MARGIN, head))
    sheet.paste(Image.fromarray(_tile(image, box, close, QUERY, 1.3)), (MARGIN, below))
    beside = MARGIN + close[0] + GAP
    pen.text((beside, below), "query", font=font(13, bold=True), fill=INK)
    facts = shortened(name, left - close[0] - GAP, font(11)), "box " + " ".join(f"{float(v):.0f}" for v in box)
    pen.multiline_text((beside, below + 20), "\n".join(facts).strip(), font=font(11), fill=FAINT, spacing=5)
    for i, (hit, color) in enumerate(zip(hits, _colors(hits, true_positive), strict=True)):
        at = MARGIN + left + 2 * GAP + i % columns * cell[0], head + i // columns * cell[1]
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
    encoded = io.BytesIO()
    kind = Image.registered_extensions()[path.suffix.lower()]
    # A PNG takes a third of the time for 4% more bytes than at the usual level; other formats ignore it.
    Image.fromarray(picture).save(encoded, format=kind, compress_level=3)
    write_atomically(path, encoded.getvalue())
    return path


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


def _under(pen: ImageDraw.ImageDraw, x: int, text: str, name: str) -> None:
    pen.text((x, TILE[1] + 4), text, font=font(13, bold=True), fill=INK)
    pen.text((x, TILE[1] + 22), shortened(name, TILE[0], font(10)), font=font(10), fill=FAINT)


def _legend(pen: ImageDraw.ImageDraw, x: int, y: int, unknown: bool) -> None:
    known = [(TRUE_POSITIVE, "true positive ✓"), (FALSE_POSITIVE, "false positive ✗")]
    for color, name in [(QUERY, "query"), *([(PREDICTED, "hit")] if unknown else known)]:
        pen.rectangle((x, y + 2, x + 12, y + 14), fill=color)
        pen.text((x + 18, y), name, font=font(13), fill=INK)
        x += 18 + int(font(13).getlength(name)) + 22
    pen.text((x, y), "below each crop: rank, similarity, image", font=font(13), fill=FAINT)


def _fitted(image: np.ndarray, width: int, height: int) -> np.ndarray:
    scale = min(width / image.shape[1], height / image.shape[0])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
