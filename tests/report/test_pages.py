"""Templates: everything is escaped, a missing name is an error, and one stylesheet serves light, dark and phones."""

import jinja2
import numpy as np
import pytest

from psdiff_jax.report.pages import Chapter, render
from psdiff_jax.report.plots import Line, Panel
from psdiff_jax.report.tables import Cell, Table

from .html_check import Page

EVIL = "<script>alert(\"1\")</script> & 'x'"


def test_every_part_of_a_chapter_is_escaped():
    table = Table([EVIL, f"head_{EVIL}"], [[Cell(EVIL), Cell(EVIL, 0.5, best=True)]])
    panel = Panel(EVIL, EVIL, EVIL, [Line(EVIL, [1, 2], [0.1, 0.2])])
    rankings = [(EVIL, f"described: {EVIL}", np.zeros((4, 4, 3), np.uint8))]
    chapter = Chapter(EVIL, EVIL, [EVIL], {EVIL: EVIL}, [(f"name {EVIL}", [EVIL], table)], [panel], rankings)
    html = render("chapters.html.jinja", title=EVIL, lead=EVIL, headline=[(EVIL, Cell(EVIL), EVIL)], chapters=[chapter])
    page = Page(html)  # which refuses scripts
    assert page.texts.count(EVIL) >= 12 and page.best == [EVIL] and len(page.images) == 2
    assert "<script" not in html


def test_a_name_that_is_missing_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="'lead' is undefined"):
        render("chapters.html.jinja", title="a", headline=(), chapters=())


def test_one_stylesheet_for_light_dark_phones_and_print():
    html = render("chapters.html.jinja", title="a", lead="b", headline=(), chapters=())
    for wanted in ("prefers-color-scheme: dark", "max-width: 40rem", "@media print"):
        assert wanted in html
