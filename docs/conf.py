"""Sphinx's settings: the Markdown pages of the repository as a site. CONTRIBUTING.md has the command that builds it.

Sphinx's source folder is the repository, not docs/, so that the links between docs/, the READMEs and the code are the
ones that GitHub follows. The tables of docs/options.md are made here from the options' dataclasses.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

from sphinx.application import Sphinx

from psdiff_jax.config import Config
from psdiff_jax.inference.tracking import TrackingOptions
from psdiff_jax.options import Option, fields_of

project = html_title = "PSDiff in JAX"
author = "The psdiff-jax authors"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", "configs/pretrained/*.md", "datasets/*/*.md"]
exclude_patterns = ["build", "runs", ".*"]
myst_heading_anchors = 4

default_role = "code"  # docstrings write `name`
smartquotes_action = "D"  # dashes; quotes stay as they are
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
templates_path = ["templates"]
html_additional_pages = {"index": "start.html"}  # the site's root leads to docs/index.html
html_copy_source = html_show_copyright = False


def tables(options: Any, key: str) -> Iterator[str]:
    """Lines of Markdown: a heading and a table for the options' own fields, then the same for each group in them."""
    yield from [f"## {key}", "", *table(options), ""]
    for field in fields_of(options, key).values():
        if dataclasses.is_dataclass(field.value):
            yield from tables(field.value, field.key)


def table(options: Any) -> list[str]:
    own = [field for field in fields_of(options).values() if not dataclasses.is_dataclass(field.value)]
    head = ["| key | type | default | meaning |", "|---|---|---|---|"]
    return ["```{container} options", *head, *map(row, own), "```"]


def row(option: Option) -> str:
    limits = f" ({option.limits})" if option.limits else ""
    name = option.key.rpartition(".")[2]
    cells = f"`{name}`", f"`{option.type_name}`", f"`{option.value!r}`", f"{option.doc}{limits}"
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def add_tables(app: Sphinx, page: str, source: list[str]) -> None:
    if page == "docs/options":
        made = {
            "<!-- config -->": tables(Config(), "config"),
            "<!-- tracking -->": table(TrackingOptions()),
        }
        for mark, lines in made.items():
            source[0] = source[0].replace(mark, "\n".join(lines))


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_tables)
