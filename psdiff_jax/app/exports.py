"""The hits of a search as a file: CSV, JSON, or a ZIP of crops with the CSV beside them."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

from psdiff_jax.errors import InputError

Hits = Sequence[dict[str, Any]]
COLUMNS = ("rank", "similarity", "image", "time", "x1", "y1", "x2", "y2", "score", "is_them")


def as_csv(hits: Hits) -> str:
    """One row a hit; times are seconds, boxes pixels. A name that a spreadsheet would compute gets an apostrophe."""
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(COLUMNS)
    for hit in hits:
        name = hit["image"]
        name = f"'{name}" if name[:1] in "=+-@" else name
        table.writerow([hit["rank"], hit["similarity"], name, hit["time"], *hit["box"], hit["score"], hit["is_them"]])
    return text.getvalue()


def as_json(hits: Hits) -> str:
    return json.dumps(
        [{name: v for name, v in hit.items() if name != "id"} for hit in hits], indent=2, ensure_ascii=False
    )


def as_zip(hits: Hits, crop: Callable[[str], bytes]) -> bytes:
    """crop: a hit's id -> JPEG, or InputError: then `left_out.txt` says why there is no picture of that hit."""
    buffer, left_out = io.BytesIO(), []
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("hits.csv", as_csv(hits))
        for hit in hits:
            name = f"{hit['rank']:03d}.jpg"
            try:
                archive.writestr(name, crop(hit["id"]))
            except InputError as error:
                left_out.append(f"{name}: {error}\n")
        if left_out:
            archive.writestr("left_out.txt", "".join(left_out))
    return buffer.getvalue()
