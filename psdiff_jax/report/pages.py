"""HTML pages, made from `templates/`: one file each, without scripts and without anything from elsewhere.

What a page shows is data (`Chapter`), so that tests can read it and a terminal can print it; the templates escape it.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape
from PIL import Image

from psdiff_jax.report.plots import Panel, svg
from psdiff_jax.report.tables import Table


@dataclasses.dataclass(frozen=True)
class Chapter:
    """reading: one sentence that says how to read it. facts: names and values. tables: (name, paragraphs about it,
    table). rankings: (caption, description, picture uint8 RGB)."""

    title: str
    reading: str
    remarks: Sequence[str] = ()
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tables: Sequence[tuple[str, Sequence[str], Table]] = ()
    panels: Sequence[Panel] = ()
    rankings: Sequence[tuple[str, str, np.ndarray]] = ()

    @property
    def is_empty(self) -> bool:
        return not (self.remarks or self.facts or self.tables or self.panels or self.rankings)


def render(template: str, **content: Any) -> str:
    """The page of a template; TemplateError for a name in it that `content` lacks."""
    return _environment().get_template(template).render(content)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("psdiff_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"anchor": _anchor, "breakable": _breakable, "jpeg": _jpeg, "svg": _svg}
    return environment


def _anchor(title: str) -> str:
    """The title as the id of an element."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in title.lower()).strip("-")


def _breakable(name: str) -> Markup:
    """The name of a column, which may wrap after a separator, since names of runs are long."""
    return Markup(re.sub(r"([_/=,+-])", r"\1<wbr>", str(escape(name))))


def _svg(panel: Panel) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg(panel)).decode()}"


def _jpeg(picture: np.ndarray, quality: int = 88) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
